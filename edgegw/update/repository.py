"""The centre's side of TUF: making and keeping the repository of releases.

Root and targets are signed by keys that are offline but for the moment of use; snapshot and timestamp by one
that is online. Every file is replaced whole, the timestamp last, so that a reader between two of them sees
the state before. Leaves out publishing (`update.publishing`), where keys lie (`commands.release`) and who
serves the files (`hub.updates`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError, StorageError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edgegw.errors import Next, OperatingError
from edgegw.update.choosing import Offer, Rollout
from edgegw.update.files import copy_file, replace_file
from edgegw.update.sources import METADATA_FOLDER, TARGETS_FOLDER
from edgegw.update.versions import version_of

ROOT_DAYS: Final = 730
TARGETS_DAYS: Final = 365
TIMESTAMP_DAYS: Final = 14
"""So long may a box be shown an old state before it sees that."""
ALONE_S: Final = 10.0
"""So long another one's work in the folder is waited for; the hub's takes no time, a publication may."""
_LOOK_S: Final = 0.05
STAGED: Final = "staged"
"""Beside the published folders: a root that lacks signatures."""
_ROOT: Final = "root"
_TARGETS: Final = "targets"
_SNAPSHOT: Final = "snapshot"
_TIMESTAMP: Final = "timestamp"
T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


class RepositoryFault(OperatingError):
    """The repository is not as it must be for what was asked; nothing of it was changed."""

    code = "release_repository"
    next = Next.PAUSE
    default_hint = "`edgegw release show` says what it holds."


class Life(NamedTuple):
    """When something is signed: the moment, and for how long each role."""

    now: datetime
    root_days: int = ROOT_DAYS
    targets_days: int = TARGETS_DAYS
    timestamp_days: int = TIMESTAMP_DAYS


class Keys(NamedTuple):
    """Who signs what; the thresholds are how many of them it takes."""

    root: Sequence[CryptoSigner]
    targets: Sequence[CryptoSigner]
    online: CryptoSigner
    root_threshold: int = 1
    targets_threshold: int = 1


class Repository:
    """A repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = folder / METADATA_FOLDER
        self.targets_folder = folder / TARGETS_FOLDER

    # --- what is there ------------------------------------------------------------------------------------

    def root(self) -> Metadata[Root]:
        """The newest root; raises RepositoryFault."""
        numbers = sorted(
            int(path.name.partition(".")[0])
            for path in self.metadata.glob("*.root.json")
            if path.name.partition(".")[0].isdigit()
        )
        if not numbers:
            raise RepositoryFault(
                f"{self.folder}: there is no root; this is no repository",
                hint="`edgegw release init` makes one.",
            )
        return self._read(f"{numbers[-1]}.root.json", Root)

    def timestamp(self) -> Metadata[Timestamp]:
        """What is newest by the online key; raises RepositoryFault."""
        return self._read("timestamp.json", Timestamp)

    def snapshot(self) -> Metadata[Snapshot]:
        """What belongs together; raises RepositoryFault."""
        return self._read(f"{self.timestamp().signed.snapshot_meta.version}.snapshot.json", Snapshot)

    def targets(self) -> Metadata[Targets]:
        """The releases; raises RepositoryFault."""
        return self._read(f"{self.snapshot().signed.meta['targets.json'].version}.targets.json", Targets)

    def offers(self) -> dict[str, tuple[TargetFile, Offer]]:
        """Each bundle's path with its file and what is said of it; raises RepositoryFault."""
        found = {}
        for path, file in self.targets().signed.targets.items():
            try:
                found[path] = file, msgspec.convert(file.custom or {}, Offer)
            except msgspec.ValidationError as problem:
                raise RepositoryFault(f"{path}: {problem}") from None
        return found

    def _read(self, name: str, kind: type[T]) -> Metadata[T]:
        try:
            read: Metadata[T] = Metadata.from_file(str(self.metadata / name))
        except (StorageError, RepositoryError, ValueError) as problem:
            raise RepositoryFault(f"{self.metadata / name}: {problem}") from None
        if not isinstance(read.signed, kind):
            raise RepositoryFault(f"{self.metadata / name}: it is no {kind.type}")
        return read

    # --- making and changing ------------------------------------------------------------------------------

    def create(self, keys: Keys, life: Life) -> None:
        """A new repository without releases; raises RepositoryFault."""
        if self.metadata.exists():
            raise RepositoryFault(f"{self.folder}: a repository is here already", hint="Give a new folder.")
        _check_thresholds(keys)
        root = Root(expires=_ends(life, life.root_days), consistent_snapshot=True)
        for signer in keys.root:
            root.add_key(signer.public_key, _ROOT)
        for signer in keys.targets:
            root.add_key(signer.public_key, _TARGETS)
        root.add_key(keys.online.public_key, _SNAPSHOT)
        root.add_key(keys.online.public_key, _TIMESTAMP)
        root.roles[_ROOT].threshold = keys.root_threshold
        root.roles[_TARGETS].threshold = keys.targets_threshold
        self.metadata.mkdir(parents=True)
        self.targets_folder.mkdir(exist_ok=True)
        self._write("1.root.json", Metadata(root), keys.root)
        targets = Metadata(Targets(expires=_ends(life, life.targets_days)))
        self._write("1.targets.json", targets, keys.targets)
        body = (self.metadata / "1.targets.json").read_bytes()
        snapshot = Snapshot(expires=_ends(life, life.targets_days), meta={"targets.json": _meta(1, body)})
        self._write("1.snapshot.json", Metadata(snapshot), [keys.online])
        body = (self.metadata / "1.snapshot.json").read_bytes()
        timestamp = Timestamp(expires=_ends(life, life.timestamp_days), snapshot_meta=_meta(1, body))
        self._write("timestamp.json", Metadata(timestamp), [keys.online])

    def add(
        self, bundle: Path, offer: Offer, *, signers: Sequence[CryptoSigner], online: CryptoSigner, life: Life
    ) -> TargetFile:
        """Take a bundle up; raises RepositoryFault for a number that is there with another content."""
        name = bundle.name
        try:
            file = TargetFile.from_file(name, str(bundle), ["sha256"])
        except (OSError, StorageError) as problem:
            raise RepositoryFault(f"{bundle}: {problem}", hint="Give the path of the bundle.") from None
        version_of(offer.version)
        for path, (other, theirs) in self.offers().items():
            same = (theirs.version, theirs.compatible) == (offer.version, offer.compatible)
            if same and other.hashes != file.hashes:
                raise RepositoryFault(
                    f"{offer.version} for {offer.compatible} is there already, with another content ({path})",
                    hint="A version names one content for ever: build it under a new number.",
                )
            if path == name and not same:
                raise RepositoryFault(
                    f"{name} is the bundle of {theirs.version} for {theirs.compatible}; that would be offered"
                    " no more",
                    hint="Give the file another name, as the builder does: edgegw-VERSION-PROFILE.raucb.",
                )
        file.unrecognized_fields["custom"] = msgspec.to_builtins(offer)
        copy_file(bundle, self.targets_folder / f"{file.hashes['sha256']}.{name}")

        def change(targets: Targets) -> None:
            targets.targets[name] = file

        self._sign_targets(change, signers=signers, online=online, life=life)
        return file

    def roll_out(
        self,
        version: str,
        rollout: Rollout | None,
        *,
        signers: Sequence[CryptoSigner],
        online: CryptoSigner,
        life: Life,
    ) -> list[str]:
        """Say anew who takes a release, or withdraw it (None); the bundles concerned. Raises
        RepositoryFault."""
        paths = [path for path, (_, offer) in self.offers().items() if offer.version == version]
        if not paths:
            raise RepositoryFault(f"there is no release {version}")

        def change(targets: Targets) -> None:
            for path in paths:
                if rollout is None:
                    del targets.targets[path]
                    continue
                file = targets.targets[path]
                offer = msgspec.convert(file.custom or {}, Offer)
                offer = msgspec.structs.replace(offer, rollout=rollout)
                file.unrecognized_fields["custom"] = msgspec.to_builtins(offer)

        self._sign_targets(change, signers=signers, online=online, life=life)
        return paths

    def renew(self, *, signers: Sequence[CryptoSigner], online: CryptoSigner, life: Life) -> None:
        """Sign the releases afresh as they are, before their time ends; raises RepositoryFault."""
        self._sign_targets(lambda _: None, signers=signers, online=online, life=life)

    def refresh(self, online: CryptoSigner, life: Life, *, always: bool = True) -> bool:
        """Sign the timestamp afresh, where it is due or anyhow; whether that was done. Raises
        RepositoryFault."""
        with self.alone():
            timestamp = self.timestamp()
            left = timestamp.signed.expires - life.now
            if not always and left > timedelta(days=life.timestamp_days) / 2:
                return False
            self.next_timestamp(timestamp, online, life)
        return True

    def next_timestamp(
        self, timestamp: Metadata[Timestamp], online: CryptoSigner, life: Life, *, at_least: int = 0
    ) -> None:
        """Put this timestamp in place with the next number, or a higher one: for who is `alone` here."""
        timestamp.signed.version = max(timestamp.signed.version + 1, at_least)
        timestamp.signed.expires = _ends(life, life.timestamp_days)
        self._write("timestamp.json", timestamp, [online])

    def _sign_targets(
        self,
        change: Callable[[Targets], None],
        *,
        signers: Sequence[CryptoSigner],
        online: CryptoSigner,
        life: Life,
    ) -> None:
        """The next targets, snapshot and timestamp. Nothing is written before all of it is signed."""
        with self.alone():
            self._sign_changed(change, signers=signers, online=online, life=life)

    def _sign_changed(
        self,
        change: Callable[[Targets], None],
        *,
        signers: Sequence[CryptoSigner],
        online: CryptoSigner,
        life: Life,
    ) -> None:
        targets, snapshot, timestamp = self.targets(), self.snapshot(), self.timestamp()
        change(targets.signed)
        targets.signed.version += 1
        targets.signed.expires = _ends(life, life.targets_days)
        body = self._signed(_TARGETS, targets, signers)
        snapshot.signed.version += 1
        snapshot.signed.expires = _ends(life, life.targets_days)
        snapshot.signed.meta["targets.json"] = _meta(targets.signed.version, body)
        snapshot_body = self._signed(_SNAPSHOT, snapshot, [online])
        timestamp.signed.version += 1
        timestamp.signed.expires = _ends(life, life.timestamp_days)
        timestamp.signed.snapshot_meta = _meta(snapshot.signed.version, snapshot_body)
        timestamp_body = self._signed(_TIMESTAMP, timestamp, [online])
        self._put(f"{targets.signed.version}.targets.json", body)
        self._put(f"{snapshot.signed.version}.snapshot.json", snapshot_body)
        self._put("timestamp.json", timestamp_body)

    # --- root ---------------------------------------------------------------------------------------------

    def rotate(self, change: Callable[[Root], None], signers: Iterable[CryptoSigner], life: Life) -> int:
        """Begin the next root: the present one with a change. It is published once enough of the keys of
        both have signed it; its number. Raises RepositoryFault."""
        root = self.root()
        root.signed.version += 1
        root.signed.expires = _ends(life, life.root_days)
        change(root.signed)
        root.signatures.clear()
        path = self._staged(root.signed.version)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, root.to_bytes(), mode=0o644)
        self.sign_root(signers)
        return root.signed.version

    def sign_root(self, signers: Iterable[CryptoSigner]) -> bool:
        """Add signatures to the root that waits for them; whether it is published now. Raises
        RepositoryFault."""
        present = self.root()
        path = self._staged(present.signed.version + 1)
        if not path.exists():
            raise RepositoryFault("no root waits for signatures", hint="`edgegw release rotate` begins one.")
        fresh: Metadata[Root] = Metadata.from_file(str(path))
        keys = {**present.signed.keys, **fresh.signed.keys}
        for signer in signers:
            if signer.public_key.keyid not in keys:
                raise RepositoryFault(f"the key {signer.public_key.keyid[:16]} is none of this root's")
            fresh.sign(signer, append=True)
        replace_file(path, fresh.to_bytes(), mode=0o644)
        try:
            present.verify_delegate(_ROOT, fresh)
            fresh.verify_delegate(_ROOT, fresh)
        except (RepositoryError, ValueError):
            return False
        self._put(f"{fresh.signed.version}.root.json", fresh.to_bytes())
        path.unlink()
        return True

    def sign_online(self, *, signers: Sequence[CryptoSigner], online: CryptoSigner, life: Life) -> None:
        """After a root with other keys: everything below it signed by them. Raises RepositoryFault."""
        self.renew(signers=signers, online=online, life=life)

    def _staged(self, version: int) -> Path:
        return self.folder / STAGED / f"{version}.root.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one that writes here, for what reads and then writes; raises RepositoryFault. The lock
        ends with the process."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise RepositoryFault(
                f"{self.folder}: {problem.strerror}", hint="Give the repository's folder."
            ) from None
        try:
            until_s = time.monotonic() + ALONE_S
            while not _locked(descriptor):
                if time.monotonic() >= until_s:
                    raise RepositoryFault(
                        f"{self.folder}: another command, or the hub, is writing here",
                        hint="Give the command again when that is done.",
                    )
                time.sleep(_LOOK_S)
            yield
        finally:
            os.close(descriptor)

    # --- files --------------------------------------------------------------------------------------------

    def _signed(self, role: str, metadata: Metadata[T], signers: Sequence[CryptoSigner]) -> bytes:
        """Its bytes once the role's keys have signed it; raises RepositoryFault where they are not enough."""
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        try:
            self.root().verify_delegate(role, metadata)
        except (RepositoryError, ValueError) as problem:
            raise RepositoryFault(
                f"{role}: {problem}", hint="Give the keys that the root names for it, as many as it wants."
            ) from None
        return metadata.to_bytes()

    def _write(self, name: str, metadata: Metadata[T], signers: Sequence[CryptoSigner]) -> None:
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        self._put(name, metadata.to_bytes())

    def _put(self, name: str, body: bytes) -> None:
        replace_file(self.metadata / name, body, mode=0o644)


