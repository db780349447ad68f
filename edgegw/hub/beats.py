"""A beat of an open session: keep what is pushed, replay it, answer what is asked.

One SQL transaction per beat, under the lock of that box's row: the push is verified, kept and replayed, its
stand-ins are decided, asks answered, allotments and the risk account filled up, and the head moves by `WHERE
size = :old`. The cosignature is made by the caller after its COMMIT (`Taken.cosign`). Leaves out openings
(`hub.receive`), what records mean (`hub.replay`) and HTTP (`hub.app`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, update

from edgegw.access.keys import VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import PackageJudgement, Session, judge_message, judge_push
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import (
    ASKS_MAX,
    PACKAGE_BYTES_MAX,
    PROGRAM_WORD_CHARS_MAX,
    Ask,
    Beat,
    Beaten,
    Coming,
    ExchangeError,
    LogHead,
    Package,
    PackageVerdict,
    Program,
    Verdict,
)
from edgegw.core.records import GrantDirective, Link
from edgegw.core.site import Site
from edgegw.hub import grants, replay, schema
from edgegw.hub.books import Books, currencies_of, visitors_among
from edgegw.hub.branches import BranchedEpoch
from edgegw.hub.directives import DirectiveLog, directives_held, package_after
from edgegw.hub.grants import Seen
from edgegw.hub.items import NO_FAULTS, Item, read_items
from edgegw.hub.journals import (
    Pulled,
    held_log,
    journal_head_of,
    journal_root_at,
    mark_forked,
    move_head,
    pulled_package,
)
from edgegw.hub.key_policies import policy_of
from edgegw.hub.keyring import Keyring
from edgegw.hub.limit_orders import announce_lifted, announce_limits
from edgegw.hub.recalls import AGAIN_MS, IDLE_LOOK_NS, Recalls, follows_use, note_seen, recall_idle
from edgegw.hub.receive import ACTIVE, BEHIND, FORKED, QUARANTINED, BoxRow, adopt_from, find_forked
from edgegw.hub.site import Sites, announce_freezes
from edgegw.hub.stages import announce, given_to, is_due, note_words, to_fetch
from edgegw.hub.stand_ins import (
    StandIn,
    decide_stand_in,
    keep_stand_ins,
    still_waiting,
    waiting_stand_ins,
)
from edgegw.hub.take_back import (
    HandedBack,
    announce_thaws,
    has_directives,
    open_lost_accounts,
    take_handed_back,
    withdraw,
)
from edgegw.hub.windows import note_centre

REQUEST_ID_CHARS_MAX: Final = 64
PROGRAM_VERSION_CHARS_MAX: Final = 64


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
    signer: str,
    session: bytes,
    counter: int,
    now_ns: int,
    poisoned: Mapping[int, str] = NO_FAULTS,
) -> Taken:
    """Take an authentic beat in one SQL transaction, which the caller commits; signer is the text of the key
    that it is of. Raises ExchangeError, OtherDevice, HeadMoved, and Poisoned with the records that are to be
    set aside the next time."""
    if len(beat.asks) > ASKS_MAX or any(len(ask.request_id) > REQUEST_ID_CHARS_MAX for ask in beat.asks):
        raise ExchangeError(f"asks: {ASKS_MAX} at most, their ids {REQUEST_ID_CHARS_MAX} characters at most")
    row = BoxRow.lock_for(connection, box, signer)
    verdict = _enter(connection, row, session=session, counter=counter)
    if verdict is Verdict.REOPEN:
        return Taken(Beaten(verdict=verdict, reason="this session is not known here: open again"))
    pulled = _pulled(connection, row, beat)
    again = _why_again(connection, row, beat, verdict, pulled)
    if again:
        row.write(connection)
        return Taken(Beaten(verdict=Verdict.REOPEN, reason=f"{again}: open again"))
    before_ns, row.beat_at_ns, row.waiting = row.beat_at_ns, now_ns, beat.waiting
    if beat.program is not None:
        _note_program(row, beat.program)
    return _Beat(connection, keyring, sites, row, now_ns=now_ns, before_ns=before_ns, poisoned=poisoned).take(
        beat, verdict, pulled
    )


def _note_program(row: BoxRow, program: Program) -> None:
    row.program = program.version[:PROGRAM_VERSION_CHARS_MAX]
    row.program_word = program.word[:PROGRAM_WORD_CHARS_MAX]
    row.program_problem = program.problem[:PROGRAM_WORD_CHARS_MAX]


def take_tail(
    connection: Connection,
    keyring: Keyring,
    sites: Sites,
    push: Package,
    *,
    box: str,
    now_ns: int,
    poisoned: Mapping[int, str] = NO_FAULTS,
) -> Taken:
    """Take a package of a box's journal from anyone, as a beat that pushes and asks nothing: its signatures
    say whose it is. Raises HeadMoved and Poisoned."""
    row = BoxRow.lock(connection, box)
    tail = Beat(directives=LogHead(0), push=push, waiting=row.waiting)
    beat = _Beat(connection, keyring, sites, row, now_ns=now_ns, before_ns=now_ns, poisoned=poisoned)
    taken = beat.take(tail, Verdict.FENCED, Pulled(None))
    if taken.beaten.push is PackageVerdict.ACCEPTED and push.number == row.epoch:
        _end_sessions(connection, box)
    return taken


def _end_sessions(connection: Connection, box: str) -> None:
    """Let whoever speaks as the box open again: its journal went on without it, which only an opening
    judges. A copy's records would stay unseen by the box until it has written as many."""
    table = schema.session
    connection.execute(update(table).where(table.c.box == box).values(session=b"", candidate=b""))


