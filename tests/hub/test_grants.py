"""Money handed to boxes: asked for once, never twice, and never more than is there."""

import pytest

from edgegw.core.messages import Ask, Verdict
from edgegw.core.records import GrantDirective, RefuseDirective, SiteDirective
from edgegw.hub.books import Books, BooksError
from tests.hub.world import ALLOTTED, CNY, NORTH, RISK_MINOR, SOUTH, World, a_site


def ask(request_id: str, account_id: str, amount_minor: int) -> Ask:
    """A wish for money."""
    return Ask(request_id, account_id, CNY, amount_minor)


def test_first_contact_gets_an_epoch_then_the_site_then_its_risk_allowance(world: World) -> None:
    """Nothing is granted before the link is held; the site comes first, so that its accounts are open."""
    box = world.new_box(NORTH)
    assert box.open().verdict is Verdict.OK
    assert world.rows("SELECT * FROM directive") == []
    kinds = [type(directive) for directive in box.sync()]
    assert kinds == [SiteDirective, GrantDirective]
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)
    assert world.money("capital:CNY") == (-RISK_MINOR, -RISK_MINOR, 0)


def test_one_wish_twice_is_granted_once(world: World) -> None:
    """A lost reply makes the box ask again; the one directive is its answer for ever."""
    box = world.box(NORTH)
    size = len(box.directives)
    for _ in range(3):
        box.beat(ask("1-a-1", "A", 300))
    assert len(box.directives) == size + 1
    assert world.money("A") == (1_000, 700, 300)
    assert world.rows("SELECT COUNT(*) FROM grant_request") == [(1,)]


def test_the_last_hundred_goes_to_one_of_two_boxes(world: World) -> None:
    """Two boxes ask for the same last money: one gets it, the other is refused, nobody is below the floor."""
    world.fund("B", 100)
    north, south = world.box(NORTH), world.box(SOUTH)
    north.beat(ask("n", "B", 100))
    south.beat(ask("s", "B", 100))
    assert isinstance(north.directives[-1], GrantDirective)
    refusal = south.directives[-1]
    assert isinstance(refusal, RefuseDirective)
    assert refusal.reason == "insufficient_funds"
    assert world.money("B") == (100, 0, 100)


def test_what_the_box_holds_already_counts_towards_what_it_asks(world: World) -> None:
    """A customer with enough money is not refused because half of it lies at the box that asks."""
    world.fund("B", 200)
    north, south = world.box(NORTH), world.box(SOUTH)
    north.beat(ask("n-1", "B", 120))
    north.beat(ask("n-2", "B", 200))
    granted = north.directives[-1]
    assert isinstance(granted, GrantDirective)
    assert granted.amount_minor == 80
    assert world.money("B") == (200, 0, 200)
    north.beat(ask("n-3", "B", 200))
    assert isinstance(north.directives[-1], RefuseDirective)
    south.beat(ask("s-1", "B", 1))
    assert isinstance(south.directives[-1], RefuseDirective)


def test_a_wish_that_names_no_customer_is_refused_with_its_reason(world: World) -> None:
    """Unknown accounts, the books' own, other currencies and frozen ones get a directive that says why."""
    box = world.box(NORTH)
    world.rows("UPDATE account SET frozen = TRUE WHERE account_id = 'B' RETURNING account_id")
    box.beat(
        ask("1", "NOBODY", 1),
        ask("2", "capital:CNY", 1),
        Ask("3", "A", "EUR", 1),
        ask("4", "B", 1),
        ask("5", "A", 0),
    )
    reasons = [
        directive.reason for directive in box.directives[-5:] if isinstance(directive, RefuseDirective)
    ]
    assert reasons == [
        "account_not_found",
        "account_not_found",
        "currency_mismatch",
        "account_frozen",
        "amount_not_positive",
    ]


