"""Starting: who may open a ledger, and how a copy of the past is found."""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgegw.access.keys import create_signing_key
from edgegw.errors import Behind, Forked, LedgerForeign, LedgerInUse
from edgegw.ledger.anchor import FILE_NAME, LINEAGE, Anchor
from edgegw.ledger.boot import LEDGER_NAME, LedgerLock, Opened, open_ledger
from edgegw.ledger.outcomes import Budget
from edgegw.ledger.start import Ways, begin_epoch
from edgegw.ledger.store import Store
from tests.ledger.pens import BANK, BOX, TestPen, full_check
from tests.ledger.running_box import TestClock, own
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Branch:
    """A box's two media: the data directory and the anchor's."""

    def __init__(self, home: Path) -> None:
        self.data = home / "data"
        self.outside = home / "outside"
        self.boots = 0

    def open(self, *, box: str = BOX) -> Opened:
        self.boots += 1
        return open_ledger(
            self.data,
            anchor_directory=self.outside,
            bank=BANK,
            box=box,
            boot=f"boot-{self.boots}",
            create=True,
        )

    def pen(self, opened: Opened, *, epoch: int = 1) -> TestPen:
        pen = TestPen(opened.store, epoch=epoch, boot=f"boot-{self.boots}")
        pen.resume()
        return pen

    def run(self, transfers: int) -> None:
        """One untroubled run with a clean stop."""
        opened = self.open()
        assert opened.trouble is None
        pen = self.pen(opened)
        pen.write_transfers(transfers)
        opened.anchor.note(epoch=pen.epoch, size=pen.size, root=pen.frontier.root())
        opened.close()

    def begin(self, opened: Opened, *, epoch: int) -> None:
        """As `edgegw run` begins an epoch."""
        token = opened.anchor.offer(opened.store)
        names = {"bank": BANK, "box": BOX, "boot": f"boot-{self.boots}"}
        mine = msgspec.structs.replace(own(), **names)
        ways = Ways(
            clock=TestClock(),
            rules=(),
            budget=Budget(burst=1, per_second=1),
            room_for_payments=lambda: True,
            make_room=lambda: None,
        )
        begin_epoch(opened.store, mine, ways, note="the link", epoch=epoch, lineage=token)
        opened.anchor.confirm(token)

    def trouble(self) -> Behind | Forked | None:
        opened = self.open()
        opened.store.close()
        opened.lock.release()
        return opened.trouble

    def backup(self, place: Path) -> None:
        shutil.copytree(self.data, place)

    def restore(self, place: Path) -> None:
        shutil.rmtree(self.data)
        shutil.copytree(place, self.data)


@pytest.fixture
def branch(tmp_path: Path) -> Branch:
    return Branch(tmp_path)


def test_a_box_starts_again_and_again(branch: Branch) -> None:
    """A normal restart must never look like a restore."""
    for _ in range(3):
        branch.run(10)
    assert branch.trouble() is None


def test_a_box_that_was_never_enrolled_may_lose_its_ledger(branch: Branch) -> None:
    """Nothing was lost, so nothing is behind: set-up must be repeatable."""
    branch.open().close()
    shutil.rmtree(branch.data)
    assert branch.trouble() is None


def test_a_ledger_restored_from_an_earlier_boot_is_behind(branch: Branch, tmp_path: Path) -> None:
    """What was paid since the backup would be paid again."""
    branch.run(10)
    branch.backup(tmp_path / "backup")
    branch.run(0)
    branch.restore(tmp_path / "backup")
    trouble = branch.trouble()
    assert isinstance(trouble, Behind)
    assert "edgegw ledger check" in trouble.hint


def test_a_ledger_restored_within_one_boot_is_behind(branch: Branch, tmp_path: Path) -> None:
    """The token is the same, but the journal had come further."""
    opened = branch.open()
    pen = branch.pen(opened)
    pen.write_transfers(10)
    branch.backup(tmp_path / "backup")
    pen.write_transfers(10)
    opened.anchor.note(epoch=1, size=pen.size, root=pen.frontier.root())
    opened.close()
    branch.restore(tmp_path / "backup")
    trouble = branch.trouble()
    assert isinstance(trouble, Behind)
    assert "1/10" in str(trouble)
    assert "1/20" in str(trouble)


