"""Clients tied to certificates: heard with theirs, whatever else they show, and never with another."""

import base64
import datetime
import hashlib
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from multidict import CIMultiDict

from edgegw.__main__ import main
from edgegw.access.client_certificates import Certificate, certificate_of
from edgegw.access.shown import Shown, Stranger
from edgegw.access.speakers import Speakers
from edgegw.access.tls import _uris
from edgegw.access.tokens import Client, mint_token, public_key_text
from edgegw.config.site import site_faults
from edgegw.core.scopes import GROUPS
from edgegw.core.site import CertificateRule, ClientRule, CurrencyRule, Site
from tests.certificates import Authority
from tests.signing import Sm2Signer, sm2_text

NOW = int(time.time())
KEY = Ed25519PrivateKey.generate()
OWN = CertificateRule(uri="edgegw://bank/till")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Certificates of one CA by name: `till` and `clerk` with URIs, `next` with a DNS name alone."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = Authority(folder, "p256")
    files = [ca.box("till"), ca.box("clerk"), ca.server("next", names=("Till.Example",))]
    return {name: _der(made.certificate) for name, made in zip(("till", "clerk", "next"), files, strict=True)}


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def _read(der: bytes) -> Certificate:
    found = certificate_of(der)
    assert found is not None
    return found


def _site(*rules: CertificateRule, **changes: Any) -> Site:
    till = ClientRule(name="till", public_key=public_key_text(KEY), certificates=rules)
    return Site(
        bank="bank",
        version=1,
        currencies=(CurrencyRule(code="CNY", numeric=156),),
        clients=(msgspec.structs.replace(till, **changes),),
    )


async def _said(site: Site, der: bytes | None, *, bound: str = "", token: bool = True) -> Client | Stranger:
    async def body() -> bytes:
        return b""

    headers = CIMultiDict[str]()
    if token:
        minted = mint_token(
            KEY, client="till", box="branch-1", lifetime_seconds=600, now_s=NOW, certificate=bound
        )
        headers["Authorization"] = f"Bearer {minted}"
    shown = Shown("POST", "/v1/payments", "", "https", headers, True, body, "127.0.0.1", lambda: der)
    return await Speakers(box="branch-1", site=lambda: site, folder=Path("nowhere")).client_of(shown)


def _code(said: Client | Stranger) -> str:
    return said.code if isinstance(said, Stranger) else said.name


async def test_a_signature_is_heard_over_its_clients_certificate_alone(
    ours: dict[str, bytes], tmp_path: Path
) -> None:
    """Who must sign and is tied to a certificate shows both; neither does without the other."""
    signer = Sm2Signer("till")
    site = _site(OWN, sm2_public_keys=(sm2_text(signer.key),), profile="signed", certificate_is_enough=True)

    async def body() -> bytes:
        return b"{}"

    async def said(der: bytes | None, headers: dict[str, str]) -> Client | Stranger:
        shown = Shown(
            "POST", "/v1/payments", "", "https", CIMultiDict(headers), True, body, "127.0.0.1", lambda: der
        )
        return await Speakers(box="branch-1", site=lambda: site, folder=tmp_path).client_of(shown)

    for der, right in (
        (ours["till"], "till"),
        (ours["clerk"], "certificate_wrong"),
        (None, "certificate_missing"),
    ):
        (tmp_path / "signatures.json").unlink(missing_ok=True)
        headers = signer.headers(host="box", path="/v1/payments", body=b"{}")
        assert _code(await said(der, headers)) == right
    assert _code(await said(ours["till"], {})) == "signature_missing"


async def test_a_stolen_token_is_worth_nothing_without_the_certificate(ours: dict[str, bytes]) -> None:
    """A client that is tied to a certificate is refused in plain and with another's, which is named."""
    site = _site(OWN)
    assert _code(await _said(site, ours["till"])) == "till"
    assert _code(await _said(site, None)) == "certificate_missing"
    wrong = await _said(site, ours["clerk"])
    assert isinstance(wrong, Stranger)
    assert wrong.code == "certificate_wrong"
    assert "edgegw://bank/clerk" in wrong.message
    assert _read(ours["clerk"]).sha256 in wrong.message


async def test_a_certificate_changes_without_a_gap_and_the_old_one_ends(ours: dict[str, bytes]) -> None:
    """While both stand in the settings both are heard; when one is taken out it is refused at once."""
    both = _site(OWN, CertificateRule(dns="till.example"))
    assert [_code(await _said(both, ours[name])) for name in ("till", "next")] == ["till"] * 2
    after = _site(CertificateRule(sha256=_read(ours["next"]).sha256))
    assert _code(await _said(after, ours["till"])) == "certificate_wrong"
    assert _code(await _said(after, ours["next"])) == "till"