def replace_keys(
    root: Root, role: str, *, add: Iterable[Key], drop: Iterable[str], threshold: int | None
) -> None:
    """Change who signs a role; raises RepositoryFault for a key that it does not have, or too few."""
    held = root.roles[role]
    for begin in drop:
        found = [keyid for keyid in held.keyids if keyid.startswith(begin)]
        if len(found) != 1:
            raise RepositoryFault(f"{role} has {len(found)} keys that begin with {begin!r}")
        root.revoke_key(found[0], role)
    for key in add:
        root.add_key(key, role)
    if threshold is not None:
        held.threshold = threshold
    if not 1 <= held.threshold <= len(held.keyids):
        raise RepositoryFault(f"{role} would want {held.threshold} of {len(held.keyids)} keys")


def _check_thresholds(keys: Keys) -> None:
    for role, signers, threshold in (
        (_ROOT, keys.root, keys.root_threshold),
        (_TARGETS, keys.targets, keys.targets_threshold),
    ):
        if not 1 <= threshold <= len({signer.public_key.keyid for signer in signers}):
            raise RepositoryFault(f"{role} would want {threshold} of {len(signers)} keys")
    offline = {signer.public_key.keyid for signer in (*keys.root, *keys.targets)}
    if keys.online.public_key.keyid in offline:
        raise RepositoryFault("the online key signs root or targets, too", hint="Make a key of its own.")


def _meta(version: int, body: bytes) -> MetaFile:
    return MetaFile(version=version, length=len(body), hashes={"sha256": hashlib.sha256(body).hexdigest()})


def _ends(life: Life, days: int) -> datetime:
    return (life.now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
