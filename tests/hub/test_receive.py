"""What boxes push: kept once, replayed whole, and never believed beyond what was handed out."""

import msgspec
import pytest

from edgegw.core.journal import Checkpoint, journal_origin
from edgegw.core.messages import Ask, ExchangeError, PackageVerdict, Verdict
from edgegw.core.records import AMOUNT_MINOR_MAX, ClearedBy, Leg
from edgegw.hub.books import BooksError
from edgegw.hub.operate import OrderError, release_epoch, seal_epoch
from edgegw.hub.order_actions import Scene, VoidKey
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import CNY, NORTH, SOUTH, World


def funded(world: World, name: str, account_id: str, amount_minor: int) -> SimulatedBox:
    """A box that holds this much of the account."""
    box = world.box(name)
    box.sync(Ask(f"{name}-{account_id}", account_id, CNY, amount_minor))
    return box


def test_a_revoked_key_that_began_two_epochs_is_told_of_in_both(world: World) -> None:
    """Who has stolen it writes more of the older one, and verifiers take that."""
    box = funded(world, NORTH, "A", 300)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert box.come_back().verdict is Verdict.OK
    box.sync()
    key = box.key.public.text()
    action = VoidKey(box=NORTH, epoch=0, key=key, size_max=-1, reason="stolen")
    with world.engine.begin() as connection:
        scene = Scene(connection, world.keyring, 1, "mei")
        assert "still counts in epoch 1:" in action.run(scene)
        assert "still counts" not in msgspec.structs.replace(action, epoch=1).run(scene)


def replica_of(world: World, box: str, account_id: str) -> int:
    """What the hub's replica says is posted there."""
    row = world.row(
        "SELECT credits_posted - debits_posted FROM box_balance "
        "WHERE box = :box AND account_id = :id AND epoch = "
        "(SELECT epoch FROM box WHERE box = :box)",
        box=box,
        id=account_id,
    )
    return int(str(row[0]))


def test_payments_move_the_books_and_the_replica_alike(world: World) -> None:
    """A pays a shop that stays and a friend who lives elsewhere; hub and box agree to the last unit."""
    box = funded(world, NORTH, "A", 500)
    box.pay("A", "SHOP", 120)
    box.pay("A", "B", 80, home=True)
    box.sync()
    assert world.money("A") == (800, 500, 300)
    assert world.money("SHOP") == (120, 0, 120)
    assert world.money("B") == (80, 80, 0)
    assert replica_of(world, NORTH, "A") == 300
    assert replica_of(world, NORTH, "SHOP") == 120


def test_a_hold_moves_nothing_until_it_is_posted(world: World) -> None:
    """Held, posted in part, voided, expired: only the posted part leaves the payer."""
    box = funded(world, NORTH, "A", 500)
    posted, voided, expired = (box.hold("A", "SHOP", 100) for _ in range(3))
    box.sync()
    assert world.money("A") == (1_000, 500, 500)
    assert world.rows("SELECT COUNT(*) FROM box_hold") == [(3,)]
    box.resolve(posted, "A", "SHOP", 60)
    box.resolve(voided, "A", "SHOP", 100, void=True)
    box.expire(expired, "A", "SHOP", 100)
    box.sync()
    assert world.money("A") == (940, 500, 440)
    assert world.rows("SELECT COUNT(*) FROM box_hold") == [(0,)]
    assert world.rows("SELECT debits_pending FROM box_balance WHERE account_id = 'A'") == [(0,)]


def test_a_push_twice_is_kept_once(world: World) -> None:
    """A lost reply makes the box push again; the hub shows the head that it holds and cosigns it again."""
    box = funded(world, NORTH, "A", 500)
    box.pay("A", "SHOP", 100)
    package = box.package(box.held, len(box.bodies))
    first, second = box.beat(push=package), box.beat(push=package)
    assert (first.push, second.push) == (PackageVerdict.ACCEPTED, PackageVerdict.DUPLICATE)
    assert first.journal == second.journal
    assert world.hub_key.public.check_cosignature(second.cosignature).checkpoint.size == len(box.bodies)
    assert world.money("SHOP") == (100, 0, 100)


