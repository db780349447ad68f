"""The bank core's list: a CSV file of named columns, read strictly and line by line.

One line is one posting of the core. Lines of other channels need not carry our identity and are only counted.
What programs write differently is taken as it comes: the order of the columns and others beside them, commas,
semicolons or tabs between them, quotes, a byte order mark, either end of line, empty lines. What a field says
is not guessed.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from edgegw.core.records import AMOUNT_MINOR_MAX


class Column(NamedTuple):
    """A column of the file: what it must look like, and what it is."""

    name: str
    pattern: str
    words: str
    meaning: str


STATUSES: Final = ("posted", "held", "released", "declined", "reversed")
_ACCOUNT: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
_ACCOUNT_WORDS: Final = "1 to 64 letters, digits or ._:-"
COLUMNS: Final = (
    Column("value_date", r"\d{4}-\d{2}-\d{2}", "a day as 2030-01-31", "The day that the core booked it for."),
    Column("core_reference", r"[!-~]{1,128}", "1 to 128 printable characters", "The core's own id; unique."),
    Column(
        "channel", r"[!-~]{1,64}", "1 to 64 printable characters", "Where it came from; ours is --channel."
    ),
    Column("client", r"[ -~]{1,128}", "a client's name", "The client that asked, as the gateway knows it."),
    Column("request_id", r"[0-9a-f]{32}", "32 lower-case hex digits", "The client's id of the payment."),
    Column("box", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a box's name", "The box that cleared it."),
    Column("debit_account_id", _ACCOUNT, _ACCOUNT_WORDS, "Who paid."),
    Column("credit_account_id", _ACCOUNT, _ACCOUNT_WORDS, "Who was paid."),
    Column("currency", r"[A-Z]{3}", "three capital letters", "ISO 4217."),
    Column("amount_minor", r"[1-9][0-9]{0,18}", "a whole number of minor units above 0", "The amount."),
    Column("status", "|".join(STATUSES), f"one of {', '.join(STATUSES)}", "What became of it in the core."),
)
NAMES: Final = tuple(column.name for column in COLUMNS)
FOREIGN_MAY_LACK: Final = frozenset({"client", "request_id", "box", "debit_account_id", "credit_account_id"})
"""What a line of another channel may leave empty."""
_SEPARATOR: Final = "\x1f"
_OURS: Final = re.compile(_SEPARATOR.join(f"(?:{column.pattern})" for column in COLUMNS))
FAULTS_MAX: Final = 20
SHOWN_MAX: Final = 80
"""Characters of a value in a fault."""

CoreRow = tuple[int, str, str, str, str, str, str, str, str, str, str, int, str]
"""A row of the workspace's `core`."""


