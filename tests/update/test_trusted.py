"""Metadata that is replayed, frozen, mixed, endless or signed by others is refused; payments never ask."""

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Root

from edgegw.update.repository import Keys, Life, Repository, RepositoryFault, replace_keys
from edgegw.update.sources import FolderSource, TooLong
from tests.update.appliance import NOON, Appliance, Releases, key

LIFE = Life(NOON)


def problem_of(appliance: Appliance, source: FolderSource | None = None) -> str:
    """What a look refuses, with the mend."""
    outcome = appliance.look(source=source)
    assert (outcome.end, appliance.restarts, appliance.slot) == ("refused", 0, "a")
    assert outcome.hint
    return outcome.said


def test_metadata_that_was_replaced_by_an_older_state_is_a_replay(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """Whoever holds the hub could keep a box from the release that closes a hole."""
    old = releases.elsewhere(tmp_path / "old")
    releases.repository.refresh(releases.online, LIFE)
    assert appliance.look().end == "nothing"
    assert "older than what this box has seen" in problem_of(appliance, old.source)


def test_metadata_that_nobody_signs_afresh_is_frozen_and_told(
    releases: Releases, appliance: Appliance
) -> None:
    """A box that is shown the same for ever must say so, and go on with its payments."""
    releases.release("1.1.0")
    appliance.now = NOON + timedelta(days=15)
    assert "frozen" in problem_of(appliance)
    assert "frozen" in appliance.state.problem
    releases.repository.refresh(releases.online, Life(appliance.now))
    assert appliance.look().end == "restarts"


def test_a_clock_from_before_the_image_was_built_does_not_revive_what_has_ended(
    releases: Releases, appliance: Appliance
) -> None:
    """An empty battery must not make stale metadata fresh."""
    releases.release("1.1.0")
    appliance.now = NOON - timedelta(days=4_000)
    built = int((NOON + timedelta(days=20)).timestamp())
    image = appliance.versions["a"]
    appliance.versions["a"] = type(image)(
        version=image.version, compatible=image.compatible, security_epoch=1, built_s=built
    )
    assert "frozen" in problem_of(appliance)


@pytest.mark.parametrize("name", ["snapshot", "targets"])
def test_parts_of_two_states_are_not_taken_together(
    releases: Releases, appliance: Appliance, tmp_path: Path, name: str
) -> None:
    """Mixing an old list of releases with new dates is an attack that signatures alone do not see."""
    other = releases.elsewhere(tmp_path / "other")
    releases.release("1.1.0")
    other.release("1.2.0")
    shutil.copy(other.repository.metadata / f"2.{name}.json", releases.repository.metadata / f"2.{name}.json")
    assert "do not belong together" in problem_of(appliance)


def test_metadata_without_an_end_is_cut_off(releases: Releases, appliance: Appliance) -> None:
    """An endless answer must not fill the memory of a box that clears payments."""
    releases.release("1.1.0")
    asked: list[int] = []

    class Endless(FolderSource):
        def metadata(self, name: str, *, bytes_max: int) -> bytes:
            asked.append(bytes_max)
            if name == "timestamp.json":
                raise TooLong(f"{name}: more than {bytes_max} bytes")
            return super().metadata(name, bytes_max=bytes_max)

    assert "without end" in problem_of(appliance, Endless(releases.repository.folder))
    assert max(asked) <= 5_000_000


def test_metadata_beyond_its_own_limit_is_refused(releases: Releases, appliance: Appliance) -> None:
    """A timestamp is some hundred bytes; megabytes of it are no timestamp."""
    path = releases.repository.metadata / "timestamp.json"
    path.write_bytes(path.read_bytes() + b" " * 20_000)
    assert "without end" in problem_of(appliance)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"signed": {}}', b"\xff\xfe", b"null", b"[" * 60_000])
def test_metadata_that_is_none_is_refused(releases: Releases, appliance: Appliance, body: bytes) -> None:
    """A torn file, or a page of a captive portal, must not end the agent."""
    (releases.repository.metadata / "timestamp.json").write_bytes(body[:16_000])
    assert appliance.look().end in ("refused", "away")
    assert appliance.restarts == 0


def test_releases_signed_by_other_keys_are_refused(
    releases: Releases, appliance: Appliance, tmp_path: Path
) -> None:
    """Another bank's repository, or a forged one, is none."""
    (tmp_path / "stranger").mkdir()
    stranger = Releases(tmp_path / "stranger")
    stranger.release("9.9.9")
    assert "was signed by 0/1 keys" in problem_of(appliance, stranger.source)


