"""The binding to the system's libcrypto, versions 3 and 4, through ctypes: SM2 keys, EVP_DigestSign and
EVP_DigestVerify.

Owns the keys' objects and their PEM and DER texts; signatures are DER here. A CDLL call releases the GIL, so
threads sign and verify side by side with one key and no lock. `sm.sm2` is the one caller and owns the wire
format and the ranges of what comes in.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_ubyte, c_ulong, c_void_p
from pathlib import Path
from typing import Final

from edgegw.errors import OperatingError

POINT_BYTES: Final = 65
SPKI_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
"""SubjectPublicKeyInfo up to the point: id-ecPublicKey, named curve 1.2.156.10197.1.301, a BIT STRING."""

FILES: Final = ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.so")
"""By these names the system's loader looks for it, wherever a distribution keeps its libraries (Debian's
folders for each architecture, musl's /lib); the last is what a build of one's own installs."""
_MAPPED: Final = Path("/proc/self/maps")
_PKCS8_START: Final = b"-----BEGIN PRIVATE KEY-----\n"
_BIO_CTRL_INFO: Final = 3
_SIGNATURE_BUFFER_BYTES: Final = 80


class SmError(OperatingError):
    """A library of this machine is missing, lacks an SM algorithm or computes it wrongly."""

    code = "sm_unusable"
    default_hint = (
        "Install an OpenSSL 3 or 4 with SM2 and SM3 (on Debian: apt install libssl3) and cryptography's own"
        " wheel; `edgegw crypto self-test` tries each part."
    )


class Key:
    """One EVP_PKEY that is known to be SM2; freed with the object, shared by threads without a lock."""

    def __init__(self, pointer: int) -> None:
        """Take ownership of an EVP_PKEY; ValueError when it is NULL or no SM2 key that passes its checks."""
        self._crypto = crypto = _libcrypto()
        self._pointer = pointer
        if not pointer:
            raise ValueError(f"not a key that libcrypto can read ({_last_error(crypto)})")
        if crypto.EVP_PKEY_is_a(pointer, b"SM2") != 1:
            raise ValueError("a key, but not an SM2 key")

    def __del__(self) -> None:
        self._crypto.EVP_PKEY_free(self._pointer)

    @classmethod
    def generated(cls) -> Key:
        """A new pair from libcrypto's generator; raises SmError."""
        crypto = _libcrypto()
        made = crypto.EVP_PKEY_CTX_new_from_name(None, b"SM2", None)
        with _released(crypto, made, crypto.EVP_PKEY_CTX_free) as context:
            pointer = c_void_p()
            _must(crypto, crypto.EVP_PKEY_keygen_init(context))
            _must(crypto, crypto.EVP_PKEY_generate(context, ctypes.byref(pointer)))
        return cls(pointer.value or 0)

    @classmethod
    def of_point(cls, point: bytes) -> Key:
        """The public key of an uncompressed point (65 bytes); ValueError when it is not on the curve."""
        crypto = _libcrypto()
        der = SPKI_HEAD + point
        start = c_char_p(der)
        key = cls(crypto.d2i_PUBKEY(None, ctypes.byref(start), len(der)) or 0)
        return key._checked("EVP_PKEY_public_check")

    @classmethod
    def of_private_pem(cls, pem: bytes) -> Key:
        """The pair of an unencrypted PKCS#8 PEM; ValueError when its number is not within 1 to n - 2 or its
        halves do not belong together."""
        if not pem.startswith(_PKCS8_START):
            raise ValueError(f"not an unencrypted PKCS#8 PEM: it starts with {_PKCS8_START.decode().strip()}")
        crypto = _libcrypto()
        with _released(crypto, crypto.BIO_new_mem_buf(pem, len(pem)), crypto.BIO_free) as bio:
            # The empty passphrase keeps libcrypto from asking a terminal for one.
            key = cls(crypto.PEM_read_bio_PrivateKey(bio, None, None, b"") or 0)
        return key._checked("EVP_PKEY_check")

    def _checked(self, check: str) -> Key:
        """This key, or ValueError when it is off the curve or its halves do not belong together."""
        crypto = self._crypto
        made = crypto.EVP_PKEY_CTX_new(self._pointer, None)
        with _released(crypto, made, crypto.EVP_PKEY_CTX_free) as context:
            if getattr(crypto, check)(context) != 1:
                raise ValueError(f"not a valid SM2 key ({_last_error(crypto)})")
        return self

    def point(self) -> bytes:
        """The uncompressed public point; ValueError for a key that is stored in another form."""
        crypto = self._crypto
        buffer = (c_ubyte * 256)()
        size = crypto.i2d_PUBKEY(self._pointer, None)
        if 0 < size <= len(buffer):
            crypto.i2d_PUBKEY(self._pointer, ctypes.byref(ctypes.cast(buffer, POINTER(c_ubyte))))
        der = bytes(buffer[: max(size, 0)])
        if len(der) != len(SPKI_HEAD) + POINT_BYTES or not der.startswith(SPKI_HEAD):
            raise ValueError("not an uncompressed point on the named curve SM2")
        return der[len(SPKI_HEAD) :]

    def public_pem(self) -> bytes:
        """The public half as SubjectPublicKeyInfo PEM."""
        crypto = self._crypto
        with _released(crypto, crypto.BIO_new(crypto.BIO_s_mem()), crypto.BIO_free) as bio:
            _must(crypto, crypto.PEM_write_bio_PUBKEY(bio, self._pointer))
            return _bio_bytes(crypto, bio)

    def private_pem(self) -> bytes:
        """The pair as unencrypted PKCS#8 PEM."""
        crypto = self._crypto
        with _released(crypto, crypto.BIO_new(crypto.BIO_s_mem()), crypto.BIO_free) as bio:
            _must(crypto, crypto.PEM_write_bio_PKCS8PrivateKey(bio, self._pointer, None, None, 0, None, None))
            return _bio_bytes(crypto, bio)

    def sign(self, message: bytes, user_id: bytes) -> bytes:
        """The signature over SM3(Z || message), DER; raises SmError."""
        crypto = self._crypto
        context = crypto.EVP_MD_CTX_new()
        try:
            self._begin(context, crypto.EVP_DigestSignInit, user_id)
            buffer = ctypes.create_string_buffer(_SIGNATURE_BUFFER_BYTES)
            size = c_size_t(_SIGNATURE_BUFFER_BYTES)
            _must(crypto, crypto.EVP_DigestSign(context, buffer, ctypes.byref(size), message, len(message)))
            return buffer.raw[: size.value]
        finally:
            crypto.EVP_MD_CTX_free(context)

    def verify(self, message: bytes, der: bytes, user_id: bytes) -> bool:
        """Whether the DER signature is this key's over SM3(Z || message); raises SmError."""
        crypto = self._crypto
        context = crypto.EVP_MD_CTX_new()
        try:
            self._begin(context, crypto.EVP_DigestVerifyInit, user_id)
            verdict: int = crypto.EVP_DigestVerify(context, der, len(der), message, len(message))
        finally:
            crypto.EVP_MD_CTX_free(context)
        if verdict != 1:
            crypto.ERR_clear_error()
        return verdict == 1

    def _begin(self, context: int | None, init: ctypes._NamedFuncPointer, user_id: bytes) -> None:
        crypto = self._crypto
        if not context:
            raise SmError("libcrypto made no digest context")
        key_context = c_void_p()  # owned by the digest context
        _must(crypto, init(context, ctypes.byref(key_context), crypto.EVP_sm3(), None, self._pointer))
        # OpenSSL before 4.0 signs with an empty id when none is set.
        _must(crypto, crypto.EVP_PKEY_CTX_set1_id(key_context, user_id, len(user_id)))


