"""What becomes of a request at the pen, and the budget of refusals that a client may have journalled."""

from __future__ import annotations

import msgspec

from edgegw.core.decide import Short
from edgegw.core.pruned import Pruned
from edgegw.core.records import Refusal, Request, Transfer


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The record that answers a request, and its bytes; `repeat` when it was there before."""

    record: Transfer | Refusal
    body: bytes
    repeat: bool


class Recalled(msgspec.Struct, frozen=True):
    """A repeat whose record was pruned: what stays of the decision, and the request as it was sent again."""

    pruned: Pruned
    request: Request


class Conflict(msgspec.Struct, frozen=True):
    """The identity belongs to a request with other content: `field` differs from the first one's, or "" where
    only that is known, because the first one's record was pruned."""

    field: str
    first: Request | None


class Undecided(msgspec.Struct, frozen=True):
    """Nothing was decided and the id is unburned; `code` is an operating error's, `refusal_budget` or
    `group_mixed`."""

    code: str
    detail: str
    hint: str = ""


Outcome = Decision | Recalled | Conflict | Undecided | Short


class Budget:
    """How many refusals a client may have journalled: a bucket that refills, so that a flood cannot fill
    the disk."""

    def __init__(self, *, burst: int, per_second: int) -> None:
        self._burst = burst
        self._per_second = per_second
        self._levels: dict[str, tuple[int, int]] = {}
        self.exhausted: dict[str, int] = {}
        """Refusals that were not journalled, counted per client."""

    def take(self, client: str, *, at_ns: int, count: int = 1) -> bool:
        """Spend so many refusals of this client, all or none; False when none is left.

        More than are left are lent: the client waits until they have refilled, and a group of any size can be
        refused.
        """
        level, since = self._levels.get(client, (self._burst, at_ns))
        refill = (at_ns - since) * self._per_second // 1_000_000_000
        if refill:
            level, since = min(self._burst, level + refill), at_ns
        if level <= 0:
            self._levels[client] = (level, since)
            self.exhausted[client] = self.exhausted.get(client, 0) + count
            return False
        self._levels[client] = (level - count, since)
        return True
