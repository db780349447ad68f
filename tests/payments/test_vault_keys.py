"""The vault's key versions through a keystore whose keys are sealed."""

from pathlib import Path

import pytest

from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places.passphrase import Passphrase
from edgegw.payments.vault_file import VaultFailed, VaultFile
from edgegw.payments.vault_keys import KeyFolder
from tests.payments.protocols.iso8583_branch import PAN, POOR_PAN
from tests.payments.test_vault_file import BECAUSE, LOOKUP, POOR, rotate

QUICK_KIB = 64
"""Argon2id at what it costs to test, not to keep keys."""


def keystore(folder: Path) -> Keystore:
    """A process's keystore; its keys are sealed by a passphrase."""
    words = folder / "words"
    if not words.exists():
        words.write_text("correct horse battery staple")
        words.chmod(0o600)
    place = Passphrase(str(words), memory_kib=QUICK_KIB)
    return Keystore(owner="box", place="passphrase", directory=folder, places={"passphrase": place})


def opened(folder: Path, store: Keystore) -> tuple[VaultFile, KeyFolder]:
    """A vault's connection and its keys, through this keystore."""
    keys = KeyFolder(store, folder / "keys", owner="bank/box/vault")
    return VaultFile.open(folder / "vault.db", keys, create=True), keys


def test_a_version_is_sealed_from_its_first_moment_and_moves_with_the_other_keys(tmp_path: Path) -> None:
    """A key that has lain open once may be on any backup; one that a move forgets locks all cards up."""
    vault, keys = opened(tmp_path, keystore(tmp_path))
    token = vault.mint({LOOKUP: PAN})[LOOKUP]
    [file] = keys.files()
    assert file.path.read_text().startswith("-----BEGIN EDGEGW SEALED KEY-----")
    mover = keystore(tmp_path)
    assert file.path in mover.move([file], to="passphrase")
    person, _ = opened(tmp_path, keystore(tmp_path))
    rotate(person)
    # The process that ran through all of it has the KEK from before in memory.
    assert vault.mint({POOR: POOR_PAN, LOOKUP: ""})[LOOKUP] == token
    assert vault.card(token) == (LOOKUP, PAN)
    person.shred(token, **BECAUSE)
    person.close()
    vault.close()


def test_a_version_of_another_box_or_for_another_use_is_refused(tmp_path: Path) -> None:
    """Files change places by hand, and the wrong key would seal cards that nobody opens again."""
    vault, keys = opened(tmp_path, keystore(tmp_path))
    vault.mint({LOOKUP: PAN})
    vault.close()
    [file] = keys.files()
    for wrong in (
        KeyFile("x", file.path, "vault", file.name),
        KeyFile("x", file.path, file.purpose, "other"),
    ):
        file.path.unlink()
        keystore(tmp_path).create(wrong, b"00" * 32 + b"\n")
        with pytest.raises(VaultFailed, match="it holds the"):
            opened(tmp_path, keystore(tmp_path))[0].find(LOOKUP)


def test_a_version_that_is_destroyed_leaves_no_draft_of_itself(tmp_path: Path) -> None:
    """A move of keys that was killed left one, which opens any copy of the vault from before a shredding."""
    vault, keys = opened(tmp_path, keystore(tmp_path))
    [file] = keys.files()
    draft = file.path.with_name(f".{file.path.name}.0123456789abcdef")
    draft.write_bytes(file.path.read_bytes())
    rotate(vault)
    vault.close()
    assert [path.name for path in file.path.parent.iterdir()] == ["version-2.key"]
