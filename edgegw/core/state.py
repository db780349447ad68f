"""The tables of a ledger, and layers over them.

Owns where accounts, balances, transfers, holds and burned ids are looked up and what of them stays in memory.
Leaves out: what may be written into them (`edgegw.core.ledger`) and how they reach a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from edgegw.core.model import AMOUNT_MAX, Account, Balance, CreateTransferStatus, PendingStatus, Transfer
from edgegw.core.overlay import Deadlines, Overlay

V = TypeVar("V")
Table = dict[int, V] | Overlay[int, V]
History = Callable[[int], tuple[Transfer, PendingStatus] | None]
"""Transfer id -> the transfer as it was taken and what became of its hold; None where there is none."""

_LIVE: Final = PendingStatus.pending  # reaching a member through its class costs a tenth of a payment


def _layer(table: Table[V]) -> Overlay[int, V]:
    if not isinstance(table, Overlay):
        raise TypeError("a layer's tables must stay overlays; write into them instead of replacing them")
    return table


class State:
    """The tables of a ledger, or a layer over another state.

    With a `history` a base keeps only live holds in memory, and every other transfer must be findable there
    before its layer is merged; without one it keeps all. Only merging trims: with a history, decide on
    `overlay()`, not on the base itself. Burned ids (`failed`, with the status that burned them) stay in
    memory.
    """

    __slots__ = (
        "_base",
        "accounts",
        "balances",
        "deadlines",
        "failed",
        "history",
        "most_minor",
        "pendings",
        "transfers",
    )

    def __init__(
        self, *, history: History | None = None, base: State | None = None, most_minor: int = AMOUNT_MAX
    ) -> None:
        """most_minor: what the debits of an account may come to, and its credits."""
        self._base = base
        self.history: History | None = history if base is None else base.history
        self.most_minor: int = most_minor if base is None else base.most_minor
        self.accounts: Table[Account] = {} if base is None else Overlay(base.accounts)
        self.balances: Table[Balance] = {} if base is None else Overlay(base.balances)
        self.transfers: Table[Transfer] = {} if base is None else Overlay(base.transfers)
        self.pendings: Table[PendingStatus] = {} if base is None else Overlay(base.pendings)
        self.failed: Table[CreateTransferStatus] = {} if base is None else Overlay(base.failed)
        self.deadlines: Deadlines = Deadlines(None if base is None else base.deadlines)

    def overlay(self) -> State:
        """Return a layer over this state, which sees everything here and changes nothing before `merge()`."""
        return State(base=self)

    def merge(self) -> None:
        """Write this layer's changes into the state below and start again with none."""
        base = self._base
        if base is None:
            raise ValueError("a base state has nothing to merge into; merge what its overlay() returned")
        self._merge_transfers(base)
        _layer(self.accounts).merge()
        _layer(self.balances).merge()
        _layer(self.failed).merge()
        self.deadlines.merge()
        if base._base is None:
            base.deadlines.compact(base.is_live)

    def _merge_transfers(self, base: State) -> None:
        transfers, pendings = _layer(self.transfers), _layer(self.pendings)
        if self.history is None or isinstance(base.transfers, Overlay) or isinstance(base.pendings, Overlay):
            transfers.merge()
            pendings.merge()
            return
        for transfer_id, status in pendings.changes():
            if status is _LIVE:
                base.pendings[transfer_id] = status
                base.transfers[transfer_id] = transfers[transfer_id]
            else:
                base.pendings.pop(transfer_id, None)
                base.transfers.pop(transfer_id, None)
        transfers.clear()
        pendings.clear()

    def find(self, transfer_id: int) -> Transfer | None:
        """Return the transfer with this id from memory or history, or None."""
        transfer = self.transfers.get(transfer_id)
        if transfer is None and self.history is not None:
            found = self.history(transfer_id)
            return None if found is None else found[0]
        return transfer

    def pending_status(self, transfer_id: int) -> PendingStatus:
        """Return what became of the hold with this id; `none` for whatever is not a hold."""
        status = self.pendings.get(transfer_id)
        if status is None and self.history is not None:
            found = self.history(transfer_id)
            status = None if found is None else found[1]
        return PendingStatus.none if status is None else status

    def is_live(self, transfer_id: int) -> bool:
        """Return whether this id is a hold that is neither posted, voided nor expired."""
        return self.pendings.get(transfer_id) is _LIVE
