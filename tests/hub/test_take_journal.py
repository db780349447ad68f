"""An exported journal at the hub: a late tail goes in as a push, a second history beside the first."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgegw.core import export, journal
from edgegw.core.journal import Checkpoint, Frontier
from edgegw.core.legs import PENDING, VOID
from edgegw.core.messages import Ask, PackageVerdict, Verdict
from edgegw.core.records import GrantDirective
from edgegw.hub.exported import ExportError
from edgegw.hub.operate import OrderError, release_epoch, seal_epoch
from edgegw.hub.revocations import revoke_device
from edgegw.hub.take_journal import TakenJournal, take_journal
from tests.hub.simulated_box import BANK, SimulatedBox, root_of
from tests.hub.world import CNY, NORTH, RISK_MINOR, World, check_books


def exported(box: SimulatedBox, path: Path, *, start: int = 0, size: int = 0) -> Path:
    """The box's newest epoch as `edgegw journal export` writes it, from a record on where older ones were
    pruned."""
    bodies = box.bodies[: size or len(box.bodies)]
    leaves = journal.chain(journal.FIRST_PREVIOUS, bodies)
    before = Frontier()
    before.extend(leaves[:start])
    whole = Frontier()
    whole.extend(leaves)
    origin = journal.journal_origin(bank=BANK, box=box.name, epoch=box.epoch)
    lines = export.journal_lines(
        origin,
        zip(bodies[start:], leaves[start:], strict=True),
        checkpoint=box.key.seal(Checkpoint(origin, len(bodies), whole.root()).body()),
        cosignatures=[],
        before=before,
        previous=leaves[start - 1] if start else journal.FIRST_PREVIOUS,
    )
    path.write_bytes(b"".join(lines))
    return path


def take(world: World, path: Path) -> TakenJournal:
    taken = take_journal(
        world.database, world.keyring, path, now_ns=lambda: 1, progress=lambda _one, _all: None
    )
    with world.engine.begin() as connection:
        check_books(connection)
    return taken


def everything(world: World) -> list[list[tuple[object, ...]]]:
    """All that an order may change."""
    tables = (
        "account",
        "outstanding",
        "record",
        "loss",
        "suspense_item",
        "stand_in",
        "evidence",
        "branch",
        "box_balance",
        "box_hold",
        "directive",
        "box",
    )
    return [world.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in tables]


def twin_of(world: World, box: SimulatedBox) -> SimulatedBox:
    """A clone of the box as it is: the same keys and journal, and a life of its own from here on."""
    twin = world.new_box(box.name)
    twin.key, twin.keys, twin.epoch, twin.bodies = box.key, dict(box.keys), box.epoch, list(box.bodies)
    twin.now_ns, twin.held = box.now_ns + (1 << 30), box.held
    twin.incarnation, twin.directives = box.incarnation, list(box.directives)
    return twin


def with_money(world: World, amount_minor: int = 500) -> SimulatedBox:
    box = world.box(NORTH)
    box.sync(Ask("1", "A", CNY, amount_minor))
    return box


def new_epoch(world: World, box: SimulatedBox) -> None:
    with world.engine.begin() as connection:
        release_epoch(connection, box.name)
    assert box.come_back().verdict is Verdict.OK
    box.sync()


# -- tails ---------------------------------------------------------------------------------------------------


def test_the_tail_from_a_burnt_boxs_mirror_reaches_the_books_once(world: World, tmp_path: Path) -> None:
    """The old epoch is over and in doubt; the file continues it as pushes do, and again changes nothing."""
    box = with_money(world)
    heir = twin_of(world, box)
    for _ in range(300):
        box.pay("A", "SHOP", 1)
    path = exported(box, tmp_path / "tail")
    new_epoch(world, heir)
    taken = take(world, path)
    assert (taken.records, taken.fresh, taken.branch) == (len(box.bodies), 300, 0)
    assert world.money("SHOP") == (300, 0, 300)
    root, note = world.row("SELECT root, cosignature FROM journal_head WHERE epoch = 1")
    assert root == box.root(len(box.bodies))
    assert world.hub_key.public.check_cosignature(str(note)).checkpoint.root == root
    before = everything(world)
    assert take(world, path).fresh == 0
    assert everything(world) == before


def test_the_tail_of_a_revoked_box_is_taken_from_its_file_and_not_from_it(
    world: World, tmp_path: Path
) -> None:
    """What its branch cleared before somebody stopped it is not lost; and nothing comes in over its line."""
    box = with_money(world)
    for _ in range(3):
        box.pay("A", "SHOP", 1)
    world.database.transact(lambda c: revoke_device(c, NORTH, reason="stolen", by="", now_ns=1))
    beaten = box.beat()
    assert (beaten.verdict, beaten.push) == (Verdict.FENCED, None)
    assert world.money("SHOP") == (0, 0, 0)
    assert take(world, exported(box, tmp_path / "tail")).fresh == 3
    assert world.money("SHOP")[0] == 3


def test_a_tail_without_what_was_pruned_continues_too(world: World, tmp_path: Path) -> None:
    """A box keeps its newest records only; the file's first line says what came before."""
    box = with_money(world)
    for _ in range(300):
        box.pay("A", "SHOP", 1)
    box.sync()
    for start in (1, 2, len(box.bodies) - 40, len(box.bodies)):
        box.pay("A", "SHOP", 1)
        assert take(world, exported(box, tmp_path / "tail", start=start)).fresh == 1
    box.pay("A", "SHOP", 1)
    box.pay("A", "SHOP", 1)
    with pytest.raises(OrderError, match="bring the rest first"):
        take(world, exported(box, tmp_path / "tail", start=len(box.bodies) - 1))


