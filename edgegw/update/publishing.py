"""Publishing: a folder that a hub serves, or one on a stick, brought to the state of a repository.

Roots first, by which a publication that was cut is known for what it is; then bundles, the timestamp last.
Nothing is taken away there but bundles that are on offer no more. Leaves out what is published
(`update.repository`) and who serves it (`hub.updates`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner

from edgegw.update.files import copy_file, sync_folder
from edgegw.update.repository import Life, Repository, RepositoryFault
from edgegw.update.sources import METADATA_FOLDER, NOW_NAME, TARGETS_FOLDER

TIMESTAMP_NAME: Final = "timestamp.json"
_BUNDLE_NAME: Final = re.compile(r"\.?[0-9a-f]{64}\..+")
"""A bundle as it is published, also one whose copy was cut."""


def publish(repository: Repository, to: Path, *, online: CryptoSigner | None, life: Life) -> int:
    """Bring the folder to the repository's state; how many files were copied. online: signs the timestamp
    where the one there is ahead. Raises RepositoryFault and OSError."""
    there = Repository(to)
    _check_place(repository, there)
    there.metadata.mkdir(parents=True, exist_ok=True)
    there.targets_folder.mkdir(exist_ok=True)
    sync_folder(to)
    # Both: a hub signs the timestamp of what it serves, and somebody may take up a release meanwhile.
    with repository.alone(), there.alone():
        number = _timestamp_ahead(repository, there)
        if number and online is None:
            raise RepositoryFault(
                f"{to} has timestamp {number}, this repository {repository.timestamp().signed.version}: boxes"
                " would take it for a replay",
                hint="Give --online-key, so that it is signed with the next number.",
            )
        if number and online is not None:
            repository.next_timestamp(repository.timestamp(), online, life, at_least=number + 1)
        return _copied(repository, there)


def _check_place(repository: Repository, there: Repository) -> None:
    """Raise RepositoryFault unless the repository was published there before, or nothing is there."""
    if there.folder.resolve() == repository.folder.resolve():
        raise RepositoryFault(
            f"{there.folder} is the repository itself", hint="Give the folder that is served, or a stick's."
        )
    for path in repository.metadata.glob("*.root.json"):
        theirs = there.metadata / path.name
        if theirs.exists() and theirs.read_bytes() != path.read_bytes():
            raise RepositoryFault(
                f"{theirs} is another root than this repository's: what reads it would believe nothing more",
                hint="That folder serves the boxes of another repository; give this one's.",
            )
    if any(there.metadata.glob("*.root.json")):
        return
    if strange := _strange(there):
        raise RepositoryFault(
            f"{there.folder} holds {strange[0]} and is no published repository",
            hint="Give an empty folder, or one that does not exist yet.",
        )


def _strange(there: Repository) -> list[str]:
    """What lies there beside the beginning of a publication."""
    if not there.folder.exists():
        return []
    names = [path.name for path in there.folder.iterdir()]
    strange = [name for name in names if name not in (METADATA_FOLDER, TARGETS_FOLDER, NOW_NAME)]
    for folder in (there.metadata, there.targets_folder):
        if folder.name in names:
            strange += [f"{folder.name}/{path.name}" for path in folder.iterdir() if path.name[0] != "."]
    return sorted(strange)


def _timestamp_ahead(repository: Repository, there: Repository) -> int:
    """The number of the timestamp there, where the repository's own would be a replay; 0 else. Raises
    RepositoryFault where the releases there are newer."""
    published, own = there.metadata / TIMESTAMP_NAME, repository.metadata / TIMESTAMP_NAME
    if not published.exists() or published.read_bytes() == own.read_bytes():
        return 0
    theirs, ours = there.timestamp().signed, repository.timestamp().signed
    if theirs.snapshot_meta.version > ours.snapshot_meta.version:
        raise RepositoryFault(
            f"{there.folder} has state {theirs.snapshot_meta.version} of the releases, this repository"
            f" {ours.snapshot_meta.version}: boxes would refuse it as older than what they have seen",
            hint="This is an old copy of the repository: publish from the newest.",
        )
    return theirs.version if theirs.version >= ours.version else 0


def _copied(repository: Repository, there: Repository) -> int:
    names = {f"{file.hashes['sha256']}.{path}" for path, (file, _) in repository.offers().items()}
    roots = sorted(repository.metadata.glob("*.root.json"))
    others = sorted(set(repository.metadata.glob("*.json")) - {*roots, repository.metadata / TIMESTAMP_NAME})
    copied = sum(copy_file(path, there.metadata / path.name) for path in roots)
    for name in sorted(names):
        copied += copy_file(repository.targets_folder / name, there.targets_folder / name)
    for path in (*others, repository.metadata / TIMESTAMP_NAME):
        copied += copy_file(path, there.metadata / path.name)
    for path in there.targets_folder.iterdir():
        if path.name not in names and _BUNDLE_NAME.fullmatch(path.name):
            path.unlink()
    return copied
