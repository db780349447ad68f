"""A machine's keys at rest: each file sealed under a key-encryption key (KEK) that one place gives at the
start.

The KEK lies in a slot, `<owner>.kek.<place>`, which only that place opens: a TPM, an HSM, systemd's
credentials, a passphrase. A sealed key names its purpose, its owner, its KEK and the KEK's place, so that
none can stand in for another and a half-done move can be read. In the place `files` keys lie open, for the
lab. Leaves out what the keys are, and the settings (`edgegw.key_places`).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from edgegw.access import sealed_key
from edgegw.access.key_files import (
    KEY_FILE_BYTES_MAX,
    KeyFileError,
    drafts_of,
    read_key_file,
    remove_key_file,
    rename_key_file,
    replace_key_file,
    shred_key_file,
    write_new_file,
)
from edgegw.access.places import SECRET_BYTES_MAX, Place, PlaceRefuses
from edgegw.access.sealed_key import Head, SealedKey, kek_id
from edgegw.sm import sm4_gcm

FILES: Final = "files"
_PR_SET_DUMPABLE: Final = 4


class KeyFile(NamedTuple):
    """One key's file and what has to be in it."""

    option: str
    """The option of the settings that names it."""
    path: Path
    purpose: str
    """What the key is for, one of `sealed_key.Head.purpose`."""
    name: str
    """Whose it is."""


