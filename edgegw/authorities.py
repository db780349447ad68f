"""The hub's CAs on its disk: each a key, which the keystore opens, and its certificate beside it.

Leaves out what a CA signs (`hub.certificates`) and for whom (`hub.enrolments`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgegw.access.certificate_keys import certificate_key_of, make_certificate_key
from edgegw.access.key_files import (
    KEY_FILE_BYTES_MAX,
    KeyFileError,
    replace_key_file,
    write_new_file,
)
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places import PlaceAway
from edgegw.config.hub import EnrolmentTable, HubSettings
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import KINDS, Kind
from edgegw.hub.certificates import Authority, make_authority, pem_of
from edgegw.key_places import ca_key_file, keystore_of

CERTIFICATE_MODE = 0o644


def enrolment_table(settings: HubSettings) -> EnrolmentTable:
    """The settings' `[enrolment]`; raises SettingsError where there is none."""
    if not isinstance(settings.enrolment, EnrolmentTable):
        raise SettingsError("enrolment", ["the hub's settings have no [enrolment]; write that line there"])
    return settings.enrolment


def certificate_file(settings: HubSettings, kind: Kind) -> Path:
    """Where a CA's certificate lies, PEM."""
    return ca_key_file(settings, kind).path.with_suffix(".crt")


def list_file(settings: HubSettings, kind: Kind) -> Path:
    """Where the list of what a CA has revoked lies, PEM: for `crl_file` of a listener's settings."""
    return ca_key_file(settings, kind).path.with_suffix(".crl")


def keep_list(settings: HubSettings, kind: Kind, der: bytes) -> bool:
    """Put a list (DER) in its file; whether that is news. Raises KeyFileError."""
    path = list_file(settings, kind)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    try:
        if path.read_bytes() == pem:
            return False
    except OSError:
        pass  # there is none yet, or what there is cannot be read: it is replaced
    replace_key_file(path, pem, mode=CERTIFICATE_MODE)
    return True


def create_authority(
    keystore: Keystore, settings: HubSettings, kind: Kind, *, at_s: int, ends_s: int
) -> Authority:
    """A new CA in new files; what was killed behind its key is finished. Raises KeyFileError, PlaceAway and
    SettingsError."""
    file = ca_key_file(settings, kind)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if not file.path.exists() or certificate_file(settings, kind).exists():
        keystore.create(file, make_certificate_key(kind).to_pem())
    try:
        key = certificate_key_of(kind, keystore.read(file))
    except ValueError as problem:
        raise KeyFileError(file.path, str(problem), hint="move it away, then make the CA") from None
    made = make_authority(key, name=f"{settings.bank} edgegw CA {kind}", at_s=at_s, ends_s=ends_s)
    write_new_file(certificate_file(settings, kind), pem_of(made.der), mode=CERTIFICATE_MODE)
    return made


def load_authorities(keystore: Keystore, settings: HubSettings) -> dict[Kind, Authority]:
    """The CAs that are there; raises KeyFileError, PlaceAway and SettingsError."""
    enrolment_table(settings)
    found: dict[Kind, Authority] = {}
    for kind in KINDS:
        file = ca_key_file(settings, kind)
        if file.path.exists():
            found[kind] = _loaded(keystore, file, certificate_file(settings, kind), kind)
    return found


def authority_faults(settings: HubSettings) -> Iterator[str]:
    """What is wrong with the CAs' files, a line each."""
    if isinstance(settings.enrolment, EnrolmentTable):
        try:
            load_authorities(keystore_of(settings), settings)
        except (KeyFileError, PlaceAway) as problem:
            yield f"enrolment.ca_dir: {problem}; {problem.hint}"


def _loaded(keystore: Keystore, file: KeyFile, certificate: Path, kind: Kind) -> Authority:
    try:
        with certificate.open("rb") as content:
            pem = content.read(KEY_FILE_BYTES_MAX)
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except OSError as problem:
        raise KeyFileError(
            certificate, f"cannot be read ({problem.strerror})", hint="restore it with its key"
        ) from None
    except ValueError:
        raise KeyFileError(
            certificate, "it holds no certificate in PEM", hint="restore it with its key"
        ) from None
    try:
        return Authority(certificate_key_of(kind, keystore.read(file)), der)
    except ValueError as problem:
        raise KeyFileError(file.path, str(problem), hint="restore key and certificate together") from None
