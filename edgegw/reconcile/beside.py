"""What a second process reads while the first one loads the journals: the hub's records and the core's list.

It writes a file of its own: the core's lines as they go into the workspace, and those records of the hub
whose bytes give their leaf behind the one before. Where they are the journal's too, the workspace takes them
over in SQL; whatever else there is, the first process reads for itself. Small sides need no second process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlite_utils import Database

from edgegw.core.journal import FIRST_PREVIOUS, leaf_hash
from edgegw.errors import OperatingError
from edgegw.hub.database import Database as HubDatabase
from edgegw.reconcile.centre import Centre, HubEpoch
from edgegw.reconcile.core_file import CoreFileError, extra_lines, read_core_files
from edgegw.reconcile.workspace import SEQ_BITS, TABLES, Row

OpenHub = Callable[[], AbstractContextManager[HubDatabase]]
RECORDS_MIN: Final = 50_000
LINE_BYTES: Final = 150
"""About so long is a line of the core."""
_CORE: Final = next(table for table in TABLES if table.name == "core")
_CHAINED: Final = """CREATE TABLE chained(place INTEGER PRIMARY KEY, leaf BLOB, type TEXT, client TEXT,
    request_id TEXT)"""


class Task(msgspec.Struct, frozen=True):
    """What the second process reads, and where it writes it."""

    path: str
    epochs: tuple[tuple[str, int, int], ...]
    """Box, epoch and size; the number of one here is that of its places."""
    core_files: tuple[str, ...]
    channel: str


class Outcome(msgspec.Struct, frozen=True):
    """How it ended: nothing at all where it went well."""

    faults: tuple[str, ...] = ()
    problem: str = ""
    hint: str = ""


class Beside:
    """The second process's file, for the first one."""

    def __init__(self, path: Path, epochs: Mapping[tuple[str, int], HubEpoch], done: Future[Outcome]) -> None:
        self.path = path
        self._numbers = {key: number for number, key in enumerate(epochs)}
        self._done = done

    def number_of(self, box: str, epoch: int) -> int:
        """The number of an epoch's places in the file."""
        return self._numbers[box, epoch]

    def wait(self) -> None:
        """Until the file is whole. Raises CoreFileError and OperatingError."""
        outcome = self._done.result()
        if outcome.faults:
            raise CoreFileError(list(outcome.faults))
        if outcome.problem:
            raise OperatingError(outcome.problem, hint=outcome.hint)


@contextmanager
def reading_beside(
    path: Path,
    open_hub: OpenHub,
    epochs: Mapping[tuple[str, int], HubEpoch],
    *,
    core_files: Sequence[Path],
    channel: str,
) -> Iterator[Beside | None]:
    """A second process that reads these while the context is open; None where it would not pay."""
    lines = sum(file.stat().st_size for file in core_files) // LINE_BYTES
    if sum(one.size for one in epochs.values()) + lines < RECORDS_MIN:
        yield None
        return
    task = Task(
        str(path),
        tuple((one.box, one.epoch, one.size) for one in epochs.values()),
        tuple(map(str, core_files)),
        channel,
    )
    path.unlink(missing_ok=True)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as second:
            yield Beside(path, epochs, second.submit(read_all, task, open_hub))
    finally:
        path.unlink(missing_ok=True)


def read_all(task: Task, open_hub: OpenHub) -> Outcome:
    """The second process's work."""
    try:
        with closing(Database(task.path)) as file:
            file.execute("PRAGMA journal_mode=OFF")
            file.execute("PRAGMA synchronous=OFF")
            _read_core(file.conn, task)
            with open_hub() as database:
                _read_hub(file.conn, Centre(database), task)
    except CoreFileError as problem:
        return Outcome(faults=tuple(problem.faults))
    except OperatingError as problem:
        return Outcome(problem=str(problem), hint=problem.hint)
    return Outcome()


def _read_core(file: Any, task: Task) -> None:
    file.execute(f"CREATE TABLE core({', '.join(_CORE.columns)})")
    marks = ", ".join("?" * len(_CORE.columns))
    rows = read_core_files(list(map(Path, task.core_files)), channel=task.channel)
    file.executemany(f"INSERT INTO core VALUES({marks})", rows)
    for statement in extra_lines():
        file.execute(statement)
    file.commit()


def _read_hub(file: Any, centre: Centre, task: Task) -> None:
    file.execute(_CHAINED)
    for number, (box, epoch, size) in enumerate(task.epochs):
        expected, previous = 0, FIRST_PREVIOUS
        for records in centre.records(box=box, epoch=epoch, branch=0, start=0, end=size):
            rows: list[Row] = []
            for seq, kind, client, request_id, leaf, body in records:
                if seq == expected and leaf_hash(previous, body) == leaf:
                    rows.append((number << SEQ_BITS | seq, leaf, kind, client, request_id))
                expected, previous = seq + 1, leaf
            file.executemany("INSERT INTO chained VALUES(?, ?, ?, ?, ?)", rows)
    file.commit()
