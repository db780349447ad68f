"""A box's own past, asked back: from the hub or from a mirror, over any open session (DESIGN §4).

Owns the order (the oldest epoch first) and the end (nothing more comes). What is taken is the keeper's to
judge, by the key that the hub's link gives each epoch. Leaves out when a box is behind (`core.exchange`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgegw.core.messages import PACKAGE_BYTES_MAX, Beat, ExchangeError, LogHead, Package, Verdict
from edgegw.core.records import Mode
from edgegw.uplink.session import Reopen, Session


class Keeper(Protocol):
    """The closed ledger (`ledger.closed.ClosedPen`), for one or more sides that give back."""

    def held(self, epoch: int) -> LogHead:
        """How far it has an epoch; size 0 for none."""
        ...

    def take(self, package: Package) -> LogHead:
        """Keep what is new; how far it has that epoch then. Raises ExchangeError."""
        ...

    def complete(self) -> None:
        """Called when a side has given all that it has and something was new."""
        ...


async def rehydrate(
    session: Session,
    keeper: Keeper,
    *,
    mode: Mode,
    lacking: Callable[[int], None],
    bytes_max: int = PACKAGE_BYTES_MAX,
) -> int:
    """Ask back what the other side holds beyond the keeper of every epoch that its Opened names, and return
    how many records came. `lacking` is told before each message how many are still to come.

    Raises LineFault, ExchangeError or Reopen; then the session is over, and what was taken stays.
    """
    wanted = sorted((*session.opened.journals, *session.opened.closed), key=lambda head: head.number)
    withheld: set[int] = set()
    taken = 0
    while True:
        lacks = [
            (theirs, mine)
            for theirs in wanted
            if theirs.number not in withheld and (mine := keeper.held(theirs.number)).size < theirs.size
        ]
        lacking(sum(theirs.size - mine.size for theirs, mine in lacks))
        if not lacks:
            break
        _, mine = lacks[0]
        beaten = await session.beat(
            Beat(directives=LogHead(0), pull=mine, mode=mode, package_bytes_max=bytes_max)
        )
        if beaten.verdict is Verdict.REOPEN:
            raise Reopen
        came = 0 if beaten.pulled is None else _take(keeper, beaten.pulled, mine)
        if came <= 0:
            # It holds another history of this epoch: that is a fork, and not for us to overwrite.
            withheld.add(mine.number)
        taken += max(0, came)
    if taken:
        keeper.complete()
    return taken


def _take(keeper: Keeper, package: Package, mine: LogHead) -> int:
    if package.number != mine.number:
        raise ExchangeError(f"asked for epoch {mine.number}, got epoch {package.number}")
    return keeper.take(package).size - mine.size
