"""What goes back to the centre: recalls, closed accounts, and credits to accounts homed elsewhere."""

from __future__ import annotations

import msgspec
import pytest

from edgegw.core import snapshot
from edgegw.core.accounts import centre_account, risk_account
from edgegw.core.book import Book
from edgegw.core.decide import expiry
from edgegw.core.ledger import due
from edgegw.core.records import (
    Account,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    DirectiveApplied,
    Kind,
    Leg,
    Mode,
    RecallDirective,
    SiteDirective,
)
from edgegw.core.site import Site
from tests.core.box import DOWN, SITE, Box, cleared, refused

CENTRE = centre_account("CNY")
RISK = risk_account("box-1", "CNY")


@pytest.fixture
def box() -> Box:
    """A box that holds 5 000 of anna's and 2 000 of its own risk account's."""
    box = Box()
    box.grant("anna", 5_000)
    box.grant(RISK, 2_000)
    box.mode(Mode.ACTIVE)
    return box


def recall(box: Box, account_id: str, amount_minor: int, currency: str = "CNY") -> DirectiveApplied:
    """What a recall does."""
    return box.direct(
        RecallDirective, account_id=account_id, currency=currency, amount_minor=amount_minor, reason="wanted"
    )


def close(box: Box, account_id: str, *, closed: bool = True) -> DirectiveApplied:
    """What closing an account (or opening it again) does."""
    return box.direct(
        CloseDirective, account_id=account_id, currency="CNY", closed=closed, reason="moved away"
    )


@pytest.mark.parametrize(
    ("held_minor", "spent_minor", "wanted_minor", "back_minor"),
    [
        (0, 0, 300, 300),
        (0, 0, 5_000, 5_000),
        (0, 0, 5_001, 5_000),
        (0, 4_800, 300, 200),
        (4_900, 0, 300, 100),
        (3_000, 2_000, 300, 0),
        (0, 5_000, 1, 0),
    ],
)
def test_a_recall_takes_what_is_free_and_never_a_hold_s_cover(
    box: Box, held_minor: int, spent_minor: int, wanted_minor: int, back_minor: int
) -> None:
    """Below zero nobody goes; the record says how much came, and a replay of it gives the same book."""
    if held_minor:
        cleared(box.hold("anna", "shop", held_minor))
    if spent_minor:
        cleared(box.pay("anna", "shop", spent_minor))
    record = recall(box, "anna", wanted_minor)
    assert record.outcome == "applied"
    assert record.legs == ((Leg("anna", CENTRE, back_minor),) if back_minor else ())
    assert record.reason == f"wanted: {back_minor} of {wanted_minor} minor units"
    assert box.available("anna") == 5_000 - held_minor - spent_minor - back_minor


@pytest.mark.parametrize(("account_id", "currency"), [("nobody", "CNY"), ("anna", "EUR")])
def test_a_recall_of_what_is_not_here_is_refused_and_the_log_moves_on(
    box: Box, account_id: str, currency: str
) -> None:
    """Applying is total."""
    assert recall(box, account_id, 5, currency).outcome == "refused"
    assert recall(box, "anna", 5).outcome == "applied"


def test_a_closed_account_takes_and_pays_nothing_until_it_is_open_again(box: Box) -> None:
    """A close binds from its record, for payer and payee, payments and holds; its money is at the centre."""
    box.grant("bert", 1_000)
    assert close(box, "anna").legs == (Leg("anna", CENTRE, 5_000),)
    assert refused(box.pay("anna", "shop", 1)) == "account_closed"
    assert refused(box.pay("bert", "anna", 1)) == "account_closed"
    assert refused(box.hold("anna", "shop", 1)) == "account_closed"
    assert refused(box.pay("anna", "shop", 1, DOWN)) == "account_closed"
    assert close(box, "anna", closed=False).legs == ()
    box.grant("anna", 10)
    cleared(box.pay("anna", "shop", 10))
    cleared(box.pay("bert", "anna", 1))


def test_holds_of_a_closed_account_live_on(box: Box) -> None:
    """What was promised is paid: to the payee, of whom a closed one has it at the centre."""
    posted = cleared(box.hold("anna", "shop", 700))
    voided = cleared(box.hold("anna", "shop", 300))
    assert close(box, "anna").legs == (Leg("anna", CENTRE, 4_000),)
    close(box, "shop")
    legs = cleared(box.about(Kind.POST, posted.request.id)).legs
    assert [(leg.credit_account_id, leg.amount_minor) for leg in legs] == [("shop", 700), (CENTRE, 700)]
    cleared(box.about(Kind.VOID, voided.request.id))
    assert recall(box, "anna", 5_000).legs == (Leg("anna", CENTRE, 300),)
    assert (box.available("anna"), box.available("shop")) == (0, 0)


