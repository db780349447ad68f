"""The files that `[[replica.targets]]` names: opened and parsed before anything needs them.

litestream says only hours later, in its own words, that it cannot use one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from edgegw.config.replica import ReplicaTable

FILE_BYTES_MAX: Final = 1 << 16


def key_file_faults(table: ReplicaTable) -> Iterator[str]:
    """What is wrong with the files, a line each: the option, the path and the mend."""
    for target in table.targets:
        for option, parse in _PARSERS.items():
            path = getattr(target, option)
            fault = _fault(Path(path), parse) if path else ""
            if fault:
                yield f"replica.targets[{target.name}].{option} = {path}: {fault}"


def _fault(path: Path, parse: Callable[[bytes], None]) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        return f"it cannot be read ({problem.strerror}); give the path of a file that the box may read"
    try:
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes; name the right file")
        parse(content)
    except ValueError as problem:
        return str(problem)
    return ""


def _host_key(content: bytes) -> None:
    mend = "write the server's host key as one line, type and base64, as in its ssh_host_ed25519_key.pub"
    line = _line(content, mend)
    kind, _, rest = line.partition(b" ")
    try:
        blob = base64.b64decode(rest.partition(b" ")[0], validate=True)
        load_ssh_public_key(line)
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise ValueError(f"it is no OpenSSH public key; {mend}") from None
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        raise ValueError(f"its type is not its key's; {mend}")


def _private_key(content: bytes) -> None:
    try:
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
        load(content, None)
    except TypeError:
        raise ValueError("it has a passphrase, which nobody types in here; give a key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            "it is no private key in OpenSSH or PEM form; name the file that ssh-keygen made, without .pub"
        ) from None


def _secret(content: bytes) -> None:
    _line(content, "write the secret as its one line")


def _line(content: bytes, mend: str) -> bytes:
    lines = content.strip().splitlines()
    if len(lines) != 1:
        raise ValueError(f"it has {len(lines)} lines; {mend}")
    return lines[0]


_PARSERS: Final[dict[str, Callable[[bytes], None]]] = {
    "host_key_file": _host_key,
    "private_key_file": _private_key,
    "password_file": _secret,
    "secret_access_key_file": _secret,
}
