"""What a running box tells the centre of its program: the image's version and slot, and what failed.

Leaves out how it gets there (`uplink.line`) and who writes it (`update.trial`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgegw.core.messages import PROGRAM_WORD_CHARS_MAX, Program
from edgegw.update.state import STATUS_NAME, Word, read_word

_IDLE: Final = "idle"


class Told:
    """What is told now; the file is read again when it has changed. version: of the program, where no image
    says another."""

    def __init__(self, folder: Path, *, version: str) -> None:
        self._folder = folder
        self._plain = Program(version=version)
        self._program = self._plain
        self._read_ns = -1

    def __call__(self) -> Program:
        """The word for the centre."""
        try:
            changed_ns = (self._folder / STATUS_NAME).stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        if changed_ns != self._read_ns:
            self._read_ns = changed_ns
            word = read_word(self._folder) if changed_ns else None
            self._program = self._plain if word is None or not word.version else program_of(word)
        return self._program


def program_of(word: Word) -> Program:
    """The agent's word, as short as it goes over the line."""
    says = "" if word.phase == _IDLE else f"{word.phase} {word.target}"
    problem = word.problem
    if word.failed and not problem:
        last = word.failed[-1]
        problem = f"{last.version} has failed: {last.why}"
    return Program(
        version=word.version,
        slot=word.slot,
        word=says[:PROGRAM_WORD_CHARS_MAX],
        problem=problem[:PROGRAM_WORD_CHARS_MAX],
    )
