"""A hub that has lost commits takes back what it once directed and cosigned, and no money with it."""

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from edgegw.core import journal
from edgegw.core.journal import Frontier
from edgegw.core.legs import PENDING, VOID
from edgegw.core.messages import Ask, Beat, ExchangeError, LogHead, Package, PackageVerdict, Verdict
from edgegw.core.records import Account, ConfirmDirective, FreezeDirective, GrantDirective, Mode, encode
from edgegw.hub.operate import freeze, release_epoch
from edgegw.hub.site import SiteError
from tests.hub.simulated_box import BANK, SimulatedBox
from tests.hub.world import ACCOUNTS, CNY, NORTH, RISK_MINOR, SOUTH, World, a_site


def back_up(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "backup.db"
    world.back_up(path)
    return path


def at_the_box(box: SimulatedBox) -> Counter[str]:
    """What each account has at the box, by the legs of its newest epoch's journal."""
    amounts: Counter[str] = Counter()
    for body in box.bodies:
        for leg in msgspec.json.decode(body).get("legs", []):
            debit, credit, amount_minor, flags = [*leg, 0][:4]
            if not flags & (PENDING | VOID):
                amounts[debit] -= amount_minor
                amounts[credit] += amount_minor
    return Counter({name: amount for name, amount in amounts.items() if not name.startswith("centre:")})


def outstanding_at(world: World, box: SimulatedBox) -> Counter[str]:
    rows = world.rows(
        "SELECT account_id, amount_minor FROM outstanding WHERE box = :box AND epoch = :epoch",
        box=box.name,
        epoch=box.epoch,
    )
    return Counter({str(name): int(str(amount)) for name, amount in rows})


def same(one: Counter[str], other: Counter[str]) -> bool:
    return {k: v for k, v in one.items() if v} == {k: v for k, v in other.items() if v}


def test_a_grant_that_the_hub_has_lost_moves_again_and_only_once(world: World, tmp_path: Path) -> None:
    """Directives come back before records, twice where an answer was lost; the ask is not answered again."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    ask = Ask("1", "A", CNY, 300)
    box.sync(ask)
    box.pay("A", "SHOP", 100)
    box.sync()
    world.restore(path)
    opened = box.open()
    assert opened.verdict is Verdict.HUB_BEHIND
    early = box.beat(Ask("2", "A", CNY, 1), push=box.package(opened.journals[0].size, len(box.bodies)))
    assert (early.verdict, early.push) == (Verdict.HUB_BEHIND, PackageVerdict.GAP)
    assert world.money("A") == (1_000, 1_000, 0)
    for _ in range(2):
        beaten = box.hand_back(opened.directives)
        assert beaten is not None
        assert beaten.incarnation == LogHead(1, len(box.directives), box.directive_frontier.root())
        assert world.money("A") == (1_000, 700, 300)
    assert box.give_back(box.open()).verdict is Verdict.OK
    assert world.money("A") == (900, 700, 200)
    before = box.incarnation
    came = box.sync(ask)
    assert box.incarnation == before + 1
    assert not [one for one in came if isinstance(one, GrantDirective) and one.account_id == "A"]
    assert world.rows("SELECT * FROM loss") == []
    assert same(outstanding_at(world, box), at_the_box(box))


def test_nothing_is_granted_before_all_is_back(world: World, tmp_path: Path) -> None:
    """Records lost alone: the hub waits for them, says so, and then begins a log of its own."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 300))
    path = back_up(world, tmp_path)
    box.pay("A", "SHOP", 10)
    box.sync()
    world.restore(path)
    opened = box.open()
    assert opened.verdict is Verdict.HUB_BEHIND
    size = len(box.directives)
    box.held = opened.journals[0].size
    waiting = box.beat(Ask("too-early", "A", CNY, 1), push=box.package(0, 1))
    assert (waiting.push, len(box.directives)) == (PackageVerdict.DUPLICATE, size)
    assert box.beat().verdict is Verdict.REOPEN
    assert world.money("SHOP") == (10, 0, 10)
    box.held = len(box.bodies)
    assert box.open().verdict is Verdict.OK
    came = box.sync(Ask("now", "A", CNY, 1))
    assert [one for one in came if isinstance(one, GrantDirective) and one.request_id == "now"]


def test_a_restored_hub_is_found_under_a_living_session(world: World, tmp_path: Path) -> None:
    """The session outlives the failover; a beat that names directives beyond the hub's is no ground to
    grant."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 300))
    world.restore(path)
    assert box.beat(Ask("2", "A", CNY, 300)).verdict is Verdict.REOPEN
    assert world.money("A") == (1_000, 1_000, 0)


def test_a_restored_hub_is_found_by_a_box_that_has_nothing_to_say(world: World, tmp_path: Path) -> None:
    """The last commits held records alone, and the night is quiet: what was answered stays with the box."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 300))
    path = back_up(world, tmp_path)
    box.pay("A", "SHOP", 100)
    box.sync()
    world.restore(path)
    assert box.beat().verdict is Verdict.REOPEN
    box.give_back(box.open())
    assert box.beat().verdict is Verdict.OK
    assert world.money("SHOP") == (100, 0, 100)


def test_a_boot_that_was_replaced_gives_back_before_its_next_epoch(world: World, tmp_path: Path) -> None:
    """A copy took the place of the box at the restored hub, and a new epoch is ordered: told to open again at
    each beat, the box could never hand back what the order waits for."""
    box = world.box(NORTH)
    copy = world.new_box(NORTH)
    copy.key, copy.keys, copy.epoch, copy.bodies = box.key, dict(box.keys), box.epoch, list(box.bodies)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 300))
    world.restore(path)
    assert copy.open().verdict is Verdict.OK
    assert copy.beat().verdict is Verdict.OK
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert box.give_back(box.open()).verdict is Verdict.OK
    assert box.epoch == 2


