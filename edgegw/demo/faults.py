"""Faults that `--plant` puts into the stopped box's ledger file, to show that the report would find them.

Done as a thief with the file in hand would: the triggers that forbid it are dropped first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import apsw

FAULTS: Final = ("lost", "doubled", "edited")
_PAYMENTS: Final = "SELECT position, body FROM record WHERE type = 'transfer' ORDER BY position"


def plant(fault: str, ledger: Path) -> str:
    """Put one fault into the file; what was done, for the report."""
    connection = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        for trigger in ("record_keeps_rows", "record_keeps_content"):
            connection.execute(f"DROP TRIGGER {trigger}")
        rows: list[Any] = connection.execute(_PAYMENTS).fetchall()
        position, body = rows[len(rows) // 2]
        if fault == "lost":
            connection.execute("DELETE FROM record WHERE position = ?", (position,))
            return f"the record at {position >> 40}/{position & (1 << 40) - 1} was deleted"
        if fault == "edited":
            return _edit(connection, rows)
        return _double(connection, position, body)
    finally:
        connection.close()


def _edit(connection: apsw.Connection, rows: list[Any]) -> str:
    """One minor unit more for the payee of a payment."""
    position, said = next(
        (position, said)
        for position, said in ((position, json.loads(body)) for position, body in rows[len(rows) // 2 :])
        if said["request"]["kind"] == "payment" and said["legs"]
    )
    said["legs"][0][2] += 1
    said["request"]["amount_minor"] += 1
    body = json.dumps(said, separators=(",", ":")).encode()
    connection.execute("UPDATE record SET body = ? WHERE position = ?", (body, position))
    return f"the amount of the record at {position >> 40}/{position & (1 << 40) - 1} was raised by 1"


def _double(connection: apsw.Connection, position: int, body: bytes) -> str:
    """The same movement once more at the end, under another identity."""
    end: Any = connection.execute(
        "SELECT position, leaf FROM record ORDER BY position DESC LIMIT 1"
    ).fetchone()
    last, leaf = end
    said = json.loads(body)
    said["seq"] = last + 1 & (1 << 40) - 1
    said["request"]["id"] = "f" * 32
    connection.execute(
        "INSERT INTO record(position, type, client, id, original, leaf, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            last + 1,
            said["type"],
            said["client"],
            b"\xff" * 16,
            None,
            leaf,
            json.dumps(said, separators=(",", ":")).encode(),
        ),
    )
    return f"the record at {position >> 40}/{position & (1 << 40) - 1} stands a second time at the end"
