"""A credential of systemd: the service manager opens it for the box and hands it over in memory.

Sealed with systemd-creds (encrypted under this host's key, its TPM, or both). A unit that has
`LoadCredentialEncrypted=edgegw-kek:<slot>` finds it in $CREDENTIALS_DIRECTORY; a command of root's outside of
a unit asks systemd-creds itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from edgegw.access.places import SECRET_BYTES_MAX, PlaceAway, PlaceRefuses

PROGRAM: Final = "systemd-creds"
_SECONDS_MAX: Final = 30


class SystemdCredential:
    """The place `systemd`."""

    def __init__(self, credential: str, *, with_key: str) -> None:
        self._name = credential
        self._with_key = with_key

    def seal(self, secret: bytes) -> bytes:
        """An encrypted credential as its base64 lines; raises PlaceAway and PlaceRefuses."""
        done = self._run("encrypt", f"--with-key={self._with_key}", "-", "-", given=secret)
        if done.returncode != 0 or not done.stdout:
            raise PlaceRefuses(
                f"systemd-creds encrypt failed ({_said(done)})",
                hint="run it as root, on the machine that will open it; see keys.systemd.with_key",
            )
        return done.stdout

    def open(self, slot: bytes) -> bytes:
        """The secret, from the unit's credentials or from systemd-creds; raises PlaceAway and
        PlaceRefuses."""
        handed = self._handed()
        if handed is not None:
            return handed
        done = self._run("decrypt", "-", "-", given=slot)
        if done.returncode != 0:
            raise PlaceRefuses(
                f"systemd-creds decrypt failed ({_said(done)})",
                hint="it was sealed on another machine or altered; or you are not root: let the unit have"
                f" LoadCredentialEncrypted={self._name}:<this file>",
            )
        return done.stdout

    def _handed(self) -> bytes | None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not folder:
            return None
        try:
            with Path(folder, self._name).open("rb") as file:
                return file.read(SECRET_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise PlaceAway(
                f"the credential {self._name} of the unit cannot be read ({problem.strerror})"
            ) from None

    def _run(self, *words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [PROGRAM, words[0], f"--name={self._name}", *words[1:]]
        try:
            return subprocess.run(
                command, input=given, capture_output=True, check=False, timeout=_SECONDS_MAX
            )
        except FileNotFoundError:
            raise PlaceAway(
                f"{PROGRAM} is not installed",
                hint="Install systemd 250 or later, or choose another keys.place.",
            ) from None
        except subprocess.TimeoutExpired:
            raise PlaceAway(f"{PROGRAM} did not answer within {_SECONDS_MAX} seconds") from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