def _why_again(connection: Connection, row: BoxRow, beat: Beat, verdict: Verdict, pulled: Pulled) -> str:
    """Why this session is over and the box must be judged afresh, or ""."""
    # Where the box has another history nothing comes; it goes back to where they parted, or to later epochs.
    is_old = beat.pull is not None and beat.pull.number < row.epoch
    asks_on = pulled.package is not None or bool(pulled.other_history) or is_old
    if row.release and verdict is not Verdict.HUB_BEHIND and not asks_on:
        return "a new epoch is ordered"  # at the opening the box gets it, or hears what it lacks
    if verdict is Verdict.HUB_BEHIND and not row.taking_back:
        return "the hub holds all again that it had lost"
    if verdict is Verdict.OK and (row.taking_back or not _agrees(connection, row, beat.directives)):
        return "the hub has lost what it once directed"
    if verdict is not Verdict.HUB_BEHIND and beat.held is not None and not _holds(connection, row, beat.held):
        return "the hub has lost what it once held"
    return ""


def _agrees(connection: Connection, row: BoxRow, theirs: LogHead) -> bool:
    """Whether the hub can have written what a box in a session says it holds: a restored hub is found between
    two openings too."""
    own = directives_held(connection, box=row.box, incarnation=row.incarnation)
    if (theirs.number, theirs.size) == (own.number, own.size):
        return theirs.root == own.root
    return (theirs.number, theirs.size) < (own.number, own.size)


def _holds(connection: Connection, row: BoxRow, said: LogHead) -> bool:
    """The same of the records: a box that has nothing to push meets no gap, however much was lost."""
    if not said.size:
        return True
    return journal_root_at(connection, box=row.box, epoch=said.number, size=said.size) == said.root


def _pulled(connection: Connection, row: BoxRow, beat: Beat) -> Pulled:
    """What a box is given back of its own journal; one that holds other records there has forked."""
    if beat.pull is None:
        return Pulled(None)
    pulled = pulled_package(connection, beat.pull, box=row.box, bytes_max=beat.package_bytes_max)
    if pulled.is_news:
        # On the way to its next epoch a fork of any epoch is a person's to look at first.
        binds = row.release or beat.pull.number == row.epoch
        _note_fork(connection, row, beat.pull.number, pulled.other_history, binds=binds)
    return pulled