def test_a_long_tail_comes_in_packages(world: World) -> None:
    """More than one package of records, each proved up to one signed head."""
    box = funded(world, NORTH, "A", 1_000)
    for _ in range(600):
        box.pay("A", "SHOP", 1)
    box.sync()
    assert world.money("SHOP") == (600, 0, 600)
    assert world.row("SELECT size FROM journal_head WHERE box = 'north'") == (len(box.bodies),)
    root, cosignature = world.row("SELECT root, cosignature FROM journal_head WHERE box = 'north'")
    assert root == box.root(len(box.bodies))
    assert world.hub_key.public.check_cosignature(str(cosignature)).checkpoint.root == root


def test_two_histories_quarantine_the_box_and_both_are_kept(world: World) -> None:
    """A box that signs another record at a place that is held is forked: read-only, with the proof in a
    table."""
    box = funded(world, NORTH, "A", 500)
    box.pay("A", "SHOP", 100)
    box.beat()
    start = box.held - 1
    box.bodies[-1:] = []
    box.pay("A", "SHOP", 99)
    beaten = box.beat(push=box.package(start, start + 1))
    assert (beaten.push, beaten.verdict) == (PackageVerdict.FORK, Verdict.FORKED)
    kept = world.rows("SELECT held_checkpoint, other_checkpoint FROM evidence")
    assert len(kept) == 1
    for note in kept[0]:
        assert box.key.public.open(str(note)).size == start + 1
    assert kept[0][0] != kept[0][1]
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("forked",)
    size = len(box.directives)
    assert box.beat(Ask("late", "A", CNY, 1)).verdict is Verdict.FORKED
    assert len(box.directives) == size


def test_a_box_behind_its_own_past_is_told_so(world: World) -> None:
    """Restored from a backup: it has less than it once pushed, and clears nothing."""
    box = funded(world, NORTH, "A", 500)
    box.pay("A", "SHOP", 100)
    box.sync()
    restored = world.new_box(NORTH)
    restored.key, restored.epoch, restored.bodies = box.key, box.epoch, box.bodies[:-1]
    restored.now_ns = box.now_ns
    assert restored.open().verdict is Verdict.BEHIND
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("behind",)
    assert box.beat().verdict is Verdict.OK


def test_the_boot_that_was_replaced_is_fenced(world: World) -> None:
    """One live boot an epoch: a restart takes the place, and the one before it does not come back."""
    box = funded(world, NORTH, "A", 100)
    restarted = world.new_box(NORTH)
    restarted.key, restarted.epoch, restarted.bodies = box.key, box.epoch, list(box.bodies)
    assert restarted.open().verdict is Verdict.OK
    assert box.beat().verdict is Verdict.OK, "an opening alone displaces nobody"
    assert restarted.beat().verdict is Verdict.OK
    assert box.beat().verdict is Verdict.FENCED
    assert box.open().verdict is Verdict.FENCED
    assert restarted.beat().verdict is Verdict.OK


@pytest.mark.parametrize("begun", [False, True])
def test_a_session_that_outlives_its_epoch_is_fenced(world: World, *, begun: bool) -> None:
    """The next epoch was given to other hardware while the box still spoke: it gets no money that would count
    as the new epoch's, and delivers what it wrote."""
    box = funded(world, NORTH, "A", 300)
    fresh = world.new_box(NORTH)
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert fresh.come_back().verdict is Verdict.OK
    assert fresh.epoch == 2
    if begun:
        fresh.sync()
    size = len(box.directives)
    assert box.beat(Ask("late", "A", CNY, 200)).verdict is Verdict.FENCED
    assert len(box.directives) == size
    assert world.rows("SELECT amount_minor FROM outstanding WHERE account_id = 'A' AND epoch = 2") == []
    box.pay("A", "SHOP", 50)
    assert box.beat().push is PackageVerdict.ACCEPTED
    assert world.money("SHOP") == (50, 0, 50)


