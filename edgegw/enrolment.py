"""The box's side of enrolment: asks the hub for certificates and puts what it gives where the settings say.

Every request repeats the same keys until its answer is on disk, so that a crash or a lost answer at any
moment is mended by asking again. What is believed is the hub's signature by the key that the claim, or the
settings, pin, over an answer to this very request; the connection is held to its CA and name, never to a
clock. Leaves out the bytes (`core.enrolment`), the command (`commands.enroll`) and when to renew
(`edgegw.renewal`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgegw.access.certificate_files import CertificateFiles, kind_of_certificate
from edgegw.access.certificate_keys import CertificateKey, claim_signature
from edgegw.access.hub_time import Clock, HubTime
from edgegw.access.key_files import replace_key_file
from edgegw.access.keys import SigningKey, VerifyingKey, make_signing_key, open_signing_key
from edgegw.access.keystore import Keystore
from edgegw.access.revocation_lists import keep_lists
from edgegw.access.tls import SM2_PROFILES, TlsError, TransportContext, timeless_context
from edgegw.access.webhook_key import load_webhook_key
from edgegw.config.box import BoxSettings
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import (
    CLAIM,
    DEVICE,
    ENROL_PATH,
    HUB,
    LEAVE_PATH,
    NONCE_BYTES,
    RENEW_PATH,
    REPLY_BYTES_MAX,
    VERSION,
    Claim,
    Enrol,
    Enrolled,
    EnrolmentError,
    Kind,
    Leave,
    Left,
    Refusal,
    Renew,
    Signed,
    Wanted,
    box_uri,
    encode_body,
    encode_signed,
    old_role,
    read_reply,
    signed_text,
)
from edgegw.core.records import UNREADABLE
from edgegw.errors import LinkDown, Next, OperatingError
from edgegw.key_places import (
    checkpoint_key_file,
    device_key_file,
    keystore_of,
    tls_key_file,
    webhook_key_file,
)
from edgegw.tls_tables import ClientTls

ANSWER_S_MAX: Final = 20.0
CONNECT_S_MAX: Final = 5.0
HUB_TIME_NAME: Final = "hub_time.json"
"""Beside the certificate."""
CRL_NAME: Final = "crl.pem"
"""Beside the CAs."""
_PROBLEM_BYTES_MAX: Final = 4_096
_CENTRE: Final = "Tell the centre; it reads why in `edgegw hub ca log`."
HINTS: Final[Mapping[str, str]] = {
    Refusal.TOO_MANY: "Wait a minute and give the same command again.",
    Refusal.NO_CA: "Tell the centre: its CA is not made for this box's profile (`edgegw hub ca init`).",
    Refusal.CLAIM_UNKNOWN: "Ask the centre for a new claim, and destroy this one.",
    Refusal.CLAIM_EXPIRED: "Ask the centre for a new claim, and destroy this one.",
    Refusal.CLAIM_WITHDRAWN: "Ask the centre for a new claim, and destroy this one.",
    Refusal.CLAIM_DEAD: "Somebody has tried it wrongly too often. Ask the centre for a new claim.",
    Refusal.CLAIM_USED: "Somebody else has used it: call the centre now, before anything else.",
    Refusal.WRONG_BOX: "Take the claim with this box's name on it; the centre has heard of this one.",
    Refusal.WRONG_BRANCH: "Take the claim for this branch; the centre has heard of this one.",
    Refusal.KEY_BOUND: "These keys had their turn: `edgegw factory-reset`, then enrol with a new claim.",
    Refusal.BOX_BOUND: "Another device has this box's name: ask the centre for a claim with --replaces.",
    Refusal.REVOKED: "The centre has withdrawn this box's identity. To use the machine again:"
    " `edgegw factory-reset`, then enrol with a new claim.",
    Refusal.REPLACED: "Another device has taken this box's place. What this one still holds, the centre takes"
    " from `edgegw journal export`; then `edgegw factory-reset`.",
    Refusal.SUPERSEDED: "Two devices have this box's keys: find the copy, have the centre revoke the box.",
}

NOTHING_BOUND: Final = frozenset(
    {
        Refusal.NO_CA,
        Refusal.CLAIM_UNKNOWN,
        Refusal.CLAIM_EXPIRED,
        Refusal.CLAIM_WITHDRAWN,
        Refusal.CLAIM_DEAD,
        Refusal.WRONG_BOX,
        Refusal.WRONG_BRANCH,
    }
)
"""After these the hub knows nothing of the keys that it was asked for."""


class EnrolmentRefused(OperatingError):
    """The hub answers, and says no."""

    code = "enrolment_refused"
    next = Next.PAUSE
    default_hint = _CENTRE

    def __init__(self, refusal: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"the hub refuses ({refusal}): {problem}", hint=HINTS.get(refusal) or hint)
        self.refusal = refusal


class Where(NamedTuple):
    """Where to ask."""

    addresses: Sequence[str]
    tls: TransportContext


class Holder(NamedTuple):
    """Who asks: a box with its settings, and what it holds its keys with."""

    settings: BoxSettings
    keystore: Keystore
    hub: VerifyingKey
    time: HubTime

    @property
    def files(self) -> CertificateFiles:
        """Of the certificate that the hub gives; raises SettingsError."""
        return certificate_files(self.settings, self.keystore)


def enrolled_table(settings: BoxSettings) -> ClientTls:
    """The table that names a box's certificate; raises SettingsError where the line is not encrypted."""
    tls = settings.hub.tls
    if not isinstance(tls, ClientTls) or not tls.certificate_file:
        raise SettingsError(
            "hub.tls", ["there is none that encrypts; enrolment certifies the line to the hub: give it"]
        )
    return tls


