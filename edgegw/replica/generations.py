"""Where at a target its copy stands: each time it was found malformed it begins anew in a place beside.

What was there stays untouched: it is evidence, and its older states may be sound. The first generation stands
at the place that the settings name, each later one below it, under its number; a box that has lost its disks
finds them by that. litestream cleans up in the newest alone; whoever knows why an older one was damaged may
delete it. Leaves out what makes a copy malformed (`edgegw drill`) and when to begin anew (`replica.keeper`).
"""

from __future__ import annotations

import shutil
from typing import Final

import msgspec

from edgegw.config.replica import ReplicaTable, ReplicaTarget
from edgegw.replica import litestream
from edgegw.replica.copies import Copies, Ledger

GAP: Final = 4
"""So many numbers without a copy end the search: older ones may have been deleted."""


class Generation(msgspec.Struct, frozen=True):
    """The one that is written to, as the litestream folder keeps it."""

    number: int = 1
    begun_s: int = 0
    """When it took the place of a malformed one, in seconds since 1970; 0 for the one that was found."""


def in_place(target: ReplicaTarget, number: int) -> ReplicaTarget:
    """The target of a generation, with a name and a place of its own."""
    if number == 1:
        return target
    below, name = f"generation-{number}", f"{target.name}.{number}"
    if target.kind == "file":
        return msgspec.structs.replace(target, name=name, copy_dir=f"{target.copy_dir}/{below}")
    path = litestream.path_of(target)
    return msgspec.structs.replace(target, name=name, path=f"{path.rstrip('/')}/{below}")


class Generations:
    """The generations of one target."""

    def __init__(self, table: ReplicaTable, target: ReplicaTarget, ledger: Ledger) -> None:
        self.name = target.name
        self._table = table
        self._target = target
        self._ledger = ledger
        self._path = ledger.data / litestream.FOLDER / f"{target.name}.generation"

    def copies(self, number: int) -> Copies:
        """What a generation holds."""
        return Copies(self._table, in_place(self._target, number), self._ledger)

    def held(self) -> list[int]:
        """The generations that hold anything, newest first; raises CopyError where the target does not
        answer."""
        found: list[int] = []
        number = 1
        while number <= (found[-1] if found else 0) + GAP:
            if self.copies(number).txids():
                found.append(number)
            number += 1
        return found[::-1]

    def current(self) -> Generation:
        """The one that is written to: as it is kept here, else the newest at the target. Raises CopyError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Generation)
        except (OSError, msgspec.MsgspecError):
            return Generation(max(self.held(), default=1))

    def keep(self, generation: Generation) -> None:
        """Let this be the one that is written to."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_bytes(msgspec.json.encode(generation))
        fresh.replace(self._path)

    def begin_next(self, current: Generation, *, now_s: int) -> Generation:
        """Leave what is at the target, and go on beside it with a whole copy; what litestream kept here goes,
        because it is in the ledger. Raises CopyError."""
        held = self.held()
        number = max([current.number, *held]) + 1 if current.number in held else current.number
        generation = Generation(number, now_s)
        self.keep(generation)
        old = litestream.state_folder(self._ledger.data, in_place(self._target, current.number))
        shutil.rmtree(old, ignore_errors=True)
        return generation
