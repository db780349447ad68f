"""What cannot be booked waits with an owner, holds nobody else up, and leaves only by an act that is kept."""

import time
from collections.abc import Callable

import pytest

from edgegw.core.accounts import (
    centre_account,
    receivable_account,
    recourse_account,
    risk_account,
)
from edgegw.core.messages import Ask, PackageVerdict
from edgegw.core.records import (
    Account,
    Acknowledgement,
    ClearedBy,
    Kind,
    Leg,
    Request,
    Transfer,
    WindowClosed,
)
from edgegw.hub import receivables, replay, suspense
from edgegw.hub.books import post_core
from edgegw.hub.findings import findings
from edgegw.hub.operate import release_epoch, seal_epoch
from edgegw.hub.retry import Tried, retry
from edgegw.hub.settlement import accept_window
from edgegw.hub.suspense import DAY_NS, Item, Place, SuspenseError
from tests.hub.simulated_box import CNY, SimulatedBox
from tests.hub.world import ACCOUNTS, NORTH, SOUTH, World, a_site, check_books, check_positions

WHO = "M. Li"


def items(world: World, *states: str) -> list[Item]:
    with world.engine.begin() as connection:
        return suspense.page_of(connection, states=states or suspense.STATES)


def again(world: World, item: str) -> Tried:
    """Retry, with the books checked behind it."""
    tried = retry(world.database, world.keyring, item, by=WHO, now_ns=time.time_ns())
    with world.engine.begin() as connection:
        check_books(connection)
        check_positions(connection)
    return tried


def post(world: World, posting_id: str, debit: str, credit: str, amount_minor: int) -> None:
    """As `edgegw post` does."""
    with world.engine.begin() as connection:
        post_core(
            connection,
            id=posting_id,
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=amount_minor,
        )
        if posting_id.startswith(suspense.POSTING_PREFIX):
            suspense.close_by_posting(connection, posting_id, now_ns=time.time_ns())
        else:
            receivables.pay(connection, posting_id, credit_account_id=credit, amount_minor=amount_minor)
        check_books(connection)


def with_money(world: World, name: str = NORTH) -> SimulatedBox:
    box = world.box(name)
    box.sync(Ask("money", "A", CNY, 500))
    return box


def steps(world: World, item: str) -> list[tuple[str, str]]:
    with world.engine.begin() as connection:
        kept = suspense.evidence_of(connection, Place.parse(item)).steps
    return [(step.by, step.action) for step in kept]


def test_poisoned_records_of_one_package_do_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown type, bytes that are no text, a giant, an unknown account, the centre's own, and one that
    meets a fault of the hub's: the package is taken at once, and every sound payment counts. Booked after
    its window was closed, a record is settled with the open one."""
    booked: Callable[..., None] = replay.Replay._transfer

    def faulty(self: replay.Replay, item: replay.Item, record: Transfer) -> None:
        if record.request.amount_minor == 13:
            raise ZeroDivisionError("a fault that was planted")
        booked(self, item, record)

    monkeypatch.setattr(replay.Replay, "_transfer", faulty)
    box = with_money(world)
    start, head = len(box.bodies), b'{"v":1,"bank":"testbank","box":"north","epoch":1,"seq":%d,"type":'
    for poison in (b'"later"}', b'"transfer","client":"\xff"}', b'"later","text":"%s"}' % (b"x" * 200_000)):
        box.bodies.append(head % len(box.bodies) + poison)
        box.pay("A", "SHOP", 10)
    for legs in ((Leg("A", "NOBODY", 10),), (Leg("A", "core:CNY", 10),), (Leg("A", "SHOP", 13),)):
        box.transfer(legs)
        box.pay("A", "SHOP", 10)
    assert box.beat().push is PackageVerdict.ACCEPTED
    assert world.money("SHOP")[0] == 60
    reasons = [*["undecodable"] * 3, *["cannot_be_posted"] * 2, "cannot_be_applied"]
    assert [(one.item, one.reason) for one in items(world)] == [
        (f"north/1/{start + 2 * number}", reason) for number, reason in enumerate(reasons)
    ]
    monkeypatch.setattr(replay.Replay, "_transfer", booked)
    closing = box.write(
        WindowClosed(
            **box.head(),  # type: ignore[arg-type]
            window=box.window,
            business_date="2026-11-21",
            transfers=0,
            positions=(),
            closed_by="calendar",
        )
    )
    box.beat()
    assert not again(world, f"north/1/{start}").closed
    assert again(world, f"north/1/{start + 10}").closed
    assert world.money("SHOP")[0] == 73
    window = f"north/1/{closing}"
    assert "`edgegw settlement accept north 1`" in again(world, window).detail
    with world.engine.begin() as connection:
        accept_window(connection, box=NORTH, number=1, by="M. Li", now_ns=5)
    with pytest.raises(SuspenseError, match="closed"):
        again(world, window)


@pytest.mark.slow
def test_a_package_full_of_poison_delays_the_next_one_by_less_than_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of 256 records cannot be read, or meet a fault of the hub's; beside a package of sound ones."""
    booked: Callable[..., None] = replay.Replay._transfer

    def faulty(self: replay.Replay, item: replay.Item, record: Transfer) -> None:
        if record.request.amount_minor == 2:
            raise ZeroDivisionError("a fault that was planted")
        booked(self, item, record)

    monkeypatch.setattr(replay.Replay, "_transfer", faulty)
    box = with_money(world)
    took_s: list[float] = []
    for kind in ("sound", "unreadable", "faulty"):
        for number in range(256):
            if kind == "unreadable" and number % 2:
                place = b'{"type":"later","v":1,"bank":"testbank","box":"north","epoch":1,"seq":%d}'
                box.bodies.append(place % len(box.bodies))
            else:
                box.pay("A", "SHOP", 2 if kind == "faulty" and number % 2 else 1)
        began_s = time.monotonic()
        assert box.beat().push is PackageVerdict.ACCEPTED
        took_s.append(time.monotonic() - began_s)
    with capsys.disabled():
        print(f"\nsound, unreadable, faulty: {', '.join(f'{one:.3f} s' for one in took_s)}")
    assert world.row("SELECT COUNT(*) FROM suspense_item") == (256,)
    assert max(took_s) - took_s[0] < 1