def certificate_files(settings: BoxSettings, keystore: Keystore | None = None) -> CertificateFiles:
    """The files that enrolment fills; raises SettingsError. keystore: the settings' own where one is open
    already."""
    tls = enrolled_table(settings)
    return CertificateFiles(
        certificate=Path(tls.certificate_file),
        key=tls_key_file(settings),
        kind=kind_of_profile(tls.profile),
        keystore=keystore or keystore_of(settings),
    )


def hub_time_of(settings: BoxSettings, clock: Clock) -> HubTime:
    """The hub's time as this box keeps it; raises SettingsError where no line is encrypted."""
    return HubTime(Path(enrolled_table(settings).certificate_file).with_name(HUB_TIME_NAME), clock)


def crl_file(settings: BoxSettings) -> Path:
    """Where a box keeps the lists of revoked certificates: where its line looks, else beside the CAs; raises
    SettingsError."""
    tls = enrolled_table(settings)
    return Path(tls.crl_file) if tls.crl_file else Path(tls.ca_file).with_name(CRL_NAME)


def kind_of_profile(profile: str) -> Kind:
    """The kind of certificates that a profile takes."""
    return "sm2" if profile in SM2_PROFILES else "p256"


# --- asking -------------------------------------------------------------------------------------------------


async def enrol(holder: Holder, claim: Claim, *, branch: str, where: Where) -> Enrolled:
    """Ask with a claim, and put what the hub gives in its place. Safe to repeat. Raises EnrolmentRefused,
    LinkDown, EnrolmentError, KeyFileError and PlaceAway."""
    settings, files = holder.settings, holder.files
    device = device_of(holder)
    key, nonce = files.key(), secrets.token_bytes(NONCE_BYTES)
    body = encode_body(
        Enrol(
            version=VERSION,
            claim=claim.id,
            bank=settings.bank,
            box=settings.box,
            branch=branch,
            device_key=device.public.text(),
            wanted=(Wanted(kind=key.kind, public_key=key.public),),
            nonce=nonce,
            clock_s=_clock_s(holder),
        )
    )
    signed = _signed(body, device, key)
    signed.signatures[CLAIM] = claim_signature(claim.seed_bytes(), body)
    reply = _checked(await ask(where, ENROL_PATH, signed), holder, nonce, device.public, key.public)
    files.write(_place(holder, reply))
    return reply


