"""Publishing: what a hub serves, or a stick holds, is whole at every moment, and nothing else is touched."""

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Timestamp

from edgegw.update import repository as module
from edgegw.update.publishing import publish
from edgegw.update.repository import Life, Repository, RepositoryFault
from edgegw.update.sources import FolderSource
from tests.power import Power
from tests.update.appliance import NOON, Appliance, Releases

LIFE = Life(NOON)


def test_publishing_puts_the_timestamp_last_and_never_goes_back(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """A box that reads in between sees the state before; a hub that has signed since is not overtaken."""
    served = Repository(tmp_path / "served")
    publish(releases.repository, served.folder, online=None, life=LIFE)
    for _ in range(3):
        served.refresh(releases.online, LIFE)
    assert appliance.look(source=FolderSource(served.folder)).end == "nothing"
    releases.release("1.1.0")
    with pytest.raises(RepositoryFault, match="replay"):
        publish(releases.repository, served.folder, online=None, life=LIFE)
    publish(releases.repository, served.folder, online=releases.online, life=LIFE)
    assert appliance.look(source=FolderSource(served.folder)).end == "restarts"
    releases.repository.roll_out("1.1.0", None, signers=[releases.signer], online=releases.online, life=LIFE)
    publish(releases.repository, served.folder, online=releases.online, life=LIFE)
    assert list(served.targets_folder.iterdir()) == []


def test_a_hub_that_signs_beside_a_publication_brings_no_old_state_back(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """It read the timestamp before and wrote after: under one number boxes saw two states, and a week later
    they refused the next as a replay."""
    folder = tmp_path / "served"
    publish(releases.repository, folder, online=None, life=LIFE)
    releases.release("1.1.0")
    errors: list[RepositoryFault] = []

    def publishes() -> None:
        try:
            publish(releases.repository, folder, online=releases.online, life=LIFE)
        except RepositoryFault as problem:
            errors.append(problem)

    person = threading.Thread(target=publishes)

    class Hub(Repository):
        def timestamp(self) -> Metadata[Timestamp]:
            read = super().timestamp()
            person.start()
            person.join(0.5)  # it is done by then, or it waits for this hub
            return read

    Hub(folder).refresh(releases.online, Life(NOON + timedelta(days=8)), always=False)
    person.join()
    assert errors == []
    shown = Repository(folder).timestamp().signed
    assert shown.snapshot_meta.version == releases.repository.timestamp().signed.snapshot_meta.version
    assert appliance.look(source=FolderSource(folder)).end == "restarts"


def test_nobody_waits_for_ever_for_another_publication(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was stopped half-way must not hold up the hub."""
    served = Repository(tmp_path / "served")
    publish(releases.repository, served.folder, online=None, life=LIFE)
    monkeypatch.setattr(module, "ALONE_S", 0.0)
    with served.alone(), pytest.raises(RepositoryFault, match="is writing here"):
        served.refresh(releases.online, LIFE)
    served.refresh(releases.online, LIFE)


@pytest.mark.parametrize("name", ["targets/photo.jpg", "letter.txt", "metadata/notes.json", "targets/a/b"])
def test_a_folder_of_somebodys_is_left_as_it_is(releases: Releases, tmp_path: Path, name: str) -> None:
    """`publish releases ~` took away whatever lay in ~/targets."""
    path = tmp_path / "home" / name
    path.parent.mkdir(parents=True)
    path.write_text("dear")
    with pytest.raises(RepositoryFault, match="is no published repository") as problem:
        publish(releases.repository, tmp_path / "home", online=None, life=LIFE)
    assert "Give an empty folder" in problem.value.hint
    assert [one for one in (tmp_path / "home").rglob("*") if one.is_file()] == [path]


def test_a_stick_that_is_not_to_wait_is_published_to(releases: Releases, tmp_path: Path) -> None:
    """Who lays the file NOW there first, and the releases then, means the same."""
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "NOW").touch()
    publish(releases.repository, folder, online=None, life=LIFE)
    assert sorted(path.name for path in folder.iterdir()) == ["NOW", "metadata", "targets"]


def test_what_is_not_the_repositorys_stays_beside_the_bundles(releases: Releases, tmp_path: Path) -> None:
    """Only bundles that are offered no more go, also what a cut has left of one."""
    served, digest = tmp_path / "served", "a" * 64
    releases.release("1.1.0")
    publish(releases.repository, served, online=None, life=LIFE)
    offered = {one.name for one in (served / "targets").iterdir()}
    (served / "targets/folder").mkdir()
    for name in ("README", f"{digest}.old.raucb", f".{digest}.cut.raucb.new"):
        (served / "targets" / name).write_text("x")
    publish(releases.repository, served, online=None, life=LIFE)
    assert {one.name for one in (served / "targets").iterdir()} == {*offered, "README", "folder"}


def test_another_repository_is_never_published_over(releases: Releases, tmp_path: Path) -> None:
    """The boxes that read there would believe nothing any more."""
    (tmp_path / "other").mkdir()
    other = Releases(tmp_path / "other")
    publish(other.repository, tmp_path / "served", online=None, life=LIFE)
    with pytest.raises(RepositoryFault, match="is another root"):
        publish(releases.repository, tmp_path / "served", online=releases.online, life=LIFE)
    with pytest.raises(RepositoryFault, match="itself"):
        publish(releases.repository, releases.repository.folder, online=releases.online, life=LIFE)


def test_an_old_copy_of_the_repository_is_not_published(releases: Releases, tmp_path: Path) -> None:
    """With a fresh timestamp over old releases every box that saw the newer ones refuses for good."""
    old = releases.elsewhere(tmp_path / "old")
    releases.release("1.1.0")
    publish(releases.repository, tmp_path / "served", online=None, life=LIFE)
    with pytest.raises(RepositoryFault, match="older than what they have seen"):
        publish(old.repository, tmp_path / "served", online=old.online, life=LIFE)


def test_a_publication_that_the_power_cuts_shows_no_empty_files(
    releases: Releases, appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was renamed and not synced is empty after a power cut; boxes refused a hub like that."""
    kept: set[int] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        kept.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    power = Power(monkeypatch, "replace", "fsync", "unlink")
    releases.release("1.1.0")
    for steps in range(100):
        served = tmp_path / f"served-{steps}"
        with power.fails_after(steps) as outcome:
            publish(releases.repository, served, online=None, life=LIFE)
        for path in served.rglob("*"):
            if path.is_file() and path.stat().st_ino not in kept:
                path.write_bytes(b"")
        named = [path for path in served.rglob("*.*") if path.is_file() and path.name[0] != "."]
        assert [path.name for path in named if not path.stat().st_size] == []
        if not outcome.failed:
            break
        publish(releases.repository, served, online=None, life=LIFE)
        assert not list(served.rglob(".*"))
    assert steps > 10
    assert appliance.look(source=FolderSource(served)).end == "restarts"