def _note_fork(
    connection: Connection, row: BoxRow, epoch: int, reason: str, *, binds: bool, other: str = ""
) -> None:
    """Keep that an epoch has two histories. Where it binds, the box goes out of service; in an epoch that is
    over it has its remedy already."""
    if binds:
        find_forked(connection, row, epoch, reason, other_checkpoint=other)
    else:
        mark_forked(connection, box=row.box, epoch=epoch, reason=reason, other_checkpoint=other)


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
        elif row.boot != found.boot and not (row.release and verdict is Verdict.HUB_BEHIND):
            verdict = Verdict.FENCED  # but whoever is on its way to the next epoch gives back first
    elif verdict is Verdict.OK and found.epoch < row.epoch:
        verdict = Verdict.FENCED  # the next epoch was given away while this session lived
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
        self,
        connection: Connection,
        keyring: Keyring,
        sites: Sites,
        row: BoxRow,
        *,
        now_ns: int,
        before_ns: int,
        poisoned: Mapping[int, str],
    ) -> None:
        """before_ns: when the box was heard before this beat."""
        self._poisoned = poisoned
        self._connection = connection
        self._keyring = keyring
        self._given = given_to(connection, row)
        """The site's settings that the box is to have."""
        self._coming: Coming | None = None
        """The same, where the box is to fetch them before a directive names them."""
        self._site = site = sites.of_box(connection, row, self._given)
        self._row = row
        self._now_ns = now_ns
        self._items: list[Item] = []
        self._forked = False
        """The pushed epoch has two histories."""
        self._again = False
        """A new log of directives begins for an epoch that has one."""
        self._currencies = [] if site is None else [rule.code for rule in site.currencies]
        self._recalls = Recalls(connection, box=row.box, now_ns=now_ns)
        self._looks_for_idle = (
            site is not None
            and any(rule.idle_hours for rule in site.allowances)
            and before_ns // IDLE_LOOK_NS != now_ns // IDLE_LOOK_NS
        )

    def take(self, beat: Beat, verdict: Verdict, pulled: Pulled) -> Taken:
        row, judgement, cosign, handed_back = self._row, None, None, None
        self._coming = to_fetch(self._given, row, ready=beat.ready)
        if row.taking_back and beat.handed_back is not None:
            handed_back = take_handed_back(
                self._connection, self._keyring, row, beat.handed_back, beat.directives, now_ns=self._now_ns
            )
        lacks = row.taking_back and not has_directives(self._connection, row, beat.directives)
        pushed_epoch = row.epoch
        if beat.push is not None and lacks:
            judgement = self._wait_for_directives(beat.push)
        elif beat.push is not None:
            pushed_epoch = beat.push.number
            judgement, cosign = self._push(beat.push)
        if beat.directives_cosignature:
            self._keep_their_word(beat.directives_cosignature)
        # A tail of an older epoch goes by itself: the books of the two epochs are never open at once.
        asks = beat.asks if pushed_epoch == row.epoch and self._may_grant(verdict) else ()
        fresh = grants.unanswered(self._connection, asks, box=row.box)
        is_whole = not lacks and pushed_epoch == row.epoch and beat.waiting <= len(self._items)
        if verdict is Verdict.HUB_BEHIND and is_whole:
            self._begin_again(beat.directives)
            verdict = Verdict.REOPEN
        grants_due = (row.allot_due or self._announces) and self._may_grant(verdict)
        is_due_here = self._again or row.stand_ins_due or grants_due
        if self._items or fresh or is_due_here or self._is_asked(verdict):
            self._settle(fresh, verdict, epoch=pushed_epoch)
        row.write(self._connection)
        answer = self._answer(beat, judgement, self._verdict(verdict), pulled, handed_back)
        if beat.push is None and pulled.whole is not None:
            return Taken(answer, pulled.whole.number, self._checkpoint(pulled.whole))
        return Taken(answer, pushed_epoch, cosign)

    def _checkpoint(self, head: LogHead) -> Checkpoint:
        origin = journal.journal_origin(bank=self._keyring.bank, box=self._row.box, epoch=head.number)
        return Checkpoint(origin, head.size, head.root)

    @property
    def _announces(self) -> bool:
        return self._coming is None and is_due(self._given, self._row)

    def _may_grant(self, verdict: Verdict) -> bool:
        return verdict is Verdict.OK and self._row.state == ACTIVE

    def _is_asked(self, verdict: Verdict) -> bool:
        """Whether others want money from this box, or it is time to ask for what lies idle."""
        return self._may_grant(verdict) and (self._recalls.is_due or self._looks_for_idle)

    def _wait_for_directives(self, push: Package) -> PackageJudgement:
        """Records are judged by the directives that they apply, so those come first."""
        head = journal_head_of(self._connection, self._row.box, push.number)
        held = LogHead(push.number) if head is None else LogHead(head.epoch, head.size, head.root)
        return PackageJudgement(PackageVerdict.GAP, held, "the directives that the hub has lost come first")

    def _begin_again(self, theirs: LogHead) -> None:
        """The hub is whole again: from here on another log, so that nothing that it may have said and lost
        can meet what it says now."""
        row = self._row
        withdraw(self._connection, row, from_seq=theirs.size if theirs.number == row.incarnation else 0)
        row.taking_back, row.allot_due = False, True
        head = journal_head_of(self._connection, row.box, row.epoch)
        self._again = head is not None and head.size > 0

    def _settle(self, asks: Sequence[Ask], verdict: Verdict, *, epoch: int) -> None:
        """Replay what was pushed, decide its stand-ins, then grant: all on one opening of the books."""
        row = self._row
        current = epoch == row.epoch
        open_lost_accounts(self._connection, self._items, box=row.box)
        again = self._again or (current and row.stand_ins_due)
        waiting = waiting_stand_ins(self._connection, box=row.box, epoch=epoch) if again else []
        books = Books(self._connection, box=row.box, epoch=epoch, in_doubt=not current)
        payers = {one.payer for one in waiting}
        names = self._accounts(asks, current=current) | payers
        seen = self._seen(names) if current else None
        draws = payers | {ask.account_id for ask in asks} | replay.stand_in_payers(self._items)
        if draws:
            # Whoever holds one account and then writes another must have locked both in their order.
            draws |= replay.accounts_of(self._items)
        books.open(names | set(seen or ()), draws=draws)
        log = self._directive_log() if current and not row.taking_back else None
        stand_ins = self._replay(books, epoch)
        if log is not None and self._site is not None:
            self._recalls.gives = self._may_grant(verdict)
            for one in [*self._still_waiting(epoch, waiting), *stand_ins]:
                if not one.voided and not one.decided:
                    decide_stand_in(
                        self._connection,
                        books,
                        log,
                        one,
                        self._recalls,
                        box=row.box,
                        epoch=epoch,
                        site=self._site,
                    )
            row.stand_ins_due = self._recalls.again
            if seen is not None and self._may_grant(verdict):
                self._grant(books, log, asks, self._site, seen)
            log.write()
        note_centre(self._connection, books, box=row.box, epoch=epoch)
        books.write()

    def _accounts(self, asks: Sequence[Ask], *, current: bool) -> set[str]:
        names = replay.accounts_of(self._items)
        # A currency that the site no longer lists may still be on its way back here.
        currencies = currencies_of(self._connection, names) | set(self._currencies)
        names |= replay.own_accounts_of(self._row.box, currencies)
        if current:
            names |= grants.accounts_for_grants(self._row.box, self._site)
            names |= {ask.account_id for ask in asks}
            if self._row.allot_due:
                names |= set(grants.accounts_at_home(self._connection, self._row.box))
        return names

    def _directive_log(self) -> DirectiveLog | None:
        """The log that the live epoch reads; it begins, with the newest site, when the epoch's first record
        is held."""
        row = self._row
        before = row.incarnation
        begins = self._again or (bool(self._items) and self._items[0].seq == 0)
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
            epoch=row.epoch,
            wall_ns=self._now_ns,
        )
        if begins:
            row.site_version, row.site_digest, self._coming = 0, "", None
        if self._given is not None and self._announces:
            announce(log, row, self._given)
        if begins:
            announce_freezes(self._connection, log)
            announce_limits(self._connection, log)
        if self._again:
            announce_thaws(self._connection, log, box=row.box, incarnation=before)
            announce_lifted(self._connection, log, box=row.box, incarnation=before)
        return log

    def _grant(self, books: Books, log: DirectiveLog, asks: Sequence[Ask], site: Site, seen: Seen) -> None:
        row = self._row
        if not log.size:
            return  # nothing is directed before the epoch's link is held and a site is published
        for ask in asks:
            grants.answer(self._connection, books, log, ask, self._recalls, box=row.box, site=site, seen=seen)
        self._recall(books, log, site)
        grants.allot(books, log, box=row.box, site=site, seen=seen, wanted=self._recalls.wanted)
        grants.top_up_risk(books, log, box=row.box, site=site)
        grants.share_caps(books, log, site=site, wanted=self._recalls.wanted)
        row.allot_due = False

    def _recall(self, books: Books, log: DirectiveLog, site: Site) -> None:
        """Ask back what others want, what lies idle, and what is free again of closed accounts."""
        self._recalls.tell(log)
        if self._looks_for_idle:
            recall_idle(
                self._connection, log, box=self._row.box, epoch=log.epoch, site=site, now_ns=self._now_ns
            )
        for account_id in sorted(replay.freed_in(self._items)):
            page = books.page(account_id)
            if page is not None and page.closed and page.floor and page.outstanding_minor > 0:
                log.recall(
                    account_id=account_id,
                    currency=page.currency,
                    amount_minor=page.outstanding_minor,
                    reason="closed",
                )

    def _seen(self, names: Collection[str]) -> Seen | None:
        """Note who paid here, and find which accounts of these (of all, where all allotments are due) did
        lately."""
        if self._site is None:
            return None
        if follows_use(self._site):
            visitors = visitors_among(self._connection, replay.payers_of(self._items), box=self._row.box)
            note_seen(self._connection, visitors, box=self._row.box, now_ns=self._now_ns)
        among = None if self._row.allot_due else names
        return Seen(self._connection, box=self._row.box, site=self._site, now_ns=self._now_ns, among=among)

    def _keep_their_word(self, note: str) -> None:
        """Keep the box's cosignature over its directives: its word that it holds them too. A bad one is no
        word."""
        row, table = self._row, schema.directive_head
        held = directives_held(self._connection, box=row.box, incarnation=row.incarnation)
        origin = journal.directives_origin(bank=self._keyring.bank, box=row.box, incarnation=row.incarnation)
        try:
            said = VerifyingKey.parse(row.device_key).check_cosignature(note).checkpoint
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
        if head is None and adopt_from(self._connection, self._keyring, row, push):
            head = journal_head_of(self._connection, row.box, push.number, lock=True)
        if head is None or head.sealed:
            why = "was not issued here" if head is None else "is sealed: nothing more is taken"
            nothing = LogHead(push.number)
            return PackageJudgement(PackageVerdict.MALFORMED, nothing, f"epoch {push.number} {why}"), None
        self._forked = head.forked
        held = held_log(self._connection, head)
        bank, hub_key = self._keyring.bank, self._keyring.key.public
        keys = policy_of(self._connection, head, hub_key=hub_key, bank=bank)
        judged = judge_push(push, held, bank=bank, box=row.box, keys=keys)
        if judged.verdict is PackageVerdict.FORK:
            self._fork(push, judged)
        elif judged.verdict is PackageVerdict.ACCEPTED:
            move_head(self._connection, push, judged, held, box=row.box)
            self._items = read_items(judged.records, judged.leaves, start=head.size, poisoned=self._poisoned)
            self._check_link(str(head.link))
        if judged.verdict not in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE) or not judged.head.size:
            return judged, None
        return judged, self._checkpoint(judged.head)

    def _fork(self, push: Package, judged: PackageJudgement) -> None:
        """Keep what the box has signed twice."""
        row, reason = self._row, f"epoch {push.number}: {judged.reason}"
        other = "" if judged.checkpoint is None else push.checkpoint
        binds = push.number == row.epoch
        _note_fork(self._connection, row, push.number, reason, binds=binds, other=other)

    def _check_link(self, link: str) -> None:
        if not self._items or self._items[0].seq:
            return
        first = self._items[0].record
        if not isinstance(first, Link) or first.note != link:
            self._quarantine("its journal does not begin with the link that it was given")

    def _replay(self, books: Books, epoch: int) -> list[StandIn]:
        if not self._items:
            return []
        histories = BranchedEpoch(self._connection, self._row.box, epoch) if self._forked else None
        player = replay.Replay(
            self._connection,
            books,
            box=self._row.box,
            epoch=epoch,
            now_ns=self._now_ns,
            histories=histories,
        )
        outcome = player.run(self._items)
        if epoch == self._row.epoch and not self._forked:
            said = ((item.record, item.directive) for item in self._items)
            note_words(self._connection, self._row, said, now_ns=self._now_ns)
        keep_stand_ins(self._connection, outcome.stand_ins, box=self._row.box, epoch=epoch)
        if outcome.quarantine and not self._forked:
            self._quarantine(outcome.quarantine)
        return outcome.stand_ins

    def _still_waiting(self, epoch: int, before: Sequence[StandIn]) -> list[StandIn]:
        """The stand-ins of earlier pushes that are to be decided now: those that waited for a hub that was
        behind or for other boxes, else those that this push's word about a grant may decide."""
        if before:
            seqs = {one.seq for one in before}
            waiting = waiting_stand_ins(self._connection, box=self._row.box, epoch=epoch)
            return [one for one in waiting if one.seq in seqs]
        granted = {
            item.directive.account_id for item in self._items if isinstance(item.directive, GrantDirective)
        }
        before_seq = self._items[0].seq if self._items else 0
        return still_waiting(self._connection, granted, box=self._row.box, epoch=epoch, before_seq=before_seq)

    def _quarantine(self, reason: str) -> None:
        if self._row.state in (ACTIVE, BEHIND):
            self._row.state, self._row.reason = QUARANTINED, reason

    # -- the answer ------------------------------------------------------------------------------------------

    def _verdict(self, verdict: Verdict) -> Verdict:
        """What this session is told now: a fork or quarantine found meanwhile binds."""
        if verdict is not Verdict.REOPEN and not self._row.taking_back:
            if self._row.state == FORKED:
                return Verdict.FORKED
            if self._row.state == QUARANTINED and verdict is Verdict.OK:
                return Verdict.FENCED
        return verdict

    def _answer(
        self,
        beat: Beat,
        judged: PackageJudgement | None,
        verdict: Verdict,
        pulled: Pulled,
        handed_back: HandedBack | None,
    ) -> Beaten:
        row = self._row
        package, more = None, False
        back = () if pulled.package is None else pulled.package.records
        if verdict is Verdict.OK and sum(map(len, back)) <= PACKAGE_BYTES_MAX:
            theirs = beat.directives
            size = theirs.size if theirs.number == row.incarnation else 0
            package = package_after(
                self._connection,
                self._keyring,
                box=row.box,
                incarnation=row.incarnation,
                size=size,
                bytes_max=beat.package_bytes_max,
            )
            held = directives_held(self._connection, box=row.box, incarnation=row.incarnation)
            more = package is not None and package.size < held.size
        return Beaten(
            verdict=verdict,
            reason=_reason(row, verdict, handed_back),
            push=None if judged is None else judged.verdict,
            push_reason="" if judged is None else judged.reason,
            journal=pulled.whole if judged is None else judged.head,
            directives=package,
            more=more,
            pulled=pulled.package,
            again_ms=AGAIN_MS if self._recalls.again else 0,
            incarnation=None if handed_back is None else handed_back.head,
            coming=self._coming if self._may_grant(verdict) else None,
        )


def _reason(row: BoxRow, verdict: Verdict, handed_back: HandedBack | None) -> str:
    if verdict is Verdict.REOPEN:
        return "the hub holds all again that it had lost: open again"
    if handed_back is not None and handed_back.reason:
        return handed_back.reason
    return row.reason if verdict in (Verdict.FORKED, Verdict.FENCED) else ""


def keep_cosignature(connection: Connection, *, box: str, epoch: int, size: int, note: str) -> None:
    """Write down what the hub has cosigned, after the COMMIT that made it true."""
    table = schema.journal_head
    connection.execute(
        update(table)
        .where(table.c.box == box, table.c.epoch == epoch, table.c.size == size)
        .values(cosignature=note)
    )