async def renew(holder: Holder, *, where: Where) -> Enrolled:
    """Ask for the next certificate by the one in force, ended or not, and change over. Safe to repeat. Raises
    as `enrol` does."""
    settings, files = holder.settings, holder.files
    files.finish()
    device = open_signing_key(holder.keystore, device_key_file(settings))
    key, old, nonce = files.next_key(), files.key(), secrets.token_bytes(NONCE_BYTES)
    body = encode_body(
        Renew(
            version=VERSION,
            bank=settings.bank,
            box=settings.box,
            device_key=device.public.text(),
            wanted=(Wanted(kind=key.kind, public_key=key.public),),
            held=(files.held(),),
            nonce=nonce,
            clock_s=_clock_s(holder),
        )
    )
    signed = _signed(body, device, key)
    role = old_role(old.kind)
    signed.signatures[role] = old.sign(signed_text(role, body))
    reply = _checked(await ask(where, RENEW_PATH, signed), holder, nonce, device.public, key.public)
    files.install(_place(holder, reply))
    return reply


async def leave(holder: Holder, *, where: Where) -> Left:
    """Tell the hub that this identity is given up; raises as `enrol` does."""
    settings = holder.settings
    device = open_signing_key(holder.keystore, device_key_file(settings))
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = encode_body(
        Leave(
            version=VERSION,
            bank=settings.bank,
            box=settings.box,
            device_key=device.public.text(),
            nonce=nonce,
            clock_s=_clock_s(holder),
        )
    )
    signed = Signed(body=body, signatures={DEVICE: device.sign(signed_text(DEVICE, body))})
    reply = _of_hub(await ask(where, LEAVE_PATH, signed), holder, nonce)
    if not isinstance(reply, Left):
        raise EnrolmentError("the hub answers something else than was asked")
    return reply


async def ask(where: Where, path: str, signed: Signed) -> bytes:
    """The answer of the first address that gives one; raises EnrolmentRefused and LinkDown."""
    return await _first(where, path, encode_signed(signed))


async def get(where: Where, path: str) -> bytes:
    """What lies at a path of the first address that has it; raises EnrolmentRefused and LinkDown."""
    return await _first(where, path, None)


async def _first(where: Where, path: str, data: bytes | None) -> bytes:
    timeout = aiohttp.ClientTimeout(total=ANSWER_S_MAX, connect=CONNECT_S_MAX)
    said = []
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
        for address in where.addresses:
            url = address.rstrip("/") + path
            try:
                async with session.request(
                    "GET" if data is None else "POST", url, data=data, allow_redirects=False, ssl=where.tls
                ) as answer:
                    if answer.status == 200:
                        return await _whole(answer)
                    refused = _refused(answer.status, await answer.content.read(_PROBLEM_BYTES_MAX))
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                # What a technician reads out on the telephone has no object's address in it.
                plain = problem.os_error if isinstance(problem, aiohttp.ClientConnectorError) else problem
                said.append(f"{address}: {str(plain) or 'no answer in time'}")
                continue
            if answer.status < 500:
                raise refused
            said.append(f"{address}: {refused}")
    raise LinkDown(
        "the hub's enrolment does not answer: " + "; ".join(said),
        hint="Check cable, address and that the hub runs; then give the same command again. A running box"
        " asks again by itself.",
    )


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > REPLY_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {REPLY_BYTES_MAX} bytes")
    return bytes(body)


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""
    hint: str = ""


def _refused(status: int, body: bytes) -> EnrolmentRefused:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except UNREADABLE:
        problem = _Problem()
    return EnrolmentRefused(
        problem.code or f"HTTP {status}", problem.message or "no reason given", hint=problem.hint
    )


# --- keys and signatures ------------------------------------------------------------------------------------


def device_of(holder: Holder) -> SigningKey:
    """The box's device key; it and the other keys of a box are made if there are none. Raises KeyFileError
    and PlaceAway."""
    settings, keystore = holder.settings, holder.keystore
    device = device_key_file(settings)
    for key in (device, checkpoint_key_file(settings)):
        key.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key.path.exists():
            make_signing_key(keystore, key)
    load_webhook_key(keystore, webhook_key_file(settings))
    return open_signing_key(keystore, device)


def _signed(body: bytes, device: SigningKey, key: CertificateKey) -> Signed:
    return Signed(
        body=body,
        signatures={
            DEVICE: device.sign(signed_text(DEVICE, body)),
            key.kind: key.sign(signed_text(key.kind, body)),
        },
    )


