"""Settlement cycles: each window settled once, in whatever order boxes come and runs are repeated, and nobody
taken beyond its cap by one minor unit."""

from __future__ import annotations

import asyncio
import csv
import io
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as Xml

import msgspec
import pytest
from sqlalchemy import event, text

from edgegw.core.messages import Ask
from edgegw.core.records import ClearedBy, Leg
from edgegw.core.site import CalendarRule, NetDebitCap, Site
from edgegw.hub.books import post_core, violations
from edgegw.hub.database import Database
from edgegw.hub.operate import release_epoch, seal_epoch
from edgegw.hub.retry import retry
from edgegw.hub.settlement import (
    Run,
    SettlementError,
    accept_window,
    date_of,
    list_cycles,
    list_windows,
    run,
)
from edgegw.hub.settling import keep_settling, settle_due
from edgegw.hub.site import Sites
from edgegw.hub.statement import CAMT_NAMESPACE, camt_of, csv_of, decimal_of, report_of
from tests.hub.simulated_box import SimulatedBox
from tests.hub.test_receive import funded
from tests.hub.test_windows import close
from tests.hub.world import BANKS, CNY, NORTH, PEOPLE, SOUTH, World, a_site, check_positions
from tests.waiting import until

DATE = "2026-11-20"


def site(version: int = 1, caps: dict[str, int] | None = None) -> Site:
    limits = tuple(
        NetDebitCap(participant=who, currency=CNY, cap_minor=cap) for who, cap in (caps or {}).items()
    )
    return a_site(version, accounts=PEOPLE, net_debit_caps=limits)


def settle(world: World, date: str = DATE) -> Run | None:
    """One run; the books are checked after it."""
    with world.engine.begin() as connection:
        done = run(
            connection, Sites().newest(connection), settlement_date=date, now_ns=1_763_600_000_123_000_000
        )
    with world.engine.begin() as connection:
        assert violations(connection) == []
    return done


@pytest.fixture
def city(world: World) -> World:
    """Three participants, each with an account at both boxes that has money."""
    world.publish(site(2))
    for account in PEOPLE:
        world.fund(account.id, 10_000)
    return world


def boxes(world: World) -> dict[str, SimulatedBox]:
    found = {}
    for name, letter in ((NORTH, "N"), (SOUTH, "S")):
        box = funded(world, name, f"CITY-{letter}", 5_000)
        for bank in ("LAND", "SHOPS"):
            box.sync(Ask(f"{name}-{bank}", f"{bank}-{letter}", CNY, 5_000))
        found[name] = box
    return found


def pay(box: SimulatedBox, payer: str, payee: str, amount: int) -> None:
    letter = "N" if box.name == NORTH else "S"
    box.pay(f"{payer.upper()}-{letter}", f"{payee.upper()}-{letter}", amount)


def balances(world: World) -> dict[str, int]:
    rows = world.rows("SELECT account_id, balance_minor FROM account WHERE account_id LIKE 'settlement:%'")
    return {str(name).split(":")[1]: int(str(amount)) for name, amount in rows}


def shown(world: World) -> list[tuple[str, int, str, int]]:
    with world.engine.begin() as connection:
        return [(one.box, one.window, one.state, one.cycle) for one in list_windows(connection)]


def test_two_boxes_windows_are_settled_in_one_cycle(city: World) -> None:
    """What one participant owes at one box and is owed at another is netted."""
    here = boxes(city)
    pay(here[NORTH], "city", "land", 300)
    pay(here[SOUTH], "land", "city", 120)
    pay(here[SOUTH], "shops", "land", 50)
    for box in here.values():
        close(box)
        box.sync()
    assert settle(city) == Run(cycle=1, windows=2, transfers=2, posted=2, queued=0)
    assert balances(city) == {"city": -180, "land": 230, "shops": -50, "bank": 0}
    assert shown(city) == [
        (NORTH, 1, "settled", 1),
        (NORTH, 2, "open", 0),
        (SOUTH, 1, "settled", 1),
        (SOUTH, 2, "open", 0),
    ]


