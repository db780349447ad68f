"""Orders at the hub: what takes two people is done by two, each step is a record that nobody edits unseen."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, text

from edgegw.access import keys
from edgegw.access.operators import CHECKER, MAKER, Operator, OperatorError, Operators, Person
from edgegw.access.tokens import public_key_text
from edgegw.config.hub import ORDERS
from edgegw.hub.books import BooksError
from edgegw.hub.operate import OrderError
from edgegw.hub.order_actions import ACTIONS, Action, DeclareLoss, Freeze, NewEpoch, Publish, Seal
from edgegw.hub.order_log import Listed, checkpoint_of, decode, export_lines, problems_of, records_of
from edgegw.hub.orders import WAITS_NS, Given, Order, approve, expire_due, give, orders_of, reject
from edgegw.hub.site import SiteError
from edgegw.sm import known_answers
from tests.hub.world import NORTH, World, a_site

FREEZE = Freeze(account_id="A", frozen=True, reason="court order")
KEYS = {name: Ed25519PrivateKey.generate() for name in ("mei", "li", "ana", "old", "eve")}
BOTH = frozenset({MAKER, CHECKER})


def an_operator(name: str, **changes: Any) -> Operator:
    plain = Operator(name, public_key_text(KEYS[name]), BOTH, frozenset(), False)
    return plain._replace(**changes)


LISTED = (
    an_operator("mei"),
    an_operator("li"),
    an_operator("ana", roles=frozenset({CHECKER}), actions=frozenset({"seal"})),
    an_operator("old", is_revoked=True),
)


def person(name: str, *, key: str = "") -> Person:
    return Person(name, KEYS[key or name].sign)


class Desk:
    """The hub's orders, as its commands give them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keyring = dataclasses.replace(world.keyring, operators=Operators(LISTED))
        self.now_ns = 1

    def do(self, work: Callable[[Connection], Any]) -> Any:
        return self.world.database.transact(work)

    def give(self, action: Action, by: str = "mei", *, key: str = "", attachment: bytes = b"") -> Given:
        given: Given = self.do(
            lambda c: give(
                c,
                self.keyring,
                action,
                by=person(by, key=key),
                reason="r",
                now_ns=self.now_ns,
                attachment=attachment,
            )
        )
        return given

    def approve(self, number: int, by: str = "li", *, key: str = "") -> Given:
        given: Given = self.do(
            lambda c: approve(c, self.keyring, number, by=person(by, key=key), now_ns=self.now_ns)
        )
        return given

    def reject(self, number: int, by: str) -> Given:
        given: Given = self.do(
            lambda c: reject(c, self.keyring, number, by=person(by), reason="no", now_ns=self.now_ns)
        )
        return given

    def orders(self) -> list[Order]:
        return list(self.do(orders_of))

    def problems(self) -> list[str]:
        return list(self.do(lambda c: list(problems_of(c, self.keyring))))

    def frozen(self) -> bool:
        return bool(self.world.row("SELECT frozen FROM account WHERE account_id = 'A'")[0])


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def test_a_freeze_is_not_done_before_a_second_person_says_so(desk: Desk) -> None:
    """One pair of eyes bars nobody from their money; two do, in the same moment as their record."""
    given = desk.give(FREEZE)
    assert (given.is_done, desk.frozen()) == (False, False)
    done = desk.approve(given.number)
    assert (done.is_done, desk.frozen()) == (True, True)
    [order] = desk.orders()
    assert (order.state, order.by, order.checked_by) == ("approved", "mei", "li")
    assert order.arguments["account_id"] == "A"
    assert desk.problems() == []


@pytest.mark.parametrize(
    ("by", "key", "words"),
    [
        ("mei", "", "another person"),
        ("li", "mei", "not li's"),
        ("li", "eve", "not li's"),
        ("eve", "", "no operator"),
        ("old", "", "revoked"),
        ("ana", "", "may not"),
    ],
)
def test_whoever_is_not_a_second_person_approves_nothing(desk: Desk, by: str, key: str, words: str) -> None:
    """The maker again, somebody else's key, a stranger, one who has left, one who may check other things."""
    given = desk.give(FREEZE)
    with pytest.raises(OperatorError, match=words):
        desk.approve(given.number, by, key=key)
    assert not desk.frozen()
    assert [order.state for order in desk.orders()] == ["waiting"]


