"""The MAC keys of terminals, in versions: which are good, and how one follows another without a gap.

A terminal's keys are files of one directory: `<terminal>.key` (version 1), `<terminal>.<version>.key`, and
`<terminal>.master.key`, under which new ones travel (`key_change`). The names are the whole state, so that a
process that is killed at any moment finds it again: of two versions the newer waits for its first use; then
the older is renamed to `….until-<second>.key`, is still good for the grace, and is removed. A directory that
changes is read again without a restart. Leaves out the MAC itself (`mac`) and the messages.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from edgegw.access.key_files import KeyFileError, remove_key_file
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places import PlaceAway
from edgegw.payments.vault import KEY_BYTES, SecretFileError, read_key

OPTION: Final = "iso8583.terminal_keys_directory"
MASTER: Final = 0
"""In the place of a version: the terminal's master key."""
VERSION_MAX: Final = 9_998
LOOK_EACH_S: Final = 2.0
_SETTLED_NS: Final = 1_000_000_000
"""A directory that changed less than this ago is read again: its clock may not show the next change."""
_NAME: Final = re.compile(
    r"(?P<terminal>[A-Za-z0-9]{1,8})"
    r"(?:\.(?P<master>master)|(?:\.(?P<version>[2-9]|[1-9][0-9]{1,3}))?(?:\.until-(?P<until>[0-9]{1,12}))?)"
    r"\.key"
)

_log = structlog.get_logger("edgegw.iso8583")


class TerminalKeyFile(NamedTuple):
    """A key's file, as its name tells it."""

    terminal: str
    version: int
    """MASTER is the master key."""
    until_s: int | None
    """The second at which it ends; None while nothing has followed it."""
    file: KeyFile


class Version:
    """A MAC key."""

    def __init__(self, found: TerminalKeyFile, key: bytes, *, ends_s: float | None) -> None:
        self.number: Final = found.version
        self.key: Final = key
        self.path = found.file.path
        self.until_s = found.until_s
        """What its file's name says."""
        self.ends_s = ends_s
        """When it ends, on the clock that is never set; None while nothing has followed it."""


class Ring:
    """One terminal's keys."""

    def __init__(self, terminal: str) -> None:
        self.terminal: Final = terminal
        self.master: bytes | None = None
        self.versions: dict[int, Version] = {}
        self.active = 0
        """The version that the terminal uses; 0 before it has any."""
        self.began_s = 0.0
        """When a new version was last made for it here."""

    @property
    def waiting(self) -> Version | None:
        """The version that waits for its first use."""
        newest = max(self.versions, default=0)
        return self.versions[newest] if newest > self.active else None

    @property
    def current(self) -> Version | None:
        """The version that the box uses for what it says of itself."""
        return self.versions.get(self.active) or self.waiting

    def is_fresh(self, now_s: float, *, each_s: float) -> bool:
        """Whether a version was made here less than each_s before now_s, on the clock that is never set."""
        return bool(self.began_s) and now_s - self.began_s < each_s

    def good(self, named: int = 0) -> list[Version]:
        """The versions that a message may use, likeliest first; of a message that names one, that one."""
        if named:
            return [self.versions[named]] if named in self.versions else []
        return sorted(self.versions.values(), key=lambda one: (one.number != self.active, -one.number))


def file_of(directory: Path, terminal: str, version: int, *, until_s: int | None = None) -> KeyFile:
    """The file of a terminal's key; version MASTER is its master key."""
    name = terminal
    if version == MASTER:
        name = f"{terminal}.master"
    elif version > 1:
        name = f"{terminal}.{version}"
    ending = "" if until_s is None else f".until-{until_s}"
    return KeyFile(OPTION, directory / f"{name}{ending}.key", "terminal", name)


