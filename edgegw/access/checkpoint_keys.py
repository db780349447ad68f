"""The key that signs a box's checkpoints, the one that is to follow it, and how the second takes the first
one's place on disk.

The follower lies beside its predecessor, as `<name>.next.pem`, from before the journal names it until after
the COMMIT that does. So whatever ends the box half-way, the key that the journal names is there; a start asks
the journal which one that is (`settle`). Leaves out the record (`edgegw.rotation`) and what it is worth
(`core.key_policy`).
"""

from __future__ import annotations

from pathlib import Path

from edgegw.access import key_files
from edgegw.access.keys import SigningKey, make_signing_key, open_signing_key
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.core.key_policy import KeyChange, sign_change


def next_file(key: KeyFile) -> KeyFile:
    """Where the follower of a key lies until it takes over."""
    return key._replace(path=key.path.with_name(f"{key.path.stem}.next{key.path.suffix}"))


class CheckpointKeys:
    """See the module. `current` signs now."""

    def __init__(self, keystore: Keystore, file: KeyFile) -> None:
        """Open both; the first key is made if there is none. Raises KeyFileError and PlaceAway."""
        self._keystore = keystore
        self._file = file
        if not file.path.exists():
            make_signing_key(keystore, file)
        self.current = open_signing_key(keystore, file)
        self._write_public()
        self.following: SigningKey | None = None
        self.look()

    @property
    def newest(self) -> SigningKey:
        """The key with which an epoch that is given now would begin."""
        return self.following or self.current

    def named(self, text: str) -> SigningKey | None:
        """The one of the two with this public line; None where it is neither."""
        held = (self.current, self.following)
        return next((key for key in held if key is not None and key.public.text() == text), None)

    def look(self) -> SigningKey | None:
        """The follower, if somebody has made one; raises KeyFileError and PlaceAway."""
        file = next_file(self._file)
        if self.following is None and file.path.exists():
            self.following = open_signing_key(self._keystore, file)
        return self.following

    def prepare(self) -> SigningKey:
        """The follower, made if there is none. Raises KeyFileError and PlaceAway."""
        return self.look() or make_signing_key(self._keystore, next_file(self._file))

    def statement(self, said: KeyChange) -> str:
        """What both keys sign of the change; only where there is a follower."""
        if self.following is None:
            raise ValueError("no key follows")
        return sign_change(said, old=self.current, new=self.following)

    def settle(self, text: str) -> None:
        """Let the follower take over if it is the key that the journal names: its file replaces the old one,
        whose bytes are overwritten as far as the disk lets them. Raises KeyFileError."""
        if self.following is None or self.following.public.text() != text:
            return
        file = next_file(self._file)
        key_files.take_place(file.path, self._file.path)
        key_files.remove_key_file(file.path.with_suffix(".pub"))
        self.current, self.following = self.following, None
        self._write_public()

    def _write_public(self) -> None:
        """Let the file beside the key say its public line: a process may have ended between the two."""
        path: Path = self._file.path.with_suffix(".pub")
        line = f"{self.current.public.text()}\n".encode()
        if path.exists() and path.read_bytes() != line:
            key_files.replace_key_file(path, line, mode=0o644)
