"""Files of test vectors in Wycheproof's form, by their kind: who wrote them and what they are called does not
matter, and what is not understood is said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from string import hexdigits
from typing import Any, Final, NamedTuple

from edgegw.sm.sm2 import PublicKey

FOLDER: Final = Path(
    os.environ.get(
        "EDGEGW_WYCHEPROOF", Path(__file__).resolve().parents[3] / "shared" / "data" / "wycheproof"
    )
)
SM2_CURVES: Final = frozenset({"sm2", "sm2p256v1", "cursm2", "curvesm2", "1.2.156.10197.1.301"})


class Vectors(NamedTuple):
    """A file and what it holds."""

    path: Path
    algorithm: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """`sm4-gcm`, `hmac-sm3`, `sm2` or `sm3`; "" for what this product has not."""
        name = self.algorithm.upper().replace("_", "").replace("-", "")
        if name == "SM4GCM":
            return "sm4-gcm"
        if name == "HMACSM3":
            return "hmac-sm3"
        if name in ("SM3", "HASHSM3"):
            return "sm3"
        keys = [group.get("publicKey") or group.get("key") for group in self.content["testGroups"]]
        curves = {str(key.get("curve", "")).lower() for key in keys if isinstance(key, dict)}
        verifies = any("Verify" in str(group.get("type", "")) for group in self.content["testGroups"])
        return "sm2" if verifies and (curves & SM2_CURVES or "SM2" in name) else ""

    def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(group, test) of each vector; all that the file says it has."""
        count = 0
        for group in self.content["testGroups"]:
            for test in group["tests"]:
                count += 1
                yield group, test
        assert count == self.content.get("numberOfTests", count), self.path


def files_of_sm(folder: Path = FOLDER) -> list[Vectors]:
    """The files anywhere below the folder whose algorithm is one of SM's."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            continue
        if not isinstance(content, dict) or not isinstance(content.get("testGroups"), list):
            continue
        vectors = Vectors(path, str(content.get("algorithm") or path.stem.removesuffix("_test")), content)
        about = f"{vectors.algorithm} {path.name} {content.get('schema', '')}".upper()
        if vectors.kind or any(name in about for name in ("SM2", "SM3", "SM4")):
            found.append(vectors)
    return found


def point_of(group: dict[str, Any]) -> bytes:
    """The uncompressed public point of a group of signatures."""
    key = group.get("publicKey") or group.get("key")
    if key is None:
        return PublicKey.from_pem(group["publicKeyPem"].encode()).point
    if isinstance(key, str):
        return bytes.fromhex(key)
    if "uncompressed" in key:
        return bytes.fromhex(key["uncompressed"])
    halves = [int(key[name], 16).to_bytes(32, "big") for name in ("wx", "wy")]
    return b"\x04" + b"".join(halves)


def user_id_of(group: dict[str, Any], test: dict[str, Any], default: bytes) -> bytes:
    """The user id under which a signature stands, in hex or as text, of the test or its group, else the usual
    one."""
    for holder in (test, group):
        for name in ("userId", "userID", "id", "uid"):
            said = holder.get(name)
            if isinstance(said, str):
                is_hex = len(said) % 2 == 0 and set(said) <= set(hexdigits) and said.encode() != default
                return bytes.fromhex(said) if is_hex else said.encode()
    return default
