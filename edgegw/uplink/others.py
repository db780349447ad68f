"""What another history of this box decided, asked back from the hub over any session (DESIGN §4, "fork").

After a fork the hub has records of an epoch that this box has not: it has its own. Owns finding where the two
part, and reading on from there; each package is judged as a push is. Only what was decided there is kept
(`Pen.keep_other`), so that it is answered again and not decided again. Leaves out a past that the box has
merely lost (`uplink.rehydrate`).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from edgegw.core import journal
from edgegw.core.exchange import HeldLog, LogEnd, frontier_at, judge_push
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import (
    Beat,
    ExchangeError,
    LogHead,
    Package,
    PackageVerdict,
    Verdict,
    open_link,
)
from edgegw.core.records import Mode
from edgegw.errors import RecordPruned
from edgegw.uplink.ports import Head, Identity, Journal, Pen
from edgegw.uplink.session import Reopen, Session, directives_head, link_of

PROBE_BYTES: Final = 1
"""A package of one record: only whether one comes is asked."""

_T = TypeVar("_T")


class Read(Protocol):
    """Runs a reading of the ledger where it stalls nobody."""

    def __call__(self, read: Callable[[], _T], /) -> Awaitable[_T]: ...


class Others:
    """Asks in one session. `lacking` is told before each message how many records are still to be read."""

    def __init__(
        self,
        session: Session,
        source: Journal,
        pen: Pen,
        identity: Identity,
        *,
        read: Read,
        mode: Mode,
        lacking: Callable[[int], None],
        bytes_max: int,
    ) -> None:
        self._session = session
        self._source = source
        self._pen = pen
        self._identity = identity
        self._read = read
        self._mode = mode
        self._lacking = lacking
        self._bytes_max = bytes_max

    async def learn(self) -> bool:
        """Ask for all that the box does not know of the epochs that the hub has closed; whether there was
        any. Raises LineFault, ExchangeError, Reopen, or what the pen raises; what was learnt stays."""
        learnt = False
        for theirs in await self._read(self._unknown):
            await self._learn(theirs)
            learnt = True
        self._lacking(0)
        return learnt

    def _unknown(self) -> list[LogHead]:
        mine = {head.epoch: head for head in self._source.heads()}
        known = {head_of(end) for end in self._source.others()}
        return [
            theirs
            for theirs in self._session.opened.closed
            if theirs.size
            and theirs not in known
            and (own := mine.get(theirs.number)) is not None
            and own.size
            and (own.size, own.root) != (theirs.size, theirs.root)
        ]

    async def _learn(self, theirs: LogHead) -> None:
        mine = await self._read(lambda: self._mine(theirs.number))
        end = await self._read(lambda: self._known(mine, theirs))
        if end is None:
            end = await self._parting(mine, theirs)
        keys = await self._read(lambda: self._policy(theirs.number))
        while True:
            package = None
            if end.frontier.size < theirs.size:
                self._lacking(theirs.size - end.frontier.size)
                package = await self._pull(head_of(end), self._bytes_max)
                if package is None:
                    raise ExchangeError(
                        f"the hub said that it has {theirs.size} records of epoch {theirs.number},"
                        f" and gives none after {end.frontier.size}"
                    )
            records: tuple[bytes, ...] = ()
            if package is not None:
                end, records = self._judged(package, end, keys)
            await self._pen.keep_other(end, records)
            if end.frontier.size >= theirs.size:
                return

    # --- where to read on ---------------------------------------------------------------------------------

    def _mine(self, epoch: int) -> Head:
        return next(head for head in self._source.heads() if head.epoch == epoch)

    def _known(self, mine: Head, theirs: LogHead) -> LogEnd | None:
        """How far it is known: from the ledger's own records, if they begin as the hub's do, or from the last
        time; None where neither leads there."""
        own = self._own_end(mine, theirs.size) if theirs.size <= mine.size else None
        if own is not None and own.frontier.root() == theirs.root:
            return own
        ends = (end for end in self._source.others() if end.number == theirs.number)
        return next((end for end in ends if end.frontier.size < theirs.size), None)

    def _own_end(self, mine: Head, size: int) -> LogEnd | None:
        """This ledger's own records up to a size; None where that is pruned."""
        node = self._source.node(epoch=mine.epoch, size=mine.size)
        try:
            return LogEnd(mine.epoch, frontier_at(size, node), node(0, size - 1))
        except RecordPruned:
            return None

    async def _parting(self, mine: Head, theirs: LogHead) -> LogEnd:
        """The end of what both histories have, or their beginning where they part in what is pruned here.

        Most forks are young, so the steps back grow from its end.
        """
        same = LogEnd(mine.epoch, journal.Frontier(), journal.FIRST_PREVIOUS)
        low, other, step = 0, min(mine.size, theirs.size - 1) + 1, 1
        while low < other - 1:
            size = max(other - step, (low + other) // 2)
            end = await self._read(functools.partial(self._own_end, mine, size))
            if end is None:
                low = size
            elif await self._pull(head_of(end), PROBE_BYTES) is None:
                other, step = size, 2 * step
            else:
                low, same = size, end
        return same

    # --- messages -----------------------------------------------------------------------------------------

    async def _pull(self, head: LogHead, bytes_max: int) -> Package | None:
        directives = directives_head(await self._read(self._source.directives))
        beaten = await self._session.beat(
            Beat(directives=directives, pull=head, mode=self._mode, package_bytes_max=bytes_max, ready="")
        )
        if beaten.verdict is Verdict.REOPEN:
            raise Reopen
        return beaten.pulled

    def _policy(self, epoch: int) -> KeyPolicy:
        """The keys of the epoch's checkpoints, by the hub's own link and this box's own records: where the
        other history has others, its packages say so."""
        link = open_link(link_of(self._source, epoch), self._identity.hub_key)
        policy = KeyPolicy(
            bank=link.bank, box=link.box, epoch=epoch, first=link.key, parse=self._identity.parse_key
        )
        try:
            self._identity.parse_key(link.key)
            return policy.known([note for _, note in self._source.key_changes(epoch)])
        except ValueError as problem:
            raise ExchangeError(f"the keys of epoch {epoch}: {problem}") from None

    def _judged(self, package: Package, end: LogEnd, keys: KeyPolicy) -> tuple[LogEnd, tuple[bytes, ...]]:
        """The package's records, and where they end; raises ExchangeError where they do not follow `end`."""
        held = HeldLog(end.number, end.frontier, lambda _: end.leaf)
        judged = judge_push(package, held, bank=self._identity.bank, box=self._identity.box, keys=keys)
        if judged.verdict is not PackageVerdict.ACCEPTED or not judged.leaves:
            raise ExchangeError(
                f"another history of epoch {package.number}, {judged.verdict}: {judged.reason}"
            )
        frontier = end.frontier.copy()
        frontier.extend(judged.leaves)
        return LogEnd(end.number, frontier, judged.leaves[-1]), judged.records


def head_of(end: LogEnd) -> LogHead:
    """Number, size and root of a log's end."""
    size = end.frontier.size
    return LogHead(end.number, size, end.frontier.root() if size else b"")
