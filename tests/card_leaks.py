"""Card numbers by every way in: where they belong, where they do not, and in what is no request at all.

Leaves out the searching (`edgegw.demo.card_search`) and what listens.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec

from edgegw.payments.http_api.operations import OPERATIONS
from tests.payments.protocols.iso8583_branch import PAYMENT, SIGN_ON, changed

REGISTERED = "6221917346082576"
STRANGE = "4916283745019635"
LONG = "6217580934172650816"
NUMBERS = (REGISTERED, STRANGE, LONG)
FORMS = {operation.path for operation in OPERATIONS if operation.is_form}
WIDTHS = {41: 8, 42: 15, 43: 40, 48: 16, 54: 20, 60: 19, 62: 30, 63: 16, 90: 42, 95: 42, 102: 19, 103: 28}
"""Fields of ISO 8583 into which a number goes, and with how many characters. Not field 37: nobody can tell
the first twelve digits of a card from a reference number."""


def spaced(number: str) -> str:
    """As it stands on a card."""
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def bodies(number: str, ids: Iterator[str], payer: str, payee: str) -> Iterator[tuple[str, str, bytes]]:
    """Calls with the number in one place each: method, path, body."""

    def fields(**changes: Any) -> dict[str, Any]:
        body = {
            "id": next(ids),
            "debit_account_id": payer,
            "credit_account_id": payee,
            "amount_minor": 3,
            "currency": "CNY",
        }
        return body | changes

    def sent(path: str, **changes: Any) -> tuple[str, str, bytes]:
        return "POST", path, json.dumps(fields(**changes)).encode()

    paid = fields()
    for changes in ({}, {}, {"amount_minor": 4}, {"reference": number}):
        yield "POST", "/v1/payments", json.dumps(paid | changes).encode()
    for path in (f"/v1/payments/{paid['id']}/refunds", "/v1/reversals"):
        back = {"id": next(ids), "amount_minor": 1, "original_id": paid["id"], "payment_id": paid["id"]}
        yield "POST", path, json.dumps(back | {"reference": number}).encode()
        yield "POST", path, json.dumps({key: back[key] for key in ("id", "amount_minor")}).encode()
    held = fields()
    yield "POST", "/v1/holds", json.dumps(held).encode()
    yield "POST", f"/v1/holds/{held['id']}/post", json.dumps({"id": next(ids), "reference": number}).encode()
    yield "POST", f"/v1/holds/{held['id']}/void", json.dumps({"id": next(ids)}).encode()
    yield from _operations(number)
    names = ("id", "debit_account_id", "credit_account_id", "currency", "card", "terminal", "merchant")
    for name in (*names, "reference", "stand_in", number):
        for value in (number, spaced(number), spaced(number).replace(" ", "-"), f"card {number}, thanks"):
            yield sent("/v1/payments", **{name: value})
        yield sent("/v1/holds", **{name: number})
    yield sent("/v1/payments", id=number.zfill(32))
    yield sent("/v1/payments", id=number.ljust(32, "0"))
    yield sent("/v1/payments", amount_minor=int(number) * 10**6)
    yield sent("/v1/payments", reference=[number], merchant={"number": number})
    batch = {"payments": [fields(), fields(reference=number), fields(card=number)], "linked": True}
    for path in ("/v1/payments/batch", "/v1/groups", "/v1/payments"):
        yield "POST", path, json.dumps(batch).encode()
        yield "POST", path, json.dumps({"members": [{"payment": fields(reference=number)}]}).encode()
    for path in (f"/v1/payments/{number}", f"/v1/receipts/{number}", f"/v1/accounts/{number}"):
        yield "GET", path, b""
    yield "GET", f"/v1/accounts?after={number}&limit={number}", b""
    yield "GET", f"/v1/{number}?{number}={quote(spaced(number))}#{number}", b""
    yield "POST", f"/v1/holds/{number}/post", json.dumps({"id": next(ids)}).encode()
    yield "POST", f"/v1/merchants/{number}/batches", json.dumps({"id": next(ids)}).encode()
    for kind in (
        "reversals",
        f"payments/{next(ids)}/refunds",
        f"holds/{next(ids)}/void",
        "windows/close",
        "sessions",
        "notices/acknowledgements",
    ):
        body = {"id": next(ids), "original_id": number, "reference": spaced(number), "amount_minor": number}
        yield "POST", f"/v1/{kind}", json.dumps(body).encode()
        yield "POST", f"/v1/{kind}", json.dumps({"second_token": number, "business_date": number}).encode()
    text = json.dumps(fields(reference=number)).encode()
    escaped = "".join(f"\\u{ord(digit):04x}" for digit in number).encode()
    yield "POST", "/v1/payments", json.dumps(fields(reference="#")).encode().replace(b"#", escaped)
    for raw in (number.encode(), text[:-9], text + text, b"\xff" + text, text.decode().encode("utf-16")):
        yield "POST", "/v1/payments", raw
    yield "POST", "/v1/payments", gzip.compress(text)
    yield "POST", "/v1/payments", b"card=" + number.encode()


def _operations(number: str) -> Iterator[tuple[str, str, bytes]]:
    """Every operation that there is, with the number in its path, its query and each field of its body."""
    for operation in OPERATIONS:
        path = re.sub(r"\{[a-z_]+\}", number, operation.path)
        names = [field.encode_name for field in msgspec.structs.fields(operation.query_shape)]
        yield operation.method, f"{path}?" + "&".join(f"{name}={number}" for name in names), b""
        fields = () if operation.body is None else msgspec.structs.fields(operation.body)
        for field in fields:
            name = field.encode_name
            body = f"{name}={number}" if operation.is_form else json.dumps({name: number})
            yield operation.method, path, body.encode()
            yield operation.method, re.sub(r"\{[a-z_]+\}", "0" * 31 + "1", operation.path), body.encode()


def http_requests(number: str, ids: Iterator[str], token: str, **ends: str) -> Iterator[bytes]:
    """The same as bytes for a socket, and others whose head is wrong."""
    for method, path, body in bodies(number, ids, **ends):
        form = "\r\nContent-Type: application/x-www-form-urlencoded" if path in FORMS else ""
        yield _request(method, path, body, f"Authorization: Bearer {token}{form}")
    basic = base64.b64encode(f"till:{number}".encode()).decode()
    for header in (
        f"Authorization: Bearer {number}",
        f"Authorization: Basic {basic}",
        f"Authorization: Bearer {token}\r\nX-Card: {number}\r\n{number}: {number}\r\nUser-Agent: {number}",
        f"Authorization: Bearer {token}\r\nTraceparent: 00-{number.zfill(32)}-{number}-01",
        f"Authorization: Bearer {token}\r\nContent-Type: {number}\r\nCookie: card={number}",
        f"Authorization: Bearer {token}\r\nContent-Length: {number}",
    ):
        yield _request("POST", "/v1/payments", b"{}", header)
    yield f"{number} /v1/payments HTTP/1.1\r\nHost: {number}\r\n\r\n".encode()
    yield f"GET /{spaced(number)} HTTP/{number}\r\n\r\n".encode()
    yield number.encode() * 40 + b"\r\n\r\n"


def _request(method: str, path: str, body: bytes, headers: str) -> bytes:
    kind = "" if "Content-Type" in headers else "Content-Type: application/json\r\n"
    length = "" if "Content-Length" in headers else f"Content-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: box\r\nConnection: close\r\n{headers}\r\n{kind}{length}\r\n"
    return head.encode() + body


def iso_frames(number: str, traces: Iterator[str]) -> Iterator[bytes]:
    """Messages with the number in the fields that are for it, in others, and in garbage."""

    def message(changes: dict[int, str | None], mti: str = "0200") -> bytes:
        return changed(PAYMENT, {11: next(traces), 4: "000000000003", 2: number} | changes, mti=mti)

    first = message({})
    yield from (first, first, first.replace(b"0200", b"0201", 1))
    for mti in ("0100", "0220", "0400", "0420", "0500", "0800", "0999"):
        yield message({}, mti)
    yield message({2: None, 35: f"{number}=26121010000000"})
    yield message({2: None, 35: f"{number}D2612101"})
    yield message({2: None, 45: f"B{number}^MEI/LI^26121010000000000000"})
    yield message({2: STRANGE, 35: f"{REGISTERED}=2612"})
    for at, width in WIDTHS.items():
        yield message({at: number.ljust(width, "0")[:width]})
    yield message({4: number[:12], 32: number[:11], 49: number[:3]})
    good = message({})
    yield from (good[:30], good[9:], good[:-20], number.encode() * 9, b"0200" + number.encode())
    yield bytes.fromhex(number.ljust(20, "F")) * 4


async def speak_http(port: int, requests: Iterator[bytes]) -> bytes:
    """Send each on a connection of its own; all answers, one after the other."""
    answers = bytearray()
    for request in requests:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(20):
                answers += await reader.read()
        writer.close()
    return bytes(answers)


async def speak_iso(port: int, frames: Iterator[bytes]) -> bytes:
    """Send each on a connection that has signed on; all answers, one after the other."""
    answers = bytearray()
    for frame in frames:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for raw in (SIGN_ON, frame):
            writer.write(len(raw).to_bytes(2, "big") + raw)
        writer.write_eof()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(20):
                answers += await reader.read()
        writer.close()
    return bytes(answers)
