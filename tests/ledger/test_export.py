"""What leaves the box for an auditor: the stand-alone verifier must accept it, and nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegw import verifier
from edgegw.errors import LedgerCorrupt, LedgerForeign
from edgegw.ledger.export import export_directives, export_journal
from edgegw.ledger.store import Store
from tests.ledger.pens import HUB, KEY, TestPen, new_store, write_directives

SIZE = 2_500
BOX_KEY = ("--box-key", KEY.public.text())
HUB_KEY = ("--hub-key", HUB.public.text())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = new_store(tmp_path_factory.mktemp("exported"))
    pen = TestPen(store)
    pen.write_transfers(SIZE)
    pen.cosign(2_000)
    write_directives(store, 30)
    return store


def verified(path: Path, *keys: str) -> int:
    """The exit code of the verifier as an auditor runs it: one file, nothing of ours beside it."""
    command = [sys.executable, "-I", str(verifier.__file__), *keys, "journal", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def exported(store: Store, path: Path) -> Path:
    with path.open("wb") as out:
        export_journal(store.reader(), out, epoch=1, progress=lambda *_: None)
    return path


def test_an_export_verifies(store: Store, tmp_path: Path) -> None:
    """An auditor must be able to check the journal with nothing but the keys."""
    assert verified(exported(store, tmp_path / "journal"), *BOX_KEY, *HUB_KEY) == 0


def test_an_edited_export_does_not_verify(store: Store, tmp_path: Path) -> None:
    """One digit on its way to the auditor."""
    path = exported(store, tmp_path / "journal")
    path.write_bytes(path.read_bytes().replace(b'"amount_minor":301', b'"amount_minor":901'))
    assert verified(path, *BOX_KEY, *HUB_KEY) == 1


def test_an_export_of_the_directives_verifies(store: Store, tmp_path: Path) -> None:
    """What the hub ordered can be shown by the box as well."""
    path = tmp_path / "directives"
    with path.open("wb") as out:
        assert export_directives(store, out, incarnation=1, progress=lambda *_: None).size == 30
    assert verified(path, *HUB_KEY) == 0


def test_progress_ends_at_the_whole(store: Store, tmp_path: Path) -> None:
    """Whoever waits for millions of records wants to see them come."""
    told: list[tuple[int, int]] = []
    with (tmp_path / "journal").open("wb") as out:
        export_journal(store, out, epoch=1, progress=lambda *step: told.append(step))
    assert told[-1] == (SIZE, SIZE)
    assert told == sorted(told)
    assert len(told) > 1


@pytest.mark.parametrize(
    "export",
    [
        lambda store, out: export_journal(store, out, epoch=2, progress=lambda *_: None),
        lambda store, out: export_directives(store, out, incarnation=7, progress=lambda *_: None),
    ],
)
def test_nothing_to_export_is_said(store: Store, tmp_path: Path, export: Callable[..., object]) -> None:
    """An empty file would look like an empty journal."""
    path = tmp_path / "journal"
    with path.open("wb") as out, pytest.raises(LedgerForeign) as caught:
        export(store, out)
    assert caught.value.hint == "It has 1."
    assert path.stat().st_size == 0


def test_a_gap_ends_the_export(tmp_path: Path) -> None:
    """A file that silently skips a lost record would be an auditor's first lie."""
    store = new_store(tmp_path)
    TestPen(store).write_transfers(20)
    store._db.execute("DROP TRIGGER record_keeps_rows")
    store._db.execute("DELETE FROM record WHERE position & 0xff = 7")
    with (tmp_path / "journal").open("wb") as out, pytest.raises(LedgerCorrupt, match="missing"):
        export_journal(store, out, epoch=1, progress=lambda *_: None)
