"""A box's book under any history: money is conserved, floors hold, and the journal alone gives the same
book again."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgegw.core import snapshot
from edgegw.core.accounts import risk_account
from edgegw.core.book import Book
from edgegw.core.decide import Short, expiry
from edgegw.core.ledger import due
from edgegw.core.records import (
    ConfirmDirective,
    DeclineDirective,
    Kind,
    Mode,
    Transfer,
    decode_record,
    encode,
    legs_of,
    place_of,
)
from tests.core.box import DOWN, GRANTED, REFUSED, SITE, UP, Box

PEOPLE = ("anna", "bert", "shop", "away")
AMOUNTS = st.integers(1, 900)
FUNDINGS = st.sampled_from((UP, GRANTED, REFUSED, DOWN))


class Boxes(RuleBasedStateMachine):
    """One box; the model is the list of what every cleared record moved."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Box()
        self.granted = Counter[str]()

    @initialize()
    def open(self) -> None:
        """The branch may stand in for a little."""
        self.grant(risk_account("box-1", "CNY"), 1_500)

    @rule(account=st.sampled_from(PEOPLE), amount=AMOUNTS)
    def grant(self, account: str, amount: int) -> None:
        """The centre hands money over."""
        self.box.grant(account, amount)

    @rule(
        debit=st.sampled_from(PEOPLE),
        credit=st.sampled_from(PEOPLE),
        amount=AMOUNTS,
        funding=FUNDINGS,
        advice=st.booleans(),
    )
    def pay(self, debit: str, credit: str, amount: int, funding: object, advice: bool) -> None:
        """A payment or an advice, whatever the line."""
        before = self.image()
        decided = self.box.pay(debit, credit, amount, funding, advice=advice)  # type: ignore[arg-type]
        if isinstance(decided, Short):
            assert before == self.image()

    @rule(
        debit=st.sampled_from(PEOPLE),
        credit=st.sampled_from(PEOPLE),
        amount=AMOUNTS,
        timeout=st.integers(0, 9),
    )
    def hold(self, debit: str, credit: str, amount: int, timeout: int) -> None:
        """A hold, some without an end."""
        self.box.hold(debit, credit, amount, timeout)

    @rule(
        kind=st.sampled_from((Kind.POST, Kind.VOID, Kind.REVERSAL)),
        which=st.integers(0, 30),
        amount=st.integers(0, 900),
        funding=FUNDINGS,
        advice=st.booleans(),
    )
    def resolve(self, kind: Kind, which: int, amount: int, funding: object, advice: bool) -> None:
        """Something about an earlier request, or about one that has not come yet."""
        original = f"{max(1, self.box.ids - which):032x}"
        self.box.about(kind, original, 0 if kind is Kind.VOID else amount, funding, advice=advice)  # type: ignore[arg-type]

    @rule(confirm=st.booleans(), liable=st.sampled_from(("merchant", "branch")), which=st.integers(0, 5))
    def late_word(self, confirm: bool, liable: str, which: int) -> None:
        """The centre's word on a stand-in that waits."""
        waiting = sorted(key for key, _ in self.box.book.stand_ins.items())
        if not waiting:
            return
        place = waiting[which % len(waiting)]
        stand_in = self.box.book.stand_ins[place]
        epoch, seq, _ = place_of(place)
        fields = {
            "epoch": epoch,
            "at_seq": seq,
            "payer_account_id": stand_in.payer_account_id,
            "currency": "CNY",
            "amount_minor": stand_in.amount_minor,
        }
        if confirm:
            self.box.direct(ConfirmDirective, **fields)
        else:
            self.box.direct(DeclineDirective, **fields, liable=liable, reason="no money")

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        """Time passes, and due holds expire."""
        self.box.wait(seconds)
        for hold in due(self.box.book.ledger, at_ns=self.box.now_ns):
            layer = self.box.book.overlay()
            record = expiry(layer, self.box.stamp(), hold.id)
            assert record is not None
            layer.merge()
            self.box.records.append(record)

    @rule(mode=st.sampled_from((Mode.ACTIVE, Mode.OFFLINE)))
    def line(self, mode: Mode) -> None:
        """The line goes down or comes back."""
        self.box.mode(mode)

    @rule()
    def close_window(self) -> None:
        """A window's positions sum to zero alone."""
        record = self.box.close_window()
        sums = Counter[str]()
        for position in record.positions:
            sums[position.currency] += position.net_minor
        assert not any(sums.values())

    def image(self) -> bytes:
        """The book as bytes."""
        return snapshot.dump(self.box.book)

    @invariant()
    def money_is_conserved(self) -> None:
        """Debits equal credits, pending and posted apart."""
        rows = list(self.box.book.ledger.balances.values())  # type: ignore[union-attr]
        assert sum(row.debits_pending for row in rows) == sum(row.credits_pending for row in rows)
        assert sum(row.debits_posted for row in rows) == sum(row.credits_posted for row in rows)

    @invariant()
    def nobody_is_below_the_floor(self) -> None:
        """Customers and the branch's risk never owe."""
        for account_id, account in self.box.book.accounts.items():
            if account.floor:
                assert self.box.available(account_id) >= 0, account_id

    @invariant()
    def stand_ins_are_counted_as_they_wait(self) -> None:
        """What an account's limit counts is exactly what waits."""
        sums = Counter[str]()
        for stand_in in dict(self.box.book.stand_ins.items()).values():
            sums[stand_in.payer_account_id] += stand_in.amount_minor
        stood = self.box.book.tally.stood
        assert sums == {whose: one.amount_minor for (of, whose, _), one in stood.items() if of == "account"}

    def teardown(self) -> None:
        """The journal alone replays the book, through bytes; a snapshot gives it back; nothing is given
        back twice."""
        again = Book(bank="demo", box="box-1")
        for record in self.box.records:
            again.replay(decode_record(encode(record)))
        again.use_site(SITE)
        image = snapshot.dump(self.box.book)
        assert snapshot.dump(again) == image
        assert snapshot.dump(snapshot.load(image, history=None)) == image
        self._nothing_is_given_back_twice()

    def _nothing_is_given_back_twice(self) -> None:
        paid = {}
        back = Counter[str]()
        for record in self.box.records:
            if isinstance(record, Transfer) and record.request.kind in (Kind.PAYMENT, Kind.HOLD):
                paid[f"{record.epoch}/{record.seq}"] = record.request.amount_minor
            elif isinstance(record, Transfer) and record.request.kind is Kind.REVERSAL and record.original:
                back[record.original] += legs_of(record)[0].amount_minor
        for place, amount_minor in back.items():
            assert amount_minor <= paid[place]


TestBoxes = Boxes.TestCase
TestBoxes.settings = settings(max_examples=60, stateful_step_count=40)
