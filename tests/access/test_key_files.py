"""Files of keys: whose they are, that none is replaced, and what is said of one that cannot be used."""

import os
import stat
from pathlib import Path

import pytest

from edgegw.access import key_files
from edgegw.access.key_files import KeyFileError
from edgegw.sm.sm2 import PrivateKey


def test_a_key_file_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, no half-written leftovers, and an existing file stays as it is."""
    path = tmp_path / "box.key"
    key = PrivateKey.generate()
    before = os.umask(0)
    try:
        key_files.store_private_key(path, key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_files.load_private_key(path).public == key.public
    with pytest.raises(KeyFileError, match="exists already") as refusal:
        key_files.store_private_key(path, PrivateKey.generate())
    assert refusal.value.path == path
    assert key_files.load_private_key(path).public == key.public
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_key_file_names_path_and_mend(tmp_path: Path) -> None:
    """Missing, open to others, too large, or not a key: the message says which file and what to do."""
    path = tmp_path / "box.key"
    with pytest.raises(KeyFileError, match=r"box\.key: cannot be read"):
        key_files.load_private_key(path)
    with pytest.raises(KeyFileError, match="cannot be written"):
        key_files.store_private_key(tmp_path / "nowhere" / "box.key", PrivateKey.generate())
    key_files.store_private_key(path, PrivateKey.generate())
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 640") as refusal:
        key_files.load_private_key(path)
    assert refusal.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIG\n")
    with pytest.raises(KeyFileError, match="libcrypto can read") as refusal:
        key_files.load_private_key(path)
    assert "backup" in refusal.value.hint
    path.write_bytes(bytes(20_000))
    with pytest.raises(KeyFileError, match="16384"):
        key_files.load_private_key(path)
