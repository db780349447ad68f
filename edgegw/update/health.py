"""Whether a new program is well on this machine: by the box's own word, never by anything beyond the machine.

The line, the hub and the mirror may be away for a week, and a hub may fence the box: none of that is the
program's fault, and an older one would not mend it. Leaves out how the box is asked (`commands.update`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgegw.foreign_files import open_regular
from edgegw.update.state import Attempt
from edgegw.update.windows import BoxWord

RUNNING_NAME: Final = "running.json"
_BYTES_MAX: Final = 1 << 20
_HUBS_WORD: Final = frozenset({"behind", "fenced"})
"""Modes in which a box takes no payments because of what others hold or say."""


class Answer(NamedTuple):
    """What a box says when it is asked on its own machine."""

    alive: bool
    """Its process answers: the ledger is open and replayed, its keys could be used."""
    ready: bool = False
    """It takes payments."""
    said: str = ""


def why_unwell(answer: Answer, box: BoxWord | None, before: Attempt) -> str:
    """What is wrong with the program as far as this machine can tell; "" where it is well."""
    if not answer.alive:
        return answer.said or "the box does not answer"
    if answer.ready:
        return ""
    if not before.was_ready:
        return ""  # it took no payments before, either
    if box is not None and (box.mode in _HUBS_WORD or box.is_mirror_away):
        return ""
    return f"it takes no payments, and did before: {answer.said}"


def running_box(data_dir: Path, started: Callable[[int], str]) -> BoxWord | None:
    """What the running box says beside its ledger; None where none runs: a power cut leaves the word behind,
    and its number is soon another process's. started: which process bears a number now, "" for none."""
    try:
        with open_regular(data_dir, RUNNING_NAME) as file:
            word = msgspec.json.decode(file.read(_BYTES_MAX), type=BoxWord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return word if word.started and word.started == started(word.pid) else None
