"""Lists of revoked certificates replace each other only forwards, and only by a CA's own hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from edgegw.access.certificate_keys import make_certificate_key
from edgegw.access.revocation_lists import keep_lists
from edgegw.core.enrolment import Kind
from edgegw.hub.certificates import Authority, Revoked, make_authority, pem_of

AT_S = 1_800_000_000
DAY_S = 86_400


def ca(kind: Kind, name: str = "bank") -> Authority:
    return make_authority(make_certificate_key(kind), name=name, at_s=AT_S, ends_s=AT_S + 9_000 * DAY_S)


def crl(authority: Authority, number: int) -> bytes:
    at_s = AT_S + number * DAY_S
    return authority.crl([Revoked(number, AT_S)], number=number, at_s=at_s, next_s=at_s + 90 * DAY_S)


@pytest.mark.parametrize("kind", ["p256", "sm2"])
def test_a_list_comes_from_a_known_ca_and_goes_only_forwards(tmp_path: Path, kind: Kind) -> None:
    """An older list, or one that anybody wrote, would let a stolen certificate in again."""
    ours, file, ca_file = ca(kind), tmp_path / "crl.pem", tmp_path / "ca.pem"
    ca_file.write_bytes(pem_of(ours.der))
    assert keep_lists(file, [crl(ours, 2)], ca_file=ca_file) == AT_S + 2 * DAY_S
    before = file.read_bytes()
    with pytest.raises(ValueError, match="older"):
        keep_lists(file, [crl(ours, 1)], ca_file=ca_file)
    assert keep_lists(file, [crl(ca(kind), 9)], ca_file=ca_file) == AT_S + 2 * DAY_S
    with pytest.raises(ValueError, match=r".+"):
        keep_lists(file, [b"\x30\x03\x02\x01\x01"], ca_file=ca_file)
    assert file.read_bytes() == before
    keep_lists(file, [crl(ours, 3)], ca_file=ca_file)
    assert x509.load_pem_x509_crl(file.read_bytes()).get_revoked_certificate_by_serial_number(3)


def test_the_lists_of_two_cas_stay_beside_each_other(tmp_path: Path) -> None:
    """One CA's news must not drop the other's list."""
    one, other = ca("p256"), ca("sm2")
    file, ca_file = tmp_path / "crl.pem", tmp_path / "ca.pem"
    ca_file.write_bytes(pem_of(one.der) + pem_of(other.der))
    keep_lists(file, [crl(one, 1), crl(other, 1)], ca_file=ca_file)
    keep_lists(file, [crl(one, 2)], ca_file=ca_file)
    assert file.read_bytes().count(b"BEGIN X509 CRL") == 2
