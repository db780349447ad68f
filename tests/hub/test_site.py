"""Site bundles: published whole with a rising version, or not at all with an error for each field."""

import msgspec
import pytest

from edgegw.core.records import Account, SiteDirective
from edgegw.core.site import TerminalRule
from edgegw.hub.books import BooksError, post_core, violations
from edgegw.hub.site import SiteError
from tests.hub.world import ALLOTTED, CNY, NORTH, World, a_site


def test_the_same_bundle_again_changes_nothing(world: World) -> None:
    """An operator who repeats a command does not send the boxes a second directive."""
    box = world.box(NORTH)
    world.publish(a_site())
    assert box.sync() == []


def test_other_content_needs_a_higher_version(world: World) -> None:
    """Neither the same nor a lower version can replace what boxes apply."""
    for version in (1, 0):
        with pytest.raises(SiteError, match="version"):
            world.publish(a_site(version, late_decline_liable="branch"))


def test_a_new_version_reaches_a_box_that_is_up(world: World) -> None:
    """By a directive that names the digest, whose bundle the hub hands out."""
    box = world.box(NORTH)
    digest = world.publish(a_site(2, late_decline_liable="branch"))
    directive = box.sync()[0]
    assert isinstance(directive, SiteDirective)
    assert (directive.version, directive.digest) == (2, digest)
    assert directive.bytes == len(msgspec.json.encode(a_site(2, late_decline_liable="branch")))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bank": "other"}, "bank"),
        ({"currencies": ()}, "currencies"),
        ({"accounts": (Account(id="A", currency="USD"),)}, r"accounts\[A\]\.currency"),
        ({"accounts": (Account(id="A", currency=CNY, home="west"),)}, r"accounts\[A\]\.home"),
        ({"accounts": (Account(id="A", currency=CNY, floor=False),)}, r"accounts\[A\]\.floor"),
        ({"accounts": (Account(id="risk:x:CNY", currency=CNY),)}, "prefix"),
        ({"accounts": (Account(id="A", currency=CNY),) * 2}, r"accounts\[\].id"),
        ({"cards": {"token": "NOBODY"}}, "cards"),
        ({"allowances": ALLOTTED * 2}, r"allowances\[\].currency"),
        (
            {"terminals": (TerminalRule(id="T1", merchant="M", credit_account_id="NOBODY", currency=CNY),)},
            r"terminals\[T1\]\.credit_account_id",
        ),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_published(
    world: World, changes: dict[str, object], field: str
) -> None:
    """Applied whole or not at all."""
    with pytest.raises(SiteError, match=field):
        world.publish(a_site(2, **changes))
    assert world.rows("SELECT version FROM site") == [(1,)]


def test_an_account_cannot_change_its_currency(world: World) -> None:
    """What is in it would be worth something else."""
    currencies = (
        *a_site().currencies,
        msgspec.structs.replace(a_site().currencies[0], code="USD", numeric=840),
    )
    with pytest.raises(SiteError, match="account A"):
        world.publish(a_site(2, currencies=currencies, accounts=(Account(id="A", currency="USD"),)))
    assert world.rows("SELECT currency FROM account WHERE account_id = 'A'") == [(CNY,)]


def test_an_opening_balance_twice_is_posted_once(world: World) -> None:
    """The same id with other content is an error that names the field."""

    def post(amount_minor: int) -> bool:
        with world.engine.begin() as connection:
            return post_core(
                connection,
                id="x",
                debit_account_id="core:CNY",
                credit_account_id="B",
                amount_minor=amount_minor,
            )

    assert [post(5), post(5)] == [True, False]
    with pytest.raises(BooksError, match="amount_minor"):
        post(6)
    assert world.money("B") == (5, 5, 0)


def test_a_posting_cannot_take_a_customer_below_the_floor(world: World) -> None:
    """Nor make money out of an unknown account, or out of nothing."""
    for debit, credit, amount_minor in (("A", "B", 1_001), ("A", "NOBODY", 1), ("A", "A", 1), ("A", "B", 0)):
        with world.engine.begin() as connection, pytest.raises(BooksError):
            post_core(
                connection,
                id="y",
                debit_account_id=debit,
                credit_account_id=credit,
                amount_minor=amount_minor,
            )
    assert world.money("A") == (1_000, 1_000, 0)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE account SET available_minor = available_minor + 1 WHERE account_id = 'A'",
        "UPDATE account SET balance_minor = balance_minor + 1, available_minor = available_minor + 1",
        "UPDATE account SET balance_minor = -1, available_minor = -1 WHERE account_id = 'B'",
        "UPDATE outstanding SET amount_minor = amount_minor - 1",
    ],
)
def test_the_check_of_the_books_finds_a_hand_in_the_table(world: World, harm: str) -> None:
    """Whatever an SQL prompt did to the money is named."""
    world.box(NORTH)
    with world.engine.begin() as connection:
        assert violations(connection) == []
        connection.exec_driver_sql(harm)
        assert violations(connection) != []
        connection.rollback()