def _clock_s(holder: Holder) -> int:
    return max(0, int(holder.time.machine_s))


# --- what the hub says --------------------------------------------------------------------------------------


def _of_hub(data: bytes, holder: Holder, nonce: bytes) -> Enrolled | Left:
    """A reply to this request, by the pinned hub, to this box; raises EnrolmentError."""
    signed, reply = read_reply(data)
    if not holder.hub.verify(signed_text(HUB, signed.body), signed.signatures.get(HUB, b"")):
        raise EnrolmentError("the answer is not signed by the hub's pinned key")
    wanted = (VERSION, nonce, holder.settings.bank, holder.settings.box)
    if (reply.version, reply.nonce, reply.bank, reply.box) != wanted:
        raise EnrolmentError("the answer is for another request or box")
    return reply


def _checked(data: bytes, holder: Holder, nonce: bytes, device: VerifyingKey, public: bytes) -> Enrolled:
    reply = _of_hub(data, holder, nonce)
    if not isinstance(reply, Enrolled) or reply.device_key != device.text():
        raise EnrolmentError("the hub answers something else than was asked")
    leaf = _leaf(reply, holder.files.kind)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = box_uri(bank=reply.bank, box=reply.box)
    if uri not in names.get_values_for_type(x509.UniformResourceIdentifier):
        raise EnrolmentError(f"the certificate does not name {uri}")
    if public not in leaf.tbs_certificate_bytes:
        raise EnrolmentError("the certificate is not for this box's key")
    return reply


def _leaf(reply: Enrolled, kind: Kind) -> x509.Certificate:
    return x509.load_der_x509_certificate(_chain(reply, kind)[0])


def _chain(reply: Enrolled, kind: Kind) -> tuple[bytes, ...]:
    for issued in reply.certificates:
        if issued.kind == kind:
            return issued.chain
    raise EnrolmentError(f"the hub gives no certificate of {kind}")


def _place(holder: Holder, reply: Enrolled) -> bytes:
    """Write down what comes with a certificate, and give that itself as PEM; raises KeyFileError."""
    tls = enrolled_table(holder.settings)
    write_authorities(Path(tls.ca_file), reply.authorities, kinds_of(holder.settings))
    try:
        keep_lists(crl_file(holder.settings), reply.crls, ca_file=Path(tls.ca_file), is_fresh=True)
    except ValueError as problem:
        raise EnrolmentError(f"the hub's lists of revoked certificates: {problem}") from None
    holder.time.heard(reply.hub_time_s)
    return pem_of(_chain(reply, holder.files.kind))


def kinds_of(settings: BoxSettings) -> frozenset[Kind]:
    """The kinds of CAs that a box needs: its line's, and that of where it enrols."""
    profiles = [enrolled_table(settings).profile]
    if settings.enrolment is not msgspec.UNSET:
        profiles.append(settings.enrolment.profile)
    return frozenset(map(kind_of_profile, profiles))


def write_authorities(path: Path, authorities: Iterable[bytes], kinds: frozenset[Kind]) -> None:
    """The CAs (DER) of these kinds as one PEM file; raises KeyFileError, and EnrolmentError without any."""
    try:
        ours = [
            der for der in authorities if kind_of_certificate(x509.load_der_x509_certificate(der)) in kinds
        ]
    except ValueError:
        raise EnrolmentError("a CA of the hub's is no certificate") from None
    if not ours:
        raise EnrolmentError(f"the hub has no CA for {' and '.join(sorted(kinds))}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_key_file(path, pem_of(ours))


def pem_of(chain: Iterable[bytes]) -> bytes:
    """Certificates (DER) as PEM, one behind the other."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def where_of(settings: BoxSettings) -> Where | None:
    """Where an enrolled box renews; None for one whose settings name no enrolment. Raises SettingsError."""
    table = settings.enrolment
    if table is msgspec.UNSET:
        return None
    ca_file = Path(enrolled_table(settings).ca_file)
    try:
        context = timeless_context(profile=table.profile, ca_file=ca_file, server_name=table.server_name)
    except TlsError as problem:
        raise SettingsError("hub.tls", [str(problem)]) from None
    return Where(table.addresses, context)