class CoreFileError(ValueError):
    """The file is not as it must be; `faults` name line, field, value and mend."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def read_core(path: Path, *, channel: str, first_line: int = 0) -> Iterator[CoreRow]:
    """The lines of a file as rows; numbers begin behind first_line. Raises CoreFileError with the first
    faults."""
    reader = _Reader(channel, path.name, first_line)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from reader.rows(file)
    except (OSError, UnicodeDecodeError) as problem:
        raise CoreFileError(
            [f"{path.name}: it cannot be read: {problem}; give a CSV file in UTF-8"]
        ) from None
    except CoreFileError as problem:
        reader.faults += problem.faults
    if reader.faults:
        raise CoreFileError([f"{path.name}: {fault}" for fault in reader.faults])


def extra_lines() -> Iterator[str]:
    """The SQL that makes `extra` of `core`: lines of our channel whose payment or reference another line has,
    and the first one of it."""
    yield "CREATE TABLE extra(line INTEGER PRIMARY KEY, first INTEGER)"
    for columns in ("request_id, client", "core_reference"):
        same = " AND ".join(f"again.{name} = first.{name}" for name in columns.split(", "))
        yield f"""INSERT OR IGNORE INTO extra SELECT again.line, first.line FROM (
            SELECT {columns}, min(line) AS line FROM core WHERE ours GROUP BY {columns} HAVING count(*) > 1
        ) AS first JOIN core AS again ON {same} AND again.ours AND again.line > first.line"""


def read_core_files(paths: Sequence[Path], *, channel: str) -> Iterator[tuple[int | str, ...]]:
    """The lines of all files, numbered through, and whether each is of our channel. Raises CoreFileError."""
    before = 0
    for path in paths:
        last = before
        for row in read_core(path, channel=channel, first_line=before):
            yield *row, int(row[4] == channel)
            last = row[0]
        before = last


class _Reader:
    def __init__(self, channel: str, source: str, first_line: int) -> None:
        self._channel = channel
        self._source = source
        self._first_line = first_line
        self._days: set[str] = set()
        self.faults: list[str] = []

    def rows(self, file: TextIO) -> Iterator[CoreRow]:
        """The rows that are as they must be; of the others the faults are kept."""
        first = file.readline()
        lines = csv.reader(itertools.chain((first,), file), delimiter=_delimiter(first), strict=True)
        try:
            header = next(lines, [])
            order = _order(header)
            for row in filter(None, lines):
                if len(row) != len(header):
                    self.faults.append(_not_as_many(row, header, lines.line_num))
                elif order is not None:
                    row = order(row)  # noqa: PLW2901 - what follows knows one order
                if len(row) == len(NAMES) and self._is_well(row, lines.line_num):
                    day, *texts, amount, status = row
                    number = self._first_line + lines.line_num
                    yield (number, self._source, day, *texts, int(amount), status)  # type: ignore[misc]
                elif len(self.faults) >= FAULTS_MAX:
                    return
        except csv.Error as problem:
            self.faults.append(f'line {lines.line_num}: it is no CSV: {problem}; quote fields with "')

    def _is_well(self, row: list[str], line: int) -> bool:
        ours = _OURS.fullmatch(_SEPARATOR.join(row)) is not None
        if ours and self._is_day(row[0]) and self._fits(row[-2]):
            return True
        before = len(self.faults)
        self.faults += self._faults_of(row, line)
        return len(self.faults) == before

    def _is_day(self, text: str) -> bool:
        if text not in self._days:
            try:
                datetime.date.fromisoformat(text)
            except ValueError:
                return False
            self._days.add(text)
        return True

    @staticmethod
    def _fits(amount: str) -> bool:
        return len(amount) < len(str(AMOUNT_MINOR_MAX)) or int(amount) <= AMOUNT_MINOR_MAX

    def _faults_of(self, row: list[str], line: int) -> Iterator[str]:
        is_foreign = row[NAMES.index("channel")] != self._channel
        for column, text in zip(COLUMNS, row, strict=True):
            if not text and is_foreign and column.name in FOREIGN_MAY_LACK:
                continue
            fault = not re.fullmatch(column.pattern, text)
            fault = fault or (column.name == "value_date" and not self._is_day(text))
            if fault or (column.name == "amount_minor" and not self._fits(text)):
                shown = repr(text) if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]!r} and more"
                yield f"line {line}: {column.name} is {shown}; write {column.words}{_mend(column, text)}"


def _mend(column: Column, text: str) -> str:
    """What would help a value that others write so."""
    if column.name == "amount_minor" and re.fullmatch(r"\d+[.,]\d+", text):
        return f", {int(re.sub('[.,]', '', text))} where this currency has so many digits behind the point"
    if text != text.strip():
        return ", without blanks around it"
    return ""


def _delimiter(header: str) -> str:
    """What stands most between the names of the header."""
    return max(",;\t", key=header.count)


def _order(header: list[str]) -> Callable[[list[str]], list[str]] | None:
    """What brings a row into the order of NAMES; None where it is in it. Raises CoreFileError."""
    if not any(header):
        raise CoreFileError([f"line 1: it is empty; write the names of the columns: {','.join(NAMES)}"])
    names = [name.strip().lower() for name in header]
    faults = [
        f"line 1: there is no column {column.name}; add it: {column.meaning} It holds {column.words}"
        for column in COLUMNS
        if column.name not in names
    ]
    faults += [
        f"line 1: the column {name} stands there {names.count(name)} times; leave one"
        for name in NAMES
        if names.count(name) > 1
    ]
    if faults:
        raise CoreFileError(faults)
    if tuple(names) == NAMES:
        return None
    places = [names.index(name) for name in NAMES]
    return lambda row: [row[place] for place in places]


def _not_as_many(row: list[str], header: list[str], line: int) -> str:
    return f'line {line}: it has {len(row)} fields, the header {len(header)}; write as many, or quote with "'