def test_an_epoch_that_the_hub_has_lost_is_proved_by_its_link(world: World, tmp_path: Path) -> None:
    """Restored to before the epoch was given: the file's first record is the hub's own word."""
    box = with_money(world)
    world.back_up(tmp_path / "backup.db")
    new_epoch(world, box)
    path = exported(box, tmp_path / "second")
    world.restore(tmp_path / "backup.db")
    assert take(world, path).fresh == len(box.bodies)
    assert world.row("SELECT epoch FROM box WHERE box = 'north'") == (2,)


def test_a_sealed_epoch_takes_nothing(world: World, tmp_path: Path) -> None:
    """Its books are settled: the order is refused with words."""
    box = with_money(world)
    path = exported(box, tmp_path / "late")
    new_epoch(world, box)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
    with pytest.raises(OrderError, match="is sealed"):
        take(world, path)


# -- files that are not what was signed ----------------------------------------------------------------------

SECOND = 5
"""A record that the edits below are made at."""


def _edit(line: bytes) -> bytes:
    return line.replace(b'"amount_minor":1', b'"amount_minor":9')


EDITS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "cut off": (lambda lines: lines[:-2], "ends after record"),
    "cut within the head": (
        lambda lines: [*lines[:-1], lines[-1][:40]],
        "signed head, after record 302, is cut",
    ),
    "cut within a record": (lambda lines: [*lines[:5], lines[5][:30]], "record 4 is cut off"),
    "edited": (lambda lines: [*lines[:9], _edit(lines[9]), *lines[10:]], "record 8 was edited"),
    "edited and its leaves gone": (
        lambda lines: [
            line for line in (*lines[:9], _edit(lines[9]), *lines[10:]) if b'{"leaves"' not in line
        ],
        "are not those that were signed",
    ),
    "left out": (lambda lines: [*lines[:9], *lines[10:]], "record 9 stands where record 8 must be"),
    "exchanged": (
        lambda lines: [*lines[:9], lines[10], lines[9], *lines[11:]],
        "record 9 stands where record 8 must be",
    ),
    "no journal": (lambda lines: lines[1:], "is no exported journal"),
    "more after its end": (lambda lines: [*lines, lines[5]], "lines follow"),
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_an_edited_file_is_refused_by_its_first_bad_record(world: World, tmp_path: Path, name: str) -> None:
    """Nothing of it is used, and the text says where it is wrong."""
    box = with_money(world)
    while len(box.bodies) < 303:
        box.pay("A", "SHOP", 1)
    path = exported(box, tmp_path / "file")
    edit, says = EDITS[name]
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    before = everything(world)
    with pytest.raises(ExportError, match=says):
        take(world, path)
    assert everything(world) == before