def version() -> str:
    """What the loaded libcrypto calls itself, and its file; raises SmError when there is none."""
    text: bytes = _libcrypto().OpenSSL_version(0)
    name = str(_libcrypto()._name)
    files = {line.split()[-1] for line in _MAPPED.read_text("utf-8").splitlines() if f"/{name}" in line}
    return " ".join([text.decode(errors="replace"), *sorted(files)])


@contextlib.contextmanager
def _released(crypto: ctypes.CDLL, pointer: int | None, release: ctypes._NamedFuncPointer) -> Iterator[int]:
    if not pointer:
        raise SmError(f"libcrypto made nothing ({_last_error(crypto)})")
    try:
        yield pointer
    finally:
        release(pointer)


def _must(crypto: ctypes.CDLL, verdict: int) -> None:
    if verdict != 1:
        raise SmError(f"libcrypto failed ({_last_error(crypto)})")


def _last_error(crypto: ctypes.CDLL) -> str:
    """What libcrypto says of this thread's last error; empties its queue."""
    code = crypto.ERR_peek_last_error()
    crypto.ERR_clear_error()
    text = ctypes.create_string_buffer(256)
    crypto.ERR_error_string_n(code, text, len(text))
    return text.value.decode(errors="replace") if code else "no reason given"


def _bio_bytes(crypto: ctypes.CDLL, bio: int) -> bytes:
    start = c_void_p()
    size = crypto.BIO_ctrl(bio, _BIO_CTRL_INFO, 0, ctypes.byref(start))
    return ctypes.string_at(start.value or 0, size)


