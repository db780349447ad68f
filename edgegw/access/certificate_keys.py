"""The keys of certificates, of P-256 and of SM2 alike: made, kept as PKCS#8 PEM, and what they sign.

A public key is its SubjectPublicKeyInfo (DER) with an uncompressed point on the named curve, and has no other
form. P-256 signs with ECDSA and SHA-256 in DER, SM2 with SM3 as r || s (`sm.sm2`). A claim's key, which no
certificate has, is Ed25519. Leaves out the certificates (`hub.certificates`) and where keys lie
(`access.keystore`).
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgegw.core.enrolment import CLAIM, KINDS, Kind, signed_text
from edgegw.sm import sm2
from edgegw.sm.libcrypto import POINT_BYTES
from edgegw.sm.libcrypto import SPKI_HEAD as SM2_HEAD

P256_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""SubjectPublicKeyInfo up to the point: id-ecPublicKey, named curve prime256v1, a BIT STRING."""
_HEADS: Final[dict[Kind, bytes]] = {"p256": P256_HEAD, "sm2": SM2_HEAD}
ED25519_SIGNATURE_BYTES: Final = 64


class CertificateKey(Protocol):
    """A certificate's private key."""

    @property
    def kind(self) -> Kind:
        """Which curve's."""
        ...

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Its signature over message."""
        ...

    def to_pem(self) -> bytes:
        """As unencrypted PKCS#8 PEM, for the keystore alone."""
        ...


class _P256:
    kind: Final[Kind] = "p256"

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        encoding, shape = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self.public: Final = key.public_key().public_bytes(encoding, shape)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))

    def to_pem(self) -> bytes:
        encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(encoding, shape, serialization.NoEncryption())


class _Sm2:
    kind: Final[Kind] = "sm2"

    def __init__(self, key: sm2.PrivateKey) -> None:
        self._key = key
        self.public: Final = SM2_HEAD + key.public.point

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def to_pem(self) -> bytes:
        return self._key.to_pem()


def make_certificate_key(kind: Kind) -> CertificateKey:
    """A new key; raises SmError."""
    if kind == "sm2":
        return _Sm2(sm2.PrivateKey.generate())
    return _P256(ec.generate_private_key(ec.SECP256R1()))


def certificate_key_of(kind: Kind, pem: bytes) -> CertificateKey:
    """The key of an unencrypted PKCS#8 PEM; ValueError unless it is one of this kind."""
    if kind == "sm2":
        return _Sm2(sm2.PrivateKey.from_pem(pem))
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a private key of P-256 in PKCS#8 PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a private key, but not one of P-256")
    return _P256(key)


def point_of(kind: Kind, public: bytes) -> bytes:
    """The 65 bytes of the point of a public key; ValueError unless that is on the curve of this kind."""
    head = _HEADS[kind]
    if not public.startswith(head) or len(public) != len(head) + POINT_BYTES:
        raise ValueError(f"the public key is not one of {kind} with an uncompressed point")
    point = public[len(head) :]
    if kind == "sm2":
        sm2.PublicKey(point)
    else:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    return point


def kind_of(public: bytes) -> Kind:
    """Of which kind a public key is; ValueError where of none."""
    for kind in KINDS:
        if public.startswith(_HEADS[kind]):
            return kind
    raise ValueError("the public key is neither of P-256 nor of SM2")


def has_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is this key's over message; of a key that is none, no signature is."""
    try:
        kind = kind_of(public)
        point = point_of(kind, public)
    except ValueError:
        return False
    if kind == "sm2":
        return sm2.PublicKey(point).verify(message, signature)
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def in_certificate(kind: Kind, signature: bytes) -> bytes:
    """A signature as it stands in a certificate or a list of revoked ones: DER of either kind."""
    return sm2.to_der(signature) if kind == "sm2" else signature


def out_of_certificate(kind: Kind, signature: bytes) -> bytes:
    """The signature of a certificate as `has_signed` takes it; ValueError where it is not strict DER."""
    return sm2.from_der(signature) if kind == "sm2" else signature


def claim_public(seed: bytes) -> bytes:
    """The public key (32 bytes) of a claim's Ed25519 seed (32 bytes)."""
    encoding, shape = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(encoding, shape)


def claim_signature(seed: bytes, body: bytes) -> bytes:
    """The signature of a request's body by a claim's seed (32 bytes)."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(signed_text(CLAIM, body))


def claim_has_signed(public: bytes, body: bytes, signature: bytes) -> bool:
    """Whether the claim with this public key (32 bytes) has signed a request's body."""
    if len(signature) != ED25519_SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_text(CLAIM, body))
    except (InvalidSignature, ValueError):
        return False
    return True
