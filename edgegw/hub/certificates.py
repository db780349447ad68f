"""The hub's CAs: certificates and lists of revoked ones, of P-256 and of SM2, in one way.

cryptography signs nothing with SM2. It builds the contents, for a key that is thrown away; name of the
signature and public key in them are exchanged where they differ, and the CA's own key signs them. Leaves out
whose keys are bound (`hub.identities`) and what is kept of certificates (`hub.enrolments`).
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgegw.access.certificate_keys import (
    CertificateKey,
    has_signed,
    in_certificate,
    out_of_certificate,
    point_of,
)
from edgegw.core.enrolment import SERIAL_BYTES, Kind

_SIGNED_BY: Final[dict[Kind, bytes]] = {
    "p256": bytes.fromhex("300a06082a8648ce3d040302"),
    "sm2": bytes.fromhex("300a06082a811ccf55018375"),
}
"""AlgorithmIdentifier: ECDSA with SHA-256, SM2 with SM3."""
_PLACE_OF_ALGORITHM: Final = 2
_PLACE_OF_KEY: Final = 6
_PLACE_OF_ALGORITHM_IN_CRL: Final = 1
_IDENTIFIER_BYTES: Final = 20
CLOCKS_APART: Final = datetime.timedelta(hours=1)
"""A certificate begins so long before it is issued."""
COMMON_NAME_CHARACTERS_MAX: Final = 64


class Revoked(NamedTuple):
    """One entry of a list."""

    serial: int
    at_s: int


class Authority:
    """A CA: its key and its own certificate."""

    def __init__(self, key: CertificateKey, der: bytes) -> None:
        """ValueError unless the certificate is this key's own, of a CA."""
        self.kind: Final = key.kind
        self.der: Final = der
        self._key = key
        certificate = x509.load_der_x509_certificate(der)
        if key.public not in certificate.tbs_certificate_bytes:
            raise ValueError("the certificate is not this key's")
        signature = out_of_certificate(key.kind, certificate.signature)
        if not has_signed(key.public, certificate.tbs_certificate_bytes, signature):
            raise ValueError("the certificate is not signed by its own key")
        self._name = certificate.subject
        self.ends: Final = certificate.not_valid_after_utc

    def issue(
        self,
        public: bytes,
        *,
        name: str,
        uri: str = "",
        hosts: Sequence[str] = (),
        at_s: int,
        ends_s: int,
    ) -> bytes:
        """A certificate (DER) for a public key of this kind. With a URI its key may speak as a client, with
        hosts as a server; it never ends after the CA. ValueError for a key that is none."""
        point = point_of(self.kind, public)
        names = [*([x509.UniformResourceIdentifier(uri)] if uri else []), *map(general_name, hosts)]
        usages = [*([ExtendedKeyUsageOID.CLIENT_AUTH] if uri else [])]
        usages += [ExtendedKeyUsageOID.SERVER_AUTH] if hosts else []
        builder = (
            _begun(name, at_s=at_s, ends=min(_time(ends_s), self.ends))
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier(_identifier(point)), critical=False)
            .add_extension(self._own_identifier(), critical=False)
        )
        return sign_certificate(builder, public, self._key)

    def crl(self, revoked: Iterable[Revoked], *, number: int, at_s: int, next_s: int) -> bytes:
        """The list (DER) of what is revoked at this time; the next one comes before next_s."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(_time(at_s))
            .next_update(_time(next_s))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._own_identifier(), critical=False)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(_time(one.at_s)).build())
        return sign_list(builder, self._key)

    def _own_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier(_identifier(point_of(self.kind, self._key.public)), None, None)


def make_authority(key: CertificateKey, *, name: str, at_s: int, ends_s: int) -> Authority:
    """A CA of this key, which signs its own certificate; it certifies no other CA."""
    point = point_of(key.kind, key.public)
    builder = (
        _begun(name, at_s=at_s, ends=_time(ends_s))
        .issuer_name(_named(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_identifier(point)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(_identifier(point), None, None), critical=False)
    )
    return Authority(key, sign_certificate(builder, key.public, key))


def serial_of(der: bytes) -> int:
    """A certificate's serial number."""
    return x509.load_der_x509_certificate(der).serial_number


def pem_of(der: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def general_name(host: str) -> x509.GeneralName:
    """A host's name or address as a certificate has it; ValueError for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _begun(name: str, *, at_s: int, ends: datetime.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(1 << (8 * SERIAL_BYTES - 2) | secrets.randbits(8 * SERIAL_BYTES - 2))
        .not_valid_before(_time(at_s) - CLOCKS_APART)
        .not_valid_after(ends)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_CHARACTERS_MAX])])


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(point: bytes) -> bytes:
    """RFC 7093, first method."""
    return hashlib.sha256(point).digest()[:_IDENTIFIER_BYTES]


def _time(at_s: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC)


def sign_certificate(builder: x509.CertificateBuilder, public: bytes, issuer: CertificateKey) -> bytes:
    """The certificate (DER) of a public key (SubjectPublicKeyInfo), whatever key the builder has."""
    thrown_away = ec.generate_private_key(ec.SECP256R1())
    made = builder.sign(thrown_away, hashes.SHA256()).tbs_certificate_bytes
    fields = list(_elements(made[_head(made) :]))
    fields[_PLACE_OF_ALGORITHM], fields[_PLACE_OF_KEY] = _SIGNED_BY[issuer.kind], public
    return _signed(fields, issuer)


def sign_list(builder: x509.CertificateRevocationListBuilder, issuer: CertificateKey) -> bytes:
    """The list of revoked certificates (DER)."""
    thrown_away = ec.generate_private_key(ec.SECP256R1())
    made = builder.sign(thrown_away, hashes.SHA256()).tbs_certlist_bytes
    fields = list(_elements(made[_head(made) :]))
    fields[_PLACE_OF_ALGORITHM_IN_CRL] = _SIGNED_BY[issuer.kind]
    return _signed(fields, issuer)


def _signed(fields: list[bytes], issuer: CertificateKey) -> bytes:
    body = _wrapped(0x30, b"".join(fields))
    signature = in_certificate(issuer.kind, issuer.sign(body))
    return _wrapped(0x30, body + _SIGNED_BY[issuer.kind] + _wrapped(0x03, b"\0" + signature))


# --- DER ----------------------------------------------------------------------------------------------------


def _elements(der: bytes) -> Iterator[bytes]:
    while der:
        size = _head(der) + _size(der)
        yield der[:size]
        der = der[size:]


def _head(der: bytes) -> int:
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _size(der: bytes) -> int:
    return int.from_bytes(der[2 : _head(der)], "big") if der[1] & 0x80 else der[1]


def _wrapped(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body
