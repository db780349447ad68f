"""Several hubs on one PostgreSQL: who waits for whom, what is run again, and what a killed one leaves
behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from sqlalchemy import Connection, insert, text

from edgegw.core.messages import Ask, PackageVerdict, Verdict
from edgegw.core.records import ClearedBy, GrantDirective, Leg, RefuseDirective
from edgegw.hub.app import Hub
from edgegw.hub.books import Books, post_core
from edgegw.hub.database import DatabaseAway, DatabaseBusy, DatabaseError, NotKept
from edgegw.hub.postgresql import PostgresDatabase, Target
from edgegw.hub.retry import retry
from edgegw.hub.schema import core_posting, suspense_item
from edgegw.hub.suspense import SuspenseError, close_by_posting
from tests.hub.conftest import hashed_signatures
from tests.hub.places import PostgresPlace
from tests.hub.world import CNY, NORTH, SOUTH, World, a_site, check_books
from tests.waiting import wait_until

T = TypeVar("T")
ROUNDS = 200
PATIENCE_S = 0.4


@pytest.fixture
def world(postgres: PostgresPlace) -> Iterator[World]:
    """The world of the hub's other tests, on PostgreSQL."""
    with hashed_signatures():
        world = World(postgres)
        world.publish(a_site())
        world.fund("A", 1_000)
        yield world
        world.hub.close()
        with world.engine.begin() as connection:
            check_books(connection)


@pytest.fixture
def other(world: World, postgres: PostgresPlace) -> Iterator[Hub]:
    """A second hub on the same database, with connections and memory of its own."""
    hub = Hub(postgres.open(), world.keyring, clock_ns=world.now_ns)
    yield hub
    hub.close()


def at_once(*works: Callable[[], T]) -> list[T]:
    """Run them at the same moment, each in a thread; what each gave."""
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(begin, works))


