"""What a box knows of its past outside the ledger file, so that restores and clones are found (DESIGN §4).

One small file on a second medium, outside every backup, holds two things. The *lineage*: a random token, new
at every boot, that stands in the ledger as well; a ledger with any other token is a copy of a past one. The
*anchor*: how far the journal had come, written about once a second; a shorter journal has lost its end. The
lineage is renewed in three steps, file {old, new}, ledger new, file {new}; every state between them starts.

Weaker than it looks in one place: a copy taken in the last second of the very boot that was killed has the
right token and the anchored length. Only the hub, which may hold more, finds that one.
"""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path
from typing import Final

import msgspec

from edgegw.core.exchange import frontier_at
from edgegw.errors import Behind, Forked, LedgerForeign, StorageFailed
from edgegw.ledger.schema import fsync_directory
from edgegw.ledger.store import Store

FILE_NAME: Final = "anchor.json"
LINEAGE: Final = "lineage"
"""The key of the token in the ledger's `meta`."""
INTERVAL_S: Final = 1.0
DISOWNED: Final = ""
"""The token of a ledger that may not be written before its next epoch, whatever its records say."""
TOKENS_MAX: Final = 8
"""More than two only pile up when new epochs are begun and lost again and again."""


class Past(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: whose, which tokens a ledger may have, and where its journal was seen to end."""

    v: int = 1
    bank: str
    box: str
    lineage: tuple[str, ...] = ()
    epoch: int = 0
    size: int = 0
    root: str = ""


class Anchor:
    """The file outside, for one ledger. Not for two processes: hold `boot.LedgerLock`."""

    def __init__(self, directory: Path, *, bank: str, box: str, interval_s: float = INTERVAL_S) -> None:
        self.path = directory / FILE_NAME
        self.failure: OSError | None = None
        """Why the last write of the background thread failed, None when it did not."""
        self._interval_s = interval_s
        self._seen = self._past = Past(bank=bank, box=box)
        self._missing = True
        self._writing = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def examine(self, store: Store) -> None:
        """Read the file and hold the ledger against it: raises Behind, Forked or LedgerForeign."""
        self._load()
        heads = {head.epoch: head for head in store.heads()}
        if self._missing and heads:
            raise Behind(
                f"the ledger has records, but its anchor {self.path} is gone: it may be a clone",
                hint=f"Put back the medium that holds {self.path}, or: {Behind.default_hint}",
            )
        past = self._past
        newest = max(heads, default=0)
        if not heads and not past.size:
            return
        token = store.meta(LINEAGE)
        if token == DISOWNED:
            raise Behind("the ledger was found behind its past before; it waits for a new epoch")
        if token not in past.lineage:
            raise Behind("the ledger's lineage is not this box's newest: it is a restored or cloned copy")
        if newest > past.epoch:
            return
        head = heads.get(past.epoch)
        if head is None or head.size < past.size:
            ends = f"{head.epoch}/{head.size}" if head else f"{newest}/{heads[newest].size if heads else 0}"
            raise Behind(f"the journal ends at {ends}, but it had come to {past.epoch}/{past.size}")
        root = frontier_at(past.size, store.node(past.epoch, past.size)).root().hex()
        if root != past.root:
            place = f"{past.epoch}/{past.size}"
            raise Forked(f"at {place} the journal's root is {root}, but it was {past.root}")

    def renew(self, store: Store, *, boot: str) -> None:
        """Make this boot the only heir of an examined ledger: a new token, and its head for this boot."""
        token = self.offer(store)
        store.begin()
        store.put_meta(LINEAGE, token)
        store.claim_head(boot=boot)
        store.commit()
        self.confirm(token)

    def offer(self, store: Store) -> str:
        """First step towards a new lineage: a token that the ledger may have from now on.

        `renew` does all three. A ledger that was found behind gets its new lineage only together with the
        epoch that the hub issues: offer, `Store.put_meta(LINEAGE, token)` in the SQL transaction that starts
        the epoch, confirm. A crash before that COMMIT leaves it behind, as it must.
        """
        token = secrets.token_hex(16)
        held = store.meta(LINEAGE)
        known = (held,) if held in self._past.lineage else self._past.lineage
        lineage = (*known, token)[-TOKENS_MAX:]
        self._write(lineage)
        return token

    def confirm(self, token: str) -> None:
        """Last step: the ledger has the token, so no other ledger is ours."""
        self._write((token,))

    def disown(self, store: Store) -> None:
        """Take the ledger's token from it. Commits by itself."""
        if store.meta(LINEAGE) != DISOWNED:
            store.begin()
            store.put_meta(LINEAGE, DISOWNED)
            store.commit()

    def start(self) -> None:
        """Write what `note` is told in a thread of its own."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._keep, name="anchor", daemon=True)
        self._thread.start()

    def note(self, *, epoch: int, size: int, root: bytes) -> None:
        """After a COMMIT: the journal has come so far. Costs next to nothing; the file follows."""
        self._seen = msgspec.structs.replace(self._seen, epoch=epoch, size=size, root=root.hex())
        self._changed.set()

    def close(self) -> None:
        """Write the last note and end the thread. Raises StorageFailed if it cannot be written."""
        self._stopping.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            self._follow()
        except OSError as problem:
            raise _failed(self.path, problem) from problem

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._changed.wait()
            self._changed.clear()
            try:
                self._follow()
                self.failure = None
            except OSError as problem:
                self.failure = problem
                self._changed.set()
            self._stopping.wait(self._interval_s)

    def _follow(self) -> None:
        """Bring the file to the last note, if it is further."""
        with self._writing:
            seen, past = self._seen, self._past
            if (seen.epoch, seen.size) > (past.epoch, past.size):
                past = msgspec.structs.replace(past, epoch=seen.epoch, size=seen.size, root=seen.root)
                _replace_file(self.path, past)
                self._past = past

    def _load(self) -> None:
        try:
            past = msgspec.json.decode(self.path.read_bytes(), type=Past)
        except FileNotFoundError:
            return
        except OSError as problem:
            raise _failed(self.path, problem) from problem
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise Behind(f"the anchor {self.path} cannot be read: {problem}") from problem
        if (past.bank, past.box) != (self._past.bank, self._past.box):
            raise LedgerForeign(
                f"{self.path} is the anchor of {past.bank}/{past.box},"
                f" not of {self._past.bank}/{self._past.box}",
                hint="Check anchor_dir in the box's settings: every box has a directory of its own.",
            )
        self._past, self._missing = past, False

    def _write(self, lineage: tuple[str, ...]) -> None:
        with self._writing:
            past = msgspec.structs.replace(self._past, lineage=lineage)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _replace_file(self.path, past)
            except OSError as problem:
                raise _failed(self.path, problem) from problem
            self._past, self._missing = past, False


def _replace_file(path: Path, past: Past) -> None:
    """The old content or the new one, whatever happens meanwhile."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(past) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    fsync_directory(path.parent)


def _failed(path: Path, problem: OSError) -> StorageFailed:
    return StorageFailed(
        f"the anchor {path} cannot be used: {problem.strerror}",
        hint="Check the medium and the rights of anchor_dir in the box's settings, then start the box again.",
    )
