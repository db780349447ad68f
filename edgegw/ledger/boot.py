"""Opening a ledger to write: one process at a time, and only what is not behind its own past (DESIGN §4, §6).

Leaves out what the records say: loading the book from them is the start's next step.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, NamedTuple

from edgegw.errors import Behind, Forked, LedgerInUse
from edgegw.ledger.anchor import Anchor
from edgegw.ledger.store import Store

LEDGER_NAME: Final = "ledger.db"
LOCK_NAME: Final = "ledger.lock"


class LedgerLock:
    """The right to write to the ledger in a directory; ends with the process, even with SIGKILL."""

    def __init__(self, directory: Path) -> None:
        """Take it or raise LedgerInUse at once."""
        path = directory / LOCK_NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise LedgerInUse(f"process {holder or '?'} has the ledger in {directory} open") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one in. The file stays: removing it would let two in."""
        os.close(self._descriptor)


class Opened(NamedTuple):
    """A ledger that this process may write to; with `trouble` it clears nothing and its head is not ours."""

    store: Store
    anchor: Anchor
    lock: LedgerLock
    trouble: Behind | Forked | None

    def disown(self) -> None:
        """Keep every later start from clearing until a new epoch gives the ledger a new lineage: it was found
        behind, or is about to get records back that others have kept."""
        self.anchor.disown(self.store)

    def close(self) -> None:
        """Write the anchor, close the file, let the next process in."""
        try:
            self.anchor.close()
        finally:
            self.store.close()
            self.lock.release()


def open_ledger(
    directory: Path,
    *,
    anchor_directory: Path,
    bank: str,
    box: str,
    boot: str,
    create: bool,
    checkpoints: bool = True,
) -> Opened:
    """Lock, open and examine the ledger of a box; raises LedgerInUse and what `Store.open` raises.

    An untroubled ledger gets a new lineage and its head goes to this boot; a troubled one is left as it is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = LedgerLock(directory)
    try:
        store = Store.open(directory / LEDGER_NAME, create=create, checkpoints=checkpoints)
        try:
            store.own(bank=bank, box=box)
            anchor = Anchor(anchor_directory, bank=bank, box=box)
            trouble = _examined(anchor, store)
            if trouble is None:
                anchor.renew(store, boot=boot)
                anchor.start()
        except BaseException:
            store.close()
            raise
    except BaseException:
        lock.release()
        raise
    return Opened(store, anchor, lock, trouble)


def _examined(anchor: Anchor, store: Store) -> Behind | Forked | None:
    try:
        anchor.examine(store)
    except (Behind, Forked) as trouble:
        return trouble
    return None
