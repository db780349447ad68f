"""The keys of certificates: one form each, and signatures that another tool checks."""

import subprocess
from pathlib import Path

import pytest

from edgegw.access.certificate_keys import (
    certificate_key_of,
    claim_has_signed,
    claim_public,
    claim_signature,
    has_signed,
    kind_of,
    make_certificate_key,
    point_of,
)
from edgegw.core.enrolment import KINDS, Kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_comes_back_from_its_pem_and_signs_for_itself_alone(kind: Kind) -> None:
    """What was sealed is what signs, and neither another message nor another key's word counts."""
    key, other = make_certificate_key(kind), make_certificate_key(kind)
    again = certificate_key_of(kind, key.to_pem())
    assert again.public == key.public
    signature = again.sign(b"message")
    assert has_signed(key.public, b"message", signature)
    assert not has_signed(key.public, b"another", signature)
    assert not has_signed(other.public, b"message", signature)
    assert kind_of(key.public) == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["other kind", "short", "long", "off the curve", "compressed"])
def test_a_public_key_has_one_form(kind: Kind, wrong: str) -> None:
    """Two forms of one key would slip past the check that it is bound to another box."""
    public = make_certificate_key(kind).public
    other = make_certificate_key("sm2" if kind == "p256" else "p256").public
    bad = {
        "other kind": other,
        "short": public[:-1],
        "long": public + b"\0",
        "off the curve": public[:-1] + bytes([public[-1] ^ 1]),
        "compressed": public[:-65] + b"\x02" + public[-64:],
    }[wrong]
    with pytest.raises(ValueError):
        point_of(kind, bad)
    assert wrong == "other kind" or not has_signed(bad, b"message", bytes(64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_another_kind_is_no_key_of_this_one(kind: Kind) -> None:
    """A CA's key in the wrong file is found out when it is opened."""
    other: Kind = "sm2" if kind == "p256" else "p256"
    with pytest.raises(ValueError):
        certificate_key_of(kind, make_certificate_key(other).to_pem())


def test_openssl_checks_what_a_p256_key_has_signed(tmp_path: Path) -> None:
    """The proof of possession is plain ECDSA, which the openssl command understands."""
    key = make_certificate_key("p256")
    (tmp_path / "public.der").write_bytes(key.public)
    (tmp_path / "signature").write_bytes(key.sign(b"message"))
    (tmp_path / "message").write_bytes(b"message")
    command = ["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify", tmp_path / "public.der"]
    done = subprocess.run(
        [*command, "-signature", tmp_path / "signature", tmp_path / "message"],
        capture_output=True,
        check=False,
    )
    assert done.stdout.startswith(b"Verified OK"), done.stderr


def test_a_claim_is_proved_by_its_seed_alone() -> None:
    """The hub keeps the public half, which signs nothing."""
    seed = bytes(range(32))
    signature = claim_signature(seed, b"body")
    assert claim_has_signed(claim_public(seed), b"body", signature)
    assert not claim_has_signed(claim_public(seed), b"other", signature)
    assert not claim_has_signed(claim_public(bytes(32)), b"body", signature)
    assert not claim_has_signed(claim_public(seed), b"body", signature[:-1])
    assert not claim_has_signed(b"short", b"body", signature)
