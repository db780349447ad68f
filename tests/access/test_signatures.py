"""HTTP message signatures: RFC 9421's own examples, what is not taken, the openssl command as the signer."""

import base64
import contextlib
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from edgegw.access.signatures import (
    SignatureProblem,
    authority_of,
    content_digest,
    digest_fits,
    draft,
    parse,
    signature_base,
)
from edgegw.access.signers import keyid_of
from edgegw.sm.sm2 import PublicKey, from_der
from edgegw.sm.sm3 import sm3

# The request of RFC 9421, appendix B.2, and its body's digests.
RFC_HEADERS = CIMultiDict(
    {
        "Host": "example.com",
        "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "Content-Type": "application/json",
        "Content-Length": "18",
    }
)
RFC_REQUEST = {"method": "POST", "path": "/foo", "query": "param=Value&Pet=dog"}


def rfc_base(components: tuple[str, ...], parameters: str) -> bytes:
    authority = authority_of(RFC_HEADERS, scheme="https")
    return signature_base(components, parameters, authority=authority, headers=RFC_HEADERS, **RFC_REQUEST)


def test_the_signature_base_is_the_one_that_rfc_9421_signs_with_ed25519() -> None:
    """B.2.6: its published signature verifies over our base, and over no other."""
    components = ("date", "@method", "@path", "@authority", "content-type", "content-length")
    listed = " ".join(f'"{name}"' for name in components)
    base = rfc_base(components, f'({listed});created=1618884473;keyid="test-key-ed25519"')
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="))
    signature = base64.b64decode(
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )
    key.verify(signature, base)
    with pytest.raises(InvalidSignature):
        key.verify(signature, base + b"\n")


def test_the_query_and_an_empty_one_are_written_as_rfc_9421_has_them() -> None:
    """2.2.7: a question mark always, also where there is no query."""
    assert rfc_base(("@query",), "x").splitlines()[0] == b'"@query": ?param=Value&Pet=dog'
    empty = signature_base(
        ("@query", "@path"), "x", method="GET", authority="a", path="", query="", headers=CIMultiDict[str]()
    )
    assert empty.splitlines()[:2] == [b'"@query": ?', b'"@path": /']


def test_a_header_that_comes_twice_is_signed_as_both() -> None:
    """2.1: else a second one could be added beside the signed one."""
    headers = CIMultiDict([("Host", "h"), ("X-Two", " a "), ("X-Two", "b")])
    base = signature_base(("x-two",), "x", method="GET", authority="h", path="/", query="", headers=headers)
    assert base.splitlines()[0] == b'"x-two": a, b'


@pytest.mark.parametrize(
    ("host", "scheme", "right"),
    [
        ("Box:443", "https", "box"),
        ("box:443", "http", "box:443"),
        ("BOX:80", "http", "box"),
        ("[::1]:8443", "https", "[::1]:8443"),
    ],
)
def test_the_authority_is_normalised(host: str, scheme: str, right: str) -> None:
    """2.2.3: small letters, and not the scheme's own port."""
    assert authority_of(CIMultiDict({"Host": host}), scheme=scheme) == right


GOOD = (
    '("@method" "@authority" "@path" "@query" "content-digest" "content-type")'
    ';created=1;keyid="till/01234567";nonce="0123456789abcdef";tag="edgegw:b"'
)
MAC = f"s=:{base64.b64encode(bytes(64)).decode()}:"


def shown(given: str = f"s={GOOD}", signature: str = MAC) -> CIMultiDict[str]:
    return CIMultiDict({"Signature-Input": given, "Signature": signature})


def test_what_is_written_rightly_is_taken() -> None:
    """The form that every refused one below differs from in one thing."""
    signed = parse(shown(), has_body=True)
    assert signed is not None
    assert (signed.keyid, signed.created_s, signed.expires_s) == ("till/01234567", 1, -1)
    assert f"s={signed.parameters}" == f"s={GOOD}"
    assert parse(CIMultiDict[str](), has_body=True) is None


@pytest.mark.parametrize(
    "missing", ["@method", "@authority", "@path", "@query", "content-digest", "content-type"]
)
def test_a_component_that_is_not_covered_is_missed(missing: str) -> None:
    """What is not signed can be changed on the way."""
    less = GOOD.replace(f' "{missing}"', "").replace(f'"{missing}" ', "")
    assert less != GOOD
    with pytest.raises(SignatureProblem, match=f'does not cover "{missing}"'):
        parse(shown(f"s={less}"), has_body=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"@method" ', '"@method"  '),
        ('"@method" ', '"@method" "@method" '),
        ('"@method" ', '"@method";req '),
        ('"@method" ', '"@method" "@target-uri" '),
        ('"@method" ', '"@method" "X-Big" '),
        (";created=1", ";created=1;created=2"),
        (";created=1", ";created=-1"),
        (";created=1", ';created="1"'),
        (";created=1", ";created=1.5"),
        (";created=1", "; created=1"),
        (";created=1", ";created=1;other=2"),
        (';nonce="0123456789abcdef"', ""),
        (';keyid="till/01234567"', ""),
        (';tag="edgegw:b"', ""),
        ('nonce="0123456789abcdef"', 'nonce="0123456789 bcdef"'),
        ('tag="edgegw:b"', 'tag="edgegw:b", t=("@method")'),
        ('tag="edgegw:b"', 'tag="edgegw\\"b"'),
    ],
)
def test_another_way_of_writing_is_refused(old: str, new: str) -> None:
    """One form: two readings of one header would be two requests."""
    assert old in GOOD
    with pytest.raises(SignatureProblem):
        parse(shown(f"s={GOOD.replace(old, new, 1)}"), has_body=True)