def test_nobody_proposes_in_another_persons_name(desk: Desk) -> None:
    """A maker's name counts with the maker's key alone."""
    for by, key in (("mei", "eve"), ("old", ""), ("ana", "")):
        with pytest.raises(OperatorError):
            desk.give(FREEZE, by, key=key)
    with pytest.raises(OperatorError, match="--by"):
        desk.do(lambda c: give(c, desk.keyring, FREEZE, by=Person(), reason="r", now_ns=1))
    assert desk.orders() == []


def test_an_approval_is_good_once(desk: Desk) -> None:
    """The same approval again would freeze an account that was let go meanwhile."""
    given = desk.give(FREEZE)
    desk.approve(given.number)
    thaw = desk.give(msgspec.structs.replace(FREEZE, frozen=False), "li")
    desk.approve(thaw.number, "mei")
    with pytest.raises(OrderError, match="approved already"):
        desk.approve(given.number)
    assert not desk.frozen()


def test_two_approvals_at_once_carry_out_one_order(desk: Desk) -> None:
    """Two hubs, two people, one moment: one of them hears that it is done."""
    desk.world.box(NORTH)
    desk.keyring = dataclasses.replace(desk.keyring, operators=Operators((*LISTED, an_operator("eve"))))
    given = desk.give(FREEZE)

    def try_it(name: str) -> str:
        try:
            return desk.approve(given.number, name).outcome
        except OrderError as problem:
            return str(problem)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(try_it, ("li", "eve")))
    assert said == ["A pays nothing out", f"order {given.number} is approved already"]
    assert desk.world.row("SELECT COUNT(*) FROM directive WHERE type = 'freeze'") == (1,)
    assert desk.problems() == []


def test_what_nobody_approves_in_time_expires_by_a_record(desk: Desk) -> None:
    """An order of last week is not carried out by a slip today, and does not vanish either."""
    given = desk.give(FREEZE)
    desk.now_ns += WAITS_NS
    late = desk.approve(given.number)
    assert (late.is_done, desk.frozen()) == (False, False)
    desk.give(FREEZE)
    desk.now_ns += WAITS_NS
    assert desk.do(lambda c: expire_due(c, desk.keyring, now_ns=desk.now_ns)) == 1
    assert [order.state for order in desk.orders()] == ["expired", "expired"]
    assert desk.problems() == []


def test_a_rejected_order_is_over(desk: Desk) -> None:
    """A checker says no, or the maker takes it back; both are written down."""
    first, second = desk.give(FREEZE), desk.give(FREEZE)
    desk.reject(first.number, "li")
    desk.reject(second.number, "mei")
    for given in (first, second):
        with pytest.raises(OrderError, match="rejected already"):
            desk.approve(given.number)
    assert [(one.state, one.checked_by, one.outcome) for one in desk.orders()] == [
        ("rejected", "li", "no"),
        ("rejected", "mei", "no"),
    ]


def test_what_cannot_be_done_is_told_to_its_maker(desk: Desk) -> None:
    """A wrong account is found before the second person is called, and no trace of the trial is left."""
    desk.world.box(NORTH)
    with pytest.raises(BooksError):
        desk.give(msgspec.structs.replace(FREEZE, account_id="nobody"))
    assert desk.orders() == []
    desk.give(FREEZE)
    assert desk.world.row("SELECT COUNT(*) FROM directive WHERE type = 'freeze'") == (0,)


