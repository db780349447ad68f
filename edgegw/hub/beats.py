"""A beat of an open session: keep what is pushed, replay it, answer what is asked.

One SQL transaction per beat, under the lock of that box's row: the push is verified, kept and replayed, its
stand-ins are decided, asks answered, allotments and the risk account filled up, and the head moves by `WHERE
size = :old`. The cosignature is made by the caller after its COMMIT (`Taken.cosign`). Leaves out openings
(`hub.receive`), what records mean (`hub.replay`) and HTTP (`hub.app`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import PackageJudgement, Session, judge_message, judge_push
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import (
    ASKS_MAX,
    PACKAGE_BYTES_MAX,
    Ask,
    Beat,
    Beaten,
    ExchangeError,
    LogHead,
    Package,
    PackageVerdict,
    Verdict,
)
from edgegw.core.records import GrantDirective, Link
from edgegw.core.site import Site
from edgegw.hub import grants, replay, schema
from edgegw.hub.books import Books, currencies_of
from edgegw.hub.directives import DirectiveLog, directives_held, package_after
from edgegw.hub.journals import (
    Pulled,
    held_log,
    journal_head_of,
    mark_forked,
    move_head,
    pulled_package,
)
from edgegw.hub.keyring import Keyring
from edgegw.hub.receive import ACTIVE, BEHIND, FORKED, QUARANTINED, BoxRow, find_forked
from edgegw.hub.site import Sites, announce, announce_freezes
from edgegw.hub.stand_ins import StandIn, decide_stand_in, keep_stand_ins, still_waiting

REQUEST_ID_CHARS_MAX: Final = 64


class Taken(NamedTuple):
    """What a beat is answered, and what is to be cosigned once the transaction is committed."""

    beaten: Beaten
    epoch: int = 0
    cosign: Checkpoint | None = None


def take_beat(
    connection: Connection,
    keyring: Keyring,
    sites: Sites,
    beat: Beat,
    *,
    box: str,
    session: bytes,
    counter: int,
    now_ns: int,
) -> Taken:
    """Take an authentic beat in one SQL transaction, which the caller commits. Raises ExchangeError or
    HeadMoved."""
    if len(beat.asks) > ASKS_MAX or any(len(ask.request_id) > REQUEST_ID_CHARS_MAX for ask in beat.asks):
        raise ExchangeError(f"asks: {ASKS_MAX} at most, their ids {REQUEST_ID_CHARS_MAX} characters at most")
    row = BoxRow.lock(connection, box)
    verdict = _enter(connection, row, session=session, counter=counter)
    if verdict is Verdict.REOPEN:
        return Taken(Beaten(verdict=verdict, reason="this session is not known here: open again"))
    pulled = _pulled(connection, row, beat)
    if row.release and verdict is not Verdict.HUB_BEHIND and pulled.package is None:
        # A box that holds its whole past gets its epoch at an opening; one that does not is told there what
        # it lacks.
        return Taken(Beaten(verdict=Verdict.REOPEN, reason="a new epoch is ordered: open again"))
    row.beat_at_ns, row.waiting = now_ns, beat.waiting
    site = sites.newest(connection)
    taken = _Beat(connection, keyring, site, row, now_ns=now_ns).take(beat, verdict, pulled.package)
    if verdict is Verdict.HUB_BEHIND and taken.beaten.verdict is Verdict.OK:
        table = schema.session
        connection.execute(
            update(table)
            .where(table.c.box == box, table.c.session == session)
            .values(verdict=Verdict.OK.value)
        )
    return taken


def _pulled(connection: Connection, row: BoxRow, beat: Beat) -> Pulled:
    """What a box is given back of its own journal; one that holds other records there has forked."""
    if beat.pull is None:
        return Pulled(None)
    pulled = pulled_package(connection, beat.pull, box=row.box, bytes_max=beat.package_bytes_max)
    if pulled.other_history and row.state != FORKED:
        find_forked(connection, row, beat.pull.number, pulled.other_history)
    return pulled


def _enter(connection: Connection, row: BoxRow, *, session: bytes, counter: int) -> Verdict:
    """Find the beat's session and move its counter; a candidate that is used for the first time takes its
    boot's place."""
    table = schema.session
    found = connection.execute(
        select(table).where(
            table.c.box == row.box, (table.c.session == session) | (table.c.candidate == session)
        )
    ).one_or_none()
    if found is None:
        return Verdict.REOPEN
    held = Session(found.session, found.counter, found.candidate)
    after = judge_message(held, session=session, counter=counter)
    if after is None:
        return Verdict.REOPEN
    is_new = after.session != found.session
    verdict = Verdict(found.candidate_verdict if is_new else found.verdict)
    lived = found.lived
    if verdict in (Verdict.OK, Verdict.HUB_BEHIND) and found.epoch == row.epoch:
        if is_new and not (lived and row.boot != found.boot):
            row.boot, row.allot_due, lived = found.boot, True, True
            if row.state == BEHIND:
                row.state, row.reason = ACTIVE, ""
        elif row.boot != found.boot:
            verdict = Verdict.FENCED
    connection.execute(
        update(table)
        .where(table.c.box == row.box, table.c.boot == found.boot)
        .values(
            session=after.session,
            counter=after.counter,
            candidate=after.candidate,
            verdict=verdict.value,
            lived=lived,
        )
    )
    return verdict


