"""What can go wrong at run time, and what happens next (the house's four kinds of errors).

A *refusal* is a value with a reason (`core.reasons`), never an exception. A *protocol error* is the peer's
bytes. An *operating error* is the world: the disk, the line, the past. A *broken invariant* is ourselves.
Every class has a stable `code`; an operating error also says what its catcher does next, and its `hint` names
the operator's next action. Logged once, at the edge.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Next(enum.Enum):
    """What whoever catches an operating error does."""

    RETRY = "retry"
    """The same again later may succeed; nothing was decided."""
    PAUSE = "pause"
    """Clear nothing until the cause is gone; reads, sync and the box's own records go on."""
    STOP = "stop"
    """End the process; a new start reads the disk afresh."""


class ProtocolError(Exception):
    """The peer's bytes break its protocol; `answer` is what to send back, empty to send nothing."""

    def __init__(self, problem: str, *, answer: bytes = b"") -> None:
        super().__init__(problem)
        self.answer = answer


class OperatingError(Exception):
    """The world does not allow it now; the text says what, `hint` what an operator does about it."""

    code: ClassVar[str] = "operating_error"
    next: ClassVar[Next] = Next.STOP
    default_hint: ClassVar[str] = "Read the box's log."

    def __init__(self, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint or self.default_hint


class Overloaded(OperatingError):
    """More work waits than the box takes in; nothing was decided."""

    code = "overloaded"
    next = Next.RETRY
    default_hint = (
        "Send the same request with the same id again in a moment; `edgegw status` shows the queues."
    )


class LinkDown(OperatingError):
    """The centre does not answer."""

    code = "link_down"
    next = Next.RETRY
    default_hint = (
        "The box goes on without it; `edgegw status` names the hub addresses that were tried and what each"
        " one said."
    )


class NotEnrolled(OperatingError):
    """The box has no epoch: the hub has never said that it may clear."""

    code = "not_enrolled"
    next = Next.PAUSE
    default_hint = "Let the box reach a hub that knows its key; `edgegw status` shows both."


class Behind(OperatingError):
    """The ledger is older than its own past: a restore, a clone, or an anchor that is gone."""

    code = "behind"
    next = Next.PAUSE
    default_hint = (
        "It clears nothing; what it lacks comes back over the line (`edgegw status` counts it). Then the"
        " centre orders `edgegw order new-epoch` for this box. `edgegw ledger check` reads what is here."
    )


class Forked(OperatingError):
    """Two different histories exist for one place in a log."""

    code = "forked"
    next = Next.PAUSE
    default_hint = (
        "Keep the disk as it is: both signed checkpoints are evidence. Run `edgegw ledger check`; bring the"
        " centre what `edgegw journal export` writes, and ask it for a new epoch."
    )


class Fenced(OperatingError):
    """The hub has given this box a newer epoch or has ended this one."""

    code = "fenced"
    next = Next.PAUSE
    default_hint = (
        "Another boot or box has taken over, or the centre has put this one out of service: `edgegw status`"
        " says why. What it wrote is still delivered; to clear again it needs a new epoch of the centre."
    )


class NewEpoch(OperatingError):
    """The hub has given this box its next epoch: the pen of the one before ends, in order, and what was not
    written yet is decided in the next one."""

    code = "new_epoch"
    next = Next.RETRY
    default_hint = "Send the same request with the same id again in a moment: the new epoch begins by itself."

    def __init__(self, problem: str, *, note: str) -> None:
        super().__init__(problem)
        self.note = note
        """The hub-signed link."""


class MirrorAway(OperatingError):
    """The mirror does not answer, and the settings say that nothing is decided without it."""

    code = "mirror_away"
    next = Next.RETRY
    default_hint = (
        "Bring the mirror or the way to it back: payments start again by themselves. `edgegw status` says"
        " what it said last."
    )


class StorageFull(OperatingError):
    """The disk has no room for payments; nothing was decided, and the box's own records still go in."""

    code = "storage_full"
    next = Next.RETRY
    default_hint = (
        "Free space on the ledger's disk; payments start again by themselves. `edgegw status` shows what"
        " is left."
    )


class Unwell(OperatingError):
    """The machine endangers the ledger: nothing new is decided until it is well again."""

    code = "unwell"
    next = Next.RETRY
    default_hint = "`edgegw health` says what is wrong and what to do; payments start again by themselves."


class StorageBusy(OperatingError):
    """Another program held the ledger's write lock beyond the busy timeout; nothing was decided."""

    code = "storage_busy"
    next = Next.RETRY
    default_hint = (
        "Nothing but the box and its replication may write to the ledger file; `fuser` on it names the"
        " program."
    )


class StorageFailed(OperatingError):
    """The disk failed before a COMMIT: nothing was decided, and memory is no longer trusted."""

    code = "storage_failed"
    default_hint = (
        "Read the kernel's log for this disk, then start the box again; `edgegw ledger check` reads every"
        " record."
    )


class OutcomeUnknown(OperatingError):
    """A COMMIT was tried and failed: it is kept whole or not at all, and only a fresh start can tell."""

    code = "outcome_unknown"
    default_hint = (
        "Clients ask again with the same id. Start the box again; on the appliance, reboot it first."
    )


class LedgerCorrupt(OperatingError):
    """The ledger file does not hold what it must."""

    code = "ledger_corrupt"
    default_hint = (
        "Copy the disk, then run `edgegw ledger check`: it names the first bad record. The hub or a backup"
        " has the rest."
    )


class RecordPruned(OperatingError):
    """What is asked for is older than what the box keeps; the centre holds it."""

    code = "record_pruned"
    next = Next.PAUSE
    default_hint = (
        "The centre has every record that a box prunes: ask there. `edgegw ledger prune --dry-run` says from"
        " where on this box has its own. A mirror or hub that lacks them goes on with the box's next epoch:"
        " `edgegw order new-epoch`."
    )


class LedgerInUse(OperatingError):
    """Another process has this ledger open."""

    code = "ledger_in_use"
    default_hint = (
        "One process per ledger. Stop the other one first, or give this one a data directory of its own."
    )


class LedgerForeign(OperatingError):
    """The file is no ledger, another box's, or of a newer version of this program."""

    code = "ledger_foreign"
    default_hint = (
        "Check the data directory in the box's settings, and that this version is not older than the last"
        " one."
    )


class UnsafeSqlite(OperatingError):
    """This SQLite can lose committed records (the WAL-reset bug)."""

    code = "unsafe_sqlite"
    default_hint = "Install the apsw of requirements.lock; it carries its own SQLite."


class BrokenInvariant(Exception):
    """We have broken a rule of our own: stop, start again read-only, tell the makers."""

    code: ClassVar[str] = "broken_invariant"


class HeadMoved(BrokenInvariant):
    """The head of a log was not where its only writer had left it."""

    code = "head_moved"