def test_a_run_again_changes_nothing(city: World) -> None:
    """A crash after the COMMIT looks like one before it to whoever ordered it."""
    here = boxes(city)
    pay(here[NORTH], "city", "land", 300)
    close(here[NORTH])
    here[NORTH].sync()
    settle(city)
    before = balances(city)
    assert settle(city) is None
    assert balances(city) == before


def test_a_box_that_was_away_joins_a_later_cycle(city: World) -> None:
    """Its windows of days ago are settled when they come, once, and all of them."""
    here = boxes(city)
    pay(here[SOUTH], "city", "shops", 10)
    close(here[SOUTH])
    pay(here[SOUTH], "city", "shops", 20)
    close(here[SOUTH], date="2026-11-21")
    pay(here[NORTH], "city", "land", 300)
    close(here[NORTH])
    here[NORTH].sync()
    settle(city)
    here[SOUTH].sync()
    assert settle(city) == Run(cycle=2, windows=2, transfers=1, posted=1, queued=0)
    assert {(box, window): cycle for box, window, _, cycle in shown(city) if cycle} == {
        (NORTH, 1): 1,
        (SOUTH, 1): 2,
        (SOUTH, 2): 2,
    }
    assert balances(city) == {"city": -330, "land": 300, "shops": 30, "bank": 0}


def test_what_is_beyond_a_cap_waits_and_is_released_in_order(city: World) -> None:
    """One minor unit decides; the oldest debt goes first, and cover that arrives lets it go."""
    city.publish(site(3, {"city": 100}))
    here = boxes(city)
    for amount in (101, 5):
        pay(here[NORTH], "city", "land", amount)
        close(here[NORTH])
        here[NORTH].sync()
        settle(city)
    assert balances(city)["city"] == 0
    assert [(one.cycle, one.queued, one.state) for one in _cycles(city)] == [
        (1, 1, "in_cycle"),
        (2, 1, "in_cycle"),
    ]
    assert shown(city)[0] == (NORTH, 1, "in_cycle", 1)
    assert settle(city) is None
    _cover(city, "cover-1", "city", 1)
    assert settle(city) == Run(cycle=3, windows=0, transfers=0, posted=1, queued=1)
    assert balances(city)["city"] == -100
    _cover(city, "cover-2", "city", 5)
    assert settle(city) == Run(cycle=4, windows=0, transfers=0, posted=1, queued=0)
    assert balances(city) == {"city": -100, "land": 106, "shops": 0, "bank": 0}
    assert {one.state for one in _cycles(city)} == {"settled"}


def test_a_higher_cap_releases_what_waits(city: World) -> None:
    """A cap is the site's; the next run goes by it."""
    city.publish(site(3, {"city": 0}))
    here = boxes(city)
    pay(here[NORTH], "city", "land", 40)
    close(here[NORTH])
    here[NORTH].sync()
    assert settle(city) == Run(cycle=1, windows=1, transfers=1, posted=0, queued=1)
    city.publish(site(4, {"city": 40}))
    assert settle(city) == Run(cycle=2, windows=0, transfers=0, posted=1, queued=0)


def test_a_window_that_differs_is_settled_only_when_a_person_accepts_the_hubs_figures(city: World) -> None:
    """Until then no participant pays on a figure that two sides tell differently."""
    box = boxes(city)[NORTH]
    pay(box, "city", "land", 40)
    close(box, positions={"city": -41, "land": 41})
    box.beat()
    assert settle(city) is None
    with city.engine.begin() as connection:
        with pytest.raises(SettlementError, match="window 2 of north is open"):
            accept_window(connection, box=NORTH, number=2, by="M. Li", now_ns=5)
        with pytest.raises(SettlementError, match="not known"):
            accept_window(connection, box="nowhere", number=1, by="M. Li", now_ns=5)
        accept_window(connection, box=NORTH, number=1, by="M. Li", now_ns=5)
    assert [tuple(row) for row in city.rows("SELECT state, reference FROM suspense_item")] == [
        ("closed", "window 1")
    ]
    assert city.rows("SELECT by, action FROM suspense_step") == [("M. Li", "accept")]
    assert settle(city) is not None
    assert balances(city)["city"] == -40