class _Beat:
    """One beat's SQL transaction."""

    def __init__(
        self, connection: Connection, keyring: Keyring, site: Site | None, row: BoxRow, *, now_ns: int
    ) -> None:
        self._connection = connection
        self._keyring = keyring
        self._site = site
        self._row = row
        self._now_ns = now_ns
        self._items: list[replay.Item] = []
        self._currencies = [] if site is None else [rule.code for rule in site.currencies]

    def take(self, beat: Beat, verdict: Verdict, pulled: Package | None = None) -> Taken:
        row, judgement, cosign = self._row, None, None
        pushed_epoch = row.epoch
        if beat.push is not None:
            pushed_epoch = beat.push.number
            judgement, cosign = self._push(beat.push)
        if beat.directives_cosignature:
            self._keep_their_word(beat.directives_cosignature)
        # A tail of an older epoch goes by itself: the books of the two epochs are never open at once.
        asks = beat.asks if pushed_epoch == row.epoch and self._may_grant(verdict) else ()
        fresh = grants.unanswered(self._connection, asks, box=row.box)
        if self._items or fresh or (row.allot_due and self._may_grant(verdict)):
            self._settle(fresh, verdict, epoch=pushed_epoch)
        row.write(self._connection)
        answer = self._answer(beat, judgement, self._verdict(beat, verdict), pulled)
        return Taken(answer, pushed_epoch, cosign)

    def _may_grant(self, verdict: Verdict) -> bool:
        return verdict is Verdict.OK and self._row.state == ACTIVE

    def _settle(self, asks: Sequence[Ask], verdict: Verdict, *, epoch: int) -> None:
        """Replay what was pushed, decide its stand-ins, then grant: all on one opening of the books."""
        row = self._row
        current = epoch == row.epoch
        books = Books(self._connection, box=row.box, epoch=epoch, in_doubt=not current)
        books.open(self._accounts(asks, current=current))
        log = self._directive_log() if current else None
        stand_ins = self._replay(books, epoch)
        if log is not None and self._site is not None:
            for one in [*self._still_waiting(epoch), *stand_ins]:
                if not one.voided:
                    decide_stand_in(
                        self._connection, books, log, one, box=row.box, epoch=epoch, site=self._site
                    )
            if self._may_grant(verdict):
                self._grant(books, log, asks, self._site)
            log.write()
        books.write()

    def _accounts(self, asks: Sequence[Ask], *, current: bool) -> set[str]:
        names = replay.accounts_of(self._items)
        # A currency that the site no longer lists may still be on its way back here.
        currencies = currencies_of(self._connection, names) | set(self._currencies)
        names |= replay.own_accounts_of(self._row.box, currencies)
        if current:
            names |= grants.accounts_for_grants(self._row.box, self._currencies)
            names |= {ask.account_id for ask in asks}
            if self._row.allot_due:
                names |= set(grants.accounts_at_home(self._connection, self._row.box))
        return names

    def _directive_log(self) -> DirectiveLog | None:
        """The log that the live epoch reads; it begins, with the newest site, when the epoch's first record
        is held."""
        row = self._row
        begins = bool(self._items) and self._items[0].seq == 0
        if begins:
            row.incarnation += 1
            row.allot_due = True
        elif not row.incarnation:
            return None
        log = DirectiveLog(
            self._connection,
            self._keyring,
            box=row.box,
            incarnation=row.incarnation,
            wall_ns=self._now_ns,
        )
        if begins:
            announce(self._connection, log)
            announce_freezes(self._connection, log)
        return log

    def _grant(self, books: Books, log: DirectiveLog, asks: Sequence[Ask], site: Site) -> None:
        row = self._row
        if not log.size:
            return  # nothing is directed before the epoch's link is held and a site is published
        for ask in asks:
            grants.answer(self._connection, books, log, ask, box=row.box, site=site)
        grants.allot(books, log, box=row.box, site=site)
        grants.top_up_risk(books, log, box=row.box, site=site)
        row.allot_due = False

    def _keep_their_word(self, note: str) -> None:
        """Keep the box's cosignature over its directives: its word that it holds them too. A bad one is no
        word."""
        row, table = self._row, schema.directive_head
        held = directives_held(self._connection, box=row.box, incarnation=row.incarnation)
        origin = journal.directives_origin(bank=self._keyring.bank, box=row.box, incarnation=row.incarnation)
        try:
            said = self._keyring.boxes[row.box].check_cosignature(note).checkpoint
        except journal.NoteError:
            return
        if said.origin == origin and said.size <= held.size:
            self._connection.execute(
                update(table)
                .where(table.c.box == row.box, table.c.incarnation == row.incarnation)
                .values(cosigned=note)
            )

    # -- the push --------------------------------------------------------------------------------------------

    def _push(self, push: Package) -> tuple[PackageJudgement, Checkpoint | None]:
        """Verify a push and move the head; what is new waits in `_items` for its replay."""
        row = self._row
        head = journal_head_of(self._connection, row.box, push.number, lock=True)
        if head is None or head.sealed:
            why = "was not issued here" if head is None else "is sealed: nothing more is taken"
            nothing = LogHead(push.number)
            return PackageJudgement(PackageVerdict.MALFORMED, nothing, f"epoch {push.number} {why}"), None
        held = held_log(self._connection, head)
        key = VerifyingKey.parse(head.key)
        judged = judge_push(push, held, bank=self._keyring.bank, box=row.box, key=key)
        if judged.verdict is PackageVerdict.FORK:
            self._fork(push, judged)
        elif judged.verdict is PackageVerdict.ACCEPTED:
            move_head(self._connection, push, judged, held, box=row.box)
            self._items = replay.read_items(judged.records, judged.leaves, start=head.size)
            self._check_link(str(head.link))
        if judged.verdict not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE) or not judged.head.size:
            return judged, None
        origin = journal.journal_origin(bank=self._keyring.bank, box=row.box, epoch=push.number)
        return judged, Checkpoint(origin, judged.head.size, judged.head.root)

    def _fork(self, push: Package, judged: PackageJudgement) -> None:
        """Keep what the box has signed twice. In its live epoch that takes it out of service; in one that is
        over, the box has its remedy already."""
        row, reason = self._row, f"epoch {push.number}: {judged.reason}"
        other = "" if judged.checkpoint is None else push.checkpoint
        if push.number == row.epoch:
            find_forked(self._connection, row, push.number, reason, other_checkpoint=other)
        else:
            mark_forked(
                self._connection, box=row.box, epoch=push.number, reason=reason, other_checkpoint=other
            )

    def _check_link(self, link: str) -> None:
        if not self._items or self._items[0].seq:
            return
        first = self._items[0].record
        if not isinstance(first, Link) or first.note != link:
            self._quarantine("its journal does not begin with the link that it was given")

    def _replay(self, books: Books, epoch: int) -> list[StandIn]:
        if not self._items:
            return []
        outcome = replay.Replay(self._connection, books, box=self._row.box, epoch=epoch).run(self._items)
        keep_stand_ins(self._connection, outcome.stand_ins, box=self._row.box, epoch=epoch)
        if outcome.quarantine:
            self._quarantine(outcome.quarantine)
        return outcome.stand_ins

    def _still_waiting(self, epoch: int) -> list[StandIn]:
        """The stand-ins of earlier pushes that this push's word about a grant may decide."""
        granted = {
            item.directive.account_id for item in self._items if isinstance(item.directive, GrantDirective)
        }
        before_seq = self._items[0].seq if self._items else 0
        return still_waiting(self._connection, granted, box=self._row.box, epoch=epoch, before_seq=before_seq)

    def _quarantine(self, reason: str) -> None:
        if self._row.state in (ACTIVE, BEHIND):
            self._row.state, self._row.reason = QUARANTINED, reason

    # -- the answer ------------------------------------------------------------------------------------------

    def _verdict(self, beat: Beat, verdict: Verdict) -> Verdict:
        """What this session is told now: a fork or quarantine found meanwhile binds, and a hub that has
        caught up with what it once signed says so."""
        row, theirs = self._row, beat.directives
        if row.state == FORKED:
            return Verdict.FORKED
        if row.state == QUARANTINED and verdict in (Verdict.OK, Verdict.HUB_BEHIND):
            return Verdict.FENCED
        if verdict is Verdict.HUB_BEHIND:
            own = directives_held(self._connection, box=row.box, incarnation=row.incarnation)
            lacking = beat.waiting - len(self._items)
            if lacking <= 0 and (theirs.number, theirs.size) <= (own.number, own.size):
                return Verdict.OK
        return verdict

    def _answer(
        self, beat: Beat, judged: PackageJudgement | None, verdict: Verdict, pulled: Package | None
    ) -> Beaten:
        row = self._row
        package, more = None, False
        if verdict is Verdict.OK and (pulled is None or sum(map(len, pulled.records)) <= PACKAGE_BYTES_MAX):
            theirs = beat.directives
            size = theirs.size if theirs.number == row.incarnation else 0
            package = package_after(
                self._connection,
                box=row.box,
                incarnation=row.incarnation,
                size=size,
                bytes_max=beat.package_bytes_max,
            )
            held = directives_held(self._connection, box=row.box, incarnation=row.incarnation)
            more = package is not None and package.size < held.size
        return Beaten(
            verdict=verdict,
            reason=row.reason if verdict in (Verdict.FORKED, Verdict.FENCED) else "",
            push=None if judged is None else judged.verdict,
            push_reason="" if judged is None else judged.reason,
            journal=None if judged is None else judged.head,
            directives=package,
            more=more,
            pulled=pulled,
        )


def keep_cosignature(connection: Connection, *, box: str, epoch: int, size: int, note: str) -> None:
    """Write down what the hub has cosigned, after the COMMIT that made it true."""
    table = schema.journal_head
    connection.execute(
        update(table)
        .where(table.c.box == box, table.c.epoch == epoch, table.c.size == size)
        .values(cosignature=note)
    )