# --- one account, two hubs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [("B",), ()], ids=["locked at once", "locked when drawn"])
def test_the_last_hundred_is_granted_by_one_of_two_hubs(
    world: World, postgres: PostgresPlace, draws: tuple[str, ...]
) -> None:
    """Both look, both find it there: the write skew that would hand the same money out twice."""
    world.fund("B", 100)
    ends = [postgres.open(), postgres.open()]

    def grant(connection: Connection, box: str) -> bool:
        books = Books(connection, box=box, epoch=1)
        books.open(["B"], draws=draws)
        page = books.draw("B")
        if page is None or page.available_minor < 100:
            return False
        books.grant("B", 100)
        books.write()
        return True

    def give_back(connection: Connection, box: str) -> None:
        books = Books(connection, box=box, epoch=1)
        books.open(["B"])
        assert books.give_back("B", 100) == 0
        books.write()

    try:
        for _ in range(ROUNDS // 2):
            won = at_once(
                lambda: ends[0].transact(lambda c: grant(c, NORTH)),
                lambda: ends[1].transact(lambda c: grant(c, SOUTH)),
            )
            assert sorted(won) == [False, True]
            assert world.money("B") == (100, 0, 100)
            ends[0].transact(partial(give_back, box=(NORTH, SOUTH)[won.index(True)]))
    finally:
        for end in ends:
            end.close()


def test_two_boxes_that_ask_two_hubs_for_the_last_money_are_not_both_served(world: World, other: Hub) -> None:
    """The same by whole messages: one grant, one refusal, and the account at its floor."""
    world.fund("B", 100)
    north, south = world.box(NORTH), world.box(SOUTH)
    south.talk = other._exchange
    for number in range(10):
        at_once(
            partial(north.beat, Ask(f"n-{number}", "B", CNY, 100)),
            partial(south.beat, Ask(f"s-{number}", "B", CNY, 100)),
        )
        last = [north.directives[-1], south.directives[-1]]
        assert {type(one) for one in last} == {GrantDirective, RefuseDirective}
        assert world.money("B") == (100, 0, 100)
        winner = north if isinstance(last[0], GrantDirective) else south
        for box in (north, south):
            box.apply(box.directives[-1], outcome="refused" if box is winner else "applied")
            box.sync()
        assert world.money("B") == (100, 100, 0)


def test_credits_by_two_boxes_at_once_are_all_counted(world: World, other: Hub) -> None:
    """A payee is not locked while a push is replayed: what others credit meanwhile must not be written
    over."""
    north, south = world.box(NORTH), world.box(SOUTH)
    south.talk = other._exchange
    for box in (north, south):
        box.sync(Ask("1", "A", CNY, 400))
    for _ in range(10):
        north.pay("A", "SHOP", 3)
        south.pay("A", "SHOP", 5)
        at_once(north.beat, south.beat)
    assert world.money("SHOP") == (80, 0, 80)
    assert world.money("A")[0] == 920


# --- who waits for whom -------------------------------------------------------------------------------------


def test_a_box_waits_for_nobody_who_draws_on_other_accounts(
    world: World, postgres: PostgresPlace, other: Hub
) -> None:
    """Proved by rows that are held meanwhile: another box's, the accounts that it draws on, the bank's
    capital."""
    world.fund("B", 500)
    world.box(NORTH)
    south = world.box(SOUTH)
    patient = PostgresDatabase(postgres.target(), workers=1, patience_s=PATIENCE_S)
    hub = Hub(patient, world.keyring, clock_ns=world.now_ns)
    south.talk = hub._exchange
    with world.engine.connect() as holder, holder.begin() as held:
        holder.execute(text("SELECT box FROM box WHERE box = 'north' FOR UPDATE"))
        ids = "('A', 'HOME', 'SHOP', 'capital:CNY', 'core:CNY', 'risk:north:CNY')"
        holder.execute(text(f"SELECT account_id FROM account WHERE account_id IN {ids} FOR UPDATE"))
        assert south.beat(Ask("1", "B", CNY, 300)).verdict is Verdict.OK
        south.apply(south.directives[-1])
        south.pay("B", "FAR", 120)
        assert south.beat().push is PackageVerdict.ACCEPTED
        with pytest.raises(DatabaseBusy):
            south.beat(Ask("2", "A", CNY, 1))
        held.rollback()
    south.open()
    south.sync(Ask("2", "A", CNY, 1))
    assert isinstance(south.directives[-1], GrantDirective)
    assert world.money("B") == (380, 200, 180)
    hub.close()


# --- one box, two hubs --------------------------------------------------------------------------------------


def test_one_boxs_stream_is_in_order_whichever_hub_answers(world: World, other: Hub) -> None:
    """Message by message another hub, and each message to both at once, as when a reply was late."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 500))
    turns = [world.hub._exchange, other._exchange]

    def by_turns(data: bytes) -> bytes:
        turns.reverse()
        return turns[0](data)

    def to_both(data: bytes) -> bytes:
        return at_once(lambda: turns[0](data), lambda: turns[1](data))[0]

    for talk in (by_turns, to_both):
        box.talk = talk
        for _ in range(6):
            box.pay("A", "SHOP", 10)
            beaten = box.beat()
            if beaten.verdict is Verdict.REOPEN:  # the answer of the hub that came second
                box.talk = turns[0]
                box.open()
                beaten, box.talk = box.beat(), talk
            assert beaten.push in (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE)
    rows = world.rows("SELECT seq, body FROM record WHERE box = 'north' ORDER BY seq")
    assert [(seq, bytes(body)) for seq, body in rows] == list(enumerate(box.bodies))  # type: ignore[call-overload]
    assert world.money("SHOP") == (120, 0, 120)


# --- one item, two people -----------------------------------------------------------------------------------


def test_an_item_that_is_posted_and_tried_again_at_once_is_settled_once(world: World) -> None:
    """Both find it open: the bank core's posting counts, and the retry moves nothing more."""
    box = world.box(NORTH)
    seq = box.transfer((Leg("suspense:north:CNY", "SHOP", 100),), cleared_by=ClearedBy.STAND_IN, payer="B")
    box.sync()
    world.fund("B", 300)
    item = f"north/1/{seq}"
    mine = "FROM pg_stat_activity WHERE datname = current_database()"
    waits = f"SELECT COUNT(*) {mine} AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as threads:
        with world.engine.connect() as core, core.begin():
            ends = {"debit_account_id": "B", "credit_account_id": "core:CNY"}
            post_core(core, id=f"suspense:{item}", amount_minor=100, **ends)
            close_by_posting(core, f"suspense:{item}", now_ns=5)
            tried = threads.submit(retry, world.database, world.keyring, item, by="M. Li", now_ns=6)
            wait_until(lambda: tried.done() or world.row(waits) != (0,), "the retry to wait")
        with pytest.raises(SuspenseError, match="is closed by suspense:"):
            tried.result()
    assert world.money("B")[0] == 200


# --- run again ----------------------------------------------------------------------------------------------


def refused(connection: Connection, state: str) -> None:
    """Let the server itself refuse the transaction."""
    connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END $$")


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "23505"])
def test_what_the_database_refuses_is_run_again_and_ends_the_same(world: World, state: str) -> None:
    """Nothing of the attempts that failed is left, and nothing is done twice."""
    tries: list[str] = []
    causes: list[str] = []
    world.database.on_retry = causes.append

    def work(connection: Connection) -> bool:
        posted = post_core(
            connection, id="once", debit_account_id="core:CNY", credit_account_id="B", amount_minor=7
        )
        tries.append(state)
        if len(tries) < 3:
            refused(connection, state)
        return posted

    assert world.database.transact(work)
    assert causes == [state, state]
    assert world.money("B") == (7, 7, 0)