def test_two_hubs_that_settle_at_once_settle_each_window_once(city: World) -> None:
    """Of runs that start at the same moment one gathers a window, whatever the engine; together they post
    what one would."""
    here = boxes(city)
    for box in here.values():
        for _ in range(3):
            pay(box, "city", "land", 10)
            close(box)
        box.sync()
    databases, ready = [city.place.open() for _ in range(2)], threading.Barrier(2)

    def settle_at(database: Database) -> Run | None:
        ready.wait(20)
        return database.transact(
            lambda c: run(c, Sites().newest(c), settlement_date=DATE, now_ns=1_763_600_000_123_000_000)
        )

    try:
        with ThreadPoolExecutor(2) as threads:
            done = [one for one in threads.map(settle_at, databases) if one is not None]
    finally:
        for database in databases:
            database.close()
    assert [(one.cycle, one.windows, one.posted) for one in done] == [(1, 6, 1)]
    assert balances(city) == {"city": -60, "land": 60, "shops": 0, "bank": 0}


def test_what_is_collected_after_an_epoch_was_sealed_is_settled_too(city: World) -> None:
    """Its windows are all over by then: the payer of an advice that suspense has paid still owes it to the
    bank."""
    box = city.box(NORTH)
    seq = box.transfer(
        (Leg("suspense:north:CNY", "SHOPS-N", 60),), cleared_by=ClearedBy.STAND_IN, payer="CITY-N"
    )
    box.sync()
    with city.engine.begin() as connection:
        release_epoch(connection, NORTH)
    box.open()
    with city.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert settle(city) is not None
    assert balances(city) == {"bank": -60, "city": 0, "land": 0, "shops": 60}
    assert retry(city.database, city.keyring, f"north/1/{seq}", by="M. Li", now_ns=5).closed
    with city.engine.begin() as connection:
        check_positions(connection)
    assert settle(city) is not None
    assert balances(city) == {"bank": 0, "city": -60, "land": 0, "shops": 60}


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_window_that_is_closed_while_a_run_looks_is_settled_once(city: World) -> None:
    """Boxes do not wait for a settlement: what one closes between two looks of a run counts in a later one,
    and not in both."""
    here = boxes(city)
    for box in here.values():
        pay(box, "city", "land", 10)
        close(box)
    here[NORTH].sync()
    looks: list[str] = []

    def look(*said: object) -> None:
        if "clearing_window" in str(said[2]):
            looks.append(str(said[2]))
            if len(looks) == 1:
                here[SOUTH].sync()

    with city.engine.connect() as connection, connection.begin():
        event.listen(connection, "after_cursor_execute", look)
        first = run(connection, Sites().newest(connection), settlement_date=DATE, now_ns=1)
    assert looks
    assert first == Run(cycle=1, windows=1, transfers=1, posted=1, queued=0)
    assert balances(city) == {"city": -10, "land": 10, "shops": 0, "bank": 0}
    settle(city)
    assert balances(city) == {"city": -20, "land": 20, "shops": 0, "bank": 0}


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_arrivals_runs_and_crashes_settles_each_window_once(
    city: World, seed: int, tmp_path: Path
) -> None:
    """Boxes come and stay away, runs are repeated or die before their COMMIT, cover trickles in: in the end
    everybody has paid exactly what the journals say, and nobody was ever beyond its cap."""
    chance = random.Random(seed)
    caps = {"city": 150, "land": 60}
    city.publish(site(3, caps))
    here = boxes(city)
    owed: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for number in range(50):
        box = here[chance.choice((NORTH, SOUTH))]
        what = chance.randrange(7)
        if what <= 2:
            payer, payee = chance.sample(BANKS, 2)
            amount = chance.randint(1, 80)
            pay(box, payer, payee, amount)
            owed[payer] += amount
            owed[payee] -= amount
        elif what == 3:
            close(box)
            box.sync()
        elif what == 4:
            _crash(city)
        elif what == 5:
            who, amount = chance.choice(("city", "land")), chance.randint(1, 30)
            _cover(city, f"cover-{number}", who, amount)
            covered[who] += amount
        else:
            settle(city)
        for who, cap in caps.items():
            assert balances(city)[who] >= -cap
    for box in here.values():
        close(box)
        box.sync()
    for who in caps:
        _cover(city, f"last-{who}", who, 10_000)
        covered[who] += 10_000
    settle(city)
    settle(city)
    assert balances(city) == {who: covered[who] - owed[who] for who in (*BANKS, "bank")}
    states = Counter(state for _, _, state, _ in shown(city))
    assert set(states) == {"settled", "open"}
    assert city.rows("SELECT COUNT(*) FROM settlement_transfer WHERE posted_in = 0") == [(0,)]
    _reports_add_up(city)


