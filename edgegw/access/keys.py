"""Named keys: their one-line texts, their files, and the notes they sign, open and cosign.

A verifying key is pinned as `<name>+<key id, 8 hex digits>+<base64 of 0xff || 65-byte public point>`, the
shape of C2SP's vkeys with our signature type. The key id repeats what name and point already say, so a text
that was cut or altered is refused. What a note is stands in `core.journal`, the cipher in `sm.sm2`.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from edgegw.access import key_files
from edgegw.access.key_files import KEY_FILE_BYTES_MAX, KeyFileError
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.core import journal
from edgegw.core.journal import Checkpoint, Cosignature
from edgegw.sm import sm2

_PUBLIC_FILE_MODE: Final = 0o644


class VerifyingKey:
    """A public key under its name."""

    def __init__(self, name: str, public: sm2.PublicKey) -> None:
        """NoteError (a ValueError) when the name cannot stand in a signature line."""
        self.name: Final = journal.check_key_name(name)
        self.public: Final = public
        self.key_id: Final = journal.key_id(name, public.point)

    @classmethod
    def parse(cls, text: str) -> VerifyingKey:
        """From its one-line text; ValueError that says what is wrong with it."""
        name, plus, rest = text.partition("+")
        key_id, second_plus, encoded = rest.partition("+")
        if not plus or not second_plus:
            raise ValueError(f"{text!r} is no verifying key: name+key id+base64 is expected")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ValueError(f"the verifying key of {name!r} is not base64 ({problem})") from None
        if raw[:1] != journal.SIGNATURE_TYPE:
            raise ValueError(f"the verifying key of {name!r} is not of type ff: {raw[:1].hex() or 'empty'}")
        key = cls(name, sm2.PublicKey(raw[1:]))
        if key.text() != text:
            raise ValueError(
                f"the key id of {name!r} is {key.key_id.hex()}, the text says {key_id}: it was altered"
            )
        return key

    def text(self) -> str:
        """Its one-line text, without a newline."""
        encoded = base64.b64encode(journal.SIGNATURE_TYPE + self.public.point).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether signature (r || s, 64 bytes) is this key's over message."""
        return self.public.verify(message, signature)

    def open(self, note: str | bytes) -> Checkpoint:
        """The checkpoint that this key has signed in the note; raises journal.NoteError."""
        return journal.open_note(note, name=self.name, key_id=self.key_id, verify=self.verify)

    def open_text(self, note: str | bytes) -> str:
        """The text that this key has signed in the note; raises journal.NoteError."""
        return journal.open_text(note, name=self.name, key_id=self.key_id, verify=self.verify)

    def check_cosignature(self, note: str | bytes) -> Cosignature:
        """What this key has cosigned in the note, and when; raises journal.NoteError."""
        return journal.check_cosignature(note, name=self.name, key_id=self.key_id, verify=self.verify)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and (self.name, self.public) == (other.name, other.public)

    def __hash__(self) -> int:
        return hash((self.name, self.public))

    def __repr__(self) -> str:
        return f"VerifyingKey({self.text()!r})"


class SigningKey:
    """A private key under its name."""

    def __init__(self, name: str, private: sm2.PrivateKey) -> None:
        """NoteError (a ValueError) when the name cannot stand in a signature line."""
        self._private = private
        self.public: Final = VerifyingKey(name, private.public)
        self.name: Final = name
        self.key_id: Final = self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """The signature over message, r || s, 64 bytes."""
        return self._private.sign(message)

    def seal(self, body: bytes) -> str:
        """A note signed by this key; the body (`Checkpoint.body()` or any text) ends with a newline."""
        return journal.sign_note(body, name=self.name, key_id=self.key_id, sign=self.sign)

    def cosign(self, checkpoint: Checkpoint, *, time_s: int) -> str:
        """A note of the checkpoint with this key's cosignature of time_s (Unix seconds) alone."""
        line = journal.cosign(checkpoint, time_s=time_s, name=self.name, key_id=self.key_id, sign=self.sign)
        return journal.add_signature(checkpoint.body().decode() + "\n", line)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.text()!r})"


def make_signing_key(keystore: Keystore, key: KeyFile) -> SigningKey:
    """A new key, under key.name, in a new file, its public line in `.pub` beside it; KeyFileError when either
    is there already, PlaceAway where it cannot be sealed."""
    private = sm2.PrivateKey.generate()
    made = SigningKey(key.name, private)
    keystore.create(key, private.to_pem())
    store_verifying_key(key.path.with_suffix(".pub"), made.public)
    return made


def open_signing_key(keystore: Keystore, key: KeyFile) -> SigningKey:
    """The key in its file, under key.name; raises KeyFileError and PlaceAway."""
    try:
        return SigningKey(key.name, sm2.PrivateKey.from_pem(keystore.read(key)))
    except ValueError as problem:
        raise KeyFileError(key.path, str(problem), hint="restore the key from its backup") from None


def create_signing_key(path: Path, name: str) -> SigningKey:
    """A new key that lies open in a new file (PKCS#8 PEM, mode 0600); KeyFileError when the file is there
    already."""
    key = SigningKey(name, sm2.PrivateKey.generate())
    key_files.store_private_key(path, key._private)
    return key


def load_signing_key(path: Path, name: str) -> SigningKey:
    """The key that lies open in the file, under this name; raises KeyFileError."""
    return SigningKey(name, key_files.load_private_key(path))


def store_verifying_key(path: Path, key: VerifyingKey) -> None:
    """Write the key's text to a new file, mode 0644; KeyFileError when it is there already."""
    key_files.write_new_file(path, f"{key.text()}\n".encode(), mode=_PUBLIC_FILE_MODE)


def load_verifying_key(path: Path) -> VerifyingKey:
    """The pinned key whose one-line text is the file; raises KeyFileError."""
    try:
        with path.open("rb") as file:
            body = file.read(KEY_FILE_BYTES_MAX)
        return VerifyingKey.parse(body.decode("ascii").removesuffix("\n"))
    except OSError as problem:
        message = f"cannot be read ({problem.strerror})"
    except ValueError as problem:
        message = str(problem)
    raise KeyFileError(path, message, hint="copy the key's one line again from where it was made")
