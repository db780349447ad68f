"""Known answers: what each SM algorithm must give for published inputs, asked of this machine's libraries.

Box, hub and mirror ask all of them at their start and do not start on a wrong or missing one; `edgegw crypto
self-test` lists them. The inputs are the examples of the standards, also the private key: it is no secret.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterable
from typing import Final

import cryptography
import msgspec
from cryptography.hazmat.backends.openssl import backend

from edgegw.sm import libcrypto, sm4_gcm
from edgegw.sm.libcrypto import SmError
from edgegw.sm.sm2 import ORDER, PrivateKey, PublicKey
from edgegw.sm.sm3 import hmac_sm3, sm3


class Answer(msgspec.Struct, frozen=True):
    """What one library said to one question."""

    name: str
    """Which question; the names do not change."""
    library: str
    """Who was asked: libcrypto, hashlib or cryptography."""
    question: str
    """What it must do, with the standard that says so."""
    problem: str
    """What it did instead; empty when it is right."""


class Question(msgspec.Struct, frozen=True):
    """One thing that a library must do; `ask` gives the problem, or nothing."""

    name: str
    library: str
    question: str
    ask: Callable[[], str]


_SM2_MESSAGE: Final = b"message digest"
_SM2_POINT: Final = bytes.fromhex(
    "0409f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
_SM2_SIGNATURE: Final = bytes.fromhex(
    "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)
_SM2_PRIVATE_PEM: Final = b"""-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqBHM9VAYItBG0wawIBAQQgOUUgj3shRLE/NuOK
xtOflYiTk2koYLUaQvuB7033xbihRANCAAQJ+d8xHlQhoVDdfRYeS8XGchefrRgz
/AdrsI/zVvNQIMzqSQziZ3WlLcbqcYzBqmAK7QX7814ISmYy9gctqa0T
-----END PRIVATE KEY-----
"""
_SM3_ANSWERS: Final = {
    b"abc": "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
    b"abcd" * 16: "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
}
_HMAC_KEY: Final = bytes(range(1, 33))
_HMAC_MESSAGE: Final = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq" * 2
_HMAC_ANSWER: Final = "ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a"
_GCM_KEY: Final = bytes.fromhex("0123456789abcdeffedcba9876543210")
_GCM_NONCE: Final = bytes.fromhex("00001234567800000000abcd")
_GCM_ASSOCIATED: Final = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_GCM_PLAINTEXT: Final = b"".join(bytes([byte]) * 8 for byte in bytes.fromhex("aabbccddeeffeeaa"))
_GCM_SEALED: Final = bytes.fromhex(
    "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
    "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
    "83de3541e4c2b58177e065a9bf7b62ec"
)


def _sm2_verify() -> str:
    if PublicKey(_SM2_POINT).verify(_SM2_MESSAGE, _SM2_SIGNATURE):
        return ""
    return "it refuses that signature"


def _sm2_refuse() -> str:
    key = PublicKey(_SM2_POINT)
    r, s = _SM2_SIGNATURE[:32], int.from_bytes(_SM2_SIGNATURE[32:], "big")
    if key.verify(_SM2_MESSAGE + b"!", _SM2_SIGNATURE):
        return "it accepts the signature over another message"
    if key.verify(_SM2_MESSAGE, _SM2_SIGNATURE, user_id=b"ALICE123@YAHOO.COM"):
        return "it accepts the signature under another user id"
    if key.verify(_SM2_MESSAGE, r + (ORDER - s).to_bytes(32, "big")):
        return "it accepts the signature with n - s"
    return ""


def _sm2_curve() -> str:
    PublicKey(_SM2_POINT)
    try:
        PublicKey(_SM2_POINT[:-1] + b"\x14")
    except ValueError:
        return ""
    return "it takes a key that is not on the curve"


def _sm2_sign() -> str:
    key = PrivateKey.from_pem(_SM2_PRIVATE_PEM)
    first, second = key.sign(_SM2_MESSAGE), key.sign(_SM2_MESSAGE)
    if key.public.point != _SM2_POINT:
        return "it gives that private key another public one"
    if first[:32] == second[:32]:
        return "it signs twice with one random number, which gives the key away"
    good = PublicKey(_SM2_POINT).verify(_SM2_MESSAGE, first)
    return "" if good else "it refuses its own signature"


def _sm2_generate() -> str:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    if key.public == other.public:
        return "it makes the same key twice"
    return (
        "" if key.public.verify(b"", key.sign(b"")) else "a key that it makes does not verify what it signs"
    )


def _sm3() -> str:
    return _different((sm3(data).hex(), right) for data, right in _SM3_ANSWERS.items())


def _hmac_sm3() -> str:
    return _different([(hmac_sm3(_HMAC_KEY, _HMAC_MESSAGE).hex(), _HMAC_ANSWER)])


def _sm4_gcm_seal() -> str:
    sealed = sm4_gcm.seal(_GCM_KEY, _GCM_PLAINTEXT, nonce=_GCM_NONCE, associated=_GCM_ASSOCIATED)
    return _different([(sealed.hex(), _GCM_SEALED.hex())])


def _sm4_gcm_unseal() -> str:
    opened = sm4_gcm.unseal(_GCM_KEY, _GCM_SEALED, nonce=_GCM_NONCE, associated=_GCM_ASSOCIATED)
    if opened != _GCM_PLAINTEXT:
        return f"it opens it to {opened.hex()}"
    try:
        changed = _GCM_SEALED[:-1] + b"\xed"
        sm4_gcm.unseal(_GCM_KEY, changed, nonce=_GCM_NONCE, associated=_GCM_ASSOCIATED)
    except sm4_gcm.NotAuthentic:
        return ""
    return "it opens what was changed"


def _different(pairs: Iterable[tuple[str, str]]) -> str:
    return next((f"it gives {given}, right is {right}" for given, right in pairs if given != right), "")


_ANNEX: Final = "GB/T 32918.5 annex A.2"
QUESTIONS: Final = (
    Question("sm2_verify", "libcrypto", f"accept the signature of {_ANNEX}", _sm2_verify),
    Question("sm2_refuse", "libcrypto", f"refuse that of {_ANNEX} where it does not belong", _sm2_refuse),
    Question("sm2_curve", "libcrypto", "take a public key that is on the curve and no other", _sm2_curve),
    Question("sm2_sign", "libcrypto", f"sign with the key of {_ANNEX}, each time differently", _sm2_sign),
    Question("sm2_generate", "libcrypto", "make a new key whose halves fit", _sm2_generate),
    Question("sm3", "hashlib", "give the hashes of GB/T 32905 annex A", _sm3),
    Question("hmac_sm3", "hashlib", "give the MAC of GM/T 0042 annex D.3", _hmac_sm3),
    Question("sm4_gcm_seal", "cryptography", "seal as RFC 8998 appendix A.1", _sm4_gcm_seal),
    Question("sm4_gcm_unseal", "cryptography", "open that, and nothing that was changed", _sm4_gcm_unseal),
)


def answers() -> list[Answer]:
    """The answer to every question, in their order; a library that is missing answers with its problem."""
    return [Answer(one.name, one.library, one.question, _problem_of(one)) for one in QUESTIONS]


def _problem_of(question: Question) -> str:
    try:
        return question.ask()
    except (SmError, ValueError, TypeError) as problem:
        return f"it fails: {problem}"


def libraries() -> dict[str, str]:
    """Which library computes what here: its name to its version, or to what is wrong with it."""
    try:
        crypto = libcrypto.version()
    except SmError as problem:
        crypto = str(problem)
    return {
        "libcrypto": crypto,
        "hashlib": ssl.OPENSSL_VERSION,
        "cryptography": f"{cryptography.__version__} with {backend.openssl_version_text()}",
    }


@functools.cache
def self_test() -> None:
    """Raise SmError, naming library, version and question, unless every answer is right."""
    versions = libraries()
    wrong = [
        f"{one.library} ({versions[one.library]}) must {one.question} ({one.name}): {one.problem}"
        for one in answers()
        if one.problem
    ]
    if wrong:
        raise SmError("\n".join(wrong))