def terminal_key_files(directory: Path) -> Iterator[TerminalKeyFile]:
    """The keys of a directory, by name; none where there is no directory.

    Raises SecretFileError for a file of another name, so that a mistyped one does not switch a terminal's MAC
    off. Drafts of a process that was killed are passed over.
    """
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name.startswith("."):
            continue
        matched = _NAME.fullmatch(path.name)
        if matched is None:
            raise SecretFileError(
                f"{path} is not named <terminal>.key, <terminal>.<version>.key or <terminal>.master.key;"
                " rename it or take it away"
            )
        version = MASTER if matched["master"] else int(matched["version"] or 1)
        until_s = None if matched["until"] is None else int(matched["until"])
        named = file_of(directory, matched["terminal"], version, until_s=until_s)
        yield TerminalKeyFile(matched["terminal"], version, until_s, named)


def new_key() -> bytes:
    """A random key."""
    return secrets.token_bytes(KEY_BYTES)


def store_key(directory: Path, keystore: Keystore, terminal: str, version: int, key: bytes) -> None:
    """Keep a terminal's key in a new file that is on disk when this returns; raises KeyFileError and
    PlaceAway."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keystore.create(file_of(directory, terminal, version), key.hex().encode() + b"\n")


class TerminalKeys:
    """The keys of all terminals of one way in."""

    def __init__(
        self,
        directory: Path,
        keystore: Keystore,
        *,
        grace_s: int,
        now_s: Callable[[], float] = time.time,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the directory; raises SecretFileError and PlaceAway."""
        self._directory = directory
        self._keystore = keystore
        self._grace_s = grace_s
        self._now_s = now_s
        self._mono_s = mono_s
        self._rings: dict[str, Ring] = {}
        self._known: dict[tuple[int, int, int], bytes] = {}
        self._changing = asyncio.Lock()
        self._told = ""
        self._seen = self._state()
        self._take(self._read(is_start=True))

    def ring(self, terminal: str) -> Ring | None:
        """The keys of a terminal; None of one that sends no MAC."""
        return self._rings.get(terminal)

    def rings(self) -> Iterable[Ring]:
        """Those of all terminals that have any."""
        return self._rings.values()

    def used(self, ring: Ring, version: Version) -> None:
        """A message was right by this version: those before it end after the grace."""
        if version.number <= ring.active:
            return
        ring.active = version.number
        for older in ring.versions.values():
            if older.number < version.number and older.ends_s is None:
                older.ends_s = self._mono_s() + self._grace_s
        _log.info("terminal_key_in_use", terminal=ring.terminal, version=version.number)

    async def begin(self, ring: Ring) -> Version:
        """The version that is to follow, on disk: the one that waits already, else a new one. Raises
        KeyFileError, PlaceAway, and ValueError when no number is left."""
        async with self._changing:
            if ring.waiting is not None:
                return ring.waiting
            number = max(ring.versions, default=0) + 1
            if number > VERSION_MAX:
                raise ValueError(f"terminal {ring.terminal} has used all {VERSION_MAX} versions")
            key = new_key()
            await asyncio.to_thread(store_key, self._directory, self._keystore, ring.terminal, number, key)
            file = file_of(self._directory, ring.terminal, number)
            made = Version(TerminalKeyFile(ring.terminal, number, None, file), key, ends_s=None)
            ring.versions[number] = made
            ring.began_s = self._mono_s()
            return made

    async def keep(self) -> None:
        """Bring the files to what is so: keys that were followed get their end, those that have ended go, and
        what was put there or taken away by others is taken up."""
        async with self._changing:
            ended = [path for ring in self._rings.values() for path in self._ended(ring)]
            ending = [
                (ring, version)
                for ring in self._rings.values()
                for version in ring.versions.values()
                if version.ends_s is not None and version.until_s is None
            ]
            if ended or ending:
                await asyncio.to_thread(self._write, ended, ending)
            state = self._state()
            if state != self._seen or state is None:
                self._seen = state
                try:
                    self._take(await asyncio.to_thread(self._read, is_start=False))
                except SecretFileError as problem:
                    self._tell(str(problem))

    def _ended(self, ring: Ring) -> list[Path]:
        now_s = self._mono_s()
        ended = [one for one in ring.versions.values() if one.ends_s is not None and one.ends_s <= now_s]
        for version in ended:
            del ring.versions[version.number]
        return [version.path for version in ended]

    def _write(self, ended: list[Path], ending: list[tuple[Ring, Version]]) -> None:
        until_s = int(self._now_s()) + self._grace_s
        try:
            for path in ended:
                remove_key_file(path)
            for ring, version in ending:
                to = file_of(self._directory, ring.terminal, version.number, until_s=until_s).path
                self._keystore.rename(version.path, to)
                version.path, version.until_s = to, until_s
        except KeyFileError as problem:
            # It is tried again; the key ends all the same while this process lives.
            self._tell(f"{problem}; {problem.hint}")

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            _log.error("terminal_keys_not_kept", problem=problem)
        self._told = problem

    # --- reading ------------------------------------------------------------------------------------------

    def _state(self) -> int | None:
        """What changes when a file comes or goes; None where that cannot be told yet."""
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns
        except FileNotFoundError:
            return 0
        return changed_ns if abs(time.time_ns() - changed_ns) > _SETTLED_NS else None

    def _read(self, *, is_start: bool) -> list[tuple[TerminalKeyFile, bytes | None]]:
        """Every file with its key, None for one that cannot be read; at a start that is raised. Raises
        SecretFileError for a misnamed file, PlaceAway."""
        found: list[tuple[TerminalKeyFile, bytes | None]] = []
        known: dict[tuple[int, int, int], bytes] = {}
        for file in terminal_key_files(self._directory):
            try:
                stat = os.stat(file.file.path)
                identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                known[identity] = self._known.get(identity) or read_key(self._keystore, file.file)
                found.append((file, known[identity]))
            except (SecretFileError, PlaceAway, OSError) as problem:
                if is_start:
                    raise
                self._tell(f"{file.file.path}: {problem}")
                found.append((file, None))
        self._known = known
        return found

    def _take(self, found: list[tuple[TerminalKeyFile, bytes | None]]) -> None:
        by_terminal: dict[str, list[tuple[TerminalKeyFile, bytes | None]]] = {}
        for file, key in found:
            by_terminal.setdefault(file.terminal, []).append((file, key))
        for terminal in by_terminal.keys() | self._rings.keys():
            ring = self._rings.get(terminal)
            is_new = ring is None
            if ring is None:
                ring = self._rings[terminal] = Ring(terminal)
            self._fill(ring, by_terminal.get(terminal, []))
            live = sorted(number for number, one in ring.versions.items() if one.ends_s is None)
            if ring.active not in live and (ring.active or is_new):
                ring.active = live[-2] if len(live) > 1 else live[0] if live else 0
            for number in live:
                if number < ring.active:
                    ring.versions[number].ends_s = self._mono_s() + self._grace_s

    def _fill(self, ring: Ring, found: list[tuple[TerminalKeyFile, bytes | None]]) -> None:
        """What the files say. A terminal whose files are all gone is not heard without a MAC: it stays."""
        before, ring.versions, ring.master = ring.versions, {}, None
        for file, key in found:
            held = before.get(file.version)
            if file.version == MASTER:
                ring.master = key
            elif held is not None and key in (None, held.key):
                held.path, held.until_s = file.file.path, file.until_s
                ring.versions[file.version] = held
            elif key is not None:
                ring.versions[file.version] = Version(file, key, ends_s=self._end_of(file))

    def _end_of(self, file: TerminalKeyFile) -> float | None:
        """Never later than the grace from now: the clock may have gone back."""
        if file.until_s is None:
            return None
        return self._mono_s() + min(file.until_s - self._now_s(), self._grace_s)
