"""Lists of revoked certificates (CRLs, RFC 5280) from a file, and what they say of a peer's certificates.

OpenSSL's own check refuses everybody once a list is past its next update, which would shut a branch that is
offline for days out of its own ways in; so certificates are looked up here, the same for every profile. A
list is believed by its signature, is used until a newer one comes, is never put back to an older one, and is
told of each day once its next update is late. What no list covers is refused. Leaves out when a connection is
looked at (`access.tls`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from edgegw.sm import sm2
from edgegw.sm.libcrypto import POINT_BYTES, SPKI_HEAD

LOOK_EACH_S: Final = 1.0
"""How often a file is looked at for a newer list, at most."""
FILE_BYTES_MAX: Final = 4 << 20
"""Some 100,000 entries."""
_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_DAY_S: Final = 86_400

_log = structlog.get_logger("edgegw.tls")


class CrlError(ValueError):
    """A file of lists that cannot be used; the text says why, and the mend."""


class Link(NamedTuple):
    """A certificate of a peer's chain, as lists name it."""

    issuer: bytes
    """Its issuer's name, DER."""
    serial: int
    ends_s: float
    text: str
    """How problems and log lines name it."""


class Crl(NamedTuple):
    """One list that was believed."""

    issuer: bytes
    name: str
    made_s: float
    number: int
    next_s: float | None
    serials: frozenset[int]
    read: x509.CertificateRevocationList


def links_of(chain: Sequence[bytes]) -> tuple[Link, ...]:
    """The certificates (DER) of a verified chain, the peer's first, without the CA that is trusted itself."""
    read = [x509.load_der_x509_certificate(der) for der in chain]
    return tuple(
        Link(
            issuer=one.issuer.public_bytes(),
            serial=one.serial_number,
            ends_s=one.not_valid_after_utc.timestamp(),
            text=f"the certificate {one.subject.rfc4514_string()!r:.120} with serial {one.serial_number:x}",
        )
        for one in (read[:-1] if len(read) > 1 else read)
    )


def read_crls(path: str, authorities: Iterable[x509.Certificate]) -> list[Crl]:
    """The lists of a PEM file that these CAs have signed, each of which must have one; raises CrlError."""
    try:
        with open(path, "rb") as file:
            body = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise CrlError(
            f"it cannot be read ({problem.strerror}); check the path and who may read it"
        ) from None
    if len(body) > FILE_BYTES_MAX:
        raise CrlError(f"it has more than {FILE_BYTES_MAX} bytes; have the CA leave out what has expired")
    try:
        found = [x509.load_pem_x509_crl(_BEGIN + part) for part in body.split(_BEGIN)[1:]]
    except ValueError as problem:
        raise CrlError(
            f"it holds a list that cannot be read ({problem}); fetch it from the CA anew"
        ) from None
    if not found:
        raise CrlError("it holds no list of revoked certificates; give PEM that begins with one")
    known = list(authorities)
    believed = [_read(one) for one in found if any(is_signed_by(one, ca) for ca in known)]
    for ca in known:
        if not any(is_signed_by(one.read, ca) for one in believed):
            name = ca.subject.rfc4514_string()
            raise CrlError(f"it holds no list that {name!r} has signed; add that CA's, an empty one too")
    return believed


