"""A box made of the core alone: it journals, signs, pushes and applies directives, with no decisions of its
own.

What a record says is up to the test, so that wrong boxes can be played too. `talk` carries bytes to the hub.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core import journal
from edgegw.core.accounts import centre_account, risk_account
from edgegw.core.calendar import first_window
from edgegw.core.exchange import HeldLog, judge_package, judge_push
from edgegw.core.journal import Checkpoint, Frontier
from edgegw.core.legs import PENDING, POST, VOID
from edgegw.core.messages import (
    PACKAGE_BYTES_MAX,
    VERSION,
    Ask,
    Beat,
    Beaten,
    Direction,
    LogHead,
    Open,
    Opened,
    Package,
    PackageVerdict,
    Program,
    Verdict,
    open_link,
    open_reply,
    seal_envelope,
)
from edgegw.core.records import (
    Account,
    ClearedBy,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    DirectiveApplied,
    Expiry,
    GrantDirective,
    Kind,
    Leg,
    Link,
    Mode,
    RecallDirective,
    Record,
    Refusal,
    Request,
    SiteDirective,
    Transfer,
    decode_directive,
    encode,
    transfer_id,
)
from edgegw.core.site_format import SITE_FORMAT
from edgegw.sm.sm2 import PrivateKey
from tests.core.policies import one_key

BANK = "testbank"
CNY = "CNY"


def new_key(name: str) -> SigningKey:
    """A fresh key under this name."""
    return SigningKey(name, PrivateKey.generate())


def root_of(bodies: list[bytes]) -> bytes:
    """The root over these records; empty for none."""
    if not bodies:
        return b""
    frontier = Frontier()
    frontier.extend(journal.chain(journal.FIRST_PREVIOUS, bodies))
    return frontier.root()


class SimulatedBox:
    """A box, its device key and its journal."""

    def __init__(
        self, name: str, device: SigningKey, hub_key: VerifyingKey, talk: Callable[[bytes], bytes]
    ) -> None:
        self.name = name
        self.device = device
        self.hub_key = hub_key
        self.talk = talk
        self.boot = secrets.token_hex(8)
        self.key = new_key(f"{name}-1")
        self.keys: dict[int, SigningKey] = {}
        self.epoch = 0
        self.bodies: list[bytes] = []
        """The records of the newest epoch."""
        self.past: dict[int, list[bytes]] = {}
        """Those of the epochs before it."""
        self.program: Program | None = None
        """What it says of its program."""
        self.site_format = SITE_FORMAT
        """The newest that it says it reads; 0: it says none."""
        self.refused_sites: set[int] = set()
        """Versions that it will refuse."""
        self.others: tuple[LogHead, ...] = ()
        """Histories that it has not, but knows what they decided."""
        self.closed: dict[int, int] = {}
        """Windows that are closed, by epoch."""
        self.held = 0
        self.cosignature = ""
        self.session = b""
        self.counter = 0
        self.said: LogHead | None = None
        """What the hub holds of the newest epoch, by its last word in this session."""
        self.incarnation = 0
        self.directives: list[Directive] = []
        self.directives_note = ""
        self.past_directives: dict[int, tuple[list[bytes], str]] = {}
        """By incarnation: what was applied, and the hub's note over it."""
        self.directive_leaves: list[bytes] = []
        self.directive_frontier = Frontier()
        self.now_ns = 1_000_000_000
        self.package_bytes_max = PACKAGE_BYTES_MAX

    @property
    def window(self) -> int:
        """The open window's number."""
        return first_window(self.epoch) + self.closed.get(self.epoch, 0)

    # -- the journal -----------------------------------------------------------------------------------------

    def head(self) -> dict[str, int | str]:
        """The head of the next record."""
        self.now_ns += 1 << 20
        return {
            "v": 1,
            "bank": BANK,
            "box": self.name,
            "epoch": self.epoch,
            "seq": len(self.bodies),
            "at_ns": self.now_ns,
            "wall_ns": self.now_ns,
            "mono_ns": self.now_ns,
        }

    def write(self, record: Record) -> int:
        """Journal a record; its seq."""
        self.bodies.append(encode(record))
        return record.seq

    def transfer(
        self,
        legs: tuple[Leg, ...],
        *,
        kind: Kind = Kind.PAYMENT,
        cleared_by: ClearedBy = ClearedBy.ALLOWANCE,
        payer: str = "",
        amount_minor: int = 0,
        request_id: str = "",
    ) -> int:
        """Journal a cleared request with these legs."""
        request = Request(
            kind=kind,
            id=request_id or secrets.token_hex(16),
            debit_account_id=payer or legs[0].debit_account_id,
            credit_account_id=legs[0].credit_account_id,
            amount_minor=amount_minor or legs[0].amount_minor,
            currency=CNY,
        )
        return self.write(
            Transfer(
                **self.head(),
                window=self.window,
                client="till",
                request=request,
                cleared_by=cleared_by,
                legs=legs,
            )
        )

    def pay(
        self, payer: str, payee: str, amount_minor: int, *, home: bool = False, request_id: str = ""
    ) -> int:
        """A payment from allowance; home: the payee lives elsewhere, and the right goes back by itself."""
        legs = [Leg(payer, payee, amount_minor)]
        if home:
            legs.append(Leg(payee, centre_account(CNY), amount_minor))
        return self.transfer(tuple(legs), request_id=request_id)

    def stand_in(self, payer: str, payee: str, amount_minor: int, *, request_id: str = "") -> int:
        """A stand-in that waits for the centre."""
        leg = Leg(risk_account(self.name, CNY), payee, amount_minor, PENDING)
        return self.transfer(
            (leg,),
            cleared_by=ClearedBy.STAND_IN,
            payer=payer,
            amount_minor=amount_minor,
            request_id=request_id,
        )

    def hold(self, payer: str, payee: str, amount_minor: int, *, request_id: str = "") -> int:
        """A hold."""
        leg = Leg(payer, payee, amount_minor, PENDING, "", 600)
        return self.transfer((leg,), kind=Kind.HOLD, request_id=request_id)

    def resolve(self, seq: int, payer: str, payee: str, amount_minor: int, *, void: bool = False) -> int:
        """Post or void the pending leg of a record."""
        pending = f"{transfer_id(epoch=self.epoch, seq=seq, leg=0):032x}"
        leg = Leg(payer, payee, amount_minor, VOID if void else POST, pending)
        return self.transfer((leg,), kind=Kind.VOID if void else Kind.POST)

    def expire(self, seq: int, payer: str, payee: str, amount_minor: int) -> int:
        """Expire the hold of a record."""
        pending = f"{transfer_id(epoch=self.epoch, seq=seq, leg=0):032x}"
        leg = Leg(payer, payee, amount_minor, VOID, pending)
        return self.write(
            Expiry(**self.head(), window=self.window, original=f"{self.epoch}/{seq}", legs=(leg,))
        )

    def refuse(self, request_id: str) -> int:
        """A refusal."""
        request = Request(
            kind=Kind.PAYMENT, id=request_id, debit_account_id="A", amount_minor=1, currency=CNY
        )
        return self.write(Refusal(**self.head(), client="till", request=request, code="x", detail=""))

    def apply(
        self,
        directive: Directive,
        *,
        outcome: str = "applied",
        accounts: tuple[Account, ...] = (),
        back_minor: int = 0,
    ) -> int:
        """Journal a directive as a good box would, or as refused or returned; back_minor is what a recall or
        close finds to give back."""
        legs: tuple[Leg, ...] = ()
        if isinstance(directive, GrantDirective) and outcome != "refused":
            legs = (Leg(centre_account(CNY), directive.account_id, directive.amount_minor),)
            if outcome == "returned":
                legs += (Leg(directive.account_id, centre_account(CNY), directive.amount_minor),)
        elif isinstance(directive, ConfirmDirective | DeclineDirective) and outcome == "applied":
            legs = self._settling(directive)
        elif isinstance(directive, RecallDirective | CloseDirective) and back_minor:
            legs = (Leg(directive.account_id, centre_account(CNY), back_minor),)
        return self.write(
            DirectiveApplied(
                **self.head(),
                window=self.window,
                directive=msgspec.Raw(encode(directive)),
                outcome=outcome,
                legs=legs,
                accounts=accounts,
            )
        )

    def _settling(self, directive: ConfirmDirective | DeclineDirective) -> tuple[Leg, ...]:
        risk = risk_account(self.name, CNY)
        stood = msgspec.json.decode(self.bodies[directive.at_seq], type=Transfer)
        payee = stood.legs[0].credit_account_id
        pending = f"{transfer_id(epoch=directive.epoch, seq=directive.at_seq, leg=0):032x}"
        posted = Leg(risk, payee, directive.amount_minor, POST, pending)
        if isinstance(directive, DeclineDirective) and directive.liable == "merchant":
            return (posted, Leg(payee, risk, directive.amount_minor))
        return (posted,)

    # -- the exchange ----------------------------------------------------------------------------------------

    def open(self, *, nonce: bytes = b"", mode: Mode = Mode.SYNCING) -> Opened:
        """Open a session; journal the link when there is one and open again."""
        nonce = nonce or secrets.token_bytes(16)
        heads = tuple(self.journal_head(epoch) for epoch in self.epochs())
        size = self.directive_frontier.size
        message = Open(
            version=VERSION,
            version_oldest=VERSION,
            bank=BANK,
            box=self.name,
            boot=self.boot,
            epoch=self.epoch,
            key=self.key.public.text(),
            mode=mode,
            journals=heads,
            cosignature=self.cosignature,
            directives=LogHead(self.incarnation, size, self.directive_frontier.root() if size else b""),
            directives_note=self.directives_note,
            link=msgspec.json.decode(self.bodies[0], type=Link).note if self.bodies else "",
            others=self.others,
            site_format=self.site_format,
        )
        opened = self.send(message, session=nonce, counter=0)
        assert isinstance(opened, Opened)
        if opened.verdict is Verdict.LINK:
            self.past |= {self.epoch: self.bodies} if self.epoch else {}
            self.epoch = open_link(opened.link, self.hub_key).epoch
            self.bodies, self.held, self.cosignature = [], 0, ""
            self.keys[self.epoch] = self.key
            self.write(Link(**self.head(), note=opened.link))
            return self.open()  # the new epoch's line is an ordinary one
        self.session, self.counter = opened.session, 0
        self.said = next((head for head in opened.journals if head.number == self.epoch), None)
        return opened

    def epochs(self) -> list[int]:
        """Every epoch that is held here, oldest first."""
        return [*sorted(self.past), *([self.epoch] if self.epoch else [])]

    def records_of(self, epoch: int) -> list[bytes]:
        """What is held of an epoch."""
        return self.bodies if epoch == self.epoch else self.past.get(epoch, [])

    def journal_head(self, epoch: int) -> LogHead:
        """How far an epoch is held here."""
        bodies = self.records_of(epoch)
        return LogHead(epoch, len(bodies), root_of(bodies))

    def pull(self, epoch: int, *, bytes_max: int = PACKAGE_BYTES_MAX) -> Beaten:
        """Ask once for what follows of an epoch, check it and keep it."""
        self.counter += 1
        message = Beat(
            directives=LogHead(self.incarnation),
            pull=self.journal_head(epoch),
            mode=Mode.BEHIND,
            package_bytes_max=bytes_max,
        )
        beaten = self.send(message, session=self.session, counter=self.counter)
        assert isinstance(beaten, Beaten)
        if beaten.pulled is not None:
            self._keep(beaten.pulled)
        return beaten

    def _keep(self, package: Package) -> None:
        bodies = self.records_of(package.number)
        first = msgspec.json.decode((bodies or package.records)[0], type=Link)
        key = VerifyingKey.parse(open_link(first.note, self.hub_key).key)
        keys = one_key(key, bank=BANK, box=self.name, epoch=package.number)
        leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
        frontier = Frontier()
        frontier.extend(leaves)
        held = HeldLog(package.number, frontier, lambda index: leaves[index])
        judged = judge_push(package, held, bank=BANK, box=self.name, keys=keys)
        assert judged.verdict is PackageVerdict.ACCEPTED, judged.reason
        if package.number == self.epoch:
            self.bodies += judged.records
        else:
            self.past.setdefault(package.number, []).extend(judged.records)

    def rehydrate(self, opened: Opened) -> None:
        """Pull what the hub holds further than this box, the oldest epoch first; the newest one becomes this
        box's own."""
        heads = sorted((*opened.journals, *opened.closed), key=lambda head: head.number)
        for head in heads:
            while len(self.records_of(head.number)) < head.size:
                assert self.pull(head.number).pulled is not None
        if self.past and max(self.past) > self.epoch:
            newest = max(self.past)
            self.past |= {self.epoch: self.bodies} if self.epoch else {}
            self.epoch, self.bodies = newest, self.past.pop(newest)
            self.held = len(self.bodies)

    def learn(self, opened: Opened) -> None:
        """Know what the other histories decided that the hub keeps."""
        self.others = opened.closed

    def come_back(self) -> Opened:
        """Behind, with a new epoch ordered: take the past back, then the epoch."""
        opened = self.open(mode=Mode.BEHIND)
        if opened.verdict is Verdict.BEHIND:
            self.rehydrate(opened)
            opened = self.open(mode=Mode.BEHIND)
        return opened

    def send(self, message: Open | Beat, *, session: bytes, counter: int) -> Opened | Beaten:
        """Sign, carry and open."""
        data = seal_envelope(
            self.device.sign,
            message,
            direction=Direction.TO_HUB,
            bank=BANK,
            box=self.name,
            session=session,
            counter=counter,
        )
        reply = open_reply(
            self.hub_key.verify, self.talk(data), bank=BANK, box=self.name, session=session, counter=counter
        )
        assert isinstance(reply, Opened | Beaten)
        return reply

    def root(self, size: int) -> bytes:
        """The root of the first `size` records."""
        return root_of(self.bodies[:size])

    def package(self, start: int, end: int) -> Package:
        """The records [start, end), proved up to the head."""
        leaves = journal.chain(journal.FIRST_PREVIOUS, self.bodies)
        origin = journal.journal_origin(bank=BANK, box=self.name, epoch=self.epoch)
        size = len(self.bodies)
        return Package(
            number=self.epoch,
            old_size=start,
            records=tuple(self.bodies[start:end]),
            root=self.root(end),
            checkpoint=self.key.seal(Checkpoint(origin, size, self.root(size)).body()),
            proof=tuple(journal.consistency_proof(end, size, journal.nodes_of(leaves))),
        )

    def beat(self, *asks: Ask, push: Package | None = None, repeat: bool = False) -> Beaten:
        """One beat with what the hub lacks (or the given push); takes the directives into the log, applies
        none."""
        if push is None and self.held < len(self.bodies):
            push = self.package(self.held, min(len(self.bodies), self.held + 256))
        self.counter += 1
        size = self.directive_frontier.size
        message = Beat(
            directives=LogHead(self.incarnation, size, self.directive_frontier.root() if size else b""),
            held=self.said,
            push=push,
            asks=asks,
            waiting=len(self.bodies) - self.held,
            directives_cosignature=self.word() if size else "",
            package_bytes_max=self.package_bytes_max,
            program=self.program,
        )
        beaten = self.send(message, session=self.session, counter=self.counter)
        assert isinstance(beaten, Beaten)
        if beaten.push in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE) and beaten.journal is not None:
            self.held = beaten.journal.size
            self.said = beaten.journal if beaten.journal.number == self.epoch else self.said
            self.cosignature = beaten.cosignature
        if beaten.directives is not None:
            self._take(beaten.directives)
        return beaten

    def word(self) -> str:
        """The box's cosignature over the directives that it holds."""
        origin = journal.directives_origin(bank=BANK, box=self.name, incarnation=self.incarnation)
        frontier = self.directive_frontier
        return self.device.cosign(Checkpoint(origin, frontier.size, frontier.root()), time_s=1)

    def _take(self, package: Package) -> None:
        if package.number > self.incarnation:
            self.past_directives |= self._applied() if self.incarnation else {}
            self.incarnation, self.directives, self.directive_leaves = package.number, [], []
            self.directive_frontier = Frontier()
        held = HeldLog(self.incarnation, self.directive_frontier, lambda index: self.directive_leaves[index])
        judged = judge_package(package, held, bank=BANK, box=self.name, key=self.hub_key)
        assert judged.verdict is PackageVerdict.ACCEPTED, judged.reason
        assert judged.frontier is not None
        self.directive_frontier = judged.frontier
        self.directive_leaves += judged.leaves
        self.directives += [decode_directive(body) for body in judged.records]
        self.directives_note = package.checkpoint

    def _applied(self) -> dict[int, tuple[list[bytes], str]]:
        return {self.incarnation: ([encode(one) for one in self.directives], self.directives_note)}

    def hand_back(self, held: LogHead, *, count: int = 256) -> Beaten | None:
        """Hand back the next directives that a hub lacks which holds so much; None when it lacks none."""
        for number, (bodies, note) in sorted((self.past_directives | self._applied()).items()):
            start = held.size if number == held.number else 0
            if number < held.number or start >= len(bodies):
                continue
            end = min(len(bodies), start + count)
            leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
            package = Package(
                number=number,
                old_size=start,
                records=tuple(bodies[start:end]),
                root=root_of(bodies[:end]),
                checkpoint=note,
                proof=tuple(journal.consistency_proof(end, len(bodies), journal.nodes_of(leaves))),
            )
            self.counter += 1
            size = self.directive_frontier.size
            message = Beat(
                directives=LogHead(self.incarnation, size, self.directive_frontier.root()),
                handed_back=package,
                waiting=1 << 40,
            )
            beaten = self.send(message, session=self.session, counter=self.counter)
            assert isinstance(beaten, Beaten)
            return beaten
        return None

    def give_back(self, opened: Opened, *, count: int = 256) -> Opened:
        """Bring a hub that is behind to where it was: directives, records, then a fresh opening."""
        assert opened.verdict is Verdict.HUB_BEHIND
        held = opened.directives
        while (beaten := self.hand_back(held, count=count)) is not None:
            assert beaten.verdict is Verdict.HUB_BEHIND
            assert beaten.incarnation not in (None, held), beaten.reason
            held = beaten.incarnation
        for head in opened.journals:
            if head.number in self.past:
                self._push_past(head)
        self.held = next((head.size for head in opened.journals if head.number == self.epoch), 0)
        while (beaten := self.beat()).verdict is Verdict.HUB_BEHIND:
            assert beaten.push is PackageVerdict.ACCEPTED
        assert beaten.verdict is Verdict.REOPEN
        self.held = len(self.bodies)
        return self.open()

    def _push_past(self, head: LogHead) -> None:
        size = len(self.past[head.number])
        for start in range(head.size, size, 256):
            beaten = self.beat(push=self.past_package(head.number, start, min(size, start + 256)))
            assert (beaten.verdict, beaten.push) == (Verdict.HUB_BEHIND, PackageVerdict.ACCEPTED)

    def past_package(self, epoch: int, start: int, end: int) -> Package:
        """The records [start, end) of an epoch that is over, proved up to its head."""
        newest = self.epoch, self.bodies, self.key
        self.epoch, self.bodies, self.key = epoch, self.past[epoch], self.keys[epoch]
        package = self.package(start, end)
        self.epoch, self.bodies, self.key = newest
        return package

    def sync(self, *asks: Ask) -> list[Directive]:
        """Beat and apply until nothing is left on either side; the directives that came."""
        came: list[Directive] = []
        while True:
            before = self.directive_frontier.size if asks or self.incarnation else 0
            number = self.incarnation
            beaten = self.beat(*asks)
            asks = ()
            fresh = self.directives[before if number == self.incarnation else 0 :]
            for directive in fresh:
                unusable = isinstance(directive, SiteDirective) and directive.version in self.refused_sites
                self.apply(directive, outcome="refused" if unusable else "applied")
            came += fresh
            if not fresh and not beaten.more and self.held == len(self.bodies):
                return came
