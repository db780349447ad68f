"""The copies at one target: which states they hold, and getting one back into a file.

litestream restores to a number of its own (a txid); each that is the end of a file at the target is a state
to go back to. Leaves out whether the file that came is a sound ledger: that is for its taker to say.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from edgegw.config.replica import ReplicaTable, ReplicaTarget
from edgegw.replica import litestream

LIST_TIMEOUT_S: Final = 120
RESTORE_TIMEOUT_S: Final = 6 * 3600
T = TypeVar("T")


class CopyError(Exception):
    """A target does not answer, or does not give the state that was asked for."""


class NoAnswer(CopyError):
    """It took too long."""


class MalformedCopy(CopyError):
    """The target answers and lists a state, and that cannot be restored."""

    def __init__(self, txid: str, problem: CopyError) -> None:
        super().__init__(str(problem))
        self.txid = txid


class Ledger(NamedTuple):
    """Whose copies they are."""

    data: Path
    """The box's data directory."""
    path: Path


class _File(msgspec.Struct):
    level: int
    max_txid: str


class Copies:
    """What one target holds of a ledger."""

    def __init__(self, table: ReplicaTable, target: ReplicaTarget, ledger: Ledger) -> None:
        self.target = target
        self._ledger = ledger.path
        self._settings = litestream.write_settings(table, target, data=ledger.data, ledger=ledger.path)

    def txids(self) -> list[str]:
        """The states that the target holds, newest first; raises CopyError."""
        words = ("ltx", "-no-expand-env", "-config", str(self._settings), "-json", "-level", "all")
        listed = self._run(LIST_TIMEOUT_S, *words, str(self._ledger))
        try:
            files = msgspec.json.decode(listed or b"[]", type=list[_File] | None) or []
        except msgspec.MsgspecError as problem:
            raise CopyError(f"{self.target.name}: its list of files cannot be read: {problem}") from None
        return sorted({file.max_txid for file in files}, reverse=True)

    def restore(self, txid: str, output: Path) -> None:
        """Write the state of a txid to a new file; raises CopyError."""
        words = ("restore", "-no-expand-env", "-config", str(self._settings), "-txid", txid)
        self._run(RESTORE_TIMEOUT_S, *words, "-o", str(output), str(self._ledger))

    def restore_newest(self, output: Path) -> str:
        """Write the newest state to a new file; its txid, "" where the target holds none.

        Raises MalformedCopy where a target that answers before and after does not give it, and that twice:
        files may be merged meanwhile. Raises CopyError.
        """
        for last in (False, True):
            states = self.txids()
            if not states:
                return ""
            try:
                self.restore(states[0], output)
            except NoAnswer:
                raise
            except CopyError as problem:
                if last and self.txids():
                    raise MalformedCopy(states[0], problem) from None
            else:
                return states[0]
        return ""

    def _run(self, timeout_s: float, *words: str) -> bytes:
        command = litestream.launched(litestream.binary(), *words)
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=timeout_s, env=litestream.environment()
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"{self.target.name}: no answer within {timeout_s:.0f} s") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
            raise CopyError(f"{self.target.name}: {lines[-1]}")
        return done.stdout


def newest_sound(states: Sequence[str], examine: Callable[[str], T | None]) -> T | None:
    """What `examine` gives for the newest state for which it gives something; None if none is sound.

    A state that litestream made wrong stays wrong until the next whole copy, so the search leaps back and
    then halves the last leap: some twenty restores among thousands of states.
    """
    bad, probe, leap = -1, 0, 1
    found: T | None = None
    good = len(states)
    while probe < len(states):
        found = examine(states[probe])
        if found is not None:
            good = probe
            break
        bad = probe
        if probe == len(states) - 1:
            break
        probe = min(probe + leap, len(states) - 1)
        leap *= 2
    while found is not None and good - bad > 1:
        middle = (good + bad) // 2
        better = examine(states[middle])
        if better is None:
            bad = middle
        else:
            good, found = middle, better
    return found
