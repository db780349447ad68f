"""Vectors that this project did not write (C2SP's Wycheproof, Apache-2.0), where their folder is there:
every file below EDGEGW_WYCHEPROOF that is of SM2, SM3 or SM4, whatever it is called."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegw.sm import sm2
from edgegw.sm.sm2 import PrivateKey, PublicKey
from edgegw.sm.sm3 import hmac_sm3
from edgegw.sm.sm4_gcm import NONCE_BYTES, NotAuthentic, seal, unseal
from tests.sm.wycheproof import FOLDER, Vectors, files_of_sm, point_of, user_id_of

Test = dict[str, Any]


def sm4_gcm(_: Test, test: Test) -> bool:
    """A nonce of another length is never taken, whatever other libraries do with it."""
    key, nonce, associated, plaintext, ciphertext, tag = (
        bytes.fromhex(test[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")
    )
    if len(nonce) != NONCE_BYTES:
        with pytest.raises(ValueError, match="nonce has 12 bytes"):
            unseal(key, ciphertext + tag, nonce=nonce, associated=associated)
        return bool(test["result"] == "valid")
    try:
        opened = unseal(key, ciphertext + tag, nonce=nonce, associated=associated)
    except NotAuthentic:
        return False
    assert opened == plaintext, test
    assert seal(key, plaintext, nonce=nonce, associated=associated) == ciphertext + tag, test
    return True


def mac(group: Test, test: Test) -> bool:
    """Whole and shortened tags, keys of all lengths."""
    made = hmac_sm3(bytes.fromhex(test["key"]), bytes.fromhex(test["msg"]))
    return made[: group["tagSize"] // 8].hex() == test["tag"].lower()


def signature(group: Test, test: Test) -> bool:
    """In DER, or as r || s where the group says P1363; a key that is none has no signature."""
    given = bytes.fromhex(test["sig"])
    try:
        wire = given if "P1363" in str(group.get("type", "")) else sm2.from_der(given)
        key = PublicKey(point_of(group))
        return key.verify(
            bytes.fromhex(test["msg"]), wire, user_id=user_id_of(group, test, default=sm2.USER_ID)
        )
    except ValueError:
        return False


def digest(_: Test, test: Test) -> bool:
    """A hash of a message."""
    said = test.get("digest") or test["hash"]
    return hashlib.new("sm3", bytes.fromhex(test["msg"])).hexdigest() == said.lower()


DECIDES: dict[str, Callable[[Test, Test], bool]] = {
    "sm4-gcm": sm4_gcm,
    "hmac-sm3": mac,
    "sm2": signature,
    "sm3": digest,
}


def wrong_in(vectors: Vectors) -> list[Test]:
    """The vectors of a file that are decided otherwise than it says; `acceptable` ones may be either way."""
    decide = DECIDES[vectors.kind]
    return [
        test
        for group, test in vectors
        if decide(group, test) != (test["result"] == "valid") and test["result"] != "acceptable"
    ]


@pytest.mark.parametrize("vectors", files_of_sm() or [None], ids=lambda one: one.path.name if one else "none")
def test_every_vector_is_decided_as_its_file_says(vectors: Vectors | None) -> None:
    """Valid ones are taken, changed ones refused."""
    if vectors is None:
        pytest.skip(f"no vectors in {FOLDER}; name the folder of Wycheproof's in EDGEGW_WYCHEPROOF")
    if not vectors.kind:
        pytest.skip(f"{vectors.path}: the product has no {vectors.algorithm}")
    assert wrong_in(vectors) == []


def _file(folder: Path, algorithm: str, group: Test, tests: list[Test]) -> Vectors:
    content = {"algorithm": algorithm, "numberOfTests": len(tests), "testGroups": [group | {"tests": tests}]}
    (folder / "vectors.json").write_text(json.dumps(content))
    (found,) = files_of_sm(folder)
    return found


@pytest.mark.parametrize("form", ["EcdsaVerify", "EcdsaP1363Verify"])
@pytest.mark.parametrize("own_id", [b"", b"ALICE123@YAHOO.COM"])
def test_signatures_in_wycheproofs_form_are_decided(tmp_path: Path, form: str, own_id: bytes) -> None:
    """There is no such file of SM2 yet; the first one must be held against the product, not passed over."""
    key, message = PrivateKey.generate(), b"pay"
    made = key.sign(message, user_id=own_id or sm2.USER_ID)
    sent = made if "P1363" in form else sm2.to_der(made)
    group: Test = {
        "type": form,
        "publicKey": {"type": "EcPublicKey", "curve": "sm2p256v1", "uncompressed": key.public.point.hex()},
        "sha": "SM3",
    }
    if own_id:
        group["userId"] = own_id.hex()
    one = {"tcId": 1, "msg": message.hex(), "sig": sent.hex(), "result": "valid"}
    other = one | {"tcId": 2, "sig": (sent + b"\0").hex(), "result": "invalid"}
    assert wrong_in(_file(tmp_path, "ECDSA", group, [one, other])) == []
    turned = [one | {"result": "invalid"}, other | {"result": "valid"}]
    assert len(wrong_in(_file(tmp_path, "SM2", group, turned))) == 2


@pytest.mark.parametrize("own_id", [sm2.USER_ID, b"ALICE123@YAHOO.COM"])
@pytest.mark.parametrize("as_pem", [True, False])
def test_other_projects_write_ids_as_text_and_keys_in_other_forms(
    tmp_path: Path, own_id: bytes, as_pem: bool
) -> None:
    """A valid signature that is refused for the form of its file hides what the file is there to find."""
    key = PrivateKey.generate()
    form = {"publicKeyPem": key.public.to_pem().decode()} if as_pem else {"key": key.public.point.hex()}
    one = {
        "tcId": 1,
        "msg": b"pay".hex(),
        "sig": sm2.to_der(key.sign(b"pay", user_id=own_id)).hex(),
        "userId": own_id.decode(),
        "result": "valid",
    }
    assert wrong_in(_file(tmp_path, "SM2", {"type": "Sm2Verify"} | form, [one])) == []


def test_what_the_product_has_not_is_said_and_not_passed_over(tmp_path: Path) -> None:
    """A file of another mode of SM4 shows up as skipped, with its name."""
    found = _file(tmp_path, "SM4-CCM", {"type": "AeadTest"}, [])
    assert found.kind == ""
