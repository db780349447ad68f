"""A VFS that writes down what SQLite does to its files, and the disks that a power cut may leave of that.

`Recorder` is the VFS: every write, truncate, sync, creation and removal, in order, together with the moments
in which clients were told something and in which the anchor's file changed. `crash_states` takes such a
recording to pieces: at any moment, what was synced is there, and of what was not, any part may be: nothing,
all, a beginning, any selection in sectors of 512 bytes or pages of 4 KiB, removals and truncations undone,
and rubbish where a file had grown. A file's name is there once it was synced with its directory.

Stronger than disks are: pieces of one write come and go one by one, also where a real cache would keep them
together. Weaker: a sector is never torn inside, because SQLite relies on that (powersafe overwrite), and
names of one directory change in their order.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apsw

from edgegw.ledger import anchor, boot, schema

SECTOR, PAGE = 512, 4096
VFS_NAME = "recording"
DIRECTORY = "/"


class Event(NamedTuple):
    """One thing that happened: `kind` is create, write, truncate, sync, delete, names (the directory was
    synced), anchor (its file is replaced by `body`) or told (`at` records are known to clients)."""

    kind: str
    name: str = ""
    at: int = 0
    body: bytes = b""


class Disk(NamedTuple):
    """One state of the media after a cut: the ledger's files, the anchor, what clients knew, how it came."""

    files: dict[str, bytes]
    anchor: bytes
    told_size: int
    cut: int
    fate: str
    undone_deletes: int = 0
    """How many files are there again that had been removed."""

    @property
    def digest(self) -> bytes:
        """Equal for equal media."""
        summed = hashlib.blake2b(self.anchor, digest_size=16)
        for name in sorted(self.files):
            summed.update(f"\0{name}\0{len(self.files[name])}\0".encode())
            summed.update(self.files[name])
        return summed.digest()

    def write(self, data: Path, outside: Path) -> None:
        """Lay the media out in two empty directories."""
        for name, content in self.files.items():
            (data / name).write_bytes(content)
        if self.anchor:
            (outside / anchor.FILE_NAME).write_bytes(self.anchor)


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, filename: Any, flags: list[int]) -> None:
        self._recorder = recorder
        self._name = Path(filename.filename() if isinstance(filename, apsw.URIFilename) else filename).name
        journal = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        self._new_name = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & journal)
        """SQLite's own VFS syncs the directory with the first sync of such a file."""
        super().__init__(recorder.below, filename, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.note(Event("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._recorder.note(Event("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        if self._recorder.lies_about(self._name):
            return
        self._recorder.note(Event("sync", self._name))
        if self._new_name:
            self._new_name = False
            self._recorder.note(Event("names"))


class Recorder(apsw.VFS):
    """Records the files of one directory; `lying` syncs are not done: those of the files whose names end so,
    or of the DIRECTORY itself."""

    def __init__(self, *, lying: str | None = None) -> None:
        self.events: list[Event] = []
        self._known: set[str] = set()
        self._lying = lying
        self._noting = threading.Lock()
        self.below = apsw.vfs_names()[0]
        super().__init__(VFS_NAME, self.below, makedefault=True)

    def note(self, event: Event) -> None:
        """One more event; also from the threads that commit."""
        with self._noting:
            if event.kind == "names" and self._lying == DIRECTORY:
                return
            if event.kind == "create":
                if event.name in self._known:
                    return
                self._known.add(event.name)
            elif event.kind == "delete":
                self._known.discard(event.name)
            self.events.append(event)

    def lies_about(self, name: str) -> bool:
        """Whether a sync of this file is a lie."""
        return self._lying is not None and name.endswith(self._lying)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        file = _File(self, name, flags)
        self.note(Event("create", file._name))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.note(Event("delete", Path(filename).name))
        if syncdir:
            self.note(Event("names"))


@contextmanager
def recording(*, lying: str | None = None) -> Iterator[Recorder]:
    """Every ledger that is opened inside is recorded; its anchor is written when `Anchor.close` says so."""
    recorder = Recorder(lying=lying)
    replace_file, fsync_directory = anchor._replace_file, schema.fsync_directory

    def replace(path: Path, past: anchor.Past) -> None:
        replace_file(path, past)
        recorder.note(Event("anchor", body=path.read_bytes()))

    def fsync(directory: Path) -> None:
        fsync_directory(directory)
        if (directory / boot.LEDGER_NAME).exists():
            recorder.note(Event("names"))

    try:
        with (
            mock.patch.object(anchor, "_replace_file", replace),
            mock.patch.object(schema, "fsync_directory", fsync),
            mock.patch.object(anchor.Anchor, "start", return_value=None),
        ):
            yield recorder
    finally:
        recorder.unregister()


class Medium:
    """A directory's files as they are, as they were at their last sync, and what lies between."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.synced_names: dict[str, int] = {}
        self.name_changes: list[tuple[str, int | None]] = []
        self.synced: list[bytearray] = []
        self.pending: list[list[Event]] = []
        self.anchor = b""
        self.told_size = 0

    def take(self, event: Event) -> None:
        """Let one event happen."""
        if event.kind == "anchor":
            self.anchor = event.body
        elif event.kind == "told":
            self.told_size = event.at
        elif event.kind == "names":
            self.synced_names, self.name_changes = dict(self.names), []
        elif event.kind == "create":
            self.names[event.name] = len(self.synced)
            self.name_changes.append((event.name, len(self.synced)))
            self.synced.append(bytearray())
            self.pending.append([])
        elif event.kind == "delete":
            del self.names[event.name]
            self.name_changes.append((event.name, None))
        elif event.kind == "sync":
            file = self.names[event.name]
            apply(self.synced[file], self.pending[file])
            self.pending[file] = []
        else:
            self.pending[self.names[event.name]].append(event)

    @property
    def certain(self) -> bool:
        """Whether a cut now can leave only one state."""
        return not self.name_changes and not any(self.pending[file] for file in self.names.values())

    def after_cut(self, fate: str, rng: random.Random, *, cut: int) -> Disk:
        """What a power cut leaves now, by one of the `FATES`."""
        names = dict(self.synced_names)
        kept = {"nothing": 0, "all": len(self.name_changes)}.get(fate)
        for name, file in self.name_changes[
            : rng.randint(0, len(self.name_changes)) if kept is None else kept
        ]:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        files = {}
        for name, file in names.items():
            content = bytearray(self.synced[file])
            grown = len(content)
            apply(content, survivors(self.pending[file], fate, rng))
            if fate == "rubbish":
                spoil(content, grown, self.pending[file], rng)
            files[name] = bytes(content)
        undone = sum(file is None and name in names for name, file in self.name_changes)
        return Disk(files, self.anchor, self.told_size, cut, fate, undone)


DROPPED = ("nothing",)
REORDERED = ("one lost", "one kept", "writes", "pages")
TORN = ("beginning", "sectors", "rubbish")
FATES = ("all", *DROPPED, *REORDERED, *TORN)


def apply(content: bytearray, events: Sequence[Event]) -> None:
    """Do writes and truncations to a file's content; what is skipped by a write is zeros."""
    for event in events:
        if event.kind == "truncate":
            del content[event.at :]
            content.extend(bytes(event.at - len(content)))
        else:
            content.extend(bytes(max(0, event.at - len(content))))
            content[event.at : event.at + len(event.body)] = event.body


def survivors(pending: list[Event], fate: str, rng: random.Random) -> list[Event]:
    """Which pieces of the unsynced writes reach the disk."""
    if fate == "nothing" or not pending:
        return []
    if fate == "all":
        return pending
    index = rng.randrange(len(pending))
    if fate == "beginning":
        return [*pending[:index], *_part(pending[index], rng)]
    if fate == "one lost":
        return pending[:index] + pending[index + 1 :]
    if fate == "one kept":
        return [pending[index]]
    share = rng.choice((0.1, 0.5, 0.9))
    step = {"writes": 1 << 40, "pages": PAGE, "sectors": SECTOR, "rubbish": SECTOR}[fate]
    return [piece for event in pending for piece in pieces(event, step) if rng.random() < share]


def pieces(event: Event, step: int) -> list[Event]:
    """A write, cut at the borders of the file's sectors or pages; anything else whole."""
    if event.kind != "write":
        return [event]
    cuts = [event.at, *range((event.at // step + 1) * step, event.at + len(event.body), step)]
    ends = [*cuts[1:], event.at + len(event.body)]
    return [
        Event("write", event.name, start, event.body[start - event.at : end - event.at])
        for start, end in zip(cuts, ends, strict=True)
    ]


def _part(event: Event, rng: random.Random) -> list[Event]:
    found = pieces(event, SECTOR)
    return found[: rng.randint(0, len(found))]


def spoil(content: bytearray, grown: int, pending: list[Event], rng: random.Random) -> None:
    """Rubbish in what a file has grown by and nothing was written to, as blocks of other files would be."""
    start = -(-grown // SECTOR) * SECTOR
    for at in range(start, len(content) - SECTOR + 1, SECTOR):
        if not any(content[at : at + SECTOR]) and pending:
            content[at : at + SECTOR] = rng.randbytes(SECTOR)


def crash_states(
    events: Sequence[Event], *, seed: int, per_cut: int, cuts: set[int] | None = None
) -> Iterator[Disk]:
    """The disks that cuts may leave: `per_cut` draws after each event, or one where only one is possible.

    The draws at a cut depend on the seed and the cut alone, and take all fates in turn.
    """
    medium = Medium()
    for cut, event in enumerate(events):
        medium.take(event)
        if cuts is not None and cut not in cuts:
            continue
        rng = random.Random(seed << 32 | cut)
        if medium.certain:
            if event.kind in ("sync", "told", "anchor", "names"):
                yield medium.after_cut("all", rng, cut=cut)
            continue
        fates = list(FATES)
        rng.shuffle(fates)
        for draw in range(per_cut):
            yield medium.after_cut(fates[draw % len(fates)], rng, cut=cut)