def test_what_was_granted_elsewhere_meanwhile_is_a_named_loss(world: World, tmp_path: Path) -> None:
    """After the restore the south got the money that the north holds: the branch bears it, nobody else."""
    north, south = world.box(NORTH), world.box(SOUTH)
    path = back_up(world, tmp_path)
    north.sync(Ask("1", "A", CNY, 800))
    world.restore(path)
    south.open()
    south.sync(Ask("s", "A", CNY, 900))
    south.pay("A", "B", 900, home=True)
    south.sync()
    assert north.give_back(north.open()).verdict is Verdict.OK
    assert world.money("A") == (800, 0, 800)
    assert world.money("B") == (900, 900, 0)
    assert world.rows("SELECT box, log, account_id, amount_minor FROM loss") == [
        (NORTH, "directives 1", "A", 700)
    ]
    assert world.money("risk:north:CNY")[0] == RISK_MINOR - 700
    assert same(outstanding_at(world, north), at_the_box(north))


def test_a_risk_account_that_bore_a_loss_is_granted_its_allowance_again(world: World, tmp_path: Path) -> None:
    """What it bears first leaves it below zero at the centre; the hub must not fall silent over the rest."""
    north, south = world.box(NORTH), world.box(SOUTH)
    path = back_up(world, tmp_path)
    north.sync(Ask("1", "A", CNY, 800))
    [rule] = a_site().stand_in
    more = msgspec.structs.replace(rule, box_minor=2 * RISK_MINOR)
    world.publish(a_site(2, stand_in=(more,)))
    north.sync()
    world.restore(path)
    south.open()
    south.sync(Ask("s", "A", CNY, 900))
    assert north.give_back(north.open()).verdict is Verdict.OK
    assert world.rows("SELECT account_id, amount_minor FROM loss") == [("A", 700)]
    assert outstanding_at(world, north)[f"risk:{NORTH}:{CNY}"] == 2 * RISK_MINOR


