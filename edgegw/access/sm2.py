"""SM2 signatures (GB/T 32918.2 with SM3) by the system's libcrypto, versions 3.0 to 3.5, through ctypes.

Owns the keys' objects, their PEM texts and their files. Every signature uses the user id 1234567812345678:
left to itself, OpenSSL before 4.0 signs with an empty one. On the wire a signature is r || s, 64 bytes; DER
stays in here and is strict both ways. A CDLL call releases the GIL, so threads sign side by side. Names of
keys, and the notes they sign, are in `access.keys`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import secrets
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_ubyte, c_ulong, c_void_p
from pathlib import Path
from typing import Final

from edgegw.errors import OperatingError

USER_ID: Final = b"1234567812345678"
POINT_BYTES: Final = 65
SIGNATURE_BYTES: Final = 64
ORDER: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
"""n, the order of the base point (GB/T 32918.5)."""
KEY_FILE_BYTES_MAX: Final = 4096

_HALF: Final = 32
# SubjectPublicKeyInfo up to the point: id-ecPublicKey, named curve 1.2.156.10197.1.301, a BIT STRING.
_SPKI_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
_PKCS8_START: Final = b"-----BEGIN PRIVATE KEY-----\n"
_BIO_CTRL_INFO: Final = 3

# The example of GB/T 32918.5 annex A.2: its message, public key and signature with USER_ID.
_ANNEX_MESSAGE: Final = b"message digest"
_ANNEX_POINT: Final = bytes.fromhex(
    "0409f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020"
    "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
_ANNEX_SIGNATURE: Final = bytes.fromhex(
    "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3"
    "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa"
)


class Sm2Error(OperatingError):
    """The libcrypto of this machine is missing, lacks SM2 or computes it wrongly."""

    code = "sm2_unusable"
    default_hint = "Install an OpenSSL 3 with SM2 and SM3; on Debian: apt install libssl3."


class KeyFileError(Exception):
    """A key's file cannot be used; the text names the path, `hint` the mend."""

    def __init__(self, path: Path, problem: str, *, hint: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.hint = hint


class PublicKey:
    """A public key that is on the curve."""

    def __init__(self, point: bytes) -> None:
        """From the 65-byte uncompressed point; ValueError when it is malformed or not on the curve."""
        if len(point) != POINT_BYTES or point[0] != 4:
            raise ValueError(
                f"an SM2 public key is 65 bytes and starts with 04, not {len(point)}: {point[:1].hex()}"
            )
        self.point: Final = bytes(point)
        self._handle = _Handle.of_public_der(_SPKI_HEAD + self.point)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """From a SubjectPublicKeyInfo PEM; ValueError when it holds anything but an SM2 public key."""
        return cls(_Handle.of_public_pem(pem).point())

    def to_pem(self) -> bytes:
        """As SubjectPublicKeyInfo PEM."""
        return self._handle.public_pem()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether signature (r || s) is this key's over message; anything malformed is not."""
        der = _to_der(signature)
        return der is not None and self._handle.verify(message, der)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.point == other.point

    def __hash__(self) -> int:
        return hash(self.point)

    def __repr__(self) -> str:
        return f"PublicKey({self.point.hex()})"


class PrivateKey:
    """A private key; its number never leaves libcrypto except as the PEM that is written to its file."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle
        self.public: Final = PublicKey(handle.point())

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key from libcrypto's generator."""
        return cls(_Handle.generated())

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKey:
        """From an unencrypted PKCS#8 PEM; ValueError unless it is an SM2 key whose halves fit."""
        return cls(_Handle.of_private_pem(pem))

    def to_pem(self) -> bytes:
        """As unencrypted PKCS#8 PEM."""
        return self._handle.private_pem()

    def sign(self, message: bytes) -> bytes:
        """The signature over message, r || s, 64 bytes."""
        return _from_der(self._handle.sign(message))


def load_private_key(path: Path) -> PrivateKey:
    """The key in a PKCS#8 PEM file that only its owner can read; raises KeyFileError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise KeyFileError(
            path, f"cannot be read ({problem.strerror})", hint="give the path of the key"
        ) from None
    if mode & 0o077:
        raise KeyFileError(path, f"others can read it (mode {mode & 0o777:o})", hint=f"chmod 600 {path}")
    if len(pem) > KEY_FILE_BYTES_MAX:
        raise KeyFileError(path, f"more than {KEY_FILE_BYTES_MAX} bytes", hint="this is no key file")
    try:
        return PrivateKey.from_pem(pem)
    except ValueError as problem:
        raise KeyFileError(path, str(problem), hint="restore the key from its backup") from None


def store_private_key(path: Path, key: PrivateKey) -> None:
    """Write the key to a new file, mode 0600, whole and fsynced or not at all; raises KeyFileError."""
    write_new_file(path, key.to_pem(), mode=0o600)


def write_new_file(path: Path, body: bytes, *, mode: int) -> None:
    """Create path with body, whole and fsynced, or raise KeyFileError; never replaces what is there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, a link never replaces
        finally:
            os.unlink(draft)
        _sync_folder(path.parent)
    except FileExistsError:
        raise KeyFileError(
            path, "exists already", hint="a key is never overwritten: move it away first"
        ) from None
    except OSError as problem:
        raise KeyFileError(path, f"cannot be written ({problem.strerror})", hint="mend the folder") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def self_test() -> None:
    """Raise Sm2Error unless libcrypto accepts the signature of GB/T 32918.5 and refuses a wrong one."""
    try:
        key = PublicKey(_ANNEX_POINT)
    except ValueError as problem:
        raise Sm2Error(f"this libcrypto does not take an SM2 key ({problem})") from None
    if not key.verify(_ANNEX_MESSAGE, _ANNEX_SIGNATURE):
        raise Sm2Error("this libcrypto refuses the signature of GB/T 32918.5 annex A.2")
    if key.verify(_ANNEX_MESSAGE + b"!", _ANNEX_SIGNATURE):
        raise Sm2Error("this libcrypto accepts a signature over another message")
    fresh = PrivateKey.generate()
    if not fresh.public.verify(_ANNEX_MESSAGE, fresh.sign(_ANNEX_MESSAGE)):
        raise Sm2Error("this libcrypto refuses its own signature")


# r || s at the wire, DER inside.


def _to_der(signature: bytes) -> bytes | None:
    """DER of r || s, or None unless it is 64 bytes with both numbers within 1 to n - 1."""
    if len(signature) != SIGNATURE_BYTES:
        return None
    numbers = [int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")]
    if not all(0 < number < ORDER for number in numbers):
        return None
    body = b"".join(_der_integer(number) for number in numbers)
    return bytes([0x30, len(body)]) + body


def _der_integer(number: int) -> bytes:
    body = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([0x02, len(body)]) + body


def _from_der(der: bytes) -> bytes:
    """r || s of the DER that libcrypto wrote; RuntimeError unless it is the one strict encoding."""
    r_end = 4 + der[3]
    r = int.from_bytes(der[4:r_end], "big")
    s = int.from_bytes(der[r_end + 2 :], "big")
    if max(r, s).bit_length() <= 8 * _HALF:
        signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
        if _to_der(signature) == der:
            return signature
    raise RuntimeError(f"libcrypto made a signature that is not strict DER: {der.hex()}")


# The binding.


class _Handle:
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
    def generated(cls) -> _Handle:
        crypto = _libcrypto()
        with _released(
            crypto.EVP_PKEY_CTX_new_from_name(None, b"SM2", None), crypto.EVP_PKEY_CTX_free
        ) as context:
            pointer = c_void_p()
            _must(crypto, crypto.EVP_PKEY_keygen_init(context))
            _must(crypto, crypto.EVP_PKEY_generate(context, ctypes.byref(pointer)))
        return cls(pointer.value or 0)

    @classmethod
    def of_public_der(cls, der: bytes) -> _Handle:
        crypto = _libcrypto()
        start = c_char_p(der)
        return cls(crypto.d2i_PUBKEY(None, ctypes.byref(start), len(der)) or 0)._checked(
            "EVP_PKEY_public_check"
        )

    @classmethod
    def of_public_pem(cls, pem: bytes) -> _Handle:
        crypto = _libcrypto()
        with _released(crypto.BIO_new_mem_buf(pem, len(pem)), crypto.BIO_free) as bio:
            return cls(crypto.PEM_read_bio_PUBKEY(bio, None, None, None) or 0)

    @classmethod
    def of_private_pem(cls, pem: bytes) -> _Handle:
        if not pem.startswith(_PKCS8_START):
            raise ValueError(f"not an unencrypted PKCS#8 PEM: it starts with {_PKCS8_START.decode().strip()}")
        crypto = _libcrypto()
        with _released(crypto.BIO_new_mem_buf(pem, len(pem)), crypto.BIO_free) as bio:
            # The empty passphrase keeps libcrypto from asking a terminal for one.
            handle = cls(crypto.PEM_read_bio_PrivateKey(bio, None, None, b"") or 0)
        return handle._checked("EVP_PKEY_check")

    def _checked(self, check: str) -> _Handle:
        """This key, or ValueError when it is off the curve or its halves do not belong together."""
        crypto = self._crypto
        with _released(crypto.EVP_PKEY_CTX_new(self._pointer, None), crypto.EVP_PKEY_CTX_free) as context:
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
        if len(der) != len(_SPKI_HEAD) + POINT_BYTES or not der.startswith(_SPKI_HEAD):
            raise ValueError("not an uncompressed point on the named curve SM2")
        return der[len(_SPKI_HEAD) :]

    def public_pem(self) -> bytes:
        crypto = self._crypto
        with _released(crypto.BIO_new(crypto.BIO_s_mem()), crypto.BIO_free) as bio:
            _must(crypto, crypto.PEM_write_bio_PUBKEY(bio, self._pointer))
            return _bio_bytes(crypto, bio)

    def private_pem(self) -> bytes:
        crypto = self._crypto
        with _released(crypto.BIO_new(crypto.BIO_s_mem()), crypto.BIO_free) as bio:
            _must(crypto, crypto.PEM_write_bio_PKCS8PrivateKey(bio, self._pointer, None, None, 0, None, None))
            return _bio_bytes(crypto, bio)

    def sign(self, message: bytes) -> bytes:
        crypto = self._crypto
        with self._digest_context(crypto.EVP_DigestSignInit) as context:
            buffer = (c_ubyte * 80)()
            size = c_size_t(len(buffer))
            _must(crypto, crypto.EVP_DigestSign(context, buffer, ctypes.byref(size), message, len(message)))
            return bytes(buffer[: size.value])

    def verify(self, message: bytes, der: bytes) -> bool:
        crypto = self._crypto
        with self._digest_context(crypto.EVP_DigestVerifyInit) as context:
            verdict: int = crypto.EVP_DigestVerify(context, der, len(der), message, len(message))
        if verdict != 1:
            crypto.ERR_clear_error()
        return verdict == 1

    @contextlib.contextmanager
    def _digest_context(self, init: ctypes._NamedFuncPointer) -> Iterator[int]:
        crypto = self._crypto
        with _released(crypto.EVP_MD_CTX_new(), crypto.EVP_MD_CTX_free) as context:
            key_context = c_void_p()  # owned by the digest context
            _must(crypto, init(context, ctypes.byref(key_context), crypto.EVP_sm3(), None, self._pointer))
            _must(crypto, crypto.EVP_PKEY_CTX_set1_id(key_context, USER_ID, len(USER_ID)))
            yield context


@contextlib.contextmanager
def _released(pointer: int | None, release: ctypes._NamedFuncPointer) -> Iterator[int]:
    if not pointer:
        raise MemoryError("libcrypto could not allocate")
    try:
        yield pointer
    finally:
        release(pointer)


def _must(crypto: ctypes.CDLL, verdict: int) -> None:
    if verdict != 1:
        raise Sm2Error(f"libcrypto failed ({_last_error(crypto)})")


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
    "PEM_read_bio_PUBKEY": (c_void_p, c_void_p, c_void_p, c_void_p, c_char_p),
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
    """The system's libcrypto with its prototypes; raises Sm2Error when it is missing or built without SM2."""
    try:
        crypto = ctypes.CDLL("libcrypto.so.3")
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(crypto, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as problem:
        raise Sm2Error(f"no usable libcrypto.so.3 ({problem})") from None
    return crypto