@pytest.mark.parametrize("line", [1, 2, 4], ids=["header", "first-record", "record"])
def test_a_line_without_an_end_fills_no_memory(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int
) -> None:
    """Whoever brings a file may bring one of a single endless line: it is refused by its place, unread."""
    monkeypatch.setattr("edgegw.hub.exported.LINE_BYTES_MAX", 4_096)
    box = with_money(world)
    path = exported(box, tmp_path / "file")
    assert take(world, path).records == len(box.bodies)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].removesuffix(b"\n") + b" " * 8_192 + b"\n"
    path.write_bytes(b"".join(lines))
    before = everything(world)
    with pytest.raises(ExportError, match=f"{path}: line {line} is longer than 4096 bytes"):
        take(world, path)
    assert everything(world) == before


def test_a_file_that_another_key_has_signed_is_refused(world: World, tmp_path: Path) -> None:
    """The epoch's key alone makes a history of it."""
    box = with_money(world)
    box.pay("A", "SHOP", 1)
    box.key = box.device
    with pytest.raises(ExportError, match="is not signed by the key of epoch 1"):
        take(world, exported(box, tmp_path / "file"))


# -- second histories ----------------------------------------------------------------------------------------


def test_a_copys_records_are_not_passed_over_by_the_box_that_runs(world: World, tmp_path: Path) -> None:
    """A copy's journal is longer than the box's and comes first: the box has nothing that the hub lacks, by
    its size, and would clear beside another history until it has written as much."""
    box = with_money(world)
    twin = twin_of(world, box)
    for amount_minor in (5, 6, 7):
        twin.pay("A", "B", amount_minor)
    box.pay("A", "SHOP", 9)
    take(world, exported(twin, tmp_path / "twin.journal"))
    assert box.beat(push=None).verdict is Verdict.REOPEN
    assert box.open().verdict is Verdict.FORKED


def test_what_both_histories_did_counts_once(world: World, tmp_path: Path) -> None:
    """A clone served the same client's retry: one payment; what each did alone has happened too."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 100, request_id="ab" * 16)
    box.pay("A", "SHOP", 20)
    box.sync()
    twin.pay("A", "SHOP", 100, request_id="ab" * 16)
    twin.pay("A", "B", 30, home=True)
    path = exported(twin, tmp_path / "twin")
    taken = take(world, path)
    assert (taken.branch, taken.fork_size, taken.fresh, taken.decided) == (1, box.held - 2, 2, 1)
    assert (taken.losses, taken.suspense) == (0, 0)
    assert world.money("A") == (850, 500, 350)
    assert world.money("SHOP") == (120, 0, 120)
    assert world.money("B") == (30, 30, 0)
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("forked",)
    held, other = world.row("SELECT held_checkpoint, other_checkpoint FROM evidence")
    assert box.key.public.open(str(held)).size == len(box.bodies)
    assert box.key.public.open(str(other)).size == len(twin.bodies)
    kept = world.rows("SELECT body FROM record WHERE seq >= 1 << 48 ORDER BY seq")
    assert [body for (body,) in kept] == twin.bodies[-2:]
    before = everything(world)
    assert take(world, path).fresh == 0
    assert everything(world) == before


def test_what_exceeds_the_allowance_is_a_named_loss(world: World, tmp_path: Path) -> None:
    """Both spent the same 500: the payees keep it, the customer has paid what was outstanding, no more."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 450)
    box.sync()
    twin.pay("A", "SHOP", 450)
    taken = take(world, exported(twin, tmp_path / "twin"))
    assert (taken.losses, taken.losses_minor) == (1, 400)
    assert world.money("A") == (500, 500, 0)
    assert world.money("SHOP") == (900, 0, 900)
    assert world.money("risk:north:CNY")[0] == RISK_MINOR - 400
    assert world.rows("SELECT log, seq, account_id, amount_minor FROM loss") == [
        ("branch 1", len(twin.bodies) - 1, "A", 400)
    ]


