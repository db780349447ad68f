"""What a box remembers of tokens, on a disk that fails."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegw.access.token_store import StoreFails, TokenStore


@pytest.mark.parametrize(
    "read",
    [
        TokenStore.era,
        TokenStore.latest_s,
        TokenStore.families,
        TokenStore.revocations,
        lambda store: store.family_of(b"x"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_failure_of_the_store(
    read: Callable[[TokenStore], object], tmp_path: Path
) -> None:
    """What asks the store knows no other error: another one would be an internal error to each client."""
    path = tmp_path / "tokens.db"
    store = TokenStore(path)
    with sqlite3.connect(path) as other:
        for table in ("latest", "family", "refresh", "revocation"):
            other.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreFails, match="no such table") as failed:
        read(store)
    assert "mend the disk" in failed.value.hint
    store.close()