class Keystore:
    """All keys of one machine, by their files."""

    def __init__(self, *, owner: str, place: str, directory: Path, places: Mapping[str, Place]) -> None:
        """owner names the slots in directory; places are those that the settings know."""
        self.place: Final = place
        self._owner = owner
        self._directory = directory
        self._places = places
        self._keks: dict[str, tuple[bytes, ...]] = {}
        """The KEKs of each slot that was opened, the newest last."""
        self.found: Final[set[str]] = set()
        """The places of the keys that were read; `files` for one that lies open."""

    def read(self, key: KeyFile) -> bytes:
        """The key's bytes; raises KeyFileError and PlaceAway."""
        content = read_key_file(key.path)
        if sealed_key.is_sealed(content):
            sealed = _parsed(key.path, content)
            self.found.add(sealed.head.place)
            return self._opened(key, sealed)
        if self.place != FILES:
            raise KeyFileError(
                key.path,
                f"it lies open, and keys.place = {self.place}",
                hint="seal it: edgegw keys seal; better, give a new key for one that has lain open",
            )
        self.found.add(FILES)
        return content

    def create(self, key: KeyFile, content: bytes) -> None:
        """Write the key to a new file, sealed unless the place is `files`; raises KeyFileError and
        PlaceAway."""
        if self.place != FILES:
            with self._alone():
                sealed = self._sealed(key, content, place=self.place, kek=self._newest(self.place))
                write_new_file(key.path, sealed, mode=0o600)
        else:
            write_new_file(key.path, content, mode=0o600)

    def rename(self, path: Path, to: Path) -> None:
        """Give a key's file another name in its directory, on disk when this returns; raises KeyFileError."""
        if self.place != FILES:
            with self._alone():
                rename_key_file(path, to)
        else:
            rename_key_file(path, to)

    def shred(self, path: Path) -> None:
        """Overwrite a key's file and take it away, and what a killed process has left half-written of it;
        raises KeyFileError."""
        with self._alone() if self.place != FILES else nullcontext():  # no move writes it anew meanwhile
            for file in (*drafts_of(path), path):
                shred_key_file(file)

    def replace(self, key: KeyFile, content: bytes) -> None:
        """Write other content to the key's file, whole or not at all, sealed as `create` seals it; raises
        KeyFileError and PlaceAway."""
        if self.place != FILES:
            with self._alone():
                self._replace(key, content, place=self.place, kek=self._newest(self.place))
        else:
            replace_key_file(key.path, content)

    def head(self, path: Path) -> Head | None:
        """What a file says of its key without being opened; None for an open key. Raises KeyFileError."""
        content = read_key_file(path)
        return _parsed(path, content).head if sealed_key.is_sealed(content) else None

    # --- moving ---------------------------------------------------------------------------------------------

    def seal(self, keys: Iterable[KeyFile]) -> list[Path]:
        """Seal the keys that lie open, each file replaced whole; returns which. Raises KeyFileError and
        PlaceAway."""
        with self._alone():
            bare = [key for key in keys if key.path.exists() and self.head(key.path) is None]
            kek = self._newest(self.place)
            for key in bare:
                self._replace(key, read_key_file(key.path), place=self.place, kek=kek)
        return [key.path for key in bare]

    def move(self, keys: Iterable[KeyFile], *, to: str) -> list[Path]:
        """Seal every key anew under a KEK in the place `to`, and give up all other KEKs; returns what moved.

        Whatever ends it half-way, this keystore still reads every key, and the next move goes on. Raises
        KeyFileError and PlaceAway.
        """
        with self._alone():
            listed = [key for key in keys if key.path.exists()]
            self._remove_drafts(listed)
            every = [*listed, *self._unlisted({key.path for key in listed})]
            contents = [(key, self._read_any(key)) for key in every]
            kek = self._begun(to, [self.head(key.path) for key in every])
            for key, content in contents:
                head = self.head(key.path)
                if head is None or (head.place, head.kek) != (to, kek_id(kek)):
                    self._replace(key, content, place=to, kek=kek)
            self._check(contents)
            for place in self._places:
                if place != to:
                    remove_key_file(self._slot(place))
            if self._secrets(to) != (kek,):
                self._write_slot(to, (kek,))
        return [key.path for key in every]

    def destroy(self, keys: Iterable[KeyFile]) -> list[Path]:
        """Take away every key, and every KEK first: without those a sealed key opens nowhere. Safe to repeat.
        Returns what was there; raises KeyFileError."""
        slots = [self._slot(place) for place in self._places]
        files = [*slots, *(path for key in keys for path in (key.path, *drafts_of(key.path)))]
        there = [path for path in files if path.exists()]
        for path in there:
            shred_key_file(path)
        self._keks.clear()
        return there

    def _remove_drafts(self, keys: Iterable[KeyFile]) -> None:
        """What a process that was killed has left half-written; raises KeyFileError."""
        for path in (*map(self._slot, self._places), *(key.path for key in keys)):
            for draft in drafts_of(path):
                remove_key_file(draft)

    def _begun(self, to: str, heads: list[Head | None]) -> bytes:
        """The KEK of a move: that of one which was interrupted, or else a new one, in its slot already."""
        held = self._secrets(to) if self._slot(to).exists() else ()
        if held and any(head is None or (head.place, head.kek) != (to, kek_id(held[-1])) for head in heads):
            return held[-1]
        made = secrets.token_bytes(sm4_gcm.KEY_BYTES)
        # Of older ones a move that was killed at its end may have left some that open nothing any more.
        self._write_slot(to, (*held[-1:], made))
        return made

    def _unlisted(self, known: set[Path]) -> Iterator[KeyFile]:
        """Sealed keys under this machine's KEKs that the settings do not name: they must not be left
        behind."""
        folders = {self._directory, *(path.parent for path in known)}
        files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        for path in sorted(files - known):
            with path.open("rb") as file:
                content = file.read(KEY_FILE_BYTES_MAX)
            try:
                head = sealed_key.parse(content).head
            except ValueError:
                continue  # no sealed key, or one that nothing opens
            is_here = head.place in self._places and self._slot(head.place).exists()
            if is_here and head.kek in map(kek_id, self._secrets(head.place)):
                yield KeyFile("no option", path, head.purpose, head.name)

    def _read_any(self, key: KeyFile) -> bytes:
        content = read_key_file(key.path)
        return self._opened(key, _parsed(key.path, content)) if sealed_key.is_sealed(content) else content

    def _check(self, contents: list[tuple[KeyFile, bytes]]) -> None:
        """Read all keys back as a start would; raises KeyFileError before anything is given up."""
        fresh = Keystore(owner=self._owner, place=self.place, directory=self._directory, places=self._places)
        for key, content in contents:
            if fresh._read_any(key) != content:
                raise KeyFileError(
                    key.path,
                    "it did not read back as it was written",
                    hint="mend the disk; nothing was given up",
                )

    # --- keys and KEKs --------------------------------------------------------------------------------------

    def _opened(self, key: KeyFile, sealed: SealedKey) -> bytes:
        head = sealed.head
        if head.place not in self._places:
            raise KeyFileError(
                key.path,
                f"it is sealed in {head.place}, and there are no settings of that place",
                hint="use it with the settings of its machine; if they are, it was altered: restore it",
            )
        if (head.purpose, head.name) != (key.purpose, key.name):
            raise KeyFileError(
                key.path,
                f"it holds the {head.purpose} key of {head.name}, not the {key.purpose} key of {key.name}",
                hint=f"give the right file in {key.option}",
            )
        kek = self._kek(head)
        if kek is None:
            raise KeyFileError(
                key.path,
                f"it is sealed under {head.kek}, which {self._slot(head.place)} does not hold",
                hint="it is another machine's key, or one of the two is older: restore both from one backup",
            )
        try:
            return sealed.open(kek)
        except sm4_gcm.NotAuthentic:
            raise KeyFileError(
                key.path, "it was altered since it was sealed", hint="restore it from its backup"
            ) from None

    def _kek(self, head: Head) -> bytes | None:
        """The KEK that a sealed key names; a slot that another process has changed is opened once more."""
        for again in (False, True):
            if again:
                self._keks.pop(head.place, None)
            for kek in self._secrets(head.place):
                if kek_id(kek) == head.kek:
                    return kek
        return None

    def _sealed(self, key: KeyFile, content: bytes, *, place: str, kek: bytes, version: int = 1) -> bytes:
        head = Head(purpose=key.purpose, name=key.name, key_version=version, place=place, kek=kek_id(kek))
        return sealed_key.seal(content, kek=kek, head=head)

    def _replace(self, key: KeyFile, content: bytes, *, place: str, kek: bytes) -> None:
        before = self.head(key.path)
        version = 1 if before is None else before.key_version + 1
        replace_key_file(key.path, self._sealed(key, content, place=place, kek=kek, version=version))

    def _slot(self, place: str) -> Path:
        return self._directory / f"{self._owner}.kek.{place}"

    def _newest(self, place: str) -> bytes:
        """The KEK under which a place's keys are sealed now; made if there is none."""
        if not self._slot(place).exists():
            self._write_slot(place, (secrets.token_bytes(sm4_gcm.KEY_BYTES),))
        return self._secrets(place)[-1]

    def _secrets(self, place: str) -> tuple[bytes, ...]:
        """The KEKs of a place's slot; raises KeyFileError and PlaceAway."""
        if place not in self._keks:
            slot = self._slot(place)
            stay_out_of_core_dumps()
            content = read_key_file(slot)
            try:
                secret = self._places[place].open(content)
            except PlaceRefuses as problem:
                raise KeyFileError(slot, f"keys.place = {place}: {problem}", hint=problem.hint) from None
            size = sm4_gcm.KEY_BYTES
            if not secret or len(secret) % size or len(secret) > SECRET_BYTES_MAX:
                raise KeyFileError(
                    slot, f"keys.place = {place}: it gives no keys ({len(secret)} bytes)", hint="restore it"
                )
            self._keks[place] = tuple(secret[start : start + size] for start in range(0, len(secret), size))
        return self._keks[place]

    def _write_slot(self, place: str, keks: tuple[bytes, ...]) -> None:
        """Seal these KEKs in the place; the slot is there only once the place has opened it again."""
        slot = self._slot(place)
        stay_out_of_core_dumps()
        try:
            sealed = self._places[place].seal(b"".join(keks))
            if self._places[place].open(sealed) != b"".join(keks):
                raise PlaceRefuses("it does not give back what it has sealed", hint="choose another place")
        except PlaceRefuses as problem:
            raise KeyFileError(slot, f"keys.place = {place}: {problem}", hint=problem.hint) from None
        replace_key_file(slot, sealed)
        self._keks[place] = keks

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change what is sealed; raises KeyFileError."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as problem:
            raise KeyFileError(
                self._directory,
                f"cannot be opened ({problem.strerror})",
                hint="make it, or mend keys.kek_dir",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


OPEN_FILES: Final = Keystore(owner="", place=FILES, directory=Path(), places={})
"""Keys that lie open, and no place: for what runs without settings."""


def _parsed(path: Path, content: bytes) -> SealedKey:
    try:
        return sealed_key.parse(content)
    except ValueError as problem:
        raise KeyFileError(
            path, f"it is no sealed key: {problem}", hint="restore it from its backup"
        ) from None


def stay_out_of_core_dumps() -> None:
    """A dump of this process is a copy of its keys: the kernel writes none, to a file or to a program."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