def test_a_replayed_beat_changes_nothing(world: World) -> None:
    """The counter of a session only rises."""
    box = funded(world, NORTH, "A", 100)
    box.counter -= 1
    assert box.beat(Ask("again", "A", CNY, 100)).verdict is Verdict.REOPEN
    assert world.money("A") == (1_000, 900, 100)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"nonsense","v":1,"bank":"testbank","box":"north","epoch":1,"seq":%d}',
        b'{"v":1,"bank":"testbank","box":"north","epoch":1,"seq":%d,"type":"transfer","legs":"many"}',
    ],
)
def test_a_poisoned_record_does_not_stop_the_log(world: World, body: bytes) -> None:
    """What cannot be read is kept, has an owner, and the next payment is posted all the same."""
    box = funded(world, NORTH, "A", 500)
    seq = len(box.bodies)
    box.bodies.append(body % seq)
    box.pay("A", "SHOP", 100)
    box.sync()
    assert world.money("SHOP") == (100, 0, 100)
    assert world.rows("SELECT seq, owner, reason FROM suspense_item") == [(seq, "bank", "undecodable")]
    assert world.row("SELECT body FROM record WHERE box = 'north' AND seq = :seq", seq=seq) == (body % seq,)


@pytest.mark.parametrize(
    "leg",
    [
        Leg("A", "NOBODY", 10),
        Leg("A", "SHOP", 0),
        Leg("A", "SHOP", -5),
        Leg("A", "SHOP", 2**63),
        Leg("A", "A", 10),
        Leg("A", "SHOP", 10, 4, "xyz"),
        Leg("A", "SHOP", 10, 4, f"{7:032x}"),
        Leg("A", "SHOP", 10, 1 << 20),
    ],
)
def test_legs_that_cannot_be_go_to_suspense(world: World, leg: Leg) -> None:
    """No leg that a box can write stops the log, creates money or loses it."""
    box = funded(world, NORTH, "A", 500)
    seq = box.transfer((leg,), amount_minor=10)
    box.pay("A", "SHOP", 100)
    box.beat()
    assert world.rows("SELECT seq, reason FROM suspense_item") == [(seq, "cannot_be_posted")]
    assert world.money("A") == (900, 500, 400)
    assert world.money("SHOP") == (100, 0, 100)


