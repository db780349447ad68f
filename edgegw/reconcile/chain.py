"""Whether records are the ones that were chained: each beside the leaf before it, and all under the root.

One changed row must not make every later one look changed, so each is judged by the leaf that stands before
it, and after a fault also by the one that should. Pure; `core.journal` has the mathematics.
"""

from __future__ import annotations

from edgegw.core.journal import HASH_BYTES, Frontier, leaf_hash


class Chain:
    """One log's chain while its records pass by in order."""

    def __init__(self, *, previous: bytes | None, edge: Frontier | None) -> None:
        """previous: the leaf before the first record, edge: the tree before it; None where it is unknown."""
        self._candidates: tuple[bytes, ...] = () if previous is None else (previous,)
        self._edge = edge
        self._leaves: list[bytes] = []
        self.unchained = 0

    def take(self, leaf: bytes, body: bytes) -> bool:
        """Whether the bytes give this leaf behind the one before; a changed leaf counts at its own record."""
        if self._edge is not None:
            self._leaves.append(leaf)
            if len(self._leaves) >= 4_096:
                self._grow()
        for previous in self._candidates:
            if leaf_hash(previous, body) == leaf:
                self._candidates = (leaf,)
                return True
        if not self._candidates:
            self._candidates = (leaf,)
            return True
        self._candidates = (leaf, leaf_hash(self._candidates[0], body))
        self.unchained += 1
        return False

    def go_on(self, leaf: bytes) -> None:
        """Go on behind records that another has judged, of which this is the last one's leaf; the tree is not
        kept over them."""
        self._candidates, self._edge = (leaf,), None

    @property
    def expected(self) -> bytes:
        """The leaf before the next record, as far as it is known."""
        return self._candidates[0] if self._candidates else bytes(HASH_BYTES)

    @property
    def is_blind(self) -> bool:
        """Whether the leaf before the next record is unknown, so that this side alone cannot judge it."""
        return not self._candidates

    def skip(self, leaf: bytes | None, *, count: int = 1) -> None:
        """So many records are missing here; the last one's leaf where that is known."""
        self._candidates = () if leaf is None else (leaf,)
        if leaf is None or count > 1:
            self._edge = None
        else:
            self._leaves.append(leaf)

    def root(self) -> bytes | None:
        """The root over all leaves; None where one is unknown."""
        self._grow()
        return None if self._edge is None else self._edge.root()

    def _grow(self) -> None:
        if self._edge is not None:
            self._edge.extend(self._leaves)
        self._leaves.clear()