@pytest.mark.parametrize(
    "signature", ["s=::", "t" + MAC[1:], "s=:%%%%:", f"{MAC}, t=:AAAA:", "s=AAAA", f"{MAC};a=1", "s=:AAAAA:"]
)
def test_another_signature_header_is_refused(signature: str) -> None:
    """Also one of another label, and two of them."""
    with pytest.raises(SignatureProblem):
        parse(shown(signature=signature), has_body=True)


def test_half_a_signature_and_two_are_refused() -> None:
    """A request is judged by one signature or by none."""
    for headers in (
        CIMultiDict({"Signature": MAC}),
        CIMultiDict({"Signature-Input": f"s={GOOD}"}),
        CIMultiDict([*shown().items(), ("Signature", MAC)]),
        CIMultiDict([*shown().items(), ("Signature-Input", f"s={GOOD}")]),
    ):
        with pytest.raises(SignatureProblem):
            parse(headers, has_body=True)


def test_a_long_header_costs_no_more_than_its_look() -> None:
    """Many components or a long text are refused by their length, before anything else."""
    many = GOOD.replace('"@method"', '"@method" ' + " ".join(f'"h{n}"' for n in range(2000)))
    with pytest.raises(SignatureProblem, match="characters"):
        parse(shown(f"s={many}"), has_body=True)


def test_the_digest_is_of_these_bytes_alone() -> None:
    """By sm3 or sha-256; one that is wrong is not mended by one that is right."""
    body = b'{"hello": "world"}'
    rfc_9530 = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"  # its appendix B.1
    assert content_digest(body, "sha-256") == rfc_9530
    sm3_right = f"sm3=:{base64.b64encode(sm3(body)).decode()}:"
    for text, right in (
        (rfc_9530, True),
        (sm3_right, True),
        (f"{sm3_right}, {rfc_9530}", True),
        (f"{sm3_right}, {content_digest(b'x', 'sha-256')}", False),
        ("sha-512=:AAAA:", False),
        (content_digest(body + b" "), False),
    ):
        assert digest_fits(CIMultiDict({"Content-Digest": text}), body) is right, text
    with pytest.raises(SignatureProblem):
        digest_fits(CIMultiDict({"Content-Digest": "sm3=AAAA"}), body)


def openssl(*arguments: str, folder: Path) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True).stdout


def test_what_the_openssl_command_signs_verifies_here(tmp_path: Path) -> None:
    """A client without our code: its key, its keyid and its signature by openssl, DER to r || s."""
    openssl("genpkey", "-algorithm", "SM2", "-out", "till.pem", folder=tmp_path)
    der = openssl("pkey", "-in", "till.pem", "-pubout", "-outform", "DER", folder=tmp_path)
    (tmp_path / "point").write_bytes(der[-65:])
    key = PublicKey(der[-65:])
    digits = openssl("dgst", "-sm3", "-r", "point", folder=tmp_path)[:8].decode()
    assert keyid_of("till", key) == f"till/{digits}"
    drafted = draft(
        method="POST",
        host="127.0.0.1:8443",
        path="/v1/payments",
        body=b"{}",
        box="branch-1",
        keyid=f"till/{digits}",
        nonce="0123456789abcdef",
        created_s=1_800_000_000,
    )
    (tmp_path / "base").write_bytes(drafted.base)
    signed = openssl(
        "dgst", "-sm3", "-sign", "till.pem", "-sigopt", "distid:1234567812345678", "base", folder=tmp_path
    )
    assert key.verify(drafted.base, from_der(signed))
    assert not key.verify(drafted.base[:-1], from_der(signed))


_texts = st.text(
    st.sampled_from(list('s=("@method" x-y);created=1keyidnonctag:/,AZ\\\té\udc80')), max_size=120
)


@settings(max_examples=40)
@given(given=_texts | st.just(f"s={GOOD}"), signature=_texts | st.just(MAC), digest=_texts)
def test_whatever_stands_in_the_headers_is_read_or_refused(given: str, signature: str, digest: str) -> None:
    """Nothing that a stranger writes there is a fault of ours."""
    headers = CIMultiDict({"Signature-Input": given, "Signature": signature, "Content-Digest": digest})
    for attempt in (lambda: parse(headers, has_body=True), lambda: digest_fits(headers, b"")):
        with contextlib.suppress(SignatureProblem):
            attempt()
