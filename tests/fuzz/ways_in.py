"""Fuzz targets of what clients send: HTTP bodies and parameters, tokens, ISO 8583 frames and messages."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgegw.access.shield import Places
from edgegw.access.tokens import TokenError, Tokens, mint_token, public_key_text
from edgegw.core.records import AMOUNT_MINOR_MAX, Request
from edgegw.core.site import ClientRule, CurrencyRule, Site
from edgegw.payments.http_api import bodies
from edgegw.payments.http_api.operations import OPERATIONS
from edgegw.payments.http_api.strict import decode_body, decode_text
from edgegw.payments.iso8583 import messages
from edgegw.payments.iso8583.fields import Codec, FrameError, Message, problems
from edgegw.payments.iso8583.mac import encode_with_mac, is_authentic
from edgegw.payments.iso8583.messages import Directory, Interpreter, Rejection, Role
from edgegw.payments.problems import Unanswered
from edgegw.payments.protocols import iso8583 as protocol
from edgegw.payments.vault import Lookups
from tests.fuzz.target import Target
from tests.payments.protocols.iso8583_branch import ECHO, PAYMENT, SIGN_ON, VAULT_KEY, changed, site

# --- HTTP ---------------------------------------------------------------------------------------------------

BODIES: Final = {one.name: one for one in OPERATIONS if one.body is not None}
DECODERS: Final = {
    name: msgspec.json.Decoder(one.body) for name, one in BODIES.items() if one.body is not None
}
QUERIES: Final = tuple({one.query_shape for one in OPERATIONS} | {one.path_shape for one in OPERATIONS})
ID: Final = "0123456789abcdef" * 2


def http_bodies() -> list[bytes]:
    """The examples of the published document, and a batch of two."""
    found = [msgspec.json.encode(one.example) for one in BODIES.values() if one.example is not None]
    payment = bodies.PaymentBody(
        id=ID, debit_account_id="anna", credit_account_id="shop", amount_minor=5, currency="CNY"
    )
    return [*found, msgspec.json.encode(bodies.BatchBody(payments=[payment, payment], linked=True))]


def request_of(body: Any) -> Request | None:
    """The canonical request of a body, as the handlers make it."""
    if isinstance(body, bodies.PostBody | bodies.VoidBody):
        return body.request("till", ID)
    if isinstance(body, bodies.ReversalBody):
        return body.request("till")
    if isinstance(body, bodies.PaymentBody | bodies.HoldBody):
        return body.request()
    return None


def http_body(data: bytes) -> None:
    """What is taken by any operation is within the limits, and the same when it is sent again."""
    refused = [problem for decoder in DECODERS.values() if (problem := _refusal(data, decoder)) is not None]
    if len(refused) == len(DECODERS):
        raise refused[0]


def _refusal(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Unanswered | None:
    try:
        body = decode_body(data, decoder, known_account=lambda _: False)
    except Unanswered as problem:
        return problem
    assert decode_body(msgspec.json.encode(body), decoder, known_account=lambda _: False) == body
    request = request_of(body)
    if request is not None:
        assert 0 <= request.amount_minor <= AMOUNT_MINOR_MAX
    return None


def http_query(data: bytes) -> None:
    """Parameters of an address, as the server has taken them apart."""
    try:
        values = dict(parse_qsl(data.decode("utf-8", "replace"), max_num_fields=100))
    except ValueError:
        return
    for shape in QUERIES:
        try:
            decode_text(values, shape)
        except Unanswered:
            continue


# --- tokens -------------------------------------------------------------------------------------------------

NOW_S: Final = 1_790_000_000
CLIENT: Final = Ed25519PrivateKey.generate()
CLIENTS_SITE: Final = Site(
    bank="demo",
    version=1,
    currencies=(CurrencyRule(code="CNY", numeric=156),),
    clients=(ClientRule(name="till", public_key=public_key_text(CLIENT), scopes=("pay",)),),
)
TOKENS: Final = Tokens(
    box="box-1",
    site=lambda: CLIENTS_SITE,
    now_s=lambda: NOW_S,
)
TRUE_TOKEN: Final = mint_token(CLIENT, client="till", box="box-1", lifetime_seconds=600, now_s=NOW_S)


def token(data: bytes) -> None:
    """Nobody but the client is let in, whatever the header says."""
    header = data.decode("latin-1")
    client = TOKENS.client_of(header)
    assert client.name == "till"
    assert header.partition(" ")[2].partition(".")[0] == TRUE_TOKEN.partition(".")[0]


# --- ISO 8583 -----------------------------------------------------------------------------------------------

CODECS: Final = (Codec("hex"), Codec("binary"))
DIRECTORY: Final = Directory(site())
INTERPRETER: Final = Interpreter(Lookups(VAULT_KEY), hold_timeout_s=60)
DATE: Final = datetime.date(2026, 11, 21)
ORIGINAL: Final = "020000012311210930150000012345600000000000"


def iso_messages() -> list[bytes]:
    """A payment, its relatives, sign-on and echo, with bitmaps as digits and as bytes."""
    written = [PAYMENT, SIGN_ON, ECHO]
    for mti, changes in (
        ("0100", {}),
        ("0220", {90: ORIGINAL.replace("0200", "0100")}),
        ("0400", {90: ORIGINAL}),
        ("0420", {95: "0" * 42}),
        ("0201", {64: "0" * 16}),
    ):
        written.append(changed(PAYMENT, changes, mti=mti))
    decoded = [CODECS[0].decode(one) for one in written]
    signed = encode_with_mac(VAULT_KEY, decoded[0], CODECS[0])
    return [*written, signed, *(CODECS[1].encode(one) for one in decoded)]


def iso_message(data: bytes) -> None:
    """From bytes to what is asked of the gateway: a rejection is a value, and what is well formed is the same
    when it is written and read again."""
    refused = [problem for codec in CODECS if (problem := _frame_error(data, codec)) is not None]
    if len(refused) == len(CODECS):
        raise refused[0]


def _frame_error(data: bytes, codec: Codec) -> FrameError | None:
    try:
        message = codec.decode(data)
    except FrameError as problem:
        messages.response_mti(problem.partial.mti)
        return problem
    is_authentic(VAULT_KEY, data, message, codec)
    _interpreted(message)
    if not problems(message):
        assert codec.decode(codec.encode(message)) == message
    return None


def _interpreted(message: Message) -> None:
    role = messages.role_of(message.mti)
    if role is None or messages.malformed(message, role) is not None or role is Role.NETWORK:
        return
    terminal = messages.terminal_of(message, DIRECTORY)
    if isinstance(terminal, Rejection):
        assert terminal.word
        return
    proposal = INTERPRETER.proposal(message, role, terminal=terminal, directory=DIRECTORY, business_date=DATE)
    assert isinstance(proposal, Rejection) or len(proposal.request.id) == 32
    if messages.response_mti(message.mti):
        reply = messages.reply(message, code="00", word="x" * 99)
        assert CODECS[0].decode(CODECS[0].encode(reply)) == reply


class _Nobody:
    """The other end of a connection that is only read from."""

    def get_extra_info(self, _: str) -> None:
        """Nothing is known of it."""


class _Terminals:
    def __init__(self, length_header: str) -> None:
        self.options = protocol.Options(length_header=length_header)  # type: ignore[arg-type]
        self.places: Places[protocol._Connection] = Places(places_max=1, end=lambda _: None)


LOOP: Final = asyncio.new_event_loop()


def iso_frames(data: bytes) -> None:
    """A stream is taken apart into frames no longer than allowed, and ends with a word."""
    for header in ("binary", "ascii"):
        LOOP.run_until_complete(_read(data, header))


async def _read(data: bytes, header: str) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    connection = protocol._Connection(_Terminals(header), reader, _Nobody())  # type: ignore[arg-type]
    try:
        while True:
            assert len(await connection._frame()) <= connection._options.frame_bytes_max
    except protocol._Closed:
        return


def frames() -> list[bytes]:
    """Streams of both kinds of length."""
    ends = [len(PAYMENT).to_bytes(2, "big") + PAYMENT, b"%04d" % len(PAYMENT) + PAYMENT]
    return [*ends, ends[0] + b"\x00\x00" + ends[0], b"0000" + ends[1]]


TARGETS: Final = (
    Target("http-body", http_body, (Unanswered,), http_bodies),
    Target("http-query", http_query, (), lambda: [b"after=1/2&limit=10", b"id=" + ID.encode()]),
    Target("token", token, (TokenError,), lambda: [f"Bearer {TRUE_TOKEN}".encode()]),
    Target("iso8583-message", iso_message, (FrameError,), iso_messages),
    Target("iso8583-frames", iso_frames, (), frames),
)
