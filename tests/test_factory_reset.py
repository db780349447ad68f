"""A factory reset: nothing goes that only the box has, and nothing stays that is secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edgegw.access.keys import SigningKey, make_signing_key
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import Box, load_box
from edgegw.core.exchange import Mode
from edgegw.core.messages import LinkNote, sign_link
from edgegw.core.records import ModeChanged, Operator
from edgegw.key_places import checkpoint_key_file, device_key_file, keystore_of
from edgegw.ledger import export
from edgegw.ledger.batch import Batch
from edgegw.ledger.boot import LedgerLock
from edgegw.ledger.store import Store
from edgegw.sm.sm2 import PrivateKey
from tests.ledger.running_box import KEY, TestClock, open_pen
from tests.processes import edgegw

BANK, BOX = "demo", "box-1"
HUB = SigningKey("demo/hub", PrivateKey.generate())
SETTINGS = """bank = "{bank}"
box = "{box}"
[hub]
key = "{hub}"
[[hub.addresses]]
url = "http://127.0.0.1:9"
[http]
port = 0
"""
SEALED = """[keys]
place = "passphrase"
[keys.passphrase]
passphrase_file = "words"
"""


class Machine:
    """A box that has run: settings, sealed keys, and a ledger of which the hub holds a part."""

    def __init__(
        self,
        folder: Path,
        *,
        is_cosigned: bool,
        more: str = "",
        later: Sequence[Callable[[Batch], None]] = (),
    ) -> None:
        """later: what it wrote after the hub's last word."""
        self.folder = folder
        self.path = folder / "box.toml"
        (folder / "words").write_text("horse battery staple")
        (folder / "words").chmod(0o600)
        self.path.write_text(SETTINGS.format(bank=BANK, box=BOX, hub=HUB.public.text()) + more)
        self.box: Box = load_box(self.path, protocol_shapes())
        data = folder / "data"
        data.mkdir()
        pen = open_pen(data, TestClock())
        link = LinkNote(
            bank=BANK, box=BOX, epoch=1, key=KEY.public.text(), old_epoch=0, old_size=0, old_root=""
        )
        pen.commit_now(partial(pen.write_link, note=sign_link(link, HUB), epoch=1))
        store = pen.desk.store
        if is_cosigned:
            store.begin()
            store.put_cosignature(epoch=1, size=pen.desk.tip.size, note="the hub's note")
            store.commit()
        for one in later:
            pen.commit_now(one)
        store.close()
        for file in ("data/ledger.lock", "data/log/box.jsonl", "anchor/anchor.json"):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text("x")
        (folder / "secrets").mkdir()
        for key in (device_key_file(self.box.settings), checkpoint_key_file(self.box.settings)):
            make_signing_key(keystore_of(self.box.settings), key)

    def reset(self, *words: str) -> tuple[int, str]:
        done = edgegw("factory-reset", "--config", str(self.path), "--yes", *words)
        return done.exit_code, done.output

    def left(self) -> set[str]:
        """Every file but the settings and the words of the place."""
        files = {str(one.relative_to(self.folder)) for one in self.folder.rglob("*") if one.is_file()}
        passing = {"data/ledger.db-wal", "data/ledger.db-shm", "data/ledger.lock"}
        return files - {"box.toml", "words"} - passing

    def export(self, name: str = "box.journal") -> str:
        store = Store.open_reader(self.folder / "data/ledger.db")
        with (self.folder / name).open("wb") as file:
            export.export_journal(store, file, epoch=1, progress=lambda *_: None)
        store.close()
        return str(self.folder / name)


def test_a_box_whose_records_the_centre_lacks_is_not_reset(tmp_path: Path) -> None:
    """Those payments would be gone, and the shop unpaid."""
    machine = Machine(tmp_path, is_cosigned=False)
    before = machine.left()
    code, said = machine.reset()
    assert (code, machine.left()) == (3, before)
    assert "records that the centre has not cosigned" in said
    assert "--export FOLDER" in said


