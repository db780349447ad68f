"""A ledger that this process may read and complete, but not continue: it is behind its own past, or forked.

Answers repeats, decides nothing, writes no record of its own; what others have kept of its past comes back
through `take` (DESIGN §4). Its mode is in memory alone: a record of it would begin a second history. Leaves
out who asks for the records (`uplink`), and the new epoch that ends this state (`ledger.start.begin_epoch`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from edgegw.core.decide import Funding
from edgegw.core.exchange import Directives, LogEnd, SiteBundle
from edgegw.core.key_policy import ParseKey
from edgegw.core.messages import ExchangeError, LogHead, Package, PackageVerdict, VerifyingKey
from edgegw.core.pruned import Pruned
from edgegw.core.records import Mode, Request, WindowClosed
from edgegw.errors import Behind, Forked
from edgegw.ledger import received
from edgegw.ledger.late_words import Noted
from edgegw.ledger.outcomes import Outcome, Undecided
from edgegw.ledger.requests import first_answer, normalised
from edgegw.ledger.store import Bundle, Store
from edgegw.ledger.windows import NotClosed


class ClosedPen:
    """Where others find the pen of an open ledger; made for one process, used on its loop."""

    def __init__(
        self,
        store: Store,
        trouble: Behind | Forked,
        *,
        bank: str,
        box: str,
        hub_key: VerifyingKey,
        parse_key: ParseKey,
        before_taking: Callable[[], None],
    ) -> None:
        """before_taking: called before the first record comes back, which makes the file look less behind."""
        self.mode = Mode.BEHIND if isinstance(trouble, Behind) else Mode.FORKED
        self.mode_reason = str(trouble)
        self.taken = 0
        """Records that have come back."""
        self.wants_site = ""
        """The digest of the settings that the journal has in force and that are not here."""
        self.on_complete: list[Callable[[], None]] = []
        """Called when a side has given all that it has, and some of it was new."""
        self._store = store
        self._trouble = trouble
        self._bank, self._box = bank, box
        self._hub_key = hub_key
        self._parse_key = parse_key
        self._before_taking = before_taking

    # --- for the gateway service ----------------------------------------------------------------------------

    async def decide(
        self,
        client: str,
        requests: Sequence[Request],
        funding: Funding,  # noqa: ARG002 - nothing is funded here
        *,
        linked: bool = False,  # noqa: ARG002 - a repeat is answered one by one
    ) -> list[Outcome]:
        """The first answer of each identity that has one, else why nothing is decided."""
        wanted = [normalised(client, request) for request in requests]
        known = self._store.find([(client, request.id) for request in wanted])
        return [self._outcome(request, known.get((client, request.id))) for request in wanted]

    def _outcome(self, request: Request, known: bytes | Pruned | None) -> Outcome:
        return self.closed_for_payments() if known is None else first_answer(known, request)

    async def close_window(
        self,
        *,
        business_date: str,  # noqa: ARG002
        closed_by: str,  # noqa: ARG002
        window: int = 0,  # noqa: ARG002
    ) -> WindowClosed | NotClosed:
        """Never: nothing is written."""
        raise self._trouble

    async def acknowledge(
        self,
        *,
        client: str,  # noqa: ARG002
        by: str,  # noqa: ARG002
        up_to: int,  # noqa: ARG002
        apart: Collection[int] = (),  # noqa: ARG002
        settled: Collection[int] = (),  # noqa: ARG002
        whole: bool = False,  # noqa: ARG002
    ) -> Noted:
        """Never: nothing is written."""
        raise self._trouble

    async def covered(self, *places: tuple[int, int]) -> None:
        """At once: it tells what was told before, and writes nothing."""

    def closed_for_payments(self) -> Undecided:
        """Always, and why."""
        return Undecided(self._trouble.code, str(self._trouble), self._trouble.hint)

    # --- for the line ---------------------------------------------------------------------------------------

    async def change_mode(self, mode: Mode, reason: str) -> None:
        """Remember it, for this process."""
        self.mode, self.mode_reason = mode, reason

    async def apply_directives(self, directives: Directives) -> None:  # noqa: ARG002 - none is applied here
        """Never: a directive takes effect from a record, and none is written."""
        raise self._trouble

    async def keep_cosignature(self, *, epoch: int, size: int, note: str) -> None:
        """Store the hub's word that it holds so much of this epoch."""
        self._store.begin()
        self._store.put_cosignature(epoch=epoch, size=size, note=note)
        self._store.commit()

    async def keep_revoked(self, notes: Sequence[str]) -> None:
        """Store the hub's words that revoke keys of this box."""
        self._store.begin()
        for note in notes:
            self._store.keys.put_revoked(note)
        self._store.commit()

    async def keep_other(self, end: LogEnd, records: Sequence[bytes]) -> None:
        """Store what these records of another history decided, and that it is known up to `end`."""
        self._store.begin()
        self._store.others.keep(end, records)
        self._store.commit()

    # --- what comes back ------------------------------------------------------------------------------------

    def held(self, epoch: int) -> LogHead:
        """How far this ledger has an epoch."""
        head = self._store.head(epoch)
        return LogHead(epoch) if head is None or not head.size else LogHead(epoch, head.size, head.root)

    def take(self, package: Package) -> LogHead:
        """Keep what is new of a package of this box's own journal, in one COMMIT; how far its epoch is here
        then. Raises ExchangeError for records that do not continue what is here, OperatingError where the
        disk fails."""
        keys = received.policy_of(
            self._store, package.number, package, hub_key=self._hub_key, parse=self._parse_key
        )
        if not self.taken:
            self._before_taking()
        judged = received.take_package(self._store, package, bank=self._bank, box=self._box, keys=keys)
        if judged.verdict not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE):
            raise ExchangeError(f"records of epoch {package.number}, {judged.verdict}: {judged.reason}")
        self.taken += len(judged.records)
        return judged.head

    def keep_site(self, bundle: SiteBundle) -> None:
        """Store the site bundle that was wanted: clients are known by it."""
        self._store.begin()
        self._store.put_site(Bundle(bundle.site.version, self.wants_site, bundle.note, bundle.body))
        self._store.commit()
        self.complete()

    def complete(self) -> None:
        """A side has given all that it has."""
        for told in self.on_complete:
            told()