def test_a_lost_ledger_is_behind(branch: Branch) -> None:
    """An empty disk in an old box must not start at record 0 of a journal that exists."""
    branch.run(10)
    shutil.rmtree(branch.data)
    assert isinstance(branch.trouble(), Behind)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b'{"v":1,"bank":"demo-bank","box":"branch-1","size":"x"}']
)
def test_a_ledger_without_its_anchor_is_behind(branch: Branch, content: bytes | None) -> None:
    """A clone of the disk has no second medium, and must not clear beside its original."""
    branch.run(10)
    anchor = branch.outside / FILE_NAME
    if content is None:
        anchor.unlink()
    else:
        anchor.write_bytes(content)
    trouble = branch.trouble()
    assert isinstance(trouble, Behind)
    assert str(anchor) in str(trouble)
    assert "edgegw ledger check" in trouble.hint


def test_a_clone_with_another_boxs_anchor_is_refused(branch: Branch, tmp_path: Path) -> None:
    """Two boxes set to one anchor directory would each find the other's past."""
    branch.run(10)
    other = Branch(tmp_path / "other")
    other.outside = branch.outside
    with pytest.raises(LedgerForeign, match="branch-1") as caught:
        other.open(box="branch-2")
    assert "anchor_dir" in caught.value.hint


def test_a_rewritten_history_is_forked(branch: Branch) -> None:
    """A longer journal that is not a continuation of the anchored one is not our past."""
    branch.run(10)
    anchor = branch.outside / FILE_NAME
    root = anchor.read_text().partition('"root":"')[2][:64]
    anchor.write_text(anchor.read_text().replace(root, "0" * 64))
    assert isinstance(branch.trouble(), Forked)


def test_a_troubled_ledger_is_left_as_it_is(branch: Branch, tmp_path: Path) -> None:
    """It is evidence, and a second start must find the same trouble."""
    branch.run(10)
    branch.backup(tmp_path / "backup")
    branch.run(1)
    branch.restore(tmp_path / "backup")
    anchored = (branch.outside / FILE_NAME).read_bytes()
    for _ in range(2):
        assert isinstance(branch.trouble(), Behind)
    assert (branch.outside / FILE_NAME).read_bytes() == anchored
    store = Store.open(branch.data / LEDGER_NAME)
    assert [head.boot for head in store.heads()] == ["boot-1"]


class _Crash(Exception):
    """The process ends here."""


def _crash(*_: object, **__: object) -> None:
    raise _Crash


STEPS: list[tuple[str, type, str]] = [
    ("before the file has the new token", Anchor, "offer"),
    ("before the ledger has it", Store, "put_meta"),
    ("before its COMMIT", Store, "commit"),
    ("before the file drops the old token", Anchor, "confirm"),
]


