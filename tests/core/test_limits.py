"""Limits to the minor unit: tables of steps, each with what must come of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from edgegw.core import snapshot
from edgegw.core.book import Book
from edgegw.core.counts import measures_of
from edgegw.core.decide import expiry
from edgegw.core.ledger import due
from edgegw.core.limits import refuses_payment, tightened_percent
from edgegw.core.records import (
    BlockDirective,
    Boot,
    DeclineDirective,
    Kind,
    LimitDirective,
    Mode,
    RefuseDirective,
    SiteDirective,
    WindowClosed,
    decode_record,
    encode,
)
from edgegw.core.site import LimitRule, Site, StandInRule, TighteningStep
from edgegw.payments.rules import discover
from tests.core.box import DOWN, SITE, UP, Box, cleared, refused

RISK = "risk:box-1:CNY"
STAND_IN = StandInRule(
    currency="CNY",
    floor_minor=1_000,
    account_minor=100_000,
    account_count=1_000,
    box_minor=1_000_000,
    offline_seconds_max=30 * 86_400,
)
RULES = [rule.refuses for rule in discover()]


def a_site(*limits: LimitRule, version: int = 1, stand_in: StandInRule = STAND_IN, **fields: object) -> Site:
    """The usual accounts with these limits."""
    site = msgspec.structs.replace(SITE, version=version, limits=limits, stand_in=(stand_in,))
    return msgspec.structs.replace(site, **fields)


def a_box(*limits: LimitRule, **fields: object) -> Box:
    """A box with plenty of money, its line up."""
    box = Box(a_site(*limits, **fields), rules=RULES)  # type: ignore[arg-type]
    for account in ("anna", "bert"):
        box.grant(account, 1_000_000)
    box.grant(RISK, 1_000_000)
    box.mode(Mode.ACTIVE)
    return box


def use(box: Box, site: Site) -> None:
    """Put another version of the settings in force."""
    record = box.direct(SiteDirective, site=site, version=site.version, digest="11" * 32, bytes=1)
    assert record.outcome == "applied"


ELSEWHERE = {
    "account": {"debit": "bert"},
    "card": {"card": "c2"},
    "terminal": {"terminal": "T2"},
    "merchant": {"merchant": "M2"},
}


def pay(box: Box, amount: int, funding: object = UP, **other: str) -> str:
    """A payment by anna's card at a terminal of a merchant: "" when cleared, else the code."""
    fields = {"debit": "anna", "card": "c1", "terminal": "T1", "merchant": "M1", **other}
    decided = box.pay(fields.pop("debit"), "shop", amount, funding, **fields)  # type: ignore[arg-type]
    return "" if type(decided).__name__ == "Transfer" else refused(decided)


def close(box: Box, business_date: str, following: str = "") -> None:
    """Close the window; by a calendar when it says what follows."""
    record = WindowClosed(
        **box.stamp().head(),
        window=box.book.window,
        business_date=business_date,
        transfers=box.book.window_transfers,
        positions=box.book.net_positions(),
        closed_by="test",
        next_business_date=following,
    )
    box.book.note(record)
    box.records.append(record)


def check_replay(box: Box) -> None:
    """The journal alone gives the same sums, and so does a snapshot with what follows it."""
    whole, image = Book(bank="demo", box="box-1"), snapshot.dump(box.book)
    middle = len(box.records) // 2
    for record in box.records[:middle]:
        whole.replay(decode_record(encode(record)))
    resumed = snapshot.load(snapshot.dump(whole), history=None)
    for book in (whole, resumed):
        book.fresh_places.update(
            {(record.epoch, record.seq): record for record in box.records if hasattr(record, "request")}
        )
        for record in box.records[middle:]:
            book.replay(decode_record(encode(record)))
        assert snapshot.dump(book) == image


# -- sums --------------------