@pytest.mark.parametrize("package_bytes_max", [1, 400], ids=["one by one", "some"])
def test_a_box_that_took_a_part_of_a_package_hands_back_that_part(
    world: World, tmp_path: Path, package_bytes_max: int
) -> None:
    """The line broke within a long catch-up: what is applied is spent, so it must come back to the books."""
    box = world.box(NORTH)
    journalled = len(box.directives)
    path = back_up(world, tmp_path)
    for number in range(4):
        box.beat(Ask(f"{number}", "A", CNY, 100))
    fresh = world.new_box(NORTH)
    vars(fresh).update(vars(box), package_bytes_max=package_bytes_max)
    fresh.incarnation, fresh.directives, fresh.directive_leaves = 0, [], []
    fresh.directive_frontier, fresh.directives_note = Frontier(), ""
    while len(fresh.directives) <= journalled:
        fresh.beat()
    granted = fresh.directives[journalled:]
    assert len(granted) < 4
    for directive in granted:
        fresh.apply(directive)
    world.restore(path)
    assert fresh.give_back(fresh.open(), count=1).verdict is Verdict.OK
    assert same(outstanding_at(world, fresh), at_the_box(fresh))
    assert outstanding_at(world, fresh)["A"] == 100 * len(granted)


def test_a_package_ends_before_a_directive_that_waits_for_its_bundle(world: World) -> None:
    """The box applies what comes before it, and must hold the hub's word for just that."""
    box = world.box(NORTH)
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="HOME", frozen=True, reason="court", now_ns=1)
    world.publish(a_site(2))
    before = len(box.directives)
    assert box.beat().more
    assert [type(one) for one in box.directives[before:]] == [FreezeDirective]
    note = world.hub_key.public.open(box.directives_note)
    assert (note.size, note.root) == (len(box.directives), box.directive_frontier.root())
    assert not box.beat().more


def test_a_confirmation_that_was_lost_is_not_given_twice(world: World, tmp_path: Path) -> None:
    """The word came back before the record that it is about: the payer pays once, the payee gets it once."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.stand_in("A", "SHOP", 400)
    came = box.sync()
    assert isinstance(came[0], ConfirmDirective)
    world.restore(path)
    assert box.give_back(box.open(), count=1).verdict is Verdict.OK
    box.sync()
    assert world.money("A") == (600, 600, 0)
    assert world.money("SHOP") == (400, 0, 400)
    assert world.rows("SELECT state, settled, payee FROM stand_in") == [("confirmed", 1, "SHOP")]
    assert world.money("risk:north:CNY") == (RISK_MINOR, 0, RISK_MINOR)


def test_stand_ins_wait_for_a_hub_that_takes_back(world: World, tmp_path: Path) -> None:
    """They come with the lost records and are decided in the new log, once."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 100))
    world.restore(path)
    box.stand_in("A", "SHOP", 400)
    box.stand_in("B", "SHOP", 100)
    assert box.give_back(box.open()).verdict is Verdict.OK
    came = box.sync()
    assert [type(one).__name__ for one in came if not isinstance(one, GrantDirective)] == [
        "SiteDirective",
        "ConfirmDirective",
        "DeclineDirective",
    ]
    assert world.money("SHOP") == (400, 0, 400)
    assert same(outstanding_at(world, box), at_the_box(box))


def test_directives_that_a_restored_hub_wrote_unheard_are_undone(world: World, tmp_path: Path) -> None:
    """It froze an account before it heard that it had lost others: the box's ones stand, the order is said
    again in the new log."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 300))
    box.sync(Ask("2", "A", CNY, 100))
    world.restore(path)
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="HOME", frozen=True, reason="court", now_ns=1)
    opened = box.open()
    assert opened.verdict is Verdict.HUB_BEHIND
    assert box.give_back(opened, count=1).verdict is Verdict.OK
    came = box.sync()
    assert [one.account_id for one in came if isinstance(one, FreezeDirective)] == ["HOME"]
    assert world.money("A") == (1_000, 600, 400)
    assert len(world.rows("SELECT * FROM evidence")) == 1


def test_a_freeze_that_was_lifted_in_lost_commits_is_lifted_again(world: World, tmp_path: Path) -> None:
    """Freezes come back in their order."""
    box = world.box(NORTH)
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="A", frozen=True, reason="court", now_ns=1)
    box.sync()
    path = back_up(world, tmp_path)
    with world.engine.begin() as connection:
        freeze(connection, world.keyring, account_id="A", frozen=False, reason="over", now_ns=1)
    box.sync()
    world.restore(path)
    assert box.give_back(box.open()).verdict is Verdict.OK
    assert world.row("SELECT frozen FROM account WHERE account_id = 'A'") == (0,)


def test_accounts_of_a_lost_bundle_are_opened_from_the_journal(world: World, tmp_path: Path) -> None:
    """Money granted to and paid at accounts that the restored hub has never heard of has a place."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    newer = a_site(
        2, accounts=(*ACCOUNTS, Account(id="NEW", currency=CNY), Account(id="STALL", currency=CNY))
    )
    world.publish(newer)
    world.fund("NEW", 500)
    site = box.beat().directives
    assert site is not None
    box.apply(box.directives[-1], accounts=newer.accounts)
    box.sync(Ask("1", "NEW", CNY, 200))
    box.pay("NEW", "STALL", 50)
    box.sync()
    world.restore(path)
    assert box.give_back(box.open()).verdict is Verdict.OK
    assert world.rows("SELECT reason FROM suspense_item") == []
    assert world.money("NEW") == (150, 0, 150)
    assert world.money("STALL") == (50, 0, 50)
    assert world.rows("SELECT account_id, amount_minor FROM loss") == [("NEW", 200)]
    with pytest.raises(SiteError, match="raise it"):
        world.publish(a_site(2))
    world.publish(newer)
    world.publish(a_site(3))