def test_a_late_decline_is_listed_until_its_client_has_taken_note(world: World) -> None:
    """Who must act, why and how much; a client's word about another one's notices counts for nothing."""
    box = world.box(NORTH)
    seq = box.stand_in("B", "SHOP", 400)
    box.sync()

    def listed() -> list[tuple[str, int | None, str]]:
        found = (one for one in findings(world.database) if one.kind == "late_decline")
        return [(one.owner, one.amount_minor, one.reason) for one in found]

    assert listed() == [("merchant:SHOP", 400, "insufficient_funds; client till has not acknowledged that")]
    word = len(box.bodies) - 1
    for client, up_to in (("other", word), ("till", seq), ("till", word)):
        assert listed()
        said = Acknowledgement(
            **box.head(),  # type: ignore[arg-type]
            client=client,
            by="webhook",
            up_to=f"1/{up_to}",
        )
        box.write(said)
        box.sync()
    assert listed() == []


def test_a_payment_to_an_account_that_the_hub_learns_of_later_is_booked_then(world: World) -> None:
    """Until then the retry says that it is unknown; each attempt is kept."""
    box = with_money(world)
    seq = box.pay("A", "NEW", 100)
    box.pay("A", "SHOP", 10)
    box.beat()
    name = f"north/1/{seq}"
    [item] = items(world)
    assert (item.item, item.owner, item.currency, item.amount_minor) == (name, "bank", CNY, 100)
    assert not again(world, name).closed
    new = Account(id="NEW", currency=CNY, home=NORTH)
    world.publish(a_site(2, accounts=(*ACCOUNTS, new)))
    tried = again(world, name)
    assert (tried.closed, tried.detail) == (True, f"record {name}")
    assert world.money("NEW")[0] == 100
    assert steps(world, name) == [(WHO, "retry"), (WHO, "retry")]
    with pytest.raises(SuspenseError, match="is closed by record"):
        again(world, name)


def test_an_uncovered_advice_is_charged_to_the_payer_for_what_was_not_given_back(world: World) -> None:
    """The branch's suspense paid; the payer pays when it has the money, less what was reversed meanwhile."""
    box = world.box(NORTH)
    own = "suspense:north:CNY"
    seqs = [
        box.transfer((Leg(own, "SHOP", 100),), cleared_by=ClearedBy.STAND_IN, payer="B") for _ in range(2)
    ]
    for seq, amount_minor in zip(seqs, (30, 100), strict=True):
        reversal = Request(kind=Kind.REVERSAL, id=f"{seq:032x}", original_client="till", original_id="0" * 32)
        legs = (Leg("SHOP", own, amount_minor),)
        record = Transfer(
            **box.head(),  # type: ignore[arg-type]
            window=box.window,
            client="till",
            request=reversal,
            cleared_by=ClearedBy.ALLOWANCE,
            original=f"1/{seq}",
            legs=legs,
        )
        box.write(record)
    box.sync()
    first, second = items(world)
    assert (first.owner, first.amount_minor, first.state) == ("branch:north", 70, "open")
    assert (second.state, second.reference) == ("closed", f"record north/1/{seqs[1] + 2}")
    assert again(world, first.item).detail == "account B has 0 available, not 70"
    world.fund("B", 80)
    assert again(world, first.item).closed
    assert (world.money("B")[0], world.money(own)[0]) == (10, 0)


