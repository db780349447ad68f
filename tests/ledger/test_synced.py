"""What must be on the disk before something else may happen, as the kernel was told it.

A file system that happens to order these writes by itself hides a missing fsync from every power cut on it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgegw.ledger import anchor, schema
from edgegw.ledger.anchor import FILE_NAME, Past

Synced = list[tuple[str, bytes]]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    """Which paths were synced, in order, each with what the anchor said at that moment."""
    seen: Synced = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        place = path if path.is_dir() else path.parent
        content = (place / FILE_NAME).read_bytes() if (place / FILE_NAME).exists() else b""
        fsync(descriptor)
        seen.append((path.name, content))

    monkeypatch.setattr(os, "fsync", noting)
    return seen


def test_the_anchor_is_on_its_disk_before_it_replaces_the_old_one(tmp_path: Path, synced: Synced) -> None:
    """A power cut that leaves an empty anchor makes a sound box stop."""
    home = tmp_path / "anchors"
    home.mkdir()
    path = home / FILE_NAME
    anchor._replace_file(path, Past(bank="demo", box="box-1", size=1))
    old = path.read_bytes()
    synced.clear()
    anchor._replace_file(path, Past(bank="demo", box="box-1", size=2))
    new = path.read_bytes()
    assert new != old
    assert synced == [(path.with_suffix(".new").name, old), (home.name, new)]


def test_the_name_of_a_new_ledger_is_on_the_disk(tmp_path: Path, synced: Synced) -> None:
    """Records in a file that no directory names are lost with the first power cut."""
    home = tmp_path / "data"
    home.mkdir()
    schema.open_writer(home / "ledger.db", create=True).close()
    assert synced[-1] == (home.name, b"")