def test_an_order_that_fails_at_its_approval_waits_on(desk: Desk) -> None:
    """Two versions of the settings were proposed under one number: the second is not half published."""
    bundles = [msgspec.json.encode(a_site(2, blocked=(name,))) for name in ("A", "B")]
    first, second = (desk.give(Publish(version=2, staging=None), attachment=body) for body in bundles)
    assert desk.approve(first.number).outcome.startswith("version 2 is published: ")
    with pytest.raises(SiteError):
        desk.approve(second.number)
    assert [order.state for order in desk.orders()] == ["approved", "waiting"]
    assert desk.world.row("SELECT COUNT(*) FROM site WHERE version = 2") == (1,)
    assert desk.problems() == []


def test_settings_that_were_exchanged_under_their_digest_are_not_published(desk: Desk) -> None:
    """The bundle is kept beside the log; the log names its digest."""
    body = msgspec.json.encode(a_site(2))
    given = desk.give(Publish(version=2, staging=None), attachment=body)
    with desk.world.engine.begin() as connection:
        forged = msgspec.json.encode(a_site(2, blocked=("B",)))
        connection.execute(text("UPDATE order_attachment SET body = :body"), {"body": forged})
    with pytest.raises(OrderError, match="not what it names"):
        desk.approve(given.number)
    assert desk.world.row("SELECT COUNT(*) FROM site WHERE version = 2") == (0,)


def test_arguments_that_were_changed_meanwhile_are_not_approved(desk: Desk) -> None:
    """What the checker approves is what the maker signed, not what somebody has written there since."""
    given = desk.give(FREEZE)
    [_, (_, _, body)] = desk.do(records_of)
    forged = body.replace(b'"account_id":"A"', b'"account_id":"B"')
    with desk.world.engine.begin() as connection:
        connection.execute(text("UPDATE order_record SET body = :body WHERE seq = 1"), {"body": forged})
    with pytest.raises(OrderError, match="not what mei has signed"):
        desk.approve(given.number)
    assert any("its bytes do not give its leaf" in one for one in desk.problems())


def test_every_edit_of_the_log_is_found(desk: Desk) -> None:
    """A record that is gone, one that was moved, one whose approval was invented."""
    for _ in range(3):
        desk.approve(desk.give(FREEZE).number)
    assert desk.problems() == []
    for statement, words in (
        ("DELETE FROM order_record WHERE seq = 6", "records are here"),
        (
            "UPDATE order_record SET leaf = (SELECT leaf FROM order_record WHERE seq = 0) WHERE seq = 4",
            "leaf",
        ),
        ("DELETE FROM order_record WHERE seq = 1", "is missing"),
    ):
        with desk.world.engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert any(words in one for one in desk.problems()), statement


def test_a_bank_that_lists_nobody_acts_at_once_and_has_it_in_writing(desk: Desk) -> None:
    """Before operators are set up there is no second person; each order is a record all the same."""
    given = desk.do(lambda c: give(c, desk.world.keyring, FREEZE, by=Person("mei"), reason="r", now_ns=1))
    assert (given.is_done, desk.frozen()) == (True, True)
    [order] = desk.orders()
    assert (order.state, order.by) == ("done", "mei")
    assert desk.problems() == []


def test_a_reason_that_names_a_card_is_not_kept(desk: Desk) -> None:
    """It would stand in the log of orders and in the journal of every box for ever."""
    names_it, keyring = "card 6221 9173 4608 2576 is stolen", desk.world.keyring
    with pytest.raises(OrderError, match="card number"):
        desk.do(lambda c: give(c, keyring, FREEZE, by=Person("mei"), reason=names_it, now_ns=1))
    number = desk.give(FREEZE).number
    with pytest.raises(OrderError, match="card number"):
        desk.do(
            lambda c: reject(c, desk.keyring, number, by=person("li"), reason=names_it, now_ns=desk.now_ns)
        )
    assert [order.state for order in desk.orders()] == ["waiting"]


def test_settings_without_operators_leave_a_trace(desk: Desk) -> None:
    """Whoever may edit the hub's settings can order alone for a moment; the log says that they did."""
    desk.give(FREEZE)
    desk.do(lambda c: give(c, desk.world.keyring, FREEZE, by=Person("eve"), reason="r", now_ns=1))
    desk.give(FREEZE)
    listed = [
        len(record.operators)
        for record in (decode(body) for _, _, body in desk.do(records_of))
        if isinstance(record, Listed)
    ]
    assert listed == [len(LISTED), 0, len(LISTED)]
    assert desk.problems() == []