@pytest.mark.parametrize("of", ["account", "card", "terminal", "merchant", "branch"])
@pytest.mark.parametrize(
    ("period", "code"),
    [
        ({"per": "window"}, "exceeds_amount_limit"),
        ({"per": "day"}, "exceeds_amount_limit"),
        ({"per": "month"}, "exceeds_amount_limit"),
        ({"seconds": 3_600}, "exceeds_velocity"),
    ],
)
def test_an_amount_limit_holds_to_the_minor_unit(of: str, period: dict[str, object], code: str) -> None:
    """One below, exactly, one more: for each subject alone, over each period."""
    rule = LimitRule(name="sum", of=of, currency="CNY", amount_minor=1_000, **period)  # type: ignore[arg-type]
    box = a_box(rule)
    assert pay(box, 1_001) == code
    assert [pay(box, 600), pay(box, 399), pay(box, 2), pay(box, 1), pay(box, 1)] == ["", "", code, "", code]
    if of in ELSEWHERE:
        assert pay(box, 1_000, **ELSEWHERE[of]) == ""
    check_replay(box)


@pytest.mark.parametrize("of", ["account", "card", "terminal", "merchant", "branch"])
@pytest.mark.parametrize(
    ("period", "code"), [({"per": "window"}, "exceeds_count_limit"), ({"seconds": 60}, "exceeds_velocity")]
)
def test_a_count_fires_above_the_limit(of: str, period: dict[str, object], code: str) -> None:
    """The third of three passes, the fourth does not; a refused one does not count."""
    box = a_box(LimitRule(name="often", of=of, count=3, **period))  # type: ignore[arg-type]
    assert [pay(box, 1), pay(box, 2_000_000, DOWN), pay(box, 1)] == ["", "stand_in_above_floor", ""]
    assert [pay(box, 1), pay(box, 1)] == ["", code]
    if of in ELSEWHERE:
        assert pay(box, 1, **ELSEWHERE[of]) == ""


def test_one_payment_has_a_least_and_a_most() -> None:
    """Both bounds may be paid."""
    box = a_box(LimitRule(name="one", currency="CNY", payment_minor_min=10, payment_minor=100))
    assert [pay(box, amount) for amount in (9, 10, 100, 101)] == [
        "below_payment_minimum",
        "",
        "",
        "exceeds_payment_limit",
    ]


def test_a_limit_for_some_ids_leaves_the_others_alone() -> None:
    """`only` names them; a payment that names none is not meant."""
    box = a_box(LimitRule(name="one", of="terminal", only=("T1",), currency="CNY", payment_minor=10))
    assert [pay(box, 11), pay(box, 11, terminal="T2"), pay(box, 11, terminal="")] == [
        "exceeds_payment_limit",
        "",
        "",
    ]


def test_the_merchant_of_a_payment_that_names_none_is_its_payee() -> None:
    """Else whoever leaves the merchant out pays without a limit."""
    box = a_box(LimitRule(name="m", of="merchant", currency="CNY", per="window", amount_minor=100))
    assert [pay(box, 100, merchant=""), pay(box, 1, merchant=""), pay(box, 100)] == [
        "",
        "exceeds_amount_limit",
        "",
    ]


def test_of_several_limits_the_first_reason_in_the_order_answers() -> None:
    """Whatever order the settings have."""
    box = a_box(
        LimitRule(name="often", count=0, seconds=60),
        LimitRule(name="sum", currency="CNY", amount_minor=5, per="window"),
        LimitRule(name="one", currency="CNY", payment_minor=7),
    )
    assert [pay(box, amount) for amount in (8, 7, 5)] == [
        "exceeds_payment_limit",
        "exceeds_amount_limit",
        "exceeds_velocity",
    ]


def test_a_count_without_a_currency_counts_all_of_them() -> None:
    """A card is as often used, whatever it pays in."""
    box = a_box(LimitRule(name="often", of="branch", count=2, per="window"))
    box.grant("euro", 100, "EUR")
    assert pay(box, 1) == ""
    assert refuses_payment(box.book, cleared(box.pay("anna", "shop", 1)).request, at_ns=box.now_ns)


# -- periods --------------------