def test_one_identity_with_two_contents_waits_for_a_person(world: World, tmp_path: Path) -> None:
    """Both were answered, so both stand; nobody guesses which one was meant."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 100, request_id="ab" * 16)
    box.sync()
    twin.pay("A", "SHOP", 70, request_id="ab" * 16)
    assert take(world, exported(twin, tmp_path / "twin")).suspense == 1
    assert world.money("SHOP") == (170, 0, 170)
    assert world.rows("SELECT reason FROM suspense_item") == [("identity_conflict",)]


def test_a_hold_that_both_resolved_resolves_once(world: World, tmp_path: Path) -> None:
    """The common hold was posted in both under two identities: the second one waits for a person."""
    box = with_money(world)
    seq = box.hold("A", "SHOP", 100)
    box.sync()
    twin = twin_of(world, box)
    box.resolve(seq, "A", "SHOP", 60)
    box.sync()
    twin.resolve(seq, "A", "SHOP", 80)
    assert take(world, exported(twin, tmp_path / "twin")).suspense == 1
    assert world.money("SHOP") == (60, 0, 60)


def test_a_hold_of_the_second_history_is_its_own(world: World, tmp_path: Path) -> None:
    """At the same place stands another record of the first history: nothing is mixed up."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.hold("A", "B", 50)
    box.sync()
    seq = twin.hold("A", "SHOP", 100)
    twin.resolve(seq, "A", "SHOP", 80)
    twin.expire(twin.hold("A", "SHOP", 10), "A", "SHOP", 10)
    taken = take(world, exported(twin, tmp_path / "twin"))
    assert (taken.suspense, taken.losses) == (0, 0)
    assert world.money("SHOP") == (80, 0, 80)
    assert world.rows("SELECT amount_minor FROM box_hold") == [(50,)]


def test_the_same_hold_in_both_is_posted_by_whoever_posts_it(world: World, tmp_path: Path) -> None:
    """The hold counts once, as the first history's; the second one's post resolves that one."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.refuse("aa" * 16)
    for one in (box, twin):
        seq = one.hold("A", "SHOP", 100, request_id="ab" * 16)
    box.sync()
    twin.resolve(seq, "A", "SHOP", 100)
    taken = take(world, exported(twin, tmp_path / "twin"))
    assert (taken.suspense, taken.losses) == (0, 0)
    assert world.money("SHOP") == (100, 0, 100)
    assert world.rows("SELECT * FROM box_hold") == []


def test_a_directive_that_both_applied_counts_once(world: World, tmp_path: Path) -> None:
    """The grant was one grant: handed back in one history, it is not handed back again in the other."""
    box = world.box(NORTH)
    box.beat(Ask("1", "A", CNY, 300))
    grant = box.directives[-1]
    assert isinstance(grant, GrantDirective)
    twin = twin_of(world, box)
    box.apply(grant, outcome="returned")
    box.sync()
    twin.apply(grant)
    twin.pay("A", "SHOP", 200)
    taken = take(world, exported(twin, tmp_path / "twin"))
    assert world.rows("SELECT reason FROM suspense_item") == [("directive_applied_otherwise",)]
    assert (taken.losses, taken.losses_minor) == (1, 200)
    assert world.money("A") == (1_000, 1_000, 0)


def test_stand_ins_of_the_second_history_are_finished_when_the_epoch_is_sealed(
    world: World, tmp_path: Path
) -> None:
    """No box can apply a directive about them, so they wait for the seal: the payer pays, the payee gets
    it."""
    box = with_money(world, 100)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 10)
    box.sync()
    twin.stand_in("A", "SHOP", 40)
    take(world, exported(twin, tmp_path / "twin"))
    new_epoch(world, box)
    with world.engine.begin() as connection:
        seal_epoch(connection, NORTH, 1)
        check_books(connection)
    assert world.money("SHOP") == (50, 50, 0)
    assert world.money("A") == (950, 950, 0)


def test_a_hub_that_takes_back_decides_nothing_of_the_second_history(world: World, tmp_path: Path) -> None:
    """A directive about a record that no box has in its journal would be refused, and the payee unpaid."""
    box = world.box(NORTH)
    twin = twin_of(world, box)
    box.refuse("ab" * 16)
    box.sync()
    world.back_up(tmp_path / "backup.db")
    box.sync(Ask("1", "A", CNY, 100))
    world.restore(tmp_path / "backup.db")
    twin.stand_in("A", "SHOP", 40)
    assert take(world, exported(twin, tmp_path / "twin")).branch == 1
    with world.engine.begin() as connection:
        release_epoch(connection, NORTH)
    opened = box.open()
    assert opened.verdict is Verdict.HUB_BEHIND
    assert box.hand_back(opened.directives) is not None
    box.held = len(box.bodies)
    assert box.beat().verdict is Verdict.REOPEN
    box.learn(box.open())
    assert box.open().verdict is Verdict.OK
    assert box.epoch == 2
    assert world.rows("SELECT state FROM stand_in") == [("waiting",)]


def test_the_first_historys_late_tail_meets_the_second_one(world: World, tmp_path: Path) -> None:
    """The clone's file came first; a payment that is in both counts once all the same."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 1)
    box.sync()
    twin.pay("A", "SHOP", 100, request_id="ab" * 16)
    take(world, exported(twin, tmp_path / "twin"))
    box.pay("A", "SHOP", 100, request_id="ab" * 16)
    assert box.beat().push is PackageVerdict.ACCEPTED
    assert world.money("SHOP") == (101, 0, 101)
    assert world.rows("SELECT * FROM suspense_item") == []