def is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether a CA has signed a list; SM2's, which cryptography does not know, too."""
    if crl.issuer != authority.subject:
        return False
    body = authority.tbs_certificate_bytes
    start = body.find(SPKI_HEAD)
    try:
        if start < 0:
            return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
        start += len(SPKI_HEAD)
        key = sm2.PublicKey(body[start : start + POINT_BYTES])
        return key.verify(crl.tbs_certlist_bytes, sm2.from_der(crl.signature))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _read(crl: x509.CertificateRevocationList) -> Crl:
    """What is used of a list; raises CrlError for one that says less than it seems."""
    number = 0
    try:
        extensions = list(crl.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as problem:
        raise CrlError(f"a list has extensions that cannot be read ({problem}); give another") from None
    for extension in extensions:
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
        elif extension.critical:
            raise CrlError(
                f"a list has the critical extension {extension.oid.dotted_string}: it is a part of another;"
                " give the CA's whole list"
            )
    ends = crl.next_update_utc
    return Crl(
        issuer=crl.issuer.public_bytes(),
        name=crl.issuer.rfc4514_string(),
        made_s=crl.last_update_utc.timestamp(),
        number=number,
        next_s=None if ends is None else ends.timestamp(),
        serials=frozenset(entry.serial_number for entry in crl),
        read=crl,
    )


class Revocations:
    """The lists of one table, read again when their file changes."""

    def __init__(
        self,
        path: str,
        *,
        ca_file: str,
        authorities: Callable[[], list[x509.Certificate]],
        now_s: Callable[[], float],
    ) -> None:
        """Read the file; raises CrlError. authorities reads the CAs of ca_file, and raises CrlError, too."""
        self._path = path
        self._ca_file = ca_file
        self._authorities = authorities
        self._now_s = now_s
        self._state = self._states()
        self._looked_s = time.monotonic()
        self._told_day = 0.0
        self._by_issuer: dict[bytes, list[Crl]] = {}
        self._use(read_crls(path, authorities()))

    def problem(self, links: Iterable[Link]) -> str:
        """Why one of these certificates is not taken; "" where none is revoked and a list covers each."""
        self._look()
        for link in links:
            lists = self._by_issuer.get(link.issuer)
            if not lists:
                return f"{link.text}: no list in {self._path} says whether it is revoked"
            for crl in lists:
                if link.serial in crl.serials:
                    entry = crl.read.get_revoked_certificate_by_serial_number(link.serial)
                    when = "" if entry is None else f" on {entry.revocation_date_utc:%Y-%m-%d %H:%M} UTC"
                    return f"{link.text} was revoked{when}, by the list {crl.number} of {crl.name!r}"
        return ""

    def _look(self) -> None:
        """Take up a newer file. One that cannot be used, or is older, changes nothing, and is told of."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EACH_S:
            return
        self._looked_s = now_s
        state = self._states()
        if state != self._state:
            self._state = state
            try:
                self._use(self._newer(read_crls(self._path, self._authorities())))
                _log.info("crl_read_again", file=self._path)
            except CrlError as problem:
                _log.error(
                    "crl_not_renewed",
                    problem=f"crl_file = {self._path}: {problem}",
                    hint="The one from before stays in use; mend the file.",
                )
        self._tell_if_late()

    def _states(self) -> tuple[object, ...]:
        return (*_state(self._path), *_state(self._ca_file))

    def _newer(self, fresh: list[Crl]) -> list[Crl]:
        for crl in fresh:
            for held in self._by_issuer.get(crl.issuer, ()):
                same_key = held.read.signature_algorithm_oid == crl.read.signature_algorithm_oid
                if same_key and (crl.made_s, crl.number) < (held.made_s, held.number):
                    raise CrlError(f"the list {crl.number} of {crl.name!r} is older than the one in use")
        return fresh

    def _use(self, lists: list[Crl]) -> None:
        self._by_issuer = {}
        for crl in lists:
            self._by_issuer.setdefault(crl.issuer, []).append(crl)
        self._told_day = 0.0
        self._tell_if_late()

    def _tell_if_late(self) -> None:
        """Once a day: a list that is late is still used, for who it revokes stays revoked."""
        now_s = self._now_s()
        if now_s - self._told_day < _DAY_S:
            return
        for text in self.late():
            self._told_day = now_s
            _log.error(
                "crl_late",
                problem=text,
                hint="It stays in use; fetch a newer one, or nobody who was revoked since is refused.",
            )

    def late(self) -> list[str]:
        """Of each list whose next update has passed, that."""
        texts = [_late(crl, self._now_s()) for lists in self._by_issuer.values() for crl in lists]
        return [f"crl_file = {self._path}: {text}" for text in texts if text]


def _late(crl: Crl, now_s: float) -> str:
    if crl.next_s is None or now_s < crl.next_s:
        return ""
    return f"the list {crl.number} of {crl.name!r} was to be followed {(now_s - crl.next_s) / 3600:.0f} h ago"


def _state(path: str) -> tuple[object, ...]:
    """What changes when the file is replaced or written."""
    try:
        found = os.stat(path)
    except OSError as problem:
        return (problem.errno,)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