def test_the_stop_that_the_centre_never_hears_of_is_no_loss(tmp_path: Path) -> None:
    """Each stop writes that the line is down; what a person ordered before it would be missed."""
    machine = Machine(tmp_path, is_cosigned=True, later=(_ordered, _line_down))
    assert "epoch 1: 2 records" in machine.reset()[1]
    (tmp_path / "other").mkdir()
    assert Machine(tmp_path / "other", is_cosigned=True, later=(_line_down,)).reset()[0] == 0


def _ordered(batch: Batch) -> None:
    batch.note_and_write(Operator(**batch.head(), operator="mei", action="drill", detail=""))


def _line_down(batch: Batch) -> None:
    mode = ModeChanged(**batch.head(), mode=Mode.OFFLINE, previous=batch.book.mode, reason="the box stops")
    batch.note_and_write(mode)


def test_an_export_that_verifies_lets_the_reset_through_and_no_other_file_does(tmp_path: Path) -> None:
    """A file that somebody wrote to get past the question proves nothing."""
    machine = Machine(tmp_path, is_cosigned=False)
    good = machine.export()
    short = tmp_path / "edited.journal"
    short.write_bytes(Path(good).read_bytes().replace(b'"boot"', b'"boat"', 1))
    assert machine.reset("--exported", str(short))[0] == 2
    inside = tmp_path / "data/box.journal"
    inside.write_bytes(Path(good).read_bytes())
    assert machine.reset("--exported", str(inside))[0] == 2
    inside.unlink()
    assert machine.reset("--exported", good)[0] == 0
    assert machine.left() == {"box.journal", "edited.journal"}


def test_what_only_the_box_has_goes_to_the_stick_before_it_goes(tmp_path: Path) -> None:
    """A technician in a branch without a line has one command, and one stick."""
    (tmp_path / "box").mkdir()
    machine, stick = Machine(tmp_path / "box", is_cosigned=False), tmp_path / "stick"
    stick.mkdir()
    size = (tmp_path / "box/data/ledger.db").stat().st_size
    assert machine.reset("--export", str(tmp_path / "box/data"))[0] == 2
    assert (tmp_path / "box/data/ledger.db").stat().st_size == size
    (tmp_path / "box/data/box-1-epoch-1.journal").unlink()
    code, said = machine.reset("--export", str(stick))
    assert code == 0, said
    assert machine.left() == set()
    (journal,) = stick.iterdir()
    verified = edgegw("verify", "--box-key", KEY.public.text(), "journal", str(journal))
    assert verified.exit_code == 0, verified.output


def test_a_reset_leaves_neither_keys_nor_data_and_can_be_repeated(tmp_path: Path) -> None:
    """A machine that is sold, or sent back, must open nothing that was copied from its disk before."""
    machine = Machine(tmp_path, is_cosigned=True, more=SEALED)
    (slot,) = (tmp_path / "secrets").glob("*.kek.*")
    os.link(slot, tmp_path / "words.kept")
    code, said = machine.reset()
    assert code == 0, said
    assert not slot.exists()
    assert set((tmp_path / "words.kept").read_bytes()) == {0}
    (tmp_path / "words.kept").unlink()
    assert machine.left() == set()
    assert machine.reset()[0] == 0


def test_a_running_box_is_not_reset(tmp_path: Path) -> None:
    """Its next COMMIT would go into files that are gone."""
    machine = Machine(tmp_path, is_cosigned=True)
    lock = LedgerLock(tmp_path / "data")
    try:
        assert machine.reset()[0] == 3
    finally:
        lock.release()


def test_a_statement_that_cannot_be_kept_leaves_the_box_as_it_was(tmp_path: Path) -> None:
    """The key is gone afterwards: nobody could sign another one."""
    machine = Machine(tmp_path, is_cosigned=True)
    before = machine.left()
    there = tmp_path / "box.journal"
    there.write_text("an export that somebody named by mistake")
    for place in (tmp_path / "gone/reset.json", tmp_path / "data/reset.json", there):
        assert machine.reset("--statement", str(place))[0] == 2
        assert machine.left() == before | {"box.journal"}
    assert machine.reset("--statement", str(tmp_path / "reset.json"))[0] == 0
    assert machine.left() == {"box.journal", "reset.json"}