def test_a_third_history_leaves_the_second_one_and_both_may_grow(world: World, tmp_path: Path) -> None:
    """What three files share is booked once; a longer copy of a known branch continues it."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 1)
    box.sync()
    twin.pay("A", "SHOP", 10)
    take(world, exported(twin, tmp_path / "two"))
    third = twin_of(world, twin)
    twin.pay("A", "SHOP", 20)
    third.pay("A", "SHOP", 40)
    longer = take(world, exported(twin, tmp_path / "longer"))
    assert (longer.branch, longer.fresh) == (1, 1)
    other = take(world, exported(third, tmp_path / "three"))
    assert (other.branch, other.fork_size, other.fresh) == (2, len(twin.bodies) - 1, 1)
    assert world.money("SHOP") == (71, 0, 71)
    assert world.rows("SELECT number, parent, size - fork_size FROM branch") == [(1, 0, 2), (2, 1, 1)]


def test_a_fork_that_a_push_has_shown_is_taken_in_from_the_file(world: World, tmp_path: Path) -> None:
    """The clone spoke first and forked the box; then its journal comes by hand, and a new epoch follows."""
    box = with_money(world)
    twin = twin_of(world, box)
    box.pay("A", "SHOP", 1)
    box.sync()
    twin.pay("A", "SHOP", 10)
    start = len(twin.bodies) - 1
    twin.open()
    assert twin.beat(push=twin.package(start, start + 1)).verdict is Verdict.FORKED
    assert take(world, exported(twin, tmp_path / "twin")).decided == 1
    assert len(world.rows("SELECT * FROM evidence")) == 1
    new_epoch(world, box)
    assert box.epoch == 2
    assert world.money("SHOP") == (11, 0, 11)


def test_the_clones_file_reached_a_restored_hub_before_the_box_did(world: World, tmp_path: Path) -> None:
    """It holds more of the old epoch than the box, and other records: unsaid, the box's own would be lost."""
    box = with_money(world)
    twin = twin_of(world, box)
    world.back_up(tmp_path / "backup.db")
    box.pay("A", "SHOP", 1)
    box.sync()
    new_epoch(world, box)
    world.restore(tmp_path / "backup.db")
    for amount_minor in (10, 20):
        twin.pay("A", "SHOP", amount_minor)
    assert take(world, exported(twin, tmp_path / "twin")).branch == 0
    mine = box.past[1]
    opened = box.give_back(box.open())
    assert opened.verdict is Verdict.OK
    said = next(head for head in opened.journals if head.number == 1)
    assert (said.size, said.root) == (len(mine), root_of(twin.bodies[: len(mine)]))
    shown = box.past_package(1, len(mine) - 1, len(mine))
    assert box.beat(push=shown).push is PackageVerdict.FORK
    assert world.rows("SELECT epoch FROM journal_head WHERE forked") == [(1,)]
    assert len(world.rows("SELECT * FROM evidence")) == 1
    assert world.row("SELECT state FROM box WHERE box = 'north'") == ("active",)