def _crash(world: World) -> None:
    """A run whose COMMIT never comes."""
    with world.engine.connect() as connection, connection.begin() as begun:
        run(connection, Sites().newest(connection), settlement_date=DATE, now_ns=1)
        begun.rollback()


def _cover(world: World, id: str, who: str, amount: int) -> None:
    with world.engine.begin() as connection:
        post_core(
            connection,
            id=id,
            debit_account_id="core:CNY",
            credit_account_id=f"settlement:{who}:CNY",
            amount_minor=amount,
        )


def _cycles(world: World) -> list[object]:
    with world.engine.begin() as connection:
        return list(list_cycles(connection))


# -- reports -------------------------------------------------------------------------------------------------


def _minor(decimal: str) -> int:
    """An independent reader's amount: no float, two digits behind the point."""
    whole, _, part = decimal.partition(".")
    assert len(part) == 2
    return int(whole + part)


def _statements(document: bytes) -> dict[str, tuple[int, list[int], int]]:
    """Opening balance, entries and closing balance by account, as a receiver reads camt.053."""
    names = {"c": CAMT_NAMESPACE}
    root = Xml.fromstring(document)  # noqa: S314 - our own bytes
    assert root.tag == f"{{{CAMT_NAMESPACE}}}Document"
    [message] = list(root)
    assert [child.tag.partition("}")[2] for child in message][:2] == ["GrpHdr", "Stmt"]
    found = {}

    def signed(node: Xml.Element) -> int:
        amount = node.find("c:Amt", names)
        assert amount is not None
        assert amount.get("Ccy") == CNY
        sign = {"CRDT": 1, "DBIT": -1}[node.findtext("c:CdtDbtInd", namespaces=names) or ""]
        return sign * _minor(amount.text or "")

    for statement in message.findall("c:Stmt", names):
        kinds = [child.tag.partition("}")[2] for child in statement]
        order = ["Id", "ElctrncSeqNb", "CreDtTm", "Acct", "Bal", "Bal"]
        assert kinds[: len(order)] == order
        assert set(kinds[len(order) :]) <= {"Ntry"}
        balance = {
            node.findtext("c:Tp/c:CdOrPrtry/c:Cd", namespaces=names): signed(node)
            for node in statement.findall("c:Bal", names)
        }
        entries = statement.findall("c:Ntry", names)
        for entry in entries:
            assert [child.tag.partition("}")[2] for child in entry] == [
                *("NtryRef", "Amt", "CdtDbtInd", "Sts", "BookgDt"),
                *("ValDt", "AcctSvcrRef", "BkTxCd", "AddtlNtryInf"),
            ]
            assert entry.findtext("c:Sts/c:Cd", namespaces=names) == "BOOK"
        account = statement.findtext("c:Acct/c:Id/c:Othr/c:Id", namespaces=names) or ""
        found[account] = balance["OPBD"], [signed(entry) for entry in entries], balance["CLBD"]
    return found