def test_a_hold_that_is_resolved_between_other_accounts_does_not_stop_the_log(world: World) -> None:
    """The record goes to suspense, and the hold lives on."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 500))
    seq = box.hold("A", "SHOP", 500)
    box.beat()
    box.expire(seq, "A", "B", 500)
    box.beat()
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("quarantined",)
    assert ("cannot_be_posted",) in world.rows("SELECT reason FROM suspense_item")


def test_sums_beyond_what_the_database_counts_do_not_stop_the_log(world: World) -> None:
    """Two boxes credit one account out of their suspense with more than one column holds."""
    for name in (NORTH, SOUTH):
        box = world.box(name)
        box.transfer((Leg(f"suspense:{name}:CNY", "B", 2**62),), cleared_by=ClearedBy.STAND_IN)
        box.beat()
    assert world.row("SELECT state FROM box WHERE box = 'south'") == ("quarantined",)
    with pytest.raises(BooksError, match="core:CNY would go beyond"):
        world.fund("A", AMOUNT_MINOR_MAX)


def test_what_a_box_overdraws_is_the_banks_loss_and_never_the_customers(world: World) -> None:
    """The payee keeps the money, the payer stays at zero there, the risk account bears it, the box stops."""
    box = funded(world, NORTH, "A", 300)
    box.pay("A", "SHOP", 450)
    assert box.beat().verdict is Verdict.FENCED
    assert world.money("A") == (700, 700, 0)
    assert world.money("SHOP") == (450, 0, 450)
    assert world.row(
        "SELECT balance_minor, available_minor FROM account WHERE account_id = 'risk:north:CNY'"
    ) == (
        850,
        -150,
    )
    assert world.rows("SELECT account_id, amount_minor FROM loss") == [("A", 150)]
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("quarantined",)
    size = len(box.directives)
    box.beat(Ask("more", "A", CNY, 1))
    assert len(box.directives) == size


def test_a_box_that_holds_more_than_it_has_is_quarantined(world: World) -> None:
    """Pending counts too: a hold beyond the allowance is as wrong as a payment."""
    box = funded(world, NORTH, "A", 300)
    box.hold("A", "SHOP", 301)
    assert box.beat().verdict is Verdict.FENCED


def test_a_grant_that_the_hub_never_made_creates_nothing(world: World) -> None:
    """A forged directive in a journal is found by its bytes; what is spent from it is a named loss."""
    box = funded(world, NORTH, "A", 300)
    grant = box.directives[-1]
    box.apply(type(grant)(**{**{f: getattr(grant, f) for f in grant.__struct_fields__}, "amount_minor": 900}))
    box.pay("A", "SHOP", 900)
    assert box.beat().verdict is Verdict.FENCED
    assert world.rows("SELECT reason FROM suspense_item") == [("directive_not_ours",)]
    assert world.money("A")[0] == 700


def test_one_identity_at_two_boxes_is_taken_back_once(world: World) -> None:
    """A client that retried elsewhere paid twice: the payer is whole at once, and somebody owns the rest."""
    north, south = funded(world, NORTH, "A", 300), funded(world, SOUTH, "A", 300)
    identity = "ab" * 16
    north.pay("A", "B", 100, home=True, request_id=identity)
    seq = south.pay("A", "B", 100, home=True, request_id=identity)
    north.sync()
    south.sync()
    assert world.money("A")[0] == 900
    assert world.rows("SELECT box, seq, reason FROM suspense_item") == [("south", seq, "duplicate_identity")]
    assert world.money("suspense:south:CNY")[0] == -100
    assert len(world.rows("SELECT box FROM record WHERE request_id = :id", id=identity)) == 1


def test_one_identity_with_two_contents_waits_for_a_person(world: World) -> None:
    """Unequal payments under one identity both stand; nobody guesses which one was meant."""
    north, south = funded(world, NORTH, "A", 300), funded(world, SOUTH, "A", 300)
    identity = "cd" * 16
    north.refuse(identity)
    seq = south.pay("A", "B", 50, home=True, request_id=identity)
    north.sync()
    south.sync()
    assert world.money("A")[0] == 950
    assert world.rows("SELECT seq, reason FROM suspense_item") == [(seq, "identity_conflict")]


def test_a_new_epoch_starts_with_nothing_and_the_old_money_waits(world: World) -> None:
    """A lost disk: the new epoch has no allowance, the old one's is in doubt until its tail came or is given
    up."""
    box = funded(world, NORTH, "A", 300)
    box.pay("A", "SHOP", 50)
    lost_tail = box.package(box.held, len(box.bodies))
    fresh = world.new_box(NORTH)
    assert fresh.open().verdict is Verdict.BEHIND
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert fresh.come_back().verdict is Verdict.OK
    fresh.sync()
    assert fresh.epoch == 2
    assert world.rows("SELECT amount_minor FROM outstanding WHERE account_id = 'A' AND epoch = 2") == []
    assert world.row("SELECT amount_minor, in_doubt FROM outstanding WHERE account_id = 'A'") == (300, 1)
    assert fresh.beat(push=lost_tail).push is PackageVerdict.ACCEPTED
    assert world.money("SHOP") == (50, 0, 50)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert world.money("A") == (950, 950, 0)
    assert world.money("SHOP") == (50, 50, 0)
    assert fresh.beat(push=lost_tail).push is PackageVerdict.MALFORMED


def test_an_epoch_is_not_settled_while_its_box_has_more_of_it(world: World) -> None:
    """A seal that came too early cut off what the branch had answered; what is gone for good is said so."""
    box = funded(world, NORTH, "A", 300)
    box.pay("A", "SHOP", 50)
    late = box.package(box.held, len(box.bodies))
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert box.come_back().verdict is Verdict.OK
    for lost, said in ((0, "--lost 1"), (2, "--lost 1")):
        with world.engine.begin() as connection, pytest.raises(OrderError, match=said):
            seal_epoch(connection, NORTH, 1, lost=lost)
    assert box.beat(push=late).push is PackageVerdict.ACCEPTED
    with world.engine.begin() as connection, pytest.raises(OrderError, match="leave it out"):
        seal_epoch(connection, NORTH, 1, lost=1)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    assert world.money("SHOP")[0] == 50


def test_what_is_gone_for_good_is_declared_and_the_epoch_settled(world: World) -> None:
    """The box burnt with records that only its signed head tells of: without a word for that its money would
    be in doubt for ever."""
    box = funded(world, NORTH, "A", 300)
    box.pay("A", "SHOP", 50)
    box.pay("A", "SHOP", 1)
    assert box.beat(push=box.package(box.held, box.held + 1)).push is PackageVerdict.ACCEPTED
    heir = world.new_box(NORTH)
    heir.open()
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    assert heir.come_back().verdict is Verdict.OK
    with world.engine.begin() as connection, pytest.raises(OrderError, match="1 records of epoch 1"):
        seal_epoch(connection, NORTH, 1)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1, lost=1)
    assert world.money("SHOP") == (50, 50, 0)


def test_the_live_epoch_cannot_be_sealed(world: World) -> None:
    """An order that would give a working box's money away is refused with what would help."""
    world.box(NORTH)
    with world.engine.begin() as connection, pytest.raises(OrderError, match="release"):
        seal_epoch(connection, NORTH, 1)