@pytest.mark.parametrize("seed", range(5))
def test_no_second_history_creates_or_destroys_money(world: World, tmp_path: Path, seed: int) -> None:
    """Random business in two histories with shared identities: the books are sound after every package, and
    every excess is in `loss` or waits for a person."""
    chance = random.Random(seed)
    world.fund("B", 600)
    box = with_money(world)
    box.sync(Ask("2", "B", CNY, 300))
    live = [box.hold("A", "SHOP", 50), box.hold("B", "HOME", 30)]
    box.sync()
    twin, fork = twin_of(world, box), len(box.bodies)
    identities = [f"{number:032x}" for number in range(1, 8)]
    for one in (box, twin):
        holds, used = list(live), set[str]()
        for _ in range(15):
            act(one, chance, holds, [name for name in identities if name not in used], used)
        if one is box:
            box.sync()
    box_bodies = list(box.bodies)
    if seed % 2:
        new_epoch(world, box)
    path = exported(twin, tmp_path / "twin", size=len(twin.bodies) - 5)
    take(world, path)
    taken = take(world, exported(twin, tmp_path / "whole"))
    books = everything(world)
    assert take(world, exported(twin, tmp_path / "whole")) == taken._replace(fresh=0, decided=0)
    assert everything(world) == books
    moved = moved_by(box_bodies, twin.bodies[fork:])
    assert {name: world.money(name)[0] for name in ("SHOP", "HOME")} == {
        name: moved[name] for name in ("SHOP", "HOME")
    }
    lost = world.row("SELECT COALESCE(SUM(amount_minor), 0) FROM loss WHERE account_id IN ('A', 'B')")[0]
    confirmed = world.row("SELECT COALESCE(SUM(amount_minor), 0) FROM stand_in WHERE state = 'confirmed'")[0]
    paid = 1_600 - world.money("A")[0] - world.money("B")[0]
    assert paid == -moved["A"] - moved["B"] - int(str(lost)) + int(str(confirmed))


def moved_by(first: list[bytes], second: list[bytes]) -> Counter[str]:
    """What two histories moved, told from their records alone: one identity with one content once, a hold by
    who resolved it first, pending legs not at all."""
    amounts: Counter[str] = Counter()
    decided: dict[str, object] = {}
    resolved: set[str] = set()
    for is_second, body in [*((False, one) for one in first), *((True, one) for one in second)]:
        record = msgspec.json.decode(body)
        request = record.get("request", {})
        if is_second and request and decided.get(request["id"]) == request:
            continue
        decided.setdefault(request.get("id", ""), request)
        for leg in record.get("legs", []):
            debit, credit, amount_minor, flags, pending = [*leg, 0, ""][:5] if len(leg) < 5 else leg[:5]
            if is_second and pending in resolved:
                continue
            resolved.add(pending or "none")
            if not flags & (PENDING | VOID) and not debit.startswith("centre:"):
                amounts[debit] -= amount_minor
                amounts[credit] += amount_minor
    return amounts


def act(box: SimulatedBox, chance: random.Random, holds: list[int], free: list[str], used: set[str]) -> None:
    """One thing that a box may do by itself, under an identity that the other history may use too."""
    payer, payee = chance.choice("AB"), chance.choice(("SHOP", "HOME"))
    identity = chance.choice(free) if free and chance.random() < 0.5 else ""
    used.add(identity)
    match chance.randrange(4):
        case 0 | 1:
            box.pay(payer, payee, chance.choice((10, 40, 120)), request_id=identity)
        case 2 if holds:
            seq = holds.pop()
            payer, payee, amount = ("A", "SHOP", 50) if seq == min(holds, default=seq) else ("B", "HOME", 30)
            box.resolve(seq, payer, payee, amount, void=chance.random() < 0.3)
        case _:
            box.stand_in(payer, payee, chance.choice((5, 15)), request_id=identity)