def test_whole_epochs_that_were_lost_come_back(world: World, tmp_path: Path) -> None:
    """The hub has lost an epoch and all of the next one: their links prove them, the older tail is in
    doubt."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 300))
    for number in (2, 3):
        with world.engine.begin() as connection:
            release_epoch(connection, NORTH)
        assert box.open().verdict is Verdict.OK
        box.sync(Ask(f"{number}", "A", CNY, 100 * number))
        box.pay("A", "SHOP", 10 * number)
        box.sync()
    world.restore(path)
    opened = box.open()
    assert opened.verdict is Verdict.HUB_BEHIND
    assert [(head.number, head.size) for head in opened.journals][1:] == [(2, 0), (3, 0)] or [
        head.number for head in opened.journals
    ] == [2, 1, 3]
    assert box.give_back(opened).verdict is Verdict.OK
    box.sync()
    assert world.rows(
        "SELECT epoch, amount_minor, in_doubt FROM outstanding WHERE account_id = 'A' ORDER BY epoch"
    ) == [(1, 300, 1), (2, 180, 1), (3, 270, 0)]
    assert world.money("SHOP") == (50, 0, 50)
    assert same(outstanding_at(world, box), at_the_box(box))


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_losses_creates_or_destroys_money(world: World, tmp_path: Path, seed: int) -> None:
    """Two boxes, random business, a hub restored to an earlier commit: the books are sound at every COMMIT,
    and at the end the hub's figures are the boxes' own."""
    chance = random.Random(seed)
    boxes = {name: world.box(name) for name in (NORTH, SOUTH)}
    world.fund("B", 700)
    path = tmp_path / "backup.db"
    saved = False
    for step in range(24):
        box = boxes[chance.choice((NORTH, SOUTH))]
        act(world, box, chance, step)
        if step == 6 + seed % 5:
            world.back_up(path)
            saved = True
        if saved and step == 16:
            world.restore(path)
    for box in boxes.values():
        come_in_step(box)
    for box in boxes.values():
        assert same(outstanding_at(world, box), at_the_box(box))
    ours = "account_id LIKE 'core:%' OR account_id LIKE 'capital:%'"
    outside, inside = (
        world.row(f"SELECT SUM(balance_minor) FROM account WHERE {where}")[0]
        for where in (ours, f"NOT ({ours})")
    )
    assert int(str(inside)) == -int(str(outside)) > 0


def act(world: World, box: SimulatedBox, chance: random.Random, step: int) -> None:
    """One thing that happens at a box; what it does not have it does not spend."""
    if come_in_step(box):
        return
    match chance.randrange(5):
        case 0:
            box.sync(Ask(f"{box.name}-{step}", chance.choice("AB"), CNY, chance.randrange(1, 300)))
        case 1:
            box.stand_in(chance.choice("AB"), "SHOP", chance.randrange(1, 100))
        case 2:
            box.sync()
        case _:
            payer = chance.choice("AB")
            has = at_the_box(box)[payer]
            if has > 0:
                box.pay(payer, chance.choice(("SHOP", "HOME")), chance.randrange(1, has + 1))
            box.beat()


def come_in_step(box: SimulatedBox) -> bool:
    """Open again and give a hub back what it lacks; whether it lacked anything."""
    opened = box.open()
    if opened.verdict is Verdict.HUB_BEHIND:
        assert box.give_back(opened).verdict is Verdict.OK
        box.sync()
        return True
    assert opened.verdict is Verdict.OK
    box.held = next(head.size for head in opened.journals if head.number == box.epoch)
    box.sync()
    return False


# -- what cannot be taken back -------------------------------------------------------------------------------


def edit_newest_directive(box: SimulatedBox) -> None:
    """As by hand on the box's disk: a grant of twice as much."""
    grant = box.directives[-1]
    assert isinstance(grant, GrantDirective)
    box.directives[-1] = msgspec.structs.replace(grant, amount_minor=2 * grant.amount_minor)
    box.directive_frontier = Frontier()
    bodies = [encode(one) for one in box.directives]
    box.directive_leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
    box.directive_frontier.extend(box.directive_leaves)