def test_a_late_grant_that_is_handed_back_is_available_again(world: World) -> None:
    """Returned or refused at the box: the money is neither lost nor there twice."""
    box = world.box(NORTH)
    box.beat(ask("1", "A", 300), ask("2", "A", 200))
    returned, refused = box.directives[-2:]
    box.apply(returned, outcome="returned")
    box.apply(refused, outcome="refused")
    box.sync()
    assert world.money("A") == (1_000, 1_000, 0)


def test_one_grant_refused_twice_is_given_back_once(world: World) -> None:
    """A box that journals the same refusal again is quarantined, and gains nothing by it."""
    box = world.box(NORTH)
    box.beat(ask("1", "A", 300))
    box.apply(box.directives[-1], outcome="refused")
    box.apply(box.directives[-1], outcome="refused")
    assert box.beat().verdict is Verdict.FENCED
    assert world.money("A") == (1_000, 1_000, 0)
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("quarantined",)


def test_accounts_at_home_are_allotted_and_filled_up_below_half(world: World) -> None:
    """A shop at home spends by itself; the hub fills up when less than half is left, and not before."""
    world.fund("HOME", 10_000)
    world.publish(a_site(2, allowances=ALLOTTED))
    box = world.box(NORTH)
    assert world.money("HOME") == (10_000, 9_600, 400)
    box.pay("HOME", "A", 150, home=True)
    box.sync()
    assert world.money("HOME") == (9_850, 9_600, 250)
    box.pay("HOME", "A", 100, home=True)
    box.sync()
    assert world.money("HOME") == (9_750, 9_350, 400)


def test_money_that_comes_later_is_allotted_without_a_restart(world: World) -> None:
    """An opening balance after the site reaches the box with its next beat."""
    world.publish(a_site(2, allowances=ALLOTTED))
    box = world.box(NORTH)
    world.fund("HOME", 600)
    box.sync()
    assert world.money("HOME") == (600, 300, 300)


def test_a_wish_at_home_brings_the_allotment_too(world: World) -> None:
    """One directive does for both, so that the till asks less often."""
    world.publish(a_site(2, allowances=ALLOTTED))
    box = world.box(NORTH)
    world.fund("HOME", 1_000)
    box.beat(ask("1", "HOME", 500))
    assert world.money("HOME") == (1_000, 100, 900)


def test_many_directives_come_in_packages_as_small_as_the_line_needs(world: World) -> None:
    """A thin line gets one directive at a time, each proved up to the signed head; the box's word is kept."""
    box = world.box(NORTH)
    size = len(box.directives)
    box.package_bytes_max = 1
    first = box.beat(*(ask(f"n{number}", "A", 10) for number in range(5)))
    assert first.directives is not None
    assert (len(first.directives.records), first.more) == (1, True)
    for _ in range(5):
        box.beat()
    assert len(box.directives) == size + 5
    note = world.row("SELECT cosigned FROM directive_head WHERE box = 'north'")[0]
    assert world.devices[NORTH].public.check_cosignature(str(note)).checkpoint.size == size + 5


def test_a_word_of_another_key_is_not_kept(world: World) -> None:
    """Only the box itself says that it holds its directives."""
    box = world.box(NORTH)
    box.beat(ask("1", "A", 10))
    kept = world.row("SELECT cosigned FROM directive_head WHERE box = 'north'")
    stranger = world.devices[SOUTH]
    box.device, genuine = stranger, box.device
    forged = box.word()
    box.device = genuine
    box.word = lambda: forged  # type: ignore[method-assign]
    box.beat()
    assert world.row("SELECT cosigned FROM directive_head WHERE box = 'north'") == kept


def test_the_books_grant_only_what_is_there(world: World) -> None:
    """Whatever the policy says, the move itself refuses."""
    with world.engine.begin() as connection:
        books = Books(connection, box=NORTH, epoch=1)
        books.open(["A"])
        for amount_minor in (1_001, 0, -1):
            with pytest.raises(BooksError, match="available"):
                books.grant("A", amount_minor)