_SIGNATURES: Final[dict[str, tuple[object, ...]]] = {
    # name: (result, arguments...)
    "BIO_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "BIO_free": (c_int, c_void_p),
    "BIO_new": (c_void_p, c_void_p),
    "BIO_new_mem_buf": (c_void_p, c_char_p, c_int),
    "BIO_s_mem": (c_void_p,),
    "ERR_clear_error": (None,),
    "ERR_error_string_n": (None, c_ulong, c_char_p, c_size_t),
    "ERR_peek_last_error": (c_ulong,),
    "EVP_DigestSign": (c_int, c_void_p, c_void_p, POINTER(c_size_t), c_char_p, c_size_t),
    "EVP_DigestSignInit": (c_int, c_void_p, POINTER(c_void_p), c_void_p, c_void_p, c_void_p),
    "EVP_DigestVerify": (c_int, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t),
    "EVP_DigestVerifyInit": (c_int, c_void_p, POINTER(c_void_p), c_void_p, c_void_p, c_void_p),
    "EVP_MD_CTX_free": (None, c_void_p),
    "EVP_MD_CTX_new": (c_void_p,),
    "EVP_PKEY_CTX_free": (None, c_void_p),
    "EVP_PKEY_CTX_new": (c_void_p, c_void_p, c_void_p),
    "EVP_PKEY_CTX_new_from_name": (c_void_p, c_void_p, c_char_p, c_char_p),
    "EVP_PKEY_CTX_set1_id": (c_int, c_void_p, c_char_p, c_int),
    "EVP_PKEY_check": (c_int, c_void_p),
    "EVP_PKEY_free": (None, c_void_p),
    "EVP_PKEY_generate": (c_int, c_void_p, POINTER(c_void_p)),
    "EVP_PKEY_is_a": (c_int, c_void_p, c_char_p),
    "EVP_PKEY_keygen_init": (c_int, c_void_p),
    "EVP_PKEY_public_check": (c_int, c_void_p),
    "EVP_sm3": (c_void_p,),
    "OpenSSL_version": (c_char_p, c_int),
    "PEM_read_bio_PrivateKey": (c_void_p, c_void_p, c_void_p, c_void_p, c_char_p),
    "PEM_write_bio_PKCS8PrivateKey": (
        c_int,
        c_void_p,
        c_void_p,
        c_void_p,
        c_char_p,
        c_int,
        c_void_p,
        c_void_p,
    ),
    "PEM_write_bio_PUBKEY": (c_int, c_void_p, c_void_p),
    "d2i_PUBKEY": (c_void_p, c_void_p, POINTER(c_char_p), c_long),
    "i2d_PUBKEY": (c_int, c_void_p, c_void_p),
}


@functools.cache
def _libcrypto() -> ctypes.CDLL:
    """The system's libcrypto with its prototypes, the first that has all of it; raises SmError when none
    has."""
    problems = []
    for file in FILES:
        try:
            crypto = ctypes.CDLL(file)
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(crypto, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as problem:
            problems.append(str(problem))
        else:
            return crypto
    raise SmError(f"no usable libcrypto ({'; '.join(problems)})")