def test_a_sliding_sum_forgets_each_payment_at_its_time() -> None:
    """What was paid at t counts until just before t + seconds."""
    box = a_box(LimitRule(name="v", currency="CNY", seconds=60, amount_minor=100))
    assert pay(box, 70) == ""
    first_ns = box.now_ns
    box.wait(30)
    assert [pay(box, 31), pay(box, 30)] == ["exceeds_velocity", ""]
    box.now_ns = first_ns + 60 * 10**9 - 2 * (1 << 16)
    assert pay(box, 1) == "exceeds_velocity"
    assert [pay(box, 71), pay(box, 70)] == ["exceeds_velocity", ""]
    check_replay(box)


def test_days_and_months_follow_the_calendar() -> None:
    """Two cut-offs a day: the first of them starts no new day, the last day of a month starts a new month."""
    box = a_box(
        LimitRule(name="d", currency="CNY", per="day", amount_minor=100),
        LimitRule(name="m", of="card", currency="CNY", per="month", amount_minor=150),
    )
    close(box, "2026-01-29", "2026-01-30")
    assert pay(box, 100) == ""
    close(box, "2026-01-30", "2026-01-30")
    assert pay(box, 1) == "exceeds_amount_limit"
    close(box, "2026-01-30", "2026-01-31")
    assert [pay(box, 51), pay(box, 50)] == ["exceeds_amount_limit", ""]
    close(box, "2026-01-31", "2026-02-01")
    assert [pay(box, 100), pay(box, 1)] == ["", "exceeds_amount_limit"]
    close(box, "2026-02-01", "2026-02-02")
    assert [pay(box, 51), pay(box, 50)] == ["exceeds_amount_limit", ""]
    assert box.book.tally.day == "2026-02-02"
    check_replay(box)


def test_without_a_calendar_a_close_ends_the_day_and_a_new_month_ends_the_month() -> None:
    """The month of the open window is known when it closes: late, never early."""
    box = a_box(
        LimitRule(name="d", currency="CNY", per="day", amount_minor=100),
        LimitRule(name="m", of="card", currency="CNY", per="month", count=2),
    )
    close(box, "2026-01-30")
    assert pay(box, 100) == ""
    close(box, "2026-01-31")
    assert [pay(box, 100), pay(box, 1)] == ["", "exceeds_amount_limit"]
    close(box, "2026-02-01")
    assert pay(box, 100) == ""


def test_a_limit_that_stays_over_a_new_version_goes_on_counting() -> None:
    """Publishing settings gives nobody a fresh limit; what two versions do not count is forgotten."""
    day = LimitRule(name="d", currency="CNY", per="day", amount_minor=100)
    box = a_box(day, LimitRule(name="v", seconds=60, count=5))
    assert pay(box, 60) == ""
    use(box, a_site(day, version=2))
    assert [pay(box, 41), pay(box, 40)] == ["exceeds_amount_limit", ""]
    use(box, a_site(day, version=3))
    assert {key for (key, _), _ in box.book.tally.counts.items()} == {"account/CNY/always/day"}
    check_replay(box)


# -- what is live --------------------


@pytest.mark.parametrize("period", [{"per": "window"}, {"seconds": 600}])
def test_a_hold_counts_while_it_lives_and_gives_back_what_it_did_not_use(period: dict[str, object]) -> None:
    """Placed, voided, expired, posted in part, reversed."""
    box = a_box(
        LimitRule(name="sum", currency="CNY", amount_minor=100, **period),  # type: ignore[arg-type]
        LimitRule(name="often", count=3, **period),  # type: ignore[arg-type]
    )
    hold = cleared(box.hold("anna", "shop", 100))
    assert pay(box, 1) in ("exceeds_amount_limit", "exceeds_velocity")
    cleared(box.about(Kind.VOID, hold.request.id))
    hold = cleared(box.hold("anna", "shop", 100, timeout_s=5))
    box.wait(6)
    (late,) = due(box.book.ledger, at_ns=box.now_ns)
    record = expiry(box.book, box.stamp(), late.id)
    assert record is not None
    box.records.append(record)
    hold = cleared(box.hold("anna", "shop", 100))
    cleared(box.about(Kind.POST, hold.request.id, 40))
    assert [pay(box, 61) != "", pay(box, 60)] == [True, ""]
    cleared(box.about(Kind.REVERSAL, hold.request.id, 30))
    assert [pay(box, 31) != "", pay(box, 30), pay(box, 1) != ""] == [True, "", True]
    check_replay(box)


