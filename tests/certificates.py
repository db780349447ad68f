"""A small authority for tests: key pairs and certificates in PEM files, of P-256 or of SM2.

It chooses what stands in a certificate or a list, right or wrong; `hub.certificates` signs it.
"""

import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgegw.access.certificate_keys import CertificateKey, make_certificate_key, point_of
from edgegw.core.enrolment import Kind
from edgegw.hub.certificates import general_name, make_authority, pem_of, sign_certificate, sign_list

AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
YEARS = datetime.timedelta(days=20 * 366)


class Files(NamedTuple):
    """A certificate's file and its key's."""

    certificate: Path
    key: Path


class Authority:
    """A CA of one kind, "p256" or "sm2"; `ca` is the PEM file that trusts it."""

    def __init__(self, folder: Path, kind: Kind, *, name: str = "ca") -> None:
        self._folder = folder
        self._kind = kind
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgegw test {name}")])
        self._key = make_certificate_key(kind)
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
        return [general_name(one) for one in names]

    def issue(
        self, name: str, names: list[x509.GeneralName], *, ends: datetime.datetime | None = None
    ) -> Files:
        """A certificate and its key under this name, in new files or over the old ones."""
        key = make_certificate_key(self._kind)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = Files(self._folder / f"{self._kind}-{name}.pem", self._folder / f"{self._kind}-{name}.key")
        files.certificate.write_bytes(self._signed(subject, key, names, is_ca=False, ends=ends or AT + YEARS))
        files.key.unlink(missing_ok=True)
        files.key.touch(mode=0o600)
        files.key.write_bytes(key.to_pem())
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
        made_list = x509.load_der_x509_crl(sign_list(builder, self._key))
        return made_list.public_bytes(serialization.Encoding.PEM)

    def _signed(
        self,
        subject: x509.Name,
        key: CertificateKey,
        names: list[x509.GeneralName],
        *,
        is_ca: bool,
        ends: datetime.datetime,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
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
        return pem_of(sign_certificate(builder, key.public, self._key))


def _identifier(key: CertificateKey) -> bytes:
    return hashlib.sha256(point_of(key.kind, key.public)).digest()[:20]


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


def authority_for(kind: Kind) -> Callable[[bytes], bytes]:
    """A CA that certifies public keys (SubjectPublicKeyInfo) of one kind, in PEM."""
    at_s = int(AT.timestamp())
    ca = make_authority(make_certificate_key(kind), name="test", at_s=at_s, ends_s=at_s + 10**9)

    def issue(public: bytes) -> bytes:
        uri = "edgegw://b1/box-1"
        return pem_of(ca.issue(public, name="box", uri=uri, at_s=at_s, ends_s=at_s + 10**8))

    return issue