def test_a_stolen_online_key_publishes_nothing(releases: Releases, appliance: Appliance) -> None:
    """The key that lies on the hub must not be able to name a bundle."""
    offer_by = releases.signer
    releases.signer = releases.online
    with pytest.raises(RepositoryFault, match="targets"):
        releases.release("1.1.0")
    releases.signer = offer_by
    repository = releases.repository
    targets = repository.targets()
    targets.signed.version += 1
    targets.sign(releases.online)
    body = targets.to_bytes()
    (repository.metadata / f"{targets.signed.version}.targets.json").write_bytes(body)
    snapshot, timestamp = repository.snapshot(), repository.timestamp()
    snapshot.signed.version += 1
    meta = snapshot.signed.meta["targets.json"]
    meta.version, meta.length = targets.signed.version, len(body)
    meta.hashes = {"sha256": hashlib.sha256(body).hexdigest()}
    snapshot.sign(releases.online)
    snapshot_body = snapshot.to_bytes()
    (repository.metadata / f"{snapshot.signed.version}.snapshot.json").write_bytes(snapshot_body)
    timestamp.signed.version += 1
    meta = timestamp.signed.snapshot_meta
    meta.version, meta.length = snapshot.signed.version, len(snapshot_body)
    meta.hashes = {"sha256": hashlib.sha256(snapshot_body).hexdigest()}
    timestamp.sign(releases.online)
    (repository.metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
    assert "signed by 0/1 keys" in problem_of(appliance)


def test_a_root_follows_the_one_before_by_its_signatures(releases: Releases, appliance: Appliance) -> None:
    """Keys are lost and change; boxes that were away for years must find their way by themselves."""
    assert appliance.look().end == "nothing"
    second, signer, online = key(), key(), key()

    def change(root: Root) -> None:
        replace_keys(root, "root", add=[second.public_key], drop=[], threshold=2)
        replace_keys(
            root,
            "targets",
            add=[signer.public_key],
            drop=[releases.signer.public_key.keyid],
            threshold=None,
        )
        for role in ("snapshot", "timestamp"):
            replace_keys(
                root,
                role,
                add=[online.public_key],
                drop=[releases.online.public_key.keyid],
                threshold=None,
            )

    repository = releases.repository
    assert repository.rotate(change, [releases.root], LIFE) == 2
    assert repository.root().signed.version == 1  # half of the new threshold
    assert repository.sign_root([second])
    releases.signer, releases.online = signer, online
    releases.release("1.1.0")
    repository.rotate(lambda _: None, [releases.root, second], LIFE)
    assert repository.root().signed.version == 3
    assert appliance.update() == ["restarts", "kept"]


def test_a_root_that_only_its_new_keys_signed_is_refused(releases: Releases, appliance: Appliance) -> None:
    """Else whoever makes a key would be the root."""
    intruder = key()
    repository = releases.repository

    def change(root: Root) -> None:
        old = releases.root.public_key.keyid
        replace_keys(root, "root", add=[intruder.public_key], drop=[old], threshold=None)

    repository.rotate(change, [intruder], LIFE)
    assert repository.root().signed.version == 1
    staged = repository.folder / "staged" / "2.root.json"
    shutil.copy(staged, repository.metadata / "2.root.json")
    assert "signed by 0/1 keys" in problem_of(appliance)


def test_a_machine_without_a_root_says_what_to_do(appliance: Appliance) -> None:
    """Without a root nothing can be believed, and nothing is."""
    (appliance.image / "update-root.json").unlink()
    assert "neither" in problem_of(appliance)
    assert "update trust" in appliance.state.hint


def test_thresholds_and_roles_are_kept_apart(tmp_path: Path) -> None:
    """An online key that signs releases, or a threshold that nobody reaches, must not get out."""
    one, two = key(), key()
    for keys in (
        Keys(root=[one], targets=[two], online=two),
        Keys(root=[one], targets=[two], online=key(), root_threshold=2),
        Keys(root=[one, one], targets=[two], online=key(), root_threshold=2),
    ):
        with pytest.raises(RepositoryFault):
            Repository(tmp_path / "r").create(keys, LIFE)
        assert not (tmp_path / "r").exists()


def test_one_number_never_gets_two_contents(releases: Releases) -> None:
    """Boxes compare by number: a second content under one would be taken by some and refused by others."""
    releases.release("1.1.0")
    with pytest.raises(RepositoryFault, match="another content"):
        releases.release("1.1.0", filling=b"rebuilt")