def test_what_is_given_back_of_an_earlier_window_gives_no_room_in_this_one() -> None:
    """It counted where it was paid."""
    box = a_box(LimitRule(name="sum", currency="CNY", per="window", amount_minor=100))
    early = cleared(box.hold("anna", "shop", 100))
    close(box, "2026-01-30")
    assert pay(box, 100) == ""
    cleared(box.about(Kind.VOID, early.request.id))
    assert pay(box, 1) == "exceeds_amount_limit"


def test_a_stand_in_counts_for_the_ordinary_limits_until_it_is_declined() -> None:
    """A payment is a payment, whoever funds it."""
    box = a_box(LimitRule(name="sum", currency="CNY", per="window", amount_minor=400))
    box.grant("away", 1)
    stood = cleared(box.pay("away", "shop", 300, DOWN))
    assert refused(box.pay("away", "shop", 101, DOWN)) == "exceeds_amount_limit"
    declined = {"epoch": stood.epoch, "at_seq": stood.seq, "payer_account_id": "away", "currency": "CNY"}
    word = {"amount_minor": 300, "liable": "branch", "reason": "no_funds"}
    assert box.direct(DeclineDirective, **declined, **word).outcome == "applied"
    cleared(box.pay("away", "shop", 400, DOWN))
    check_replay(box)


def test_what_was_reversed_of_a_waiting_stand_in_is_given_back_once() -> None:
    """A decline that takes the whole of it off makes room for money that other payments have used."""
    box = a_box(LimitRule(name="sum", currency="CNY", per="window", amount_minor=1_000))
    box.grant("away", 600)
    cleared(box.pay("away", "shop", 600))
    stood = cleared(box.pay("away", "shop", 400, DOWN))
    cleared(box.about(Kind.REVERSAL, stood.request.id, 300, DOWN, advice=True))
    declined = {"epoch": stood.epoch, "at_seq": stood.seq, "payer_account_id": "away", "currency": "CNY"}
    word = {"amount_minor": 400, "liable": "branch", "reason": "no_funds"}
    assert box.direct(DeclineDirective, **declined, **word).outcome == "applied"
    assert refused(box.pay("away", "shop", 401, DOWN)) == "exceeds_amount_limit"
    cleared(box.pay("away", "shop", 400, DOWN))
    check_replay(box)


@pytest.mark.parametrize("by", ["the box", "the hub"])
def test_a_limit_that_comes_again_has_counted_meanwhile(by: str) -> None:
    """A version without it, published by mistake and taken back, gives nobody the day's limit twice."""
    limit = LimitRule(name="day", currency="CNY", per="day", amount_minor=100)
    box = a_box(limit)
    cleared(box.pay("anna", "shop", 60))
    use(box, a_site(version=2))
    cleared(box.pay("anna", "shop", 30))
    if by == "the hub":
        use(box, a_site(limit, version=3))
    else:
        box.book.use_site(a_site(limit), held_to=box.book.own_site)
        box.book.tally.measure(measures_of(box.book.site, box.book.own_site))
    assert refused(box.pay("anna", "shop", 11)) == "exceeds_amount_limit"
    cleared(box.pay("anna", "shop", 10))


# -- offline --------------------


def test_the_floor_fires_at_its_amount_and_split_sales_add_up() -> None:
    """EMV: at >=; what one payer pays at one merchant is one sale, elsewhere it is another."""
    box = a_box()

    def stand_in(amount: int, **other: str) -> str:
        return pay(box, amount, DOWN, debit="away", **other)

    assert [stand_in(1_000), stand_in(999)] == ["stand_in_above_floor", ""]
    assert [stand_in(1), stand_in(999, merchant="M2")] == ["stand_in_above_floor", ""]
    box.wait(3_600)
    assert stand_in(999) == ""
    check_replay(box)


