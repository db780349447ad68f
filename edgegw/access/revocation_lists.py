"""Lists of revoked certificates (CRLs), as they come from a CA: checked before they replace the ones held.

A list counts that a known CA has signed and that is not older than the one held, unless it came with a fresh
word of the hub's. Leaves out fetching them
(`edgegw.renewal`) and refusing by them (`access.revocations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgegw.access.key_files import replace_key_file
from edgegw.access.revocations import is_signed_by

_BEGIN: Final = b"-----BEGIN X509 CRL-----"


class OlderList(ValueError):
    """A list is older than the one held: somebody shows an old one, or the CA's clock was ahead once."""


def keep_lists(path: Path, lists: Sequence[bytes], *, ca_file: Path, is_fresh: bool = False) -> float:
    """Write those of these CRLs (DER) that the CAs in ca_file have signed, as PEM; when the newest was made,
    Unix seconds. is_fresh: the hub has signed them for this moment, so that their dates do not matter. Raises
    ValueError for one that is no list, OlderList for one that is older than the one held, KeyFileError where
    it cannot be kept."""
    try:
        authorities = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except OSError as problem:
        raise ValueError(f"{ca_file} cannot be read ({problem.strerror})") from None
    kept = {_whose(one): one for one in _held(path)}
    for der in lists:
        fresh = x509.load_der_x509_crl(der)
        issuer = _whose(fresh)
        if not any(is_signed_by(fresh, ca) for ca in authorities):
            continue
        if not is_fresh and issuer in kept and fresh.last_update_utc < kept[issuer].last_update_utc:
            raise OlderList(f"the list of {fresh.last_update_utc} is older than the one held")
        kept[issuer] = fresh
    if not kept:
        raise ValueError("none of the lists is signed by a CA of this box's")
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in kept.values())
    if not path.exists() or path.read_bytes() != pem:
        replace_key_file(path, pem)
    return max(one.last_update_utc.timestamp() for one in kept.values())


def is_listed(path: Path, der: bytes) -> bool:
    """Whether a certificate (DER) is in one of the lists of a file."""
    certificate = x509.load_der_x509_certificate(der)
    return any(
        one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        for one in _held(path)
        if one.issuer == certificate.issuer
    )


def _held(path: Path) -> list[x509.CertificateRevocationList]:
    """The lists of a file; none where there is no file, or an unreadable one."""
    try:
        parts = path.read_bytes().split(_BEGIN)[1:]
        return [x509.load_pem_x509_crl(_BEGIN + part) for part in parts]
    except (OSError, ValueError):
        return []


def _whose(crl: x509.CertificateRevocationList) -> tuple[bytes, str]:
    """The CA's name and kind: a bank's two CAs may have one name."""
    return crl.issuer.public_bytes(), crl.signature_algorithm_oid.dotted_string