def test_an_order_that_one_may_give_is_signed_too(desk: Desk) -> None:
    """A new epoch loosens nothing; who ordered it is known for sure all the same."""
    desk.world.box(NORTH)
    assert desk.give(NewEpoch(box=NORTH), "mei").is_done
    with pytest.raises(OperatorError):
        desk.give(NewEpoch(box=NORTH), "mei", key="eve")
    with pytest.raises(OrderError):
        desk.give(Seal(box=NORTH, epoch=7))
    with pytest.raises(OrderError):
        desk.give(DeclareLoss(box=NORTH, epoch=1, lost=3))
    assert [order.state for order in desk.orders()] == ["done"]


def test_a_list_in_which_nobody_can_check_is_no_list(desk: Desk) -> None:
    """Settings under which no order could ever be approved are refused where they are read."""
    del desk
    for listed, words in (
        ((an_operator("mei"),), "no two"),
        ((an_operator("mei"), an_operator("li", roles=frozenset({MAKER}))), None),
        (
            (an_operator("mei", roles=frozenset({MAKER})), an_operator("li", roles=frozenset({MAKER}))),
            "no two",
        ),
        ((an_operator("mei"), an_operator("li", key_text=an_operator("mei").key_text)), "one key"),
        (
            (
                an_operator("mei", actions=frozenset({"freeze"})),
                an_operator("li", actions=frozenset({"park"})),
            ),
            "no two",
        ),
        ((an_operator("mei"), an_operator("mei")), "twice"),
        ((an_operator("mei"), an_operator("li", key_text="abc")), "32 bytes"),
    ):
        if words is None:
            assert Operators(listed)
            continue
        with pytest.raises(ValueError, match=words):
            Operators(listed)


def test_the_settings_know_every_kind_of_order() -> None:
    """A kind that they lack could be given to nobody alone."""
    assert set(ORDERS) == set(ACTIONS)


def test_the_stand_alone_verifier_proves_the_log(tmp_path: Path) -> None:
    """An auditor needs nothing of the hub but the file and the hub's public key."""
    from edgegw.hub.keyring import Keyring
    from edgegw.hub.sqlite import SqliteDatabase

    known_answers.self_test()
    key = keys.create_signing_key(tmp_path / "hub.pem", "testbank/hub")
    database = SqliteDatabase(tmp_path / "hub.db")
    keyring = Keyring("testbank", key, {}, Operators(LISTED))
    action = Freeze(account_id="A", frozen=True, reason="r")
    database.transact(
        lambda c: c.exec_driver_sql(
            "INSERT INTO account(account_id, currency, home, participant, floor, frozen, closed,"
            " balance_minor, available_minor) VALUES('A', 'CNY', '', '', 1, 0, 0, 0, 0)"
        )
    )
    for _ in range(2):
        given = database.transact(lambda c: give(c, keyring, action, by=person("mei"), reason="r", now_ns=1))
        database.transact(lambda c, n=given.number: approve(c, keyring, n, by=person("li"), now_ns=2))
    assert database.transact(checkpoint_of).startswith("edgegw/testbank/hub/orders/0\n5\n")
    file = tmp_path / "orders.journal"
    file.write_bytes(database.transact(lambda c: b"".join(export_lines(c, keyring))))
    database.close()
    verify = [sys.executable, "edgegw/verifier.py", "--hub-key", key.public.text(), "journal", str(file)]
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run(verify, cwd=root, capture_output=True, check=False).returncode == 0
    file.write_bytes(file.read_bytes().replace(b'"by":"li"', b'"by":"al"', 1))
    assert subprocess.run(verify, cwd=root, capture_output=True, check=False).returncode == 1


def test_every_kind_of_order_says_itself_what_it_does() -> None:
    """One that did not would be signed by two people and do nothing."""
    assert [name for name, kind in ACTIONS.items() if "run" not in vars(kind)] == []
