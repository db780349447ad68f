"""A certificate and its key in two files, replaced by the next two as if by one step.

The next key lies beside the key in force until its certificate is there, whole; then both change places. A
process that was killed in between leaves what `finish` completes, so the two in force always fit. Leaves out
asking for certificates (`edgegw.enrolment`) and using them (`access.tls`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgegw.access.certificate_keys import CertificateKey, certificate_key_of, make_certificate_key
from edgegw.access.key_files import (
    KeyFileError,
    remove_key_file,
    rename_key_file,
    replace_key_file,
)
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.tls import is_sm2
from edgegw.core.enrolment import Kind

_NEXT: Final = ".next"


class Life(NamedTuple):
    """From when to when a certificate counts, Unix seconds."""

    begins_s: float
    ends_s: float


class CertificateFiles:
    """The two files of one certificate of one kind."""

    def __init__(self, *, certificate: Path, key: KeyFile, kind: Kind, keystore: Keystore) -> None:
        self.certificate: Final = certificate
        self.kind: Final[Kind] = kind
        self._key = key
        self._next_key = key._replace(path=_next(key.path))
        self._keystore = keystore

    def key(self) -> CertificateKey:
        """The key in force, made if there is none; raises KeyFileError and PlaceAway."""
        return self._key_in(self._key)

    def next_key(self) -> CertificateKey:
        """The key that the next certificate is asked for, the same until `install`; raises as `key` does."""
        return self._key_in(self._next_key)

    def held(self) -> bytes:
        """The certificate in force, DER; raises KeyFileError."""
        return self._certificate().public_bytes(Encoding.DER)

    def life(self) -> Life:
        """Of the certificate in force; raises KeyFileError."""
        found = self._certificate()
        return Life(found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp())

    def write(self, chain: bytes) -> None:
        """Put a certificate for the key in force into its file (PEM, its own first); raises KeyFileError."""
        self.certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_key_file(self.certificate, chain)

    def install(self, chain: bytes) -> None:
        """Put the next key, and this certificate for it, in the place of those in force; raises
        KeyFileError."""
        replace_key_file(_next(self.certificate), chain)
        self.finish()

    def finish(self) -> None:
        """Complete what was begun by an `install` that was killed; raises KeyFileError."""
        waiting = _next(self.certificate)
        if not waiting.exists():
            return
        if self._next_key.path.exists():
            rename_key_file(self._next_key.path, self._key.path)
        rename_key_file(waiting, self.certificate)

    @property
    def keys(self) -> tuple[KeyFile, KeyFile]:
        """The key in force, and the next one, there or not."""
        return self._key, self._next_key

    def remove(self) -> None:
        """Take the certificates away; raises KeyFileError."""
        for path in (_next(self.certificate), self.certificate):
            remove_key_file(path)

    def _key_in(self, key: KeyFile) -> CertificateKey:
        if not key.path.exists():
            key.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keystore.create(key, make_certificate_key(self.kind).to_pem())
        try:
            return certificate_key_of(self.kind, self._keystore.read(key))
        except ValueError as problem:
            raise KeyFileError(
                key.path, str(problem), hint="restore it, or move it away and enrol the box anew"
            ) from None

    def _certificate(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except OSError as problem:
            said = f"cannot be read ({problem.strerror})"
        except ValueError:
            said = "holds no certificate"
        raise KeyFileError(self.certificate, said, hint="enrol the box: edgegw enroll")


def _next(path: Path) -> Path:
    return path.with_name(path.name + _NEXT)


def kind_of_certificate(certificate: x509.Certificate) -> Kind:
    """Which kind of key a certificate is for."""
    return "sm2" if is_sm2(certificate) else "p256"
