"""Where an outsider changes a box's journal: the ledger file by plain SQL, an exported file as text.

Nothing here uses the product: bodies are JSON, leaves are bytes that are moved about as they stand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

Body = dict[str, Any]
Edit = Callable[[Body], None]


def edited(raw: bytes, edit: Edit) -> bytes:
    """A body with a change, its fields in their order."""
    body = json.loads(raw)
    edit(body)
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def execute(path: Path, statement: str, *values: object) -> int:
    """One statement on a database file; how many rows it changed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        return connection.execute(statement, values).rowcount


def query(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a query on a database file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement, values).fetchall()


class LedgerFile:
    """Epoch 1 in a ledger file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def bodies(self) -> list[Body]:
        """Every record, in order."""
        return [json.loads(row[0]) for row in query(self.path, "SELECT body FROM record ORDER BY position")]

    def edit(self, seq: int, edit: Edit) -> None:
        """Change a record's bytes and nothing else."""
        ((raw,),) = query(self.path, "SELECT body FROM record WHERE position = ?", 1 << 40 | seq)
        changed = execute(
            self.path, "UPDATE record SET body = ? WHERE position = ?", edited(raw, edit), 1 << 40 | seq
        )
        assert changed == 1

    def delete(self, seq: int) -> None:
        """Take a record away."""
        assert execute(self.path, "DELETE FROM record WHERE position = ?", 1 << 40 | seq) == 1

    def spoil_head(self) -> None:
        """Change the signature of the head."""
        ((note,),) = query(self.path, "SELECT checkpoint FROM head WHERE epoch = 1")
        execute(self.path, "UPDATE head SET checkpoint = ? WHERE epoch = 1", spoiled(note))


class ExportedFile:
    """An exported journal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def _line_of(self, lines: list[bytes], seq: int) -> int:
        return next(
            number
            for number, line in enumerate(lines)
            if line.startswith(b'{"type"') and json.loads(line)["seq"] == seq
        )

    def bodies(self) -> list[Body]:
        """Every record, in order."""
        return [json.loads(line) for line in self._lines() if line.startswith(b'{"type"')]

    def edit(self, seq: int, edit: Edit) -> None:
        """Change a record's line and nothing else."""
        lines = self._lines()
        number = self._line_of(lines, seq)
        lines[number] = edited(lines[number], edit) + b"\n"
        self.path.write_bytes(b"".join(lines))

    def delete(self, seq: int) -> None:
        """Take a record's line out."""
        lines = self._lines()
        del lines[self._line_of(lines, seq)]
        self.path.write_bytes(b"".join(lines))

    def spoil_head(self) -> None:
        """Change the signature of the head."""
        *lines, last = self._lines()
        trailer = json.loads(last)
        trailer["checkpoint"] = spoiled(trailer["checkpoint"])
        self.path.write_bytes(b"".join([*lines, json.dumps(trailer, separators=(",", ":")).encode() + b"\n"]))


Medium = LedgerFile | ExportedFile


def spoiled(note: str) -> str:
    """A signed note with another signature: a character in the middle of it is another one."""
    place = len(note) - 40
    return note[:place] + ("A" if note[place] != "A" else "B") + note[place + 1 :]
