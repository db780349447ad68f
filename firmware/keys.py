"""The lab's keys: those of Secure Boot and those of bundles, made on this machine at the first build.

A release has keys of its own, which never lie beside a build: `firmware/README.md` says how they are given.
Leaves out what is signed with them.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware.places import BuildError, alone, build_folder

OWNER_GUID: Final = "ed6e0003-0000-4000-8000-000000000001"
"""Who owns the keys in the firmware's variables."""
_BITS: Final = 2048
"""What firmware of servers takes for Secure Boot."""
_YEARS: Final = 20
_DAY: Final = dt.timedelta(days=1)
_EARLIER: Final = 30 * _DAY
"""What is made now is good from then on: a box's clock may be behind, and an image's time is its commit's."""


class Keys(msgspec.Struct, frozen=True):
    """A folder of keys. Each name has a `.key` (PKCS 8, not encrypted) and a `.crt` (PEM)."""

    folder: Path

    def key(self, name: str) -> Path:
        """The file of a private key."""
        return self.folder / f"{name}.key"

    def certificate(self, name: str) -> Path:
        """The file of a certificate."""
        return self.folder / f"{name}.crt"

    @property
    def revoked(self) -> Path:
        """The list of revoked signers of bundles."""
        return self.folder / "bundles.crl"


SECURE_BOOT: Final = ("PK", "KEK", "db")
AUTHORITY: Final = "bundles-ca"
SIGNER: Final = "bundles"
_GIVEN: Final = (
    *("db.key", "db.crt", "bundles.key", "bundles.crt"),
    *("bundles-ca.crt", "bundles.crl", "update-root.json"),
)
"""What a build reads of keys that were given to it: the authority's and the releases' own stay elsewhere."""


def keys() -> Keys:
    """The keys of this build: those in EDGEGW_IMAGE_KEYS, else the lab's own, made if they are not there.

    Raises BuildError for a folder of somebody's own keys that lacks one: nothing is written there.
    """
    given = os.environ.get("EDGEGW_IMAGE_KEYS")
    if given:
        found = Keys(folder=Path(given).absolute())
        missing = [name for name in _GIVEN if not (found.folder / name).is_file()]
        if missing:
            raise BuildError(
                f"EDGEGW_IMAGE_KEYS = {given}: it lacks {', '.join(missing)}",
                hint="firmware/README.md says what is in that folder.",
            )
        return found
    found = Keys(folder=build_folder("keys"))
    with alone("keys"):
        if not found.revoked.exists():
            make(found)
    return found


def make(found: Keys) -> None:
    """Make a whole set in a folder."""
    found.folder.mkdir(parents=True, exist_ok=True)
    for name in SECURE_BOOT:
        own = _new_key(found, name)
        _write(found, name, sign(f"edgegw lab {name}", own, issuer=None, issuer_key=own, authority=True))
    root_key = _new_key(found, AUTHORITY)
    root = sign("edgegw lab bundles authority", root_key, issuer=None, issuer_key=root_key, authority=True)
    _write(found, AUTHORITY, root)
    new_signer(found, SIGNER)
    revoke(found, [])


def new_signer(found: Keys, name: str, *, expired: bool = False) -> None:
    """Make a signer of bundles below the authority, or one whose time is over."""
    own = _new_key(found, name)
    _write(
        found,
        name,
        sign(
            f"edgegw lab {name}",
            own,
            issuer=_authority(found),
            issuer_key=_private(found, AUTHORITY),
            authority=False,
            expired=expired,
        ),
    )


def revoke(found: Keys, names: list[str]) -> None:
    """Write the authority's list of revoked signers."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_authority(found).subject)
        .last_update(now - _EARLIER)
        .next_update(now + _YEARS * 365 * _DAY)
    )
    for name in names:
        serial = x509.load_pem_x509_certificate(found.certificate(name).read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _EARLIER).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(_private(found, AUTHORITY), hashes.SHA256())
    found.revoked.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def keyring(found: Keys) -> bytes:
    """What a box believes bundles by: the authority and its list of revoked signers."""
    return found.certificate(AUTHORITY).read_bytes() + found.revoked.read_bytes()


def sign(
    name: str,
    key: rsa.RSAPrivateKey,
    *,
    issuer: x509.Certificate | None,
    issuer_key: rsa.RSAPrivateKey,
    authority: bool,
    expired: bool = False,
) -> x509.Certificate:
    """A certificate of an authority, or of a signer of code below one."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    years = _YEARS * 365 * _DAY
    # Over for years: the clock of a box may stand at its image's build.
    begins, until = (now - years, now - years / 2) if expired else (now - _EARLIER, now + years)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=authority,
                crl_sign=authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=True
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _new_key(found: Keys, name: str) -> rsa.RSAPrivateKey:
    own = rsa.generate_private_key(public_exponent=65_537, key_size=_BITS)
    text = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = found.key(name)
    path.touch(mode=0o600)
    path.write_bytes(text)
    return own


def _write(found: Keys, name: str, certificate: x509.Certificate) -> None:
    found.certificate(name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _authority(found: Keys) -> x509.Certificate:
    return x509.load_pem_x509_certificate(found.certificate(AUTHORITY).read_bytes())


def _private(found: Keys, name: str) -> rsa.RSAPrivateKey:
    own = serialization.load_pem_private_key(found.key(name).read_bytes(), password=None)
    assert isinstance(own, rsa.RSAPrivateKey)  # noqa: S101 - written by _new_key
    return own