def test_split_sales_add_up_again_once_nothing_else_binds_beside_the_settings() -> None:
    """What was taken up offline is held to what it replaced; its own sums count from then on all the same."""
    box = a_box(stand_in=msgspec.structs.replace(STAND_IN, split_seconds=7_200))
    box.mode(Mode.OFFLINE)
    use(box, a_site(version=2))
    for mode in (Mode.ACTIVE, Mode.OFFLINE):
        box.mode(mode)
    assert pay(box, 600, DOWN, debit="away") == ""
    assert pay(box, 600, DOWN, debit="away") == "stand_in_above_floor"


@pytest.mark.parametrize("of", ["account", "card", "terminal", "merchant", "branch"])
def test_stand_ins_add_up_for_each_subject(of: str) -> None:
    """Unconfirmed ones: sums and counts fire at >."""
    code = f"stand_in_{'box' if of == 'branch' else of}_limit"
    limits = LimitRule(
        name="waits",
        of=of,
        currency="CNY",
        when="stand_in",
        per="unconfirmed",
        amount_minor=500,
        count=3,
    )
    box = a_box(limits, stand_in=msgspec.structs.replace(STAND_IN, split_seconds=0))
    steps: Sequence[tuple[int, str]] = ((500, ""), (1, code))
    assert [pay(box, amount, DOWN, debit="away") for amount, _ in steps] == [said for _, said in steps]
    (waiting,) = [one for _, one in box.book.stand_ins.items()]
    cleared(box.about(Kind.REVERSAL, waiting.id, funding=DOWN))
    assert [pay(box, 100, DOWN, debit="away") for _ in range(4)] == ["", "", "", code]
    check_replay(box)


def test_consecutive_offline_payments_are_counted_until_the_line_was_up() -> None:
    """EMV's limits count what was cleared without the centre, allowances too; they fire at >."""
    lower = LimitRule(
        name="consecutive", of="terminal", currency="CNY", when="offline", per="outage", count=3
    )
    total = LimitRule(
        name="total", of="card", currency="CNY", when="offline", per="outage", amount_minor=1_000
    )
    box = a_box(lower, total)
    assert [pay(box, 1_001) for _ in range(5)] == [""] * 5
    box.mode(Mode.OFFLINE)
    assert [pay(box, 500), pay(box, 501), pay(box, 500)] == ["", "exceeds_amount_limit", ""]
    assert [pay(box, 1, card="c2"), pay(box, 1, card="c2")] == ["", "exceeds_count_limit"]
    box.mode(Mode.SYNCING)
    assert pay(box, 1, card="c2") == "exceeds_count_limit"
    box.mode(Mode.ACTIVE)
    assert pay(box, 5_000) == ""
    box.mode(Mode.OFFLINE)
    assert pay(box, 1_000) == ""
    check_replay(box)


@pytest.mark.parametrize(
    ("hours", "percent"),
    [(0, 100), (24, 100), (25, 50), (72, 50), (73, 25), (120, 25), (121, 0), (168, 0), (169, 0)],
)
def test_the_policy_tightens_with_its_age(hours: int, percent: int) -> None:
    """By default 100 % until 24 hours, 50 % until 72, 25 % until 120, then nothing."""
    box = a_box(LimitRule(name="o", currency="CNY", when="offline", payment_minor=100))
    box.mode(Mode.OFFLINE)
    began_ns = box.now_ns
    box.now_ns = began_ns + hours * 3_600 * 10**9
    assert tightened_percent(box.book, at_ns=box.now_ns) == percent
    if hours in (0, 25, 73):
        assert pay(box, percent + 1) == "exceeds_payment_limit"
        assert pay(box, percent) == ""
        assert pay(box, 10 * percent, DOWN, debit="away", merchant="M2") == "exceeds_payment_limit"


