"""Card numbers must become tokens that cannot be turned back, and nothing may show one by accident."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.payments.vault import Lookups, SecretFileError, create_key, mask, read_key, vault_key_file
from tests.payments.protocols.iso8583_branch import PAN, VAULT_KEY, hmac_sm3

PANS = st.from_regex(r"[0-9]{8,19}", fullmatch=True)


def key_file(path: Path) -> KeyFile:
    """The vault key of a file that lies open."""
    return vault_key_file(path, option="vault_key_file")


@given(PANS, st.binary(min_size=32, max_size=32))
def test_a_token_is_what_another_implementation_of_hmac_sm3_gives(pan: str, key: bytes) -> None:
    """The hub computes tokens too; one bit of difference and every card is unknown."""
    assert Lookups(key).lookup(pan) == hmac_sm3(key, pan.encode()).hex()


@pytest.mark.parametrize(
    ("pan", "shown"),
    [
        ("6222021234567890", "622202******7890"),
        ("6222021234567890123", "622202*********0123"),
        ("62220212345678", "622202****5678"),
        ("6222021234567", "*********4567"),
        ("12345678", "****5678"),
    ],
)
def test_a_mask_leaves_too_little_to_guess(pan: str, shown: str) -> None:
    """Six and four digits of a short number are nearly all of it."""
    assert mask(pan) == shown


@pytest.mark.parametrize(
    "pan", ["", "1234567", "12345678901234567890", "6222 0212 3456 7890", "６222021234567890"]
)
def test_what_is_no_card_number_gets_no_token_and_is_not_quoted(pan: str) -> None:
    """An error with the number in it would be the leak that the vault prevents."""
    with pytest.raises(ValueError, match="8 to 19 digits") as caught:
        Lookups(VAULT_KEY).lookup(pan)
    assert not pan or pan not in str(caught.value)


def test_a_new_key_file_is_private_and_never_replaces_one(tmp_path: Path) -> None:
    """A second key would orphan every token that was made under the first."""
    path = tmp_path / "vault.key"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(OPEN_FILES, key_file(path)) == key
    with pytest.raises(FileExistsError):
        create_key(path)
    assert Lookups.open(OPEN_FILES, key_file(path)).lookup(PAN) == Lookups(key).lookup(PAN)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("00" * 31, 0o600, "64 hex digits"),
        ("zz" * 32, 0o600, "64 hex digits"),
        ("00" * 32, 0o640, "chmod 600"),
        ("00" * 32, 0o604, "chmod 600"),
    ],
)
def test_a_key_file_that_others_read_or_that_is_cut_is_refused(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    """A short key or a public one makes tokens that anybody can reverse by trying all cards."""
    path = tmp_path / "vault.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(SecretFileError, match=said) as caught:
        read_key(OPEN_FILES, key_file(path))
    assert str(path) in str(caught.value)
    assert content not in str(caught.value)


def test_a_missing_key_file_says_what_to_put_there(tmp_path: Path) -> None:
    """The first start of a box must tell its technician what is missing."""
    with pytest.raises(SecretFileError, match="64 hex digits"):
        read_key(OPEN_FILES, key_file(tmp_path / "none.key"))