def test_a_payment_that_was_cleared_twice_is_collected_from_the_payee(world: World) -> None:
    """And one with other content waits for a person's posting, which closes it once."""
    north, south = with_money(world), world.box(SOUTH)
    south.sync(Ask("money", "A", CNY, 300))
    north.pay("A", "B", 100, home=True, request_id="ab" * 16)
    north.pay("A", "B", 100, home=True, request_id="cd" * 16)
    twice = south.pay("A", "B", 100, home=True, request_id="ab" * 16)
    other = south.pay("A", "B", 50, home=True, request_id="cd" * 16)
    north.sync()
    south.sync()
    assert [(one.reason, one.owner) for one in items(world)] == [
        ("duplicate_identity", "merchant:B"),
        ("identity_conflict", "bank"),
    ]
    assert again(world, f"south/1/{twice}").detail == "100 from B to suspense:south:CNY"
    assert (world.money("B")[0], world.money("suspense:south:CNY")[0]) == (250, 0)
    name = f"south/1/{other}"
    assert f"suspense:{name}" in again(world, name).detail
    post(world, f"suspense:{name}", "B", "A", 50)
    [closed] = [one for one in items(world) if one.item == name]
    assert (closed.state, closed.reference) == ("closed", f"suspense:{name}")
    with pytest.raises(SuspenseError, match="is closed by suspense:south"):
        again(world, name)


def test_an_aged_item_is_told_each_day_until_somebody_has_acted(world: World) -> None:
    """Told once a day by one process; parked it stays listed; nothing that is done deletes it."""
    box = with_money(world)
    names = [f"north/1/{box.pay('A', 'NOBODY', 10)}" for _ in range(2)]
    box.beat()
    [came_ns] = {one.at_ns for one in items(world)}

    def told(after_days: float) -> list[str]:
        now_ns = came_ns + int(after_days * DAY_NS)
        with world.engine.begin() as connection:
            return [one.item for one in suspense.raise_aged(connection, aged_days=3, now_ns=now_ns)]

    assert [told(days) for days in (2.9, 3, 3.9)] == [[], names, []]
    with world.engine.begin() as connection:
        suspense.park(connection, names[0], by=WHO, reason="both parties agreed", now_ns=came_ns)
        with pytest.raises(SuspenseError, match="is parked; only open items"):
            suspense.park(connection, names[0], by=WHO, reason="again", now_ns=came_ns)
        assert suspense.counts(connection, aged_before_ns=came_ns + 1) == (1, 1, 1, came_ns)
    assert told(4.1) == names[1:]
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    box.open()
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert [(one.item, one.state) for one in items(world)] == [(names[0], "parked"), (names[1], "open")]
    assert "is sealed, its money has gone back" in again(world, names[0]).detail
    assert steps(world, names[0]) == [(WHO, "park"), (WHO, "retry")]


def test_what_a_branch_is_owed_is_listed_with_its_owner_and_paid_by_postings(world: World) -> None:
    """A late decline that the branch bears is owed by the payer, an uncovered reversal by the payee."""
    world.publish(a_site(2, late_decline_liable="branch"))
    box = with_money(world)
    declined = box.stand_in("B", "SHOP", 400, request_id="12" * 16)
    box.pay("A", "FAR", 60, home=True, request_id="34" * 16)
    risk, owed = risk_account(NORTH, CNY), receivable_account(NORTH, CNY)
    legs = (
        Leg(risk, "A", 60),
        Leg("A", centre_account(CNY), 60),
        Leg(owed, recourse_account(NORTH, CNY), 60),
    )
    reversal = Request(kind=Kind.REVERSAL, id="56" * 16, original_client="till", original_id="34" * 16)
    record = Transfer(
        **box.head(),  # type: ignore[arg-type]
        window=box.window,
        client="till",
        request=reversal,
        cleared_by=ClearedBy.STAND_IN,
        legs=legs,
    )
    reversed_seq = box.write(record)
    box.sync()
    with world.engine.begin() as connection:
        first, second = receivables.page_of(connection)
    assert (first.receivable, first.owner, first.debtor, first.amount_minor, first.original) == (
        f"north/1/{declined}",
        "branch:north",
        "B",
        400,
        f"till {'12' * 16}",
    )
    assert (second.receivable, second.owner, second.debtor, second.reason) == (
        f"north/1/{reversed_seq}",
        "merchant:FAR",
        "FAR",
        "uncovered_reversal",
    )
    before = world.money(risk)[0]
    post(world, second.settle_by, "FAR", owed, 60)
    assert world.money(risk)[0] - before == 60
    assert (world.money(owed)[0], world.money("recourse:north:CNY")[0]) == (-400, 0)
    post(world, first.settle_by, "core:CNY", owed, 150)
    with pytest.raises(SuspenseError, match="250 are left to pay"):
        post(world, f"{first.settle_by}#2", "core:CNY", owed, 251)
    with world.engine.begin() as connection:
        [left] = receivables.page_of(connection)
        aged = receivables.raise_aged(connection, aged_days=3, now_ns=left.at_ns + 3 * DAY_NS)
    assert (left.paid_minor, [one.receivable for one in aged]) == (150, [left.receivable])
    post(world, f"{first.settle_by}#2", "capital:CNY", owed, 250)
    with world.engine.begin() as connection:
        assert receivables.page_of(connection) == []
        assert len(receivables.page_of(connection, paid_too=True)) == 2
