"""The version in a ledger's header is a number that can rot like any other."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from edgegw.errors import LedgerForeign
from edgegw.ledger.store import Store


@pytest.mark.parametrize("version", [0, -1, -(2**31), 2**30])
def test_a_ledger_of_an_impossible_version_is_not_migrated(tmp_path: Path, version: int) -> None:
    """A flipped bit in the header must not end in a traceback, nor run the first migration on old records."""
    path = tmp_path / "ledger.db"
    Store.open(path, create=True).close()
    raw = apsw.Connection(str(path))
    raw.execute(f"PRAGMA user_version={version}")
    raw.close()
    with pytest.raises(LedgerForeign, match="schema"):
        Store.open(path, create=True)