def test_floor_sums_and_counts_all_shrink() -> None:
    """At half: the floor, the sum and the count, each rounded down."""
    rule = msgspec.structs.replace(STAND_IN, account_minor=901, account_count=3, split_seconds=0)
    box = a_box(stand_in=rule, tightening=(TighteningStep(until_hours=1, percent=50),))
    box.mode(Mode.OFFLINE)
    steps = ((500, "stand_in_above_floor"), (450, ""), (1, "stand_in_account_limit"))
    assert [pay(box, amount, DOWN, debit="away") for amount, _ in steps] == [code for _, code in steps]
    box.wait(3_600)
    assert pay(box, 1, DOWN, debit="away") == "stand_in_too_long_offline"


def restart(box: Box, *, wall_back_ns: int = 0) -> None:
    """A start of the process, its wall clock this far back."""
    head = {**box.stamp().head(), "wall_ns": box.now_ns - wall_back_ns}
    record = Boot(**head, boot="b", version="1", box_digest="", site_digest="")  # type: ignore[arg-type]
    box.book.note(record)
    box.records.append(record)


def test_time_offline_grows_while_the_box_is_off() -> None:
    """A box that was switched off on line is offline since its last record."""
    box = a_box()
    box.wait(30 * 3_600)
    restart(box)
    box.mode(Mode.OFFLINE)
    assert tightened_percent(box.book, at_ns=box.now_ns) == 50
    check_replay(box)


def test_a_clock_that_went_back_takes_the_next_tighter_step_until_the_line_was_up() -> None:
    """Nobody knows how long the box was off."""
    box = a_box()
    box.mode(Mode.OFFLINE)
    restart(box, wall_back_ns=999_000_000)
    assert tightened_percent(box.book, at_ns=box.now_ns) == 100
    restart(box, wall_back_ns=2 * 10**9)
    assert tightened_percent(box.book, at_ns=box.now_ns) == 50
    restart(box)
    box.wait(70 * 3_600)
    assert tightened_percent(box.book, at_ns=box.now_ns) == 25
    check_replay(box)
    box.mode(Mode.ACTIVE)
    assert tightened_percent(box.book, at_ns=box.now_ns) == 100


# -- orders --------------------


@pytest.mark.parametrize(
    ("of", "whose", "code"),
    [
        ("account", "anna", "account_blocked"),
        ("card", "c1", "card_blocked"),
        ("terminal", "T1", "terminal_blocked"),
        ("merchant", "M1", "merchant_blocked"),
    ],
)
def test_a_block_binds_from_its_record_until_it_is_lifted(of: str, whose: str, code: str) -> None:
    """Of one subject, and of no other."""
    box = a_box()
    for reason in ("stolen", "said twice"):
        box.direct(BlockDirective, of=of, whose=whose, blocked=True, reason=reason)
    assert pay(box, 1) == code
    assert pay(box, 1, **ELSEWHERE[of]) == ""
    check_replay(box)
    box.direct(BlockDirective, of=of, whose=whose, blocked=False, reason="found")
    assert pay(box, 1) == ""
    assert box.book.tally.blocks == 0


def test_an_order_changes_a_limit_for_one_id_and_for_all() -> None:
    """The one for the id goes first; without them the settings say it again."""
    day = LimitRule(name="day", of="card", currency="CNY", per="day", amount_minor=100)
    box = a_box(day)
    box.direct(LimitDirective, name="day", amount_minor=10, reason="risk")
    box.direct(LimitDirective, name="day", whose="c1", amount_minor=50, reason="known")
    assert [pay(box, 51), pay(box, 50), pay(box, 11, card="c2"), pay(box, 10, card="c2")] == [
        "exceeds_amount_limit",
        "",
        "exceeds_amount_limit",
        "",
    ]
    use(box, a_site(day, version=2))
    assert pay(box, 1) == "exceeds_amount_limit"
    check_replay(box)
    for whose in ("", "c1"):
        box.direct(LimitDirective, name="day", whose=whose, lifted=True, reason="over")
    assert [pay(box, 50), pay(box, 90, card="c2")] == ["", ""]


def test_a_refusal_of_the_centre_still_bars_stand_in() -> None:
    """Limits that would allow it make no difference."""
    box = a_box()
    box.direct(RefuseDirective, request_id="r", account_id="away", currency="CNY", reason="no_funds")
    assert pay(box, 1, DOWN, debit="away") == "account_barred"