def cover_more(world: World, box: SimulatedBox) -> None:
    """The hub's note is over more directives than the box has, and nothing leads there."""
    origin = journal.directives_origin(bank=BANK, box=box.name, incarnation=1)
    size = box.directive_frontier.size + 2
    box.directives_note = world.hub_key.seal(journal.Checkpoint(origin, size, bytes(32)).body())


@pytest.mark.parametrize("fault", ["edited", "unproved"])
def test_directives_that_cannot_be_proved_stop_nothing_and_are_seen(
    world: World, tmp_path: Path, fault: str
) -> None:
    """The exchange goes on: the records come, the box is quarantined with the reason, and a new epoch ends
    it."""
    box = world.box(NORTH)
    path = back_up(world, tmp_path)
    box.sync(Ask("1", "A", CNY, 300))
    if fault == "edited":
        path = tmp_path / "later.db"
        world.back_up(path)
    box.pay("A", "SHOP", 100)
    box.sync()
    world.restore(path)
    if fault == "edited":
        edit_newest_directive(box)
    else:
        cover_more(world, box)
    assert box.open().verdict is Verdict.HUB_BEHIND
    beaten = box.hand_back(LogHead(1, len(box.directives) - 1))
    assert beaten is not None
    assert beaten.incarnation == LogHead(2)
    assert "directives of incarnation 1 from" in beaten.reason
    assert world.row("SELECT state, taking_back FROM box WHERE box = 'north'") == ("quarantined", 0)
    assert box.give_back(box.open()).verdict is Verdict.FENCED
    opened = box.open()
    assert "quarantined: directives of incarnation 1 from" in opened.reason
    assert world.money("SHOP") == (100, 0, 100)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert box.open(mode=Mode.FENCED).verdict is Verdict.OK
    assert box.epoch == 2
    box.sync()
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("active",)


def test_a_directive_of_a_newer_hub_waits_for_that_hub(world: World, tmp_path: Path) -> None:
    """A hub that went back to an older version must not forget what it cannot read, nor die of it."""
    box = world.box(NORTH)
    origin = journal.directives_origin(bank=BANK, box=NORTH, incarnation=1)
    size = len(box.directives)
    place = {"bank": BANK, "box": NORTH, "incarnation": 1, "seq": size, "wall_ns": 1}
    body = msgspec.json.encode({"type": "of_the_future", "v": 1, **place})
    leaves = [*box.directive_leaves, journal.leaf_hash(box.directive_leaves[-1], body)]
    box.directive_frontier.append(leaves[-1])
    root = box.directive_frontier.root()
    box.directives_note = world.hub_key.seal(journal.Checkpoint(origin, size + 1, root).body())
    assert box.open().verdict is Verdict.HUB_BEHIND
    box.counter += 1
    package = Package(
        number=1, old_size=size, records=(body,), root=root, checkpoint=box.directives_note, proof=()
    )
    beat = Beat(directives=LogHead(1, size + 1, root), handed_back=package)
    with pytest.raises(ExchangeError, match=f"directive 1/{size} .* run the hub's version that wrote it"):
        box.send(beat, session=box.session, counter=box.counter)
    assert box.open().verdict is Verdict.HUB_BEHIND