@pytest.mark.parametrize(("owner", "step"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("records", [0, 5])
def test_a_crash_between_the_steps_of_a_new_lineage_still_starts(
    branch: Branch, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, times: int, records: int
) -> None:
    """A power cut during the start must not make a healthy box useless."""
    branch.run(records)
    for _ in range(times):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, _crash)
            with pytest.raises(_Crash):
                branch.open()
    assert branch.trouble() is None
    branch.run(1)


def test_a_crash_after_the_first_token_still_starts(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very first start of a box may be cut off as well."""
    with monkeypatch.context() as patched:
        patched.setattr(Store, "claim_head", _crash)
        with pytest.raises(_Crash):
            branch.open()
    branch.run(1)
    assert branch.trouble() is None


@pytest.mark.parametrize("lost_before", ["seal", "confirm", ""])
def test_a_new_epoch_ends_being_behind_or_leaves_it(
    branch: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_before: str
) -> None:
    """A crash half-way through a new epoch must never let the box go on in the old one."""
    branch.run(10)
    branch.backup(tmp_path / "backup")
    branch.run(5)
    branch.restore(tmp_path / "backup")
    opened = branch.open()
    assert isinstance(opened.trouble, Behind)
    token = opened.anchor.offer(opened.store)
    pen = branch.pen(opened, epoch=2)
    pen.begin()
    opened.store.put_meta(LINEAGE, token)
    pen.append(pen.transfer(0))
    if lost_before != "seal":
        pen.seal(0)
        if lost_before != "confirm":
            opened.anchor.confirm(token)
    opened.store.close()
    opened.lock.release()
    assert isinstance(branch.trouble(), Behind) == (lost_before == "seal")


def test_a_second_process_is_told_who_has_the_ledger(branch: Branch, tmp_path: Path) -> None:
    """Two processes that both decide payments from their own memory would double them."""
    opened = branch.open()
    script = (
        "import sys, pathlib\n"
        "from edgegw.ledger.boot import LedgerLock\n"
        "from edgegw.errors import LedgerInUse\n"
        "try:\n    LedgerLock(pathlib.Path(sys.argv[1]))\n"
        "except LedgerInUse as problem:\n    sys.exit(str(problem))\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", script, str(branch.data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "has the ledger" in second.stderr
    with pytest.raises(LedgerInUse):
        LedgerLock(branch.data)
    opened.close()
    LedgerLock(branch.data).release()


def test_the_anchor_follows_by_itself(branch: Branch) -> None:
    """A box that is never stopped cleanly must still have an anchor that is about a second old."""
    opened = branch.open()
    pen = branch.pen(opened)
    pen.write_transfers(4)
    opened.anchor.note(epoch=1, size=4, root=pen.frontier.root())
    written = branch.outside / FILE_NAME
    wait_until(lambda: '"size":4' in written.read_text(), "the anchor of size 4")
    assert opened.anchor.failure is None
    opened.close()


def test_an_anchor_that_cannot_be_written_is_seen(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead second medium must not pass in silence, nor stop payments."""
    opened = branch.open()
    pen = branch.pen(opened)
    pen.write_transfers(4)
    away = branch.outside.rename(branch.outside.with_name("away"))
    opened.anchor.note(epoch=1, size=4, root=pen.frontier.root())
    wait_until(lambda: opened.anchor.failure is not None, "the failure to be seen")
    away.rename(branch.outside)
    wait_until(lambda: opened.anchor.failure is None, "the anchor to be written after all")
    opened.close()
    assert '"size":4' in (branch.outside / FILE_NAME).read_text()


def test_the_anchor_never_goes_back(branch: Branch) -> None:
    """Notes may arrive out of order; the furthest counts."""
    opened = branch.open()
    pen = branch.pen(opened)
    pen.write_transfers(4)
    opened.anchor.note(epoch=1, size=4, root=pen.frontier.root())
    wait_until(lambda: '"size":4' in (branch.outside / FILE_NAME).read_text(), "the anchor of size 4")
    opened.anchor.note(epoch=1, size=3, root=bytes(32))
    opened.close()
    assert '"size":4' in (branch.outside / FILE_NAME).read_text()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sigkill_loses_no_acknowledged_record(tmp_path: Path, seed: int) -> None:
    """Whatever was told to be on disk is there after SIGKILL, and the box starts untroubled."""
    rng = random.Random(seed)
    key = create_signing_key(tmp_path / "key.pem", f"{BANK}/{BOX}")
    told = 0
    for round_ in range(3):
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.ledger.killed_pen",
                str(tmp_path),
                f"boot-{round_}",
                str(seed * 10 + round_),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        told = max([told, *map(int, child.stdout.read().split())])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        _check_after_kill(tmp_path, told, key.public.open)


def _check_after_kill(directory: Path, told: int, verify: Callable[[str], object]) -> None:
    opened = open_ledger(
        directory, anchor_directory=directory / "outside", bank=BANK, box=BOX, boot="look", create=False
    )
    assert opened.trouble is None
    head = opened.store.head(1)
    assert head is not None
    assert head.size >= told > 0
    report = full_check(opened.store, verify_checkpoint=verify)
    assert report.findings == []
    assert report.records == head.size
    opened.close()


@pytest.mark.parametrize("crashed_at", ["put_meta", "seal", "confirm"])
@pytest.mark.parametrize("was_behind", [True, False])
def test_a_crash_while_an_epoch_begins_leaves_the_ledger_before_or_after_it(
    branch: Branch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crashed_at: str, was_behind: bool
) -> None:
    """Half a new epoch would be one that no start could go on with, or one without its lineage."""
    branch.run(10)
    branch.backup(tmp_path / "backup")
    branch.run(5)
    if was_behind:
        branch.restore(tmp_path / "backup")
    opened = branch.open()
    with monkeypatch.context() as patched:
        owner = Anchor if crashed_at == "confirm" else Store
        patched.setattr(owner, crashed_at, _crash)
        with pytest.raises(_Crash):
            branch.begin(opened, epoch=2)
    if crashed_at != "confirm":
        opened.store.rollback()
    opened.store.close()
    opened.lock.release()
    again = branch.open()
    has_begun = crashed_at == "confirm"
    assert isinstance(again.trouble, Behind) == (was_behind and not has_begun)
    assert [head.epoch for head in again.store.heads()] == ([1, 2] if has_begun else [1])
    if not has_begun:
        branch.begin(again, epoch=2)
    again.close()
    assert branch.trouble() is None
    assert [head.size for head in Store.open(branch.data / LEDGER_NAME).heads()][1] == 3


def test_a_ledger_that_got_records_back_stays_behind_though_its_anchor_fits_again(branch: Branch) -> None:
    """What others hold of a past is not all of it: only a new epoch ends it."""
    branch.run(10)
    opened = branch.open()
    assert opened.trouble is None
    opened.disown()
    opened.close()
    trouble = branch.trouble()
    assert isinstance(trouble, Behind)
    assert "new epoch" in str(trouble)