def test_a_transaction_that_never_gets_through_ends_with_nothing_done(postgres: PostgresPlace) -> None:
    """The end is an error that says so, within the time that was given."""
    database = PostgresDatabase(postgres.target(), workers=1, patience_s=PATIENCE_S)

    def work(connection: Connection) -> None:
        connection.execute(
            insert(suspense_item).values(
                box="b",
                epoch=1,
                seq=1,
                owner="o",
                reason="r",
                detail="d",
                currency="",
                amount_minor=0,
                state="open",
                reference="",
                at_ns=1,
                steps=0,
                raised_ns=0,
            )
        )
        refused(connection, "40001")

    with pytest.raises((DatabaseBusy, DatabaseAway)):  # away: its server was slower than its patience
        database.transact(work)
    database.close()
    with postgres.engine.begin() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM suspense_item")).scalar_one() == 0


def test_two_transactions_in_a_circle_both_get_through(world: World, postgres: PostgresPlace) -> None:
    """A deadlock costs one of them a second attempt."""
    first = threading.Barrier(2, timeout=30)
    met: set[str] = set()

    def lock(connection: Connection, one: str, then: str) -> str:
        query = text("SELECT account_id FROM account WHERE account_id = :id FOR UPDATE")
        connection.execute(query, {"id": one})
        if one not in met:
            met.add(one)
            first.wait()
        connection.execute(query, {"id": then})
        return one

    ends = [postgres.open(), postgres.open()]
    done = at_once(
        lambda: ends[0].transact(lambda c: lock(c, "A", "B")),
        lambda: ends[1].transact(lambda c: lock(c, "B", "A")),
    )
    assert sorted(done) == ["A", "B"]
    for end in ends:
        end.close()


# --- what the server does -----------------------------------------------------------------------------------


def test_a_lost_connection_is_made_again(world: World) -> None:
    """The server was started again, or an operator ended the session: the next message is answered."""
    with world.engine.connect() as connection:
        own = "application_name = 'edgegw-hub' AND datname = current_database()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}"))
    box = world.box(NORTH)
    assert box.beat().verdict is Verdict.OK


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And the way out with it; nothing waits for ever."""
    with pytest.raises(DatabaseAway, match="cannot be reached") as caught:
        PostgresDatabase(Target("postgresql://hub@127.0.0.1:1/hub"), workers=1, patience_s=0.0)
    assert "database_url" in caught.value.hint


def test_a_wrong_password_is_no_reason_to_try_again(postgres: PostgresPlace) -> None:
    """It is said at once; the file must be its owner's alone."""
    postgres.password_file.write_text("wrong")
    with pytest.raises(DatabaseError, match="password"):
        postgres.open()
    postgres.password_file.chmod(0o644)
    with pytest.raises(DatabaseError, match="chmod 0600"):
        postgres.open()


def test_a_value_that_no_column_keeps_is_refused_by_name(world: World) -> None:
    """A zero character in a text, a number that is too long: the box's message is wrong, not the hub."""
    for id in ("zero\0", "x" * 200):
        with pytest.raises(NotKept):
            world.database.transact(
                lambda c, id=id: c.execute(
                    insert(core_posting).values(
                        id=id, debit_account_id="A", credit_account_id="B", amount_minor=1
                    )
                )
            )


# --- killed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_hub_killed_around_its_commit_loses_and_doubles_nothing(
    world: World, postgres: PostgresPlace, tmp_path: Path, moment: str
) -> None:
    """SIGKILL before COMMIT is sent, while it is under way, or before anyone hears of it; another hub goes
    on."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 500))
    box.pay("A", "SHOP", 70)
    heard = box.talk
    box.talk = lambda data: killed(world, postgres, tmp_path, data, moment)
    with pytest.raises(ConnectionError):
        box.beat(Ask("2", "A", CNY, 100))
    box.talk = heard
    box.counter -= 1
    beaten = box.beat(Ask("2", "A", CNY, 100))
    assert beaten.verdict in (Verdict.OK, Verdict.REOPEN)
    if beaten.verdict is Verdict.REOPEN:
        box.open()
    box.sync(Ask("2", "A", CNY, 100))
    assert world.row("SELECT COUNT(*) FROM grant_request WHERE request_id = '2'") == (1,)
    assert world.money("SHOP") == (70, 0, 70)
    assert world.money("A") == (930, 400, 530)


def killed(world: World, postgres: PostgresPlace, folder: Path, data: bytes, moment: str) -> bytes:
    """Let a hub in a process of its own take the message and die at its first COMMIT."""
    asked = {
        "url": postgres.url,
        "password_file": str(postgres.password_file),
        "hub": world.hub_key._private.public.point,
        "boxes": {name: key._private.public.point for name, key in world.devices.items()},
        "data": data,
        "moment": moment,
    }
    file = folder / "asked"
    file.write_bytes(msgspec.msgpack.encode(asked))
    child = subprocess.run(
        [sys.executable, "-m", "tests.hub.dying", str(file)],
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        check=False,
        capture_output=True,
        timeout=100,
    )
    assert child.returncode == -9, child.stderr.decode()
    raise ConnectionError("the hub was killed")
