"""A small authority for tests: key pairs and certificates in PEM files, of P-256 or of SM2.

cryptography makes no certificate of SM2. Its own, of P-256, has the same shape but for the key, the name of
the signature and the signature: those three are exchanged, and `sm.sm2` signs anew.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgegw.access.certificate_keys import make_certificate_key
from edgegw.core.enrolment import Kind
from edgegw.hub.certificates import make_authority, pem_of
from edgegw.sm import sm2

# SEQUENCE { 1.2.156.10197.1.501 }: SM2 with SM3.
SIGNED_BY_SM2 = bytes.fromhex("300a06082a811ccf55018375")
# SEQUENCE { SEQUENCE { ecPublicKey, sm2 }, BIT STRING of 65 bytes }, without them.
SM2_KEY = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
YEARS = datetime.timedelta(days=20 * 366)


class Files(NamedTuple):
    """A certificate's file and its key's."""

    certificate: Path
    key: Path


class Authority:
    """A CA of one kind, "p256" or "sm2"; `ca` is the PEM file that trusts it."""

    def __init__(self, folder: Path, kind: str, *, name: str = "ca") -> None:
        self._folder = folder
        self._kind = kind
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgegw test {name}")])
        self._key = sm2.PrivateKey.generate() if kind == "sm2" else ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{kind}-{name}.pem"
        self.ca.write_bytes(self._signed(self._name, self._key, [], is_ca=True, ends=AT + YEARS))

    def server(self, name: str = "server", *, names: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Files:
        """A certificate for host names and addresses."""
        return self.issue(name, self.names(*names))

    def box(self, box: str, *, bank: str = "bank", name: str = "") -> Files:
        """A box's certificate, which also serves on loopback."""
        uri = x509.UniformResourceIdentifier(f"edgegw://{bank}/{box}")
        return self.issue(name or box, [uri, *self.names("localhost", "127.0.0.1")])

    def names(self, *names: str) -> list[x509.GeneralName]:
        """Host names and addresses as a certificate has them."""
        return [_host(one) for one in names]

    def issue(
        self, name: str, names: list[x509.GeneralName], *, ends: datetime.datetime | None = None
    ) -> Files:
        """A certificate and its key under this name, in new files or over the old ones."""
        key = sm2.PrivateKey.generate() if self._kind == "sm2" else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = Files(self._folder / f"{self._kind}-{name}.pem", self._folder / f"{self._kind}-{name}.key")
        files.certificate.write_bytes(self._signed(subject, key, names, is_ca=False, ends=ends or AT + YEARS))
        files.key.unlink(missing_ok=True)
        files.key.touch(mode=0o600)
        files.key.write_bytes(_pem_of(key))
        return files

    def crl(
        self,
        *revoked: Path,
        number: int = 1,
        made: datetime.datetime = AT,
        ends: datetime.datetime = AT + YEARS,
        part: bool = False,
    ) -> bytes:
        """A list, in PEM, of the certificates in these files; part: it says that it is a part of another."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(made).next_update(ends)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        if part:
            builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        for path in revoked:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(AT)
            builder = builder.add_revoked_certificate(entry.build())
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        tbs = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).tbs_certlist_bytes
        fields = list(_elements(tbs[_head(tbs) :]))
        fields[1] = SIGNED_BY_SM2
        made_list = x509.load_der_x509_crl(_sm2_signed(fields, self._key))
        return made_list.public_bytes(serialization.Encoding.PEM)

    def _signed(
        self,
        subject: x509.Name,
        key: sm2.PrivateKey | ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        is_ca: bool,
        ends: datetime.datetime,
    ) -> bytes:
        plain = (
            self._key
            if isinstance(self._key, ec.EllipticCurvePrivateKey)
            else ec.generate_private_key(ec.SECP256R1())
        )
        public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else plain.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(AT, ends - datetime.timedelta(days=1)))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(_usage(is_ca=is_ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier(_identifier(key)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier(_identifier(self._key), None, None), critical=False)
        )
        if not is_ca:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(plain, hashes.SHA256())
        if isinstance(self._key, sm2.PrivateKey) and isinstance(key, sm2.PrivateKey):
            der = _resigned(made.tbs_certificate_bytes, key.public.point, self._key)
            made = x509.load_der_x509_certificate(der)
        return made.public_bytes(serialization.Encoding.PEM)


def _identifier(key: sm2.PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(key, sm2.PrivateKey):
        point = key.public.point
    else:
        encoding, shape = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        point = key.public_key().public_bytes(encoding, shape)
    return hashlib.sha256(point).digest()[:20]


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


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem_of(key: sm2.PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(key, sm2.PrivateKey):
        return key.to_pem()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _resigned(tbs: bytes, point: bytes, issuer: sm2.PrivateKey) -> bytes:
    """The certificate with these contents (DER), an SM2 key in it and the issuer's SM2 signature."""
    fields = list(_elements(tbs[_head(tbs) :]))
    fields[2], fields[6] = SIGNED_BY_SM2, SM2_KEY + point
    return _sm2_signed(fields, issuer)


def _sm2_signed(fields: list[bytes], issuer: sm2.PrivateKey) -> bytes:
    body = _sequence(b"".join(fields))
    signature = sm2.to_der(issuer.sign(body))
    return _sequence(body + SIGNED_BY_SM2 + _wrapped(0x03, b"\0" + signature))


def _elements(der: bytes) -> Iterator[bytes]:
    while der:
        size = _head(der) + _size(der)
        yield der[:size]
        der = der[size:]


def _head(der: bytes) -> int:
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _size(der: bytes) -> int:
    return int.from_bytes(der[2 : _head(der)], "big") if der[1] & 0x80 else der[1]


def _sequence(body: bytes) -> bytes:
    return _wrapped(0x30, body)


def _wrapped(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def authority_for(kind: Kind) -> Callable[[bytes], bytes]:
    """A CA that certifies public keys (SubjectPublicKeyInfo) of one kind, in PEM."""
    at_s = int(AT.timestamp())
    ca = make_authority(make_certificate_key(kind), name="test", at_s=at_s, ends_s=at_s + 10**9)

    def issue(public: bytes) -> bytes:
        uri = "edgegw://b1/box-1"
        return pem_of(ca.issue(public, name="box", uri=uri, at_s=at_s, ends_s=at_s + 10**8))

    return issue