def test_a_closed_payee_gives_nothing_back_and_a_closed_payer_has_it_at_the_centre(box: Box) -> None:
    """A refund is a payment by the payee; its payer is made whole wherever his account is."""
    payment = cleared(box.pay("anna", "shop", 800))
    close(box, "anna")
    legs = cleared(box.about(Kind.REVERSAL, payment.request.id, 100)).legs
    assert legs == (Leg("shop", "anna", 100), Leg("anna", CENTRE, 100))
    close(box, "shop")
    assert refused(box.about(Kind.REVERSAL, payment.request.id, 100)) == "account_closed"
    legs = cleared(box.about(Kind.REVERSAL, payment.request.id, 100, DOWN, advice=True)).legs
    assert legs[0].debit_account_id == RISK


def test_what_has_happened_outside_is_not_paid_by_a_closed_account(box: Box) -> None:
    """An advice cannot be refused: it is the branch's risk."""
    hold = cleared(box.hold("anna", "shop", 5_000))
    close(box, "anna")
    cleared(box.about(Kind.VOID, hold.request.id))
    assert cleared(box.pay("anna", "shop", 40, DOWN, advice=True)).legs[0].debit_account_id == RISK


def test_closed_accounts_are_in_the_book_s_image_and_in_its_replay(box: Box) -> None:
    """A start from a snapshot must not open an account again."""
    close(box, "anna")
    close(box, "bert")
    close(box, "bert", closed=False)
    image = snapshot.dump(box.book)
    assert snapshot.load(image, history=None).closed == {"anna": "moved away"}
    again = Book(bank="demo", box="box-1")
    for record in box.records:
        if isinstance(record, DirectiveApplied) and record.accounts:
            again.use_site(SITE)
        again.replay(record)
    assert snapshot.dump(again) == image


def credits_home(box: Box, how: str) -> tuple[Leg, ...]:
    """The legs of a record that credits `away`, whose home is another box."""
    if how == "payment":
        return cleared(box.pay("anna", "away", 90)).legs
    if how in ("post", "part of a hold"):
        hold = cleared(box.hold("anna", "away", 90))
        return cleared(box.about(Kind.POST, hold.request.id, 90 if how == "post" else 40)).legs
    if how == "refund":
        box.grant("away", 90)
        payment = cleared(box.pay("away", "anna", 90))
        return cleared(box.about(Kind.REVERSAL, payment.request.id)).legs
    if how == "uncovered advice":
        recall(box, RISK, 2_000)
        return cleared(box.pay("bert", "away", 90, DOWN, advice=True)).legs
    if how == "uncovered refund":
        payment = cleared(box.pay("anna", "shop", 90))
        cleared(box.pay("shop", "bert", 90))
        box.direct(SiteDirective, site=_moved("anna"), version=2, digest="11" * 32, bytes=1)
        return cleared(box.about(Kind.REVERSAL, payment.request.id, 0, DOWN)).legs[:2]
    stand_in = cleared(box.pay("bert", "away", 90, DOWN))
    late = {"epoch": 1, "at_seq": stand_in.seq, "payer_account_id": "bert", "currency": "CNY"}
    if how == "confirmation":
        return box.direct(ConfirmDirective, **late, amount_minor=90).legs
    return box.direct(DeclineDirective, **late, amount_minor=90, liable="branch", reason="no").legs


def _moved(account_id: str) -> Site:
    """The site's next version, with an account's home at another box."""
    accounts = tuple(one for one in SITE.accounts if one.id != account_id)
    accounts += (Account(id=account_id, currency="CNY", home="box-2"),)
    return msgspec.structs.replace(SITE, version=2, accounts=accounts)


@pytest.mark.parametrize(
    "how",
    [
        "payment",
        "post",
        "part of a hold",
        "refund",
        "uncovered advice",
        "uncovered refund",
        "confirmation",
        "decline that the branch bears",
    ],
)
def test_a_credit_to_an_account_homed_elsewhere_goes_back_by_itself(box: Box, how: str) -> None:
    """Whatever credits it, the right to the money follows in the same record: nothing lies idle here."""
    credit, home = credits_home(box, how)
    assert home == Leg(credit.credit_account_id, CENTRE, credit.amount_minor)
    assert box.available("away") == 0


def test_a_hold_of_a_closed_account_that_expires_is_free_for_a_recall(box: Box) -> None:
    """Expiry moves nothing home by itself; the centre asks for it."""
    hold = cleared(box.hold("anna", "shop", 400, timeout_s=60))
    close(box, "anna")
    box.wait(61)
    (held,) = due(box.book.ledger, at_ns=box.now_ns)
    record = expiry(box.book, box.stamp(), held.id)
    assert record is not None
    assert record.legs[0].amount_minor == hold.request.amount_minor
    box.records.append(record)
    assert recall(box, "anna", 400).legs == (Leg("anna", CENTRE, 400),)
