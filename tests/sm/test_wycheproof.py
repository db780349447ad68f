"""Vectors that this project did not write (C2SP's Wycheproof, Apache-2.0), where their folder is there."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgegw.sm.sm3 import hmac_sm3
from edgegw.sm.sm4_gcm import NONCE_BYTES, NotAuthentic, seal, unseal

FOLDER = Path(
    os.environ.get(
        "EDGEGW_WYCHEPROOF", Path(__file__).resolve().parents[3] / "shared" / "data" / "wycheproof"
    )
)


def vectors(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, test) of each vector in that file, wherever below the folder it lies."""
    found = sorted(FOLDER.rglob(name))
    if not found:
        pytest.skip(f"no {name}; name the folder of Wycheproof's vectors in EDGEGW_WYCHEPROOF")
    content = json.loads(found[0].read_bytes())
    count = 0
    for group in content["testGroups"]:
        for test in group["tests"]:
            count += 1
            yield group, test
    assert count == content["numberOfTests"]


def test_sm4_gcm_decides_every_vector_as_wycheproof() -> None:
    """A valid one is sealed and unsealed, a changed one refused; nonces of another length are never taken."""
    for _, test in vectors("sm4_gcm_test.json"):
        key, nonce, associated, plaintext, ciphertext, tag = (
            bytes.fromhex(test[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")
        )
        if len(nonce) != NONCE_BYTES:
            with pytest.raises(ValueError, match="nonce has 12 bytes"):
                unseal(key, ciphertext + tag, nonce=nonce, associated=associated)
        elif test["result"] == "valid":
            assert seal(key, plaintext, nonce=nonce, associated=associated) == ciphertext + tag, test
            assert unseal(key, ciphertext + tag, nonce=nonce, associated=associated) == plaintext, test
        else:
            with pytest.raises(NotAuthentic):
                unseal(key, ciphertext + tag, nonce=nonce, associated=associated)


def test_hmac_sm3_decides_every_vector_as_wycheproof() -> None:
    """Whole and shortened tags, keys of all lengths, and every way to change a tag."""
    for group, test in vectors("hmac_sm3_test.json"):
        made = hmac_sm3(bytes.fromhex(test["key"]), bytes.fromhex(test["msg"]))[: group["tagSize"] // 8]
        assert (made.hex() == test["tag"]) == (test["result"] == "valid"), test