async def test_all_that_a_rule_gives_must_be_so(ours: dict[str, bytes]) -> None:
    """A name with another certificate's fingerprint is neither; a rule that gives nothing names nobody."""
    pair = CertificateRule(uri="edgegw://bank/till", sha256=_read(ours["clerk"]).sha256)
    for rule in (pair, CertificateRule(), CertificateRule(dns="*.example"), CertificateRule(dns="example")):
        assert _code(await _said(_site(rule), ours["till"])) == "certificate_wrong"


async def test_a_bound_token_is_refused_on_another_connection(ours: dict[str, bytes]) -> None:
    """RFC 8705: a token with cnf is good with its certificate alone, whether its client is tied or not."""
    free, bound = _site(), _read(ours["till"]).x5t_s256
    assert _code(await _said(free, ours["till"], bound=bound)) == "till"
    for der in (None, ours["clerk"]):
        assert _code(await _said(free, der, bound=bound)) == "token_of_other_certificate"


async def test_a_certificate_alone_is_enough_only_where_the_settings_say_so(ours: dict[str, bytes]) -> None:
    """Without a token a client is its certificate's, with the scopes of its rule, and nobody else's."""
    alone = _site(OWN, certificate_is_enough=True, scopes=("read",))
    said = await _said(alone, ours["till"], token=False)
    assert isinstance(said, Client)
    assert (said.name, said.scopes) == ("till", GROUPS["read"].keys())
    stranger = await _said(alone, ours["clerk"], token=False)
    assert isinstance(stranger, Stranger)
    assert stranger.code == "token_missing"
    assert "edgegw://bank/clerk" in stranger.message
    assert _code(await _said(alone, None, token=False)) == "token_missing"
    assert _code(await _said(_site(OWN), ours["till"], token=False)) == "token_missing"


async def test_a_certificate_of_two_clients_is_nobodys_alone(ours: dict[str, bytes]) -> None:
    """It is refused and not guessed; where one rule stands at both, the settings are refused before."""
    alone = _site(OWN, certificate_is_enough=True)
    other = msgspec.structs.replace(
        alone.clients[0], name="clerk", certificates=(CertificateRule(sha256=_read(ours["till"]).sha256),)
    )
    two = msgspec.structs.replace(alone, clients=(*alone.clients, other))
    assert _code(await _said(two, ours["till"], token=False)) == "token_missing"
    same = msgspec.structs.replace(alone.clients[0], name="clerk")
    faults = site_faults(msgspec.structs.replace(alone, clients=(*alone.clients, same)))
    assert any("one is that of till" in fault for fault in faults)


def _odd(of: bytes) -> bytes:
    """A certificate whose subjectAltName has this value; its issuerAltName is empty."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start)
    for last, value in (("7", of), ("8", b"\x30\x00")):
        oid = x509.ObjectIdentifier(f"2.5.29.1{last}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(key, None).public_bytes(Encoding.DER)


def test_a_certificate_with_odd_extensions_is_one_that_cannot_be_read() -> None:
    """It would be an internal error to whoever shows it, and a trace in the log each time."""
    names = bytes.fromhex("3004a3020500")  # an X.400 address, which the library does not read
    unsupported = _odd(names)
    twice = _odd(b"\x30\x00").replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d11"))
    for der, problem in ((unsupported, x509.UnsupportedGeneralNameType), (twice, x509.DuplicateExtension)):
        with pytest.raises(problem):
            x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        assert certificate_of(der) is None
        assert _uris(der) == frozenset()


def test_settings_that_tie_a_client_to_nothing_are_refused() -> None:
    """A rule without a name, and a client that goes by certificates of which it has none."""
    assert any("names nothing" in fault for fault in site_faults(_site(CertificateRule())))
    assert any("has no certificates" in fault for fault in site_faults(_site(certificate_is_enough=True)))
    assert not [fault for fault in site_faults(_site(OWN)) if "certificate" in fault]


def test_a_token_is_bound_by_the_command_to_the_certificate_in_a_file(tmp_path: Path) -> None:
    """What openssl says of the file is what stands in the token; a file without a certificate makes none."""
    certificate = Authority(tmp_path, "p256").box("till").certificate
    key = tmp_path / "till.pem"
    CliRunner().invoke(main, ["keygen", "client", "--out", str(key)])
    words = ["token", "--client", "till", "--box", "branch-1", "--key", str(key), "--certificate"]
    minted = CliRunner().invoke(main, [*words, str(certificate)])
    bound = jwt.decode(minted.stdout.strip(), options={"verify_signature": False})["cnf"]
    thumbprint = hashlib.sha256(_der(certificate)).digest()
    assert bound == {"x5t#S256": base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()}
    assert CliRunner().invoke(main, [*words, str(key)]).exit_code == 2
