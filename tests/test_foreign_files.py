"""What lies on a stick, or in its empty folder, and is no file: nobody waits for it, nobody follows it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.commands import update as command
from edgegw.config.options import SettingsError
from edgegw.errors import LinkDown
from edgegw.first_boot.sources import STICK_CLAIM, lying_there
from edgegw.foreign_files import open_regular
from edgegw.machine import started
from edgegw.update.health import RUNNING_NAME, running_box
from edgegw.update.sources import METADATA_FOLDER, TARGETS_FOLDER, FolderSource

KINDS = ("pipe", "link", "folder", "device", "linked_folder")


@pytest.fixture(autouse=True)
def waits_for_nothing() -> Iterator[None]:
    """Whoever opens a pipe to read waits until somebody writes: here that ends, and is red."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for what is no file")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def lay(path: Path, kind: str) -> None:
    """Put something of this kind there, that leads to a true file where it leads anywhere."""
    elsewhere = path.parents[1] / f"elsewhere-{path.parent.name}"
    elsewhere.mkdir(parents=True)
    (elsewhere / path.name).write_text("{}")
    if kind == "linked_folder":
        path.parent.symlink_to(elsewhere)
        return
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(elsewhere / path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        try:
            os.mknod(path, 0o20600, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stick_with_no_true_file_holds_up_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The folder belongs to the box's user while no stick is in: the agent, which is root, would wait there
    for ever, and no release would come any more."""
    for name in (METADATA_FOLDER, TARGETS_FOLDER):
        lay(tmp_path / name / "timestamp.json", kind)
    source = FolderSource(tmp_path)
    with pytest.raises(LinkDown):
        source.metadata("timestamp.json", bytes_max=10)
    with pytest.raises(LinkDown):
        source.bundle("timestamp.json", start=0, take=lambda *_: None)
    monkeypatch.setattr(command, "STICK", tmp_path)
    assert command._stick_signature() == ""
    with pytest.raises(SettingsError):
        command._repository_of(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_that_is_no_file_holds_up_no_first_boot(tmp_path: Path, kind: str) -> None:
    """The page would not answer any more, and no claim be taken."""
    lay(tmp_path / STICK_CLAIM, kind)
    assert list(lying_there(tmp_path)) == []


def test_a_box_that_says_nothing_holds_up_no_trial(tmp_path: Path) -> None:
    """The box's own folder is the box's: what judges it must not wait for it."""
    os.mkfifo(tmp_path / RUNNING_NAME)
    assert running_box(tmp_path, started) is None


def test_a_true_file_is_opened(tmp_path: Path) -> None:
    """A stick is there to be read."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("it")
    with open_regular(tmp_path, "a", "b") as file:
        assert file.read() == b"it"
