"""Keys under their names: texts that cannot be altered, files that are never replaced, notes that bind."""

import stat
from pathlib import Path

import pytest

from edgegw.access import keys
from edgegw.access.key_files import KeyFileError
from edgegw.access.keys import SigningKey, VerifyingKey
from edgegw.core import journal
from edgegw.core.journal import Checkpoint, NoteError
from edgegw.sm.sm2 import PrivateKey

HEAD = Checkpoint("edgegw/b1/box-7/3", 17, bytes(range(32)))


@pytest.fixture(scope="module")
def box() -> SigningKey:
    return SigningKey("b1/box-7", PrivateKey.generate())


@pytest.fixture(scope="module")
def hub() -> SigningKey:
    return SigningKey("b1/hub", PrivateKey.generate())


def test_a_pinned_key_reads_back(box: SigningKey) -> None:
    """Name, key id and point in one line."""
    key = VerifyingKey.parse(box.public.text())
    assert key == box.public
    assert hash(key) == hash(box.public)
    assert (key.name, key.key_id) == ("b1/box-7", journal.key_id("b1/box-7", key.public.point))
    assert key.text().startswith(f"b1/box-7+{key.key_id.hex()}+/")
    assert key.verify(b"x", box.sign(b"x"))
    assert not key.verify(b"y", box.sign(b"x"))


def test_an_altered_pinned_key_is_refused(box: SigningKey) -> None:
    """Every character of a pinned key counts; a slip in copying must not pin another key."""
    text = box.public.text()
    for place, character in enumerate(text):
        changed = text[:place] + ("A" if character != "A" else "B") + text[place + 1 :]
        with pytest.raises(ValueError, match=r"key|SM2"):
            VerifyingKey.parse(changed)
    for changed in (
        "",
        text[:-1],
        text + "\n",
        text + "=",
        " " + text,
        text.replace("+", ""),
        "a+b",
        "a+00000000+AQ==",
    ):
        with pytest.raises(ValueError, match=r"key|SM2|base64"):
            VerifyingKey.parse(changed)


def test_the_same_point_under_another_name_is_another_key(box: SigningKey) -> None:
    """A name is part of what is pinned."""
    other = VerifyingKey("b1/box-8", box.public.public)
    assert other != box.public
    assert other.key_id != box.key_id


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb", "x" * 256])
def test_a_name_that_cannot_stand_in_a_note_is_refused(name: str, box: SigningKey) -> None:
    """Else its notes could not be read, or could be read as another's."""
    with pytest.raises(NoteError, match="no key name"):
        VerifyingKey(name, box.public.public)


def test_a_checkpoint_is_good_for_its_signer_alone(box: SigningKey, hub: SigningKey) -> None:
    """The box signs, the hub cosigns; each line verifies with its own key, beside the other's."""
    note = box.seal(HEAD.body())
    assert box.public.open(note) == HEAD
    with pytest.raises(NoteError, match="not signed by b1/hub"):
        hub.public.open(note)
    impostor = SigningKey(box.name, PrivateKey.generate())
    with pytest.raises(NoteError, match="not signed"):
        box.public.open(impostor.seal(HEAD.body()))
    cosigned = hub.cosign(HEAD, time_s=1_800_000_000)
    assert hub.public.check_cosignature(cosigned).time_s == 1_800_000_000
    _, lines = journal.parse_checkpoint(cosigned)
    both = journal.add_signature(note, *lines)
    assert box.public.open(both) == hub.public.check_cosignature(both).checkpoint == HEAD
    with pytest.raises(NoteError, match="does not verify"):
        box.public.open(both.replace("\n17\n", "\n18\n"))
    with pytest.raises(NoteError, match="does not verify"):
        hub.public.check_cosignature(both.replace("\n17\n", "\n18\n"))


def test_a_key_that_only_looks_alike_does_not_verify(box: SigningKey) -> None:
    """Same name and same four-byte id are easily made; the signature decides."""
    impostor = SigningKey(box.name, PrivateKey.generate())
    forged = journal.sign_note(HEAD.body(), name=box.name, key_id=box.key_id, sign=impostor.sign)
    with pytest.raises(NoteError, match="does not verify"):
        box.public.open(forged)


def test_any_text_can_be_sealed(hub: SigningKey) -> None:
    """The link of an epoch is a note too."""
    note = hub.seal(b"a text\n\nof two\n")
    assert hub.public.open_text(note) == "a text\n\nof two\n"
    with pytest.raises(NoteError, match="newline"):
        hub.seal(b"no newline")


def test_a_key_file_is_made_once(tmp_path: Path) -> None:
    """A second creation would orphan every signature of the first."""
    path = tmp_path / "checkpoint.key"
    made = keys.create_signing_key(path, "b1/box-7")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load_signing_key(path, "b1/box-7").public == made.public
    with pytest.raises(KeyFileError, match="exists already"):
        keys.create_signing_key(path, "b1/box-7")
    assert keys.load_signing_key(path, "b1/box-7").public == made.public


def test_a_pinned_key_file_reads_back_or_says_why_not(tmp_path: Path, box: SigningKey) -> None:
    """The other side's key in a file of its own."""
    path = tmp_path / "hub.vkey"
    keys.store_verifying_key(path, box.public)
    assert keys.load_verifying_key(path) == box.public
    assert path.read_text() == box.public.text() + "\n"
    with pytest.raises(KeyFileError, match="exists already"):
        keys.store_verifying_key(path, box.public)
    path.write_text(box.public.text()[:-8] + "\n")
    with pytest.raises(KeyFileError, match=r"hub\.vkey: .*65 bytes"):
        keys.load_verifying_key(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="ascii") as refusal:
        keys.load_verifying_key(path)
    assert "copy" in refusal.value.hint
    with pytest.raises(KeyFileError, match="cannot be read"):
        keys.load_verifying_key(tmp_path / "none.vkey")


def test_a_signing_key_does_not_show_its_secret(box: SigningKey) -> None:
    """Tracebacks and logs print objects."""
    assert repr(box) == f"SigningKey({box.public.text()!r})"
