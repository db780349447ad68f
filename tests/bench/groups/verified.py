"""Requests that are signed: by SM2 each, or by HMAC-SM3 in a session, beside a token."""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgegw.sm import rates
from edgegw.sm.sm2 import PrivateKey
from tests.bench import payments
from tests.bench.box import Box, BoxLane
from tests.bench.place import Place
from tests.bench.rounds import Comparison, Group, Lane, Measure, Unavailable, WrongAnswer
from tests.bench.world import SIGNER
from tests.signing import SessionSigner, Sm2Signer

PAY: Final = "/v1/payments"
MADE_EACH_S: Final = 4_000
"""Requests signed beforehand for a second of a round: fewer run out, and the round is shorter then."""
TOKEN = "edgegw, HTTP, token, 64 connections"
SESSION = "edgegw, HTTP, HMAC-SM3 session, 64 connections"
SM2 = "edgegw, HTTP, SM2, 64 connections"
ALLOWED = "what a token costs and openssl's own SM2 verification"
Headers = Callable[[bytes], dict[str, str]]


class SignedLane(BoxLane):
    """Each request with a signature of its own, made before the time that counts."""

    def signer(self) -> Headers:
        """The client's SM2 key, which the site knows."""
        key = PrivateKey.from_pem((self.box.folder / SIGNER).read_bytes())
        signer, host = Sm2Signer("till", key), f"127.0.0.1:{self.box.port}"
        return lambda body: signer.headers(host=host, path=PAY, body=body, box="box-1")

    def measure(self, seconds: float) -> Measure:
        """So many as the time may take, or until it is over."""
        headers, first = self.signer(), self.box.answered.next
        path = self.box.folder / "requests"
        with path.open("wb") as stream:
            for number in range(first, first + int(MADE_EACH_S * seconds)):
                made = request_of(headers(payments.body(number)), payments.body(number))
                stream.write(struct.pack("<I", len(made)) + made)
        return self.loaded(seconds, requests=str(path), **self._settings)


class SessionLane(SignedLane):
    """In a session that the SM2 key has opened."""

    def signer(self) -> Headers:
        """A new session."""
        share = X25519PrivateKey.generate()
        own = base64.b64encode(share.public_key().public_bytes_raw()).decode()
        sent = json.dumps({"share": own}).encode()
        host = f"127.0.0.1:{self.box.port}"
        key = PrivateKey.from_pem((self.box.folder / SIGNER).read_bytes())
        opening = Sm2Signer("till", key).headers(host=host, path="/v1/sessions", body=sent, box="box-1")
        connection = http.client.HTTPConnection("127.0.0.1", self.box.port, timeout=60)
        connection.request("POST", "/v1/sessions", sent, opening)
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        if answer.status != http.client.CREATED:
            raise WrongAnswer(f"no session was opened: {answer.status} {told[:300]!r}")
        session = SessionSigner("till", share, json.loads(told), box="box-1")
        return lambda body: session.headers(host=host, path=PAY, body=body, box="box-1")


def request_of(headers: dict[str, str], body: bytes) -> bytes:
    """A whole request as it goes on the wire."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = [f"POST {PAY} HTTP/1.1", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class AllowedLane:
    """What a signed request would cost if its verification cost what `openssl speed` says, and all else what
    it does by token: processor time alone."""

    name = ALLOWED

    def __init__(self, token: TokenLane) -> None:
        self._token = token

    def open(self, stack: ExitStack) -> None:
        """Openssl's figure, taken once."""
        found = [one for one in rates.rates(rates.openssl().program) if one.name == "sm2_verify"]
        if not found or found[0].openssl_per_second is None:
            raise Unavailable("this machine's openssl command measures no SM2")
        self._verify_s = 1 / found[0].openssl_per_second

    def measure(self, seconds: float) -> Measure:
        """Of the token's round."""
        token = self._token.last
        each_s = token.cpu_us / 1e6 + self._verify_s
        return Measure(count=token.count, seconds=token.count * each_s, cpu_s=token.count * each_s)

    def check(self) -> None:
        """The token's lane is checked."""


class TokenLane(BoxLane):
    """As the other groups measure it."""

    last: Measure

    def measure(self, seconds: float) -> Measure:
        """Kept for what follows from it."""
        self.last = super().measure(seconds)
        return self.last


def lanes(place: Place) -> Sequence[Lane]:
    """One box."""
    box = Box(place)
    token = TokenLane(box, name=TOKEN, connections=64)
    return (
        token,
        SessionLane(box, name=SESSION, connections=64),
        SignedLane(box, name=SM2, connections=64),
        AllowedLane(token),
    )


GROUP = Group(
    name="verified",
    about="payments with a token, in an HMAC-SM3 session and by SM2, signed before the time that counts",
    lanes=lanes,
    comparisons=(
        Comparison(name="HMAC-SM3 session / token", ours=SESSION, peer=TOKEN, least=0.85),
        Comparison(name="SM2 / token", ours=SM2, peer=TOKEN),
        Comparison(
            name="SM2 / what openssl's own verification allows, by processor time",
            ours=SM2,
            peer=ALLOWED,
            least=0.8,
            of=lambda measure: 1 / measure.cpu_us,
        ),
    ),
    quick=False,
)