def test_a_journal_that_begins_without_its_link_is_quarantined(world: World) -> None:
    """Only the hub's own word makes an epoch."""
    box = world.new_box(NORTH)
    box.open()
    box.bodies[0] = box.bodies[0].replace(b'"note":"', b'"note":"x')
    assert box.beat().verdict is Verdict.FENCED


def test_a_checkpoint_by_another_key_is_not_believed(world: World) -> None:
    """The epoch's key is bound by the link; the device key cannot sign a journal."""
    box = funded(world, NORTH, "A", 100)
    box.pay("A", "SHOP", 10)
    size = len(box.bodies)
    origin = journal_origin(bank="testbank", box=NORTH, epoch=1)
    package = box.package(box.held, size)
    forged = box.device.seal(Checkpoint(origin, size, box.root(size)).body())
    beaten = box.beat(push=type(package)(**{**_fields(package), "checkpoint": forged}))
    assert beaten.push is PackageVerdict.BAD_CHECKPOINT
    assert world.money("SHOP") == (0, 0, 0)


def _fields(struct: object) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}  # type: ignore[attr-defined]


def test_an_unsigned_message_changes_nothing(world: World) -> None:
    """A message by another key is refused before anything of it is read."""
    box = funded(world, NORTH, "A", 100)
    box.device = world.devices[SOUTH]
    with pytest.raises(ExchangeError, match="not signed"):
        box.beat(Ask("forged", "A", CNY, 100))
    assert world.money("A") == (1_000, 900, 100)


def test_a_record_with_a_zero_character_stops_nobody(world: World) -> None:
    """No text column keeps U+0000: the record waits for a person, and what follows it is taken."""
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, 300))
    seq = box.pay("A", "SHOP\0", 10)
    box.pay("A", "SHOP", 20)
    assert box.beat().push is PackageVerdict.ACCEPTED
    assert world.rows("SELECT seq, reason FROM suspense_item") == [(seq, "undecodable")]
    assert world.money("SHOP") == (20, 0, 20)
