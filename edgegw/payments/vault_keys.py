"""The secrets of a vault's key versions: one file each, opened through the box's keystore.

A version's file is destroyed once no card hangs on it. Leaves out what is made of a secret
(`payments.vault_file`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgegw.access.key_files import KeyFileError
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places import PlaceAway
from edgegw.payments.vault import KEY_BYTES, SecretFileError, read_key
from edgegw.payments.vault_file import VaultFailed

OPTION: Final = "vault_keys_dir"
_NAME: Final = re.compile(r"version-([1-9][0-9]{0,8})\.key")


class KeyFolder:
    """The folder of a box's vault keys."""

    def __init__(self, keystore: Keystore, directory: Path, *, owner: str) -> None:
        """owner is bank and box, as sealed keys name them."""
        self._keystore = keystore
        self._directory = directory
        self._owner = owner

    def files(self) -> Iterator[KeyFile]:
        """The key files that are there, the oldest version first."""
        for number in self.numbers():
            yield self._file(number)

    def numbers(self) -> list[int]:
        """The versions whose files are there, rising."""
        if not self._directory.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def read(self, number: int) -> bytes:
        """A version's 32 bytes; raises VaultFailed."""
        try:
            return read_key(self._keystore, self._file(number))
        except SecretFileError as problem:
            raise VaultFailed(str(problem)) from None
        except PlaceAway as problem:
            raise VaultFailed(str(problem), hint=problem.hint) from None

    def create(self, number: int) -> None:
        """Make a version's file; raises VaultFailed."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keystore.create(
                self._file(number), f"{secrets.token_bytes(KEY_BYTES).hex()}\n".encode("ascii")
            )
        except (KeyFileError, PlaceAway) as problem:
            raise VaultFailed(str(problem), hint=problem.hint) from None
        except OSError as problem:
            raise VaultFailed(f"{OPTION} = {self._directory}: {problem.strerror}") from None

    def destroy(self, number: int) -> None:
        """Take a version's file away; raises VaultFailed."""
        try:
            self._keystore.shred(self._file(number).path)
        except KeyFileError as problem:
            raise VaultFailed(str(problem), hint=problem.hint) from None

    def _file(self, number: int) -> KeyFile:
        path = self._directory / f"version-{number}.key"
        return KeyFile(OPTION, path, "vault-version", f"{self._owner}/{number}")
