"""The hub's own directives, handed back to a hub that has lost them: which package is next (DESIGN §4, "hub
behind").

Runs in a worker thread over committed state. An incarnation is read once; then its tree's stored part is
kept (`core.tiles`: a hash for 256 directives), so that a package costs the same at any length of the log. The
hub judges each package by its own signature, so what was changed here by hand is found there. Leaves out what
its answer means (`uplink.line`).
"""

from __future__ import annotations

from typing import NamedTuple

from edgegw.core import journal, tiles
from edgegw.core.exchange import frontier_at
from edgegw.core.messages import PACKAGE_BYTES_MAX, PACKAGE_RECORDS_MAX, LogHead, Package
from edgegw.uplink.outbox import EditedRecord
from edgegw.uplink.ports import HeldDirectives, Journal


class Returning(NamedTuple):
    """A package of the hub's own directives; `asks` when it only asks whether the hub's are the same."""

    package: Package
    asks: bool


class HandBack:
    """The way back of directives to one hub that is behind."""

    def __init__(self, source: Journal) -> None:
        self._source = source
        self._trees: dict[int, _Tree] = {}

    def next(self, held: LogHead, *, asked: bool, bytes_max: int) -> Returning | None:
        """The next package for a hub that says that it holds so many; None when it lacks none. Raises
        EditedRecord.

        Where the hub's may be others, the last one that both have goes first: it says whether they are. Once
        asked, this is not done again.
        """
        for end in self._source.incarnations():
            if end.incarnation < held.number:
                self._trees.pop(end.incarnation, None)
                continue
            known = held if end.incarnation == held.number else LogHead(end.incarnation)
            tree = self._tree(end)
            both = min(known.size, tree.size)
            same = known.size == both and (not both or tree.root(both) == known.root)
            if same and both < tree.size:
                return Returning(tree.package(both, bytes_max), False)
            if not same and not asked:
                return Returning(tree.package(max(0, both - 1), bytes_max), True)
        return None

    def _tree(self, end: HeldDirectives) -> _Tree:
        tree = self._trees.get(end.incarnation)
        if tree is None or tree.size != end.frontier.size:
            tree = self._trees[end.incarnation] = _Tree(self._source, end)
        return tree


class _Tree:
    """The directives of one incarnation, as far as they are applied."""

    def __init__(self, source: Journal, end: HeldDirectives) -> None:
        self._source = source
        self._end = end
        self.size = end.frontier.size
        self._tiles: dict[int, list[bytes]] = {}
        frontier = journal.Frontier()
        while frontier.size < self.size:
            leaves = self._leaves(frontier.size, PACKAGE_RECORDS_MAX)
            if not leaves:
                raise EditedRecord(f"directive {end.incarnation}/{frontier.size} is missing")
            for tile in tiles.extend(frontier, leaves, epoch=end.incarnation):
                self._tiles.setdefault(tile.level, []).append(tile.hash)

    def root(self, size: int) -> bytes:
        """The root of the first `size` of them."""
        return frontier_at(size, self._node()).root()

    def package(self, start: int, bytes_max: int) -> Package:
        """Those from `start` on that a package takes, with the way to the hub's note over them."""
        rows = self._source.directive_records(
            incarnation=self._end.incarnation, start=start, limit=PACKAGE_RECORDS_MAX, bytes_max=bytes_max
        )
        rows = rows[: self.size - start]
        stop, node = start + len(rows), self._node()
        return Package(
            number=self._end.incarnation,
            old_size=start,
            records=tuple(body for _, _, body in rows),
            root=frontier_at(stop, node).root(),
            checkpoint=self._end.checkpoint,
            proof=tuple(journal.consistency_proof(stop, self.size, node)),
        )

    def _node(self) -> journal.Node:
        return tiles.node_reader(self._row)

    def _row(self, level: int, start: int, count: int) -> list[bytes]:
        if level:
            return self._tiles.get(level, [])[start : start + count]
        end = min(start + count, self.size)
        leaves: list[bytes] = []
        while start + len(leaves) < end and (more := self._leaves(start + len(leaves), end - start)):
            leaves += more
        return leaves[: end - start]

    def _leaves(self, start: int, limit: int) -> list[bytes]:
        rows = self._source.directive_records(
            incarnation=self._end.incarnation,
            start=start,
            limit=min(limit, self.size - start),
            bytes_max=PACKAGE_BYTES_MAX,
        )
        return [leaf for _, leaf, _ in rows]
