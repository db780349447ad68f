"""The box's ledger as the ways out read it: `uplink.ports.Journal` over a reader of its own."""

from __future__ import annotations

from edgegw.core import journal
from edgegw.core.exchange import LogEnd
from edgegw.errors import Forked, LedgerCorrupt
from edgegw.ledger.rows import column_fault
from edgegw.ledger.store import DirectivesEnd, Store
from edgegw.uplink.ports import Head, HeldDirectives


class LedgerSource:
    """`uplink.ports.Journal` over a reader of its own; called from one worker thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def heads(self) -> list[Head]:
        """One for each epoch, oldest first."""
        return [Head(head.epoch, head.size, head.root, head.checkpoint) for head in self._store.heads()]

    def records(
        self, *, epoch: int, start: int, limit: int, bytes_max: int
    ) -> list[tuple[int, bytes, bytes]]:
        """Consecutive (seq, leaf, body)."""
        return list(self._store.records(epoch=epoch, start=start, limit=limit, bytes_max=bytes_max))

    def column_fault(self, *, epoch: int, start: int, count: int) -> tuple[int, str] | None:
        """The first record whose columns are not those of its bytes."""
        for seq, row in enumerate(self._store.rows(epoch=epoch, start=start, limit=count), start):
            fault = column_fault(row)
            if fault:
                return seq, fault
        return None

    def node(self, *, epoch: int, size: int) -> journal.Node:
        """The complete subtrees of the first `size` leaves."""
        return self._store.node(epoch, size)

    def key_changes(self, epoch: int) -> list[tuple[int, str]]:
        """(seq, statement) of the records by which another key takes over."""
        return [(one.seq, one.note) for one in self._store.keys.notes(epoch)]

    def revoked_keys(self) -> list[str]:
        """The hub's words that revoke keys of this box."""
        return self._store.keys.revoked()

    def cosignature(self, epoch: int) -> str:
        """The hub's newest cosigned note; "" for none."""
        kept = self._store.cosignature(epoch)
        return "" if kept is None else kept[1]

    def site(self, digest: str) -> bytes | None:
        """A bundle of the site's settings, or a list of theirs, that is kept here and was not changed by
        hand."""
        try:
            kept = self._store.site(digest)
            return self._store.id_list(digest) if kept is None else kept.bundle
        except LedgerCorrupt:
            return None

    def others(self) -> list[LogEnd]:
        """How far other histories of its epochs are known."""
        return self._store.others.ends()

    def directives(self) -> HeldDirectives:
        """How far the directives are applied."""
        held = self.incarnations()
        return held[-1] if held else HeldDirectives(0, journal.Frontier(), journal.FIRST_PREVIOUS, "")

    def incarnations(self) -> list[HeldDirectives]:
        """The same of every incarnation, oldest first."""
        return [self._held(end) for end in self._store.directives_ends()]

    def _held(self, end: DirectivesEnd) -> HeldDirectives:
        last = self._store.directives(incarnation=end.incarnation, start=end.size - 1, limit=1, bytes_max=1)
        if not last:
            raise Forked(f"directive {end.incarnation}/{end.size - 1} is missing")
        return HeldDirectives(
            end.incarnation, journal.Frontier.from_bytes(end.frontier), last[0].leaf, end.checkpoint
        )

    def directive_records(
        self, *, incarnation: int, start: int, limit: int, bytes_max: int
    ) -> list[tuple[int, bytes, bytes]]:
        """Consecutive (seq, leaf, body) of the hub's log."""
        return list(
            self._store.directives(incarnation=incarnation, start=start, limit=limit, bytes_max=bytes_max)
        )