def _reports_add_up(world: World) -> None:
    """Opening + entries = closing, each statement opens where the last one closed, and the last one closes
    at the balance of the books."""
    closing: dict[str, int] = {}
    for cycle in _cycles(world):
        with world.engine.begin() as connection:
            report = report_of(connection, cycle.cycle)  # type: ignore[attr-defined]
        if not report.statements:
            continue
        told = _statements(camt_of(report))
        in_csv: Counter[str] = Counter()
        for row in csv.DictReader(io.StringIO(csv_of(report).decode())):
            if row["kind"] == "entry":
                in_csv[row["participant"]] += int(row["amount_minor"])
        for who, (opening, entries, end) in told.items():
            assert opening == closing.get(who, 0)
            assert opening + sum(entries) == end
            assert sum(entries) == in_csv[who]
            closing[who] = end
    assert closing == {who: amount for who, amount in balances(world).items() if who in closing}


def test_the_reports_of_a_cycle_say_what_the_books_did(city: World) -> None:
    """Twice the same bytes; a statement for each account, a line for each window's figure."""
    city.publish(site(3, {"shops": 0}))
    here = boxes(city)
    pay(here[NORTH], "city", "land", 300)
    pay(here[NORTH], "shops", "land", 7)
    close(here[NORTH])
    here[NORTH].sync()
    _cover(city, "prefunding", "city", 1_000)
    settle(city)
    with city.engine.begin() as connection:
        first, second = report_of(connection, 1), report_of(connection, 1)
    assert (csv_of(first), camt_of(first)) == (csv_of(second), camt_of(second))
    assert _statements(camt_of(first)) == {
        "city": (0, [100_000 // 100, -300], 700),
        "land": (0, [300], 300),
        "shops": (0, [], 0),
    }
    rows = list(csv.DictReader(io.StringIO(csv_of(first).decode())))
    assert [
        (row["kind"], row["participant"], row["amount_minor"]) for row in rows if row["kind"] == "window"
    ] == [
        ("window", "city", "-300"),
        ("window", "land", "307"),
        ("window", "shops", "-7"),
    ]
    assert [(row["participant"], row["state"]) for row in rows if row["kind"] == "transfer"] == [
        ("city", "posted in 1"),
        ("shops", "queued"),
    ]
    _reports_add_up(city)


@pytest.mark.parametrize(
    ("amount", "currency", "decimal"),
    [
        (0, "CNY", "0.00"),
        (5, "CNY", "0.05"),
        (1_050, "CNY", "10.50"),
        (10**18 - 1, "CNY", "9999999999999999.99"),
        (1_050, "JPY", "1050"),
        (1_050, "KWD", "1.050"),
        (7, "CLF", "0.0007"),
    ],
)
def test_amounts_are_written_by_the_currencys_exponent(amount: int, currency: str, decimal: str) -> None:
    """A yen has no cents, a dinar has a thousand fils; no float is ever near."""
    assert decimal_of(amount, currency) == decimal


def test_an_amount_beyond_iso_20022_is_refused_by_name() -> None:
    """Eighteen digits are what the field carries."""
    with pytest.raises(SettlementError, match="18 digits"):
        decimal_of(10**18, "CNY")


def test_a_report_of_a_cycle_that_is_not_there_names_the_newest(city: World) -> None:
    """An operator who mistypes is told what there is."""
    with city.engine.begin() as connection, pytest.raises(SettlementError, match="there is none yet"):
        report_of(connection, 7)


def test_a_position_that_does_not_sum_to_zero_stops_the_cycle(city: World) -> None:
    """A hand in the database must not make a participant pay for it."""
    box = boxes(city)[NORTH]
    pay(box, "city", "land", 300)
    close(box)
    box.sync()
    with city.engine.begin() as connection:
        connection.execute(text("UPDATE window_position SET net_minor = 299 WHERE participant = 'land'"))
    with pytest.raises(SettlementError, match="sum to -1"):
        settle(city)
    assert balances(city)["city"] == 0


def test_the_settlement_date_is_the_day_in_the_sites_zone() -> None:
    """Late in the evening of UTC it is the next day in Shanghai."""
    evening_ns = 1_795_212_000 * 10**9  # 2026-11-20T22:00:00Z
    calendar = CalendarRule(zone="Asia/Shanghai", cut_offs=("17:00",))
    assert date_of(None, now_ns=evening_ns) == "2026-11-20"
    assert date_of(msgspec.structs.replace(a_site(), calendar=calendar), now_ns=evening_ns) == "2026-11-21"


# -- by itself -----------------------------------------------------------------------------------------------

SHANGHAI = CalendarRule(zone="Asia/Shanghai", cut_offs=("17:00",))
DAY_NS = 24 * 3600 * 10**9
FRIDAY_18_NS = 1_795_168_800 * 10**9  # 2026-11-20T18:00 in Shanghai


def due(world: World, sites: Sites, since_ns: int, now_ns: int) -> tuple[int, Run | None]:
    with world.engine.begin() as connection:
        return settle_due(connection, sites, ("18:00",), since_ns=since_ns, now_ns=now_ns)


def test_the_hub_settles_at_its_times_of_business_days_once(city: World) -> None:
    """Not before the time, not twice by two processes, not on a Saturday; and after a restart what it
    missed."""
    city.publish(msgspec.structs.replace(site(3), calendar=SHANGHAI))
    box, sites = boxes(city)[NORTH], Sites()
    pay(box, "city", "land", 40)
    close(box)
    box.sync()
    since, done = due(city, sites, 0, FRIDAY_18_NS - 1)
    assert done is not None, "the time of Thursday had no cycle"
    assert since == FRIDAY_18_NS - DAY_NS
    pay(box, "city", "land", 2)
    close(box)
    box.sync()
    assert due(city, sites, since, FRIDAY_18_NS - 1) == (since, None)
    assert due(city, sites, since, FRIDAY_18_NS)[1] == Run(
        cycle=2, windows=1, transfers=1, posted=1, queued=0
    )
    assert due(city, sites, since, FRIDAY_18_NS) == (FRIDAY_18_NS, None), "another process had settled"
    pay(box, "city", "land", 3)
    close(box)
    box.sync()
    assert due(city, sites, FRIDAY_18_NS, FRIDAY_18_NS + DAY_NS) == (FRIDAY_18_NS, None)
    assert due(city, sites, 0, FRIDAY_18_NS + 3 * DAY_NS)[1] is not None


async def test_a_run_that_fails_is_tried_again_and_stops_nothing(city: World) -> None:
    """The hub serves its boxes whatever settlement does."""
    city.publish(msgspec.structs.replace(site(3), calendar=SHANGHAI))
    box = boxes(city)[NORTH]
    pay(box, "city", "land", 40)
    close(box)
    box.sync()
    with city.engine.begin() as connection:
        connection.execute(
            text("UPDATE window_position SET net_minor = net_minor + 1 WHERE participant = 'land'")
        )
    keeping = asyncio.create_task(
        keep_settling(city.hub, ("18:00",), now_ns=lambda: FRIDAY_18_NS, tick_s=0.001)
    )
    await city.hub.run(violations)
    assert balances(city)["city"] == 0
    await city.hub.run(
        lambda c: c.execute(
            text("UPDATE window_position SET net_minor = net_minor - 1 WHERE participant = 'land'")
        )
    )
    await until(lambda: balances(city)["city"] == -40, "the next try")
    keeping.cancel()
