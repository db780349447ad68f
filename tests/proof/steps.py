"""What is claimed, the command that measures it, and what is asked of its figures: one entry for each step.

To add a proof is to add its entry to STEPS. A command is what is typed after `python`; `{state}` stands for
a file that belongs to the step, where a long one keeps how far it came. Leaves out how steps are run
(`runner`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tests.proof.figures import Figures

_HOLDS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


class Step(NamedTuple):
    """One claim and its measurement."""

    name: str
    claim: str
    command: str
    short: str
    """The same on a few, in seconds."""
    asked: tuple[str, ...]
    """`figure >= number`, with <= and == as well, of a list its length; a short run must have its zeros."""
    minutes: int = 1
    """About so long; the longest begin first."""
    alone: bool = False
    """It times itself: nothing runs beside it."""


def falls_short(step: Step, figures: Figures, *, short: bool = False) -> list[str]:
    """Where the figures fall short of what is asked, in words; a figure that was not measured does."""
    found = []
    for bound in step.asked:
        name, sign, number = bound.split()
        if short and (sign, number) != ("==", "0"):
            continue
        value = figures.get(name)
        if isinstance(value, list | dict):
            value = len(value)
        if not isinstance(value, int | float):
            found.append(f"{name} was not measured")
        elif not _HOLDS[sign](value, float(number)):
            found.append(f"{name} is {value}, asked is {sign} {number}")
    return found


def _slow(path: str) -> str:
    return f"-m pytest -q -s -m slow {path}"


def _fast(path: str) -> str:
    return f"-m pytest -q -s {path}"


def _all(path: str) -> str:
    return f"-m pytest -q -s -m 'slow or not slow' {path}"


STEPS: Final[tuple[Step, ...]] = (
    Step(
        name="crash-states",
        claim="Whatever of its unsynced writes a power cut leaves, the box starts and no answer is lost",
        command=_slow("tests/crash/test_crash_states.py"),
        short=_fast("tests/crash/test_crash_states.py"),
        asked=(
            "distinct >= 10000",
            "dropped >= 5",
            "reordered >= 2000",
            "torn >= 2000",
            "deletes_undone >= 3",
            "wrong == 0",
        ),
        minutes=5,
    ),
    Step(
        name="crash-planted",
        claim="The same harness reports synchronous=NORMAL and every sync that is left out",
        command=_fast("tests/crash/test_crash_states.py -k planted"),
        short=_fast("tests/crash/test_crash_states.py -k planted"),
        asked=(
            "synchronous_normal >= 1",
            "wal_not_synced >= 1",
            "file_not_synced_before_the_wal_starts_again >= 1",
            "directory_not_synced >= 1",
        ),
    ),
    Step(
        name="killed-at-each-call",
        claim="SIGKILL at each system call of a payment loses no answer",
        command=_slow("tests/crash/test_syscalls.py -k last"),
        short=_fast("tests/crash/test_syscalls.py"),
        asked=("kill >= 100", "wrong == 0"),
        minutes=3,
    ),
    Step(
        name="disk-error-at-each-call",
        claim="EIO and ENOSPC at each system call on the ledger's files lose no answer",
        command=_slow("tests/crash/test_syscalls.py -k disk"),
        short=_fast("tests/crash/test_syscalls.py -k failed_fsync"),
        asked=("eio >= 60", "enospc >= 15", "wrong == 0"),
        minutes=3,
    ),
    Step(
        name="power-cuts",
        claim="Cuts of a real ext4's power under a paying box lose no answer",
        command=_slow("tests/crash/test_power_cut.py"),
        short=_fast("tests/crash/test_power_cut.py"),
        asked=("cuts >= 200", "cuts_wrong == 0"),
        minutes=2,
    ),
    Step(
        name="slow-disk",
        claim="With an fsync of 5 and of 50 ms all payments are answered, in batches, and none is lost",
        command=_fast("tests/crash/test_slow_disk.py"),
        short=_fast("tests/crash/test_slow_disk.py"),
        asked=("paid_5_ms >= 160", "paid_50_ms >= 160", "wrong_5_ms == 0", "wrong_50_ms == 0"),
        alone=True,
    ),
    Step(
        name="bit-rot",
        claim="A flipped bit in any kind of page or WAL frame halts the box with a hint, or changes nothing",
        command=_slow("tests/crash/test_bit_rot.py"),
        short=_fast("tests/crash/test_bit_rot.py"),
        asked=("flips >= 2500", "kinds >= 20", "served_wrong == 0"),
        minutes=7,
    ),
    Step(
        name="planted-faults",
        claim="Each fault that is planted in a copy of the product turns its tests red",
        command="-m tests.proof.plants --json",
        short="-m tests.proof.plants --only note-not-verified --only late-grant-kept --json",
        asked=("planted >= 25", "not_found == 0", "gone == 0", "red_without == 0"),
        minutes=6,
    ),
    Step(
        name="simulator",
        claim="Of a million simulated transfers under every fault none is lost, doubled or created",
        command="-m tests.simulator --seeds 1..1020 --processes 2 --state {state} --json",
        short="-m tests.simulator --seeds 1..3 --processes 1 --json",
        asked=("seeds >= 1000", "transfers >= 1000000", "red == 0"),
        minutes=40,
    ),
    Step(
        name="fences",
        claim="Every rollback, clone and fork of real processes is fenced at first contact and mended",
        command="-m tests.drills --count 200 --json",
        short="-m tests.drills --count 2 --json",
        asked=("drills >= 200", "passed >= 200", "faults == 0"),
        minutes=15,
    ),
    Step(
        name="audit-edits",
        claim="The stand-alone verifier finds every random edit and calls no clean log bad",
        command="-m tests.audit.edits --count 10000 --clean 1000 --json",
        short="-m tests.audit.edits --count 100 --clean 10 --json",
        asked=("edits >= 10000", "clean >= 1000", "missed == 0", "alarms == 0"),
        minutes=6,
    ),
    Step(
        name="verifier-speed",
        claim="A journal of 1,000,000 records is verified within 30 s on one core",
        command="-m tests.audit.speed --records 1000000 --json",
        short="-m tests.audit.speed --records 10000 --json",
        asked=("well == 1", "within_seconds <= 30"),
        minutes=3,
        alone=True,
    ),
    Step(
        name="fuzz",
        claim="Every decoder raises only what is documented, in bounded time and memory",
        command="-m tests.fuzz --seconds 8 --target all --json",
        short="-m tests.fuzz --seconds 1 --target record --target note --json",
        asked=("targets >= 20", "executions >= 200000", "findings == 0"),
        minutes=5,
    ),
    Step(
        name="retention",
        claim="Only what is cosigned and past the legal horizon is pruned; identities and proofs stay",
        command=_fast("tests/ledger/test_prune.py"),
        short=_fast("tests/ledger/test_prune.py"),
        asked=("passed >= 10", "failed == 0"),
    ),
    Step(
        name="mirror",
        claim="With durability = mirrored no answer leaves before the mirror's cosignature, and none burns",
        command=_all("tests/mirror tests/ledger/test_coverage.py"),
        short=_fast("tests/ledger/test_coverage.py"),
        asked=("passed >= 30", "failed == 0"),
        minutes=3,
    ),
    Step(
        name="replica-kills",
        claim="No copy of a box that is killed at full speed comes back malformed or ahead of it",
        command=_slow("tests/replica/test_kills.py"),
        short=_fast("tests/replica/test_kills.py"),
        asked=("kills >= 20", "failed == 0"),
        minutes=6,
        alone=True,
    ),
    Step(
        name="replica-alarms",
        claim="A copy that is silent, stuck or dead is alarmed within 10 s",
        command=_slow("tests/replica/test_alarms.py"),
        short=_fast("tests/replica/test_alarms.py"),
        asked=("passed >= 1", "failed == 0"),
        alone=True,
    ),
    Step(
        name="restore",
        claim="The best verified copy comes back, an older one where it is malformed, and clears nothing",
        command=_all("tests/replica/test_restore.py"),
        short=_fast("tests/replica/test_restore.py"),
        asked=("passed >= 4", "failed == 0"),
        minutes=2,
    ),
)
