"""The hub's CAs: what they sign is checked by other programs, the openssl command and pyOpenSSL."""

import datetime
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import crypto

from edgegw.access.certificate_keys import make_certificate_key
from edgegw.core.enrolment import KINDS, Kind
from edgegw.hub.certificates import Authority, Revoked, make_authority, pem_of, serial_of

AT_S = 1_790_000_000
DAY_S = 86_400


def an_authority(kind: Kind) -> Authority:
    return make_authority(make_certificate_key(kind), name="bank CA", at_s=AT_S, ends_s=AT_S + 3_650 * DAY_S)


def a_certificate(authority: Authority, **changes: object) -> bytes:
    wanted: dict[str, object] = {
        "name": "bank/north",
        "uri": "edgegw://bank/north",
        "at_s": AT_S,
        "ends_s": AT_S + 90 * DAY_S,
    }
    public = make_certificate_key(authority.kind).public
    return authority.issue(public, **(wanted | changes))  # type: ignore[arg-type]


def checked(authority: Authority, der: bytes, *crls: bytes) -> None:
    """Let OpenSSL 4 check a certificate, and the list of revoked ones where there is one."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(authority.der)))
    for one in crls:
        store.add_crl(x509.load_der_x509_crl(one))
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    store.set_time(datetime.datetime.fromtimestamp(AT_S + DAY_S, datetime.UTC))
    leaf = crypto.X509.from_cryptography(x509.load_der_x509_certificate(der))
    crypto.X509StoreContext(store, leaf).verify_certificate()


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_takes_a_certificate_and_refuses_it_once_it_is_revoked(kind: Kind) -> None:
    """Signature, chain and list are in the form that the world's most used library checks."""
    authority = an_authority(kind)
    der, other = a_certificate(authority), a_certificate(authority)
    checked(authority, der)
    crl = authority.crl([Revoked(serial_of(der), AT_S)], number=7, at_s=AT_S, next_s=AT_S + 90 * DAY_S)
    checked(authority, other, crl)
    with pytest.raises(crypto.X509StoreContextError, match="revoked"):
        checked(authority, der, crl)


@pytest.mark.parametrize("kind", KINDS)
def test_another_ca_of_the_same_name_certifies_nobody(kind: Kind) -> None:
    """The name is public; the key is not."""
    with pytest.raises(crypto.X509StoreContextError):
        checked(an_authority(kind), a_certificate(an_authority(kind)))


def test_the_openssl_command_takes_certificate_and_list(tmp_path: Path) -> None:
    """The system's own OpenSSL, an older one, agrees for P-256."""
    authority = an_authority("p256")
    der = a_certificate(authority, hosts=("branch.bank", "10.0.0.7"))
    crl = authority.crl([], number=1, at_s=AT_S, next_s=AT_S + 90 * DAY_S)
    (tmp_path / "ca.pem").write_bytes(pem_of(authority.der))
    (tmp_path / "crl.der").write_bytes(crl)
    (tmp_path / "leaf.pem").write_bytes(pem_of(der))
    at = ["-attime", str(AT_S + DAY_S)]
    strict = ["-x509_strict", "-purpose", "sslclient", "-CAfile", tmp_path / "ca.pem"]
    done = subprocess.run(
        ["openssl", "verify", *at, *strict, tmp_path / "leaf.pem"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = ["openssl", "crl", "-inform", "DER", "-in", tmp_path / "crl.der", "-noout"]
    done = subprocess.run([*listed, "-CAfile", tmp_path / "ca.pem"], capture_output=True, check=False)
    assert b"verify OK" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_names_itself_and_serves_only_hosts_that_it_was_given(kind: Kind) -> None:
    """A stolen box's key must not stand for the hub towards other boxes."""
    authority = an_authority(kind)
    plain = x509.load_der_x509_certificate(a_certificate(authority))
    usage = plain.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    served = x509.load_der_x509_certificate(a_certificate(authority, hosts=("branch.bank", "10.0.0.7")))
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["branch.bank"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["edgegw://bank/north"]
    assert x509.ExtendedKeyUsageOID.SERVER_AUTH in list(
        served.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_does_not_outlive_its_ca(kind: Kind) -> None:
    """What a CA says ends with the CA."""
    authority = an_authority(kind)
    der = a_certificate(authority, ends_s=AT_S + 9_999 * DAY_S)
    assert x509.load_der_x509_certificate(der).not_valid_after_utc == authority.ends


def test_serial_numbers_are_long_and_never_the_same() -> None:
    """Nobody guesses the next one, and no list revokes two."""
    authority = an_authority("p256")
    serials = {serial_of(a_certificate(authority)) for _ in range(20)}
    assert len(serials) == 20
    assert min(serial.bit_length() for serial in serials) > 120


@pytest.mark.parametrize("kind", KINDS)
def test_a_ca_is_not_opened_with_another_ones_key(kind: Kind) -> None:
    """Two files that were mixed up are found before anything is signed."""
    with pytest.raises(ValueError):
        Authority(make_certificate_key(kind), an_authority(kind).der)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_kind_is_not_certified(kind: Kind) -> None:
    """A certificate that no profile could use."""
    other: Kind = "sm2" if kind == "p256" else "p256"
    with pytest.raises(ValueError):
        an_authority(kind).issue(
            make_certificate_key(other).public, name="x", uri="edgegw://bank/x", at_s=AT_S, ends_s=AT_S + 1
        )
