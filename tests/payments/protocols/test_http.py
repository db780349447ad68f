"""HTTP: repeats byte for byte, bad input that changes nothing, slow and broken peers, receipts that
verify."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgegw import verifier
from edgegw.access.arrivals import LINES_EACH_MINUTE
from edgegw.core.records import Mode
from edgegw.payments.protocols import discover
from edgegw.payments.protocols.http import HttpOptions, HttpServer, start
from tests.payments.branch import (
    BAKER,
    BOX,
    PUPIL,
    Branch,
    HttpClient,
    Reply,
    open_branch,
    payment,
    payment_id,
)
from tests.waiting import until

PAN = "4111111111111111"


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path, options=HttpOptions(port=0, connections_max=20)) as opened:
        await opened.grant(BAKER, 10_000)
        yield opened


@pytest.fixture
async def till(branch: Branch) -> AsyncIterator[HttpClient]:
    client = HttpClient(branch)
    yield client
    await client.close()


def raw(**changes: Any) -> bytes:
    return json.dumps(payment(**changes)).encode()


# -- first answers and repeats --------------------


async def test_a_repeat_is_the_same_status_and_the_same_bytes(till: HttpClient) -> None:
    """A till that compares answers must never see two for one payment."""
    body = payment(100)
    first, second = [await till.send("POST", "/v1/payments", body) for _ in range(2)]
    assert first.status == second.status == 201
    assert first.body == second.body
    assert "Idempotent-Replay" not in first.headers
    assert second.headers["Idempotent-Replay"] == "true"


async def test_a_refusal_repeats_byte_for_byte_too(till: HttpClient) -> None:
    """The problem of a stored refusal is part of the answer, its trace_id included."""
    body = payment(100, credit_account_id="nobody")
    first, second = [await till.send("POST", "/v1/payments", body) for _ in range(2)]
    assert first.status == second.status == 409
    assert first.body == second.body
    assert first.code == "credit_account_not_found"
    assert first.json["trace_id"] == body["id"]
    assert second.headers["Idempotent-Replay"] == "true"


async def test_the_same_id_with_other_content_is_refused_with_both_values(till: HttpClient) -> None:
    """Which of two payments was meant is for the client to say, not for us to guess."""
    body = payment(100)
    await till.send("POST", "/v1/payments", body)
    reply = await till.send("POST", "/v1/payments", {**body, "amount_minor": 101})
    assert (reply.status, reply.code) == (409, "id_reused")
    assert (reply.json["field"], reply.json["value"], reply.json["first_value"]) == (
        "amount_minor",
        "101",
        "100",
    )


async def test_holds_reversals_and_batches_go_the_same_way(till: HttpClient, branch: Branch) -> None:
    """Every way to move money answers the same."""
    hold = payment(500, timeout_s=60)
    assert (await till.send("POST", "/v1/holds", hold)).status == 201
    other = payment(200)
    assert (await till.send("POST", "/v1/holds", other)).status == 201
    post = {"id": payment_id(), "amount_minor": 300}
    assert (await till.send("POST", f"/v1/holds/{hold['id']}/post", post)).json["amount_minor"] == 300
    void = {"id": payment_id()}
    assert (await till.send("POST", f"/v1/holds/{other['id']}/void", void)).status == 201
    back = {"id": payment_id(), "original_id": hold["id"], "amount_minor": 50}
    assert (await till.send("POST", "/v1/reversals", back)).json["legs"][0]["debit_account_id"] == PUPIL
    kept = {"id": payment_id(), "original_id": payment_id()}
    assert (await till.send("POST", "/v1/reversals", kept)).status == 202
    batch = {"payments": [payment(1), payment(2, currency="XXX"), payment(3)]}
    first, second = [await till.send("POST", "/v1/payments/batch", batch) for _ in range(2)]
    assert [item["status"] for item in first.json["answers"]] == [201, 409, 201]
    assert first.body == second.body
    assert second.headers["Idempotent-Replay"] == "true"
    assert branch.book.available(BAKER) == 10_000 - 300 + 50 - 1 - 3


async def test_a_full_batch_of_8190_is_answered_and_8191_is_not(till: HttpClient, branch: Branch) -> None:
    """A limit that is not tried is a guess."""
    await branch.grant(BAKER, 100_000)
    before = branch.book.available(BAKER)
    payments = [payment(1) for _ in range(8_190)]
    reply = await till.send("POST", "/v1/payments/batch", {"payments": payments})
    assert [item["status"] for item in reply.json["answers"]] == [201] * 8_190
    assert branch.book.available(BAKER) == before - 8_190
    reply = await till.send("POST", "/v1/payments/batch", {"payments": [*payments, payment(1)]})
    assert (reply.status, reply.json["field"]) == (400, "payments")


# -- bad input --------------------

BAD_BODIES = [
    pytest.param(raw(amount_minor=12.5), "invalid_field", "amount_minor", "12.5", id="a float for money"),
    pytest.param(
        raw(amount_minor=100.0), "float_number", "amount_minor", "100.0", id="a whole float for money"
    ),
    pytest.param(raw(amount_minor="100"), "invalid_field", "amount_minor", "100", id="a text for money"),
    pytest.param(raw(amount_minor=True), "invalid_field", "amount_minor", "true", id="a truth for money"),
    pytest.param(raw(amount_minor=0), "invalid_field", "amount_minor", "0", id="nothing"),
    pytest.param(raw(amount_minor=-5), "invalid_field", "amount_minor", "-5", id="less than nothing"),
    pytest.param(raw(amount_minor=2**63), "invalid_field", "amount_minor", str(2**63), id="too much"),
    pytest.param(raw(amount_minor=[1]), "invalid_field", "amount_minor", "[1]", id="a list for money"),
    pytest.param(
        raw().replace(b": 100,", b": 1e400,"), "invalid_field", "amount_minor", "", id="beyond all numbers"
    ),
    pytest.param(raw().replace(b": 100,", b": NaN,"), "malformed_json", "", "", id="not a number"),
    pytest.param(raw(currency="cny"), "invalid_field", "currency", "cny", id="currency in small letters"),
    pytest.param(raw(currency="CNY\n"), "invalid_field", "currency", "CNY?", id="a newline behind"),
    pytest.param(raw(id="1"), "invalid_field", "id", "1", id="a short id"),
    pytest.param(raw(id=None), "missing_field", "id", "", id="no id"),
    pytest.param(
        raw(debit_account_id="a b"), "invalid_field", "debit_account_id", "a b", id="a blank in an id"
    ),
    pytest.param(raw(debit_account_id=7), "invalid_field", "debit_account_id", "7", id="a number for an id"),
    pytest.param(
        raw(debit_account_id={}), "invalid_field", "debit_account_id", "{}", id="an object for an id"
    ),
    pytest.param(
        raw(reference="a" * 65), "invalid_field", "reference", "a" * 63 + "…", id="a long reference"
    ),
    pytest.param(raw(reference="Bäcker"), "invalid_field", "reference", "Bäcker", id="not ASCII"),
    pytest.param(raw(amount=1), "unknown_field", "amount", "", id="an unknown field"),
    pytest.param(
        raw().replace(b"{", b'{"id":"' + b"0" * 32 + b'",', 1),
        "repeated_field",
        "id",
        None,
        id="a field twice",
    ),
    pytest.param(
        raw().replace(b"{", b'{"\\u0069d":"' + b"0" * 32 + b'",', 1),
        "repeated_field",
        "id",
        None,
        id="a field twice, once in escapes",
    ),
    pytest.param(
        raw().replace(b"{", b'{"reference":"",', 1)[:-1] + b',"reference":""}',
        "repeated_field",
        "reference",
        "",
        id="a field twice with nothing in it",
    ),
    pytest.param(b"", "malformed_json", "", "", id="nothing at all"),
    pytest.param(raw()[:-2], "malformed_json", "", "", id="cut off"),
    pytest.param(raw() + b"x", "malformed_json", "", "", id="something behind"),
    pytest.param(b"\xff\xfe", "malformed_json", "", "", id="no UTF-8"),
    pytest.param(b"[]", "invalid_field", "body", "[]", id="a list"),
    pytest.param(b"[" * 100_000, None, None, None, id="nested without end"),
    pytest.param(
        raw(reference=f"card {PAN}"), "card_number", "reference", None, id="a card number in a text"
    ),
    pytest.param(
        raw(debit_account_id=PAN), "card_number", "debit_account_id", None, id="a card number for an account"
    ),
]


@pytest.mark.parametrize(("body", "code", "field", "value"), BAD_BODIES)
async def test_a_bad_body_is_named_by_field_value_and_mend_and_changes_nothing(
    till: HttpClient, branch: Branch, body: bytes, code: str | None, field: str | None, value: str | None
) -> None:
    """An error that does not say what to mend is sent again until somebody calls."""
    before = branch.pen.desk.tip.size
    reply = await till.send("POST", "/v1/payments", body)
    problem = reply.json
    assert reply.status == problem["status"] == (409 if code == "float_number" else 400)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert code in (None, problem["code"])
    assert field in (None, problem.get("field", ""))
    assert value in (None, problem.get("value", ""))
    assert problem["hint"].endswith(".")
    assert problem["trace_id"] == reply.headers["Trace-Id"]
    assert PAN not in reply.body.decode()
    assert branch.pen.desk.tip.size == before


async def test_a_bad_member_of_a_batch_is_named_by_its_place(till: HttpClient, branch: Branch) -> None:
    """One slip in eight thousand payments must be found without counting."""
    before = branch.pen.desk.tip.size
    batch = {"payments": [payment(1), payment(0)]}
    reply = await till.send("POST", "/v1/payments/batch", batch)
    assert (reply.json["field"], reply.json["value"]) == ("payments[1].amount_minor", "0")
    twice = [payment(1)] * 2
    reply = await till.send("POST", "/v1/payments/batch", {"payments": twice, "linked": True})
    assert (reply.status, reply.code, reply.json["field"]) == (409, "repeated_id", "payments[1].id")
    assert branch.pen.desk.tip.size == before


async def test_an_account_that_looks_like_a_card_number_is_paid_when_the_site_knows_it(
    till: HttpClient, branch: Branch
) -> None:
    """Account numbers of 16 digits pass Luhn's check by chance, one in ten."""
    site = branch.site(version=2)
    account = type(site.accounts[0])(id=PAN, currency="CNY", home=BOX)
    await branch.use_site(branch.site(version=2, accounts=(*site.accounts, account)))
    assert (await till.pay(1, credit_account_id=PAN)).status == 201


@pytest.mark.parametrize(
    ("method", "path", "code", "field"),
    [
        ("GET", "/v1/payments/xyz", "invalid_field", "id"),
        ("GET", "/v1/payments/" + "0" * 32, "payment_not_found", "id"),
        ("GET", "/v1/receipts/" + "0" * 32, "payment_not_found", "id"),
        ("GET", "/v1/accounts/%20", "invalid_field", "account_id"),
        ("GET", "/v1/accounts/nobody", "account_not_found", "account_id"),
        ("GET", "/v1/accounts?limit=0", "invalid_field", "limit"),
        ("GET", "/v1/accounts?limit=ten", "invalid_field", "limit"),
        ("GET", "/v1/accounts?limit=1&limit=2", "repeated_field", "limit"),
        ("GET", "/v1/accounts?page=1", "unknown_field", "page"),
        ("GET", "/v1/status?verbose=1", "unknown_field", "verbose"),
        ("GET", "/v1/notices?after=x", "invalid_field", "after"),
        ("GET", "/v1/nothing", "not_found", ""),
        ("GET", "/../etc/passwd", "not_found", ""),
        ("PUT", "/v1/payments", "method_not_allowed", ""),
        ("DELETE", "/healthz", "method_not_allowed", ""),
    ],
)
async def test_a_bad_address_is_a_problem_document_too(
    till: HttpClient, method: str, path: str, code: str, field: str
) -> None:
    """A client that parses problems must never find HTML."""
    reply = await till.send(method, path)
    assert (reply.code, reply.json.get("field", "")) == (code, field)
    assert reply.headers["Content-Type"] == "application/problem+json"
    if code == "method_not_allowed":
        assert reply.headers["Allow"] in ("POST", "GET")


async def test_what_is_no_plain_json_is_refused_before_it_is_read(till: HttpClient) -> None:
    """A compressed body is a bomb, and a form is not a payment."""
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        reply = await till.send("POST", "/v1/payments", raw(), headers=headers)
        assert (reply.status, reply.code) == (415, "unsupported_media_type"), headers
    accepted = {"Content-Type": "application/json; charset=UTF-8"}
    assert (await till.send("POST", "/v1/payments", raw(), headers=accepted)).status == 201


async def test_impossible_dates_are_refused(till: HttpClient) -> None:
    """A window of the thirtieth of February is in no calendar."""
    reply = await till.send("POST", "/v1/windows/close", {"window": 1, "business_date": "2026-02-30"})
    assert (reply.code, reply.json["field"], reply.json["value"]) == (
        "invalid_field",
        "business_date",
        "2026-02-30",
    )


# -- who may --------------------


async def test_without_a_token_or_a_scope_nothing_is_shown_or_done(branch: Branch, till: HttpClient) -> None:
    """A till that can close the day, or a stranger that reads accounts, is a hole."""
    till.headers = {}
    reply = await till.pay()
    assert (reply.status, reply.code) == (401, "token_missing")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    for name, path, body, status in (
        ("reader", "/v1/payments", payment(), 403),
        ("clerk", "/v1/payments", payment(), 403),
        ("reader", "/v1/windows/close", {"window": 1, "business_date": "2026-11-21"}, 403),
    ):
        till.headers = {"Authorization": f"Bearer {branch.token(name)}"}
        assert (await till.send("POST", path, body)).status == status
    assert (await till.get("/v1/status")).status == 200


async def test_one_client_never_sees_anothers_payments(branch: Branch, till: HttpClient) -> None:
    """An id that leaks must not open the payment behind it."""
    paid = (await till.pay()).json
    other = HttpClient(branch, "other")
    assert (await other.get(f"/v1/payments/{paid['id']}")).status == 404
    assert (await other.get(f"/v1/receipts/{paid['id']}")).status == 404
    await other.close()


# -- peers that are slow, broken or many --------------------


@asynccontextmanager
async def impatient(branch: Branch) -> AsyncIterator[HttpServer]:
    """Another door of the same box, at which nobody may take his time."""
    server = await start(branch.gateway, HttpOptions(port=0, body_timeout_ms=50, idle_timeout_s=1))
    yield server
    await server.stop()


async def talk(branch: Branch, *parts: bytes, end: bool = False, server: HttpServer | None = None) -> bytes:
    """Send bytes as they are and read until the box closes."""
    server = server or branch.server
    assert server is not None
    host, port = server.addresses[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for part in parts:
        writer.write(part)
        await writer.drain()
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def head(branch: Branch, length: int | str, **more: str) -> bytes:
    lines = [
        "POST /v1/payments HTTP/1.1",
        "Host: box",
        f"Authorization: Bearer {branch.token()}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *(f"{name}: {value}" for name, value in more.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_a_slow_body_is_answered_and_the_id_stays_free(branch: Branch, till: HttpClient) -> None:
    """A peer that stops in the middle must not hold a place for ever."""
    body = raw(id=(free := payment_id()))
    async with impatient(branch) as server:
        answer = await talk(branch, head(branch, len(body)), body[:20], server=server)
    assert b" 408 " in answer
    assert b'"code":"request_timeout"' in answer
    assert (await till.pay(id=free)).status == 201


async def test_a_slow_header_is_cut_and_costs_nothing(branch: Branch) -> None:
    """A thousand half-open connections are the cheapest attack there is."""
    async with impatient(branch) as server:
        assert await talk(branch, b"POST /v1/payments HTTP/1.1\r\nHost: b", server=server) == b""


async def test_a_body_over_the_limit_is_refused_by_its_announcement(branch: Branch) -> None:
    """Nobody reads a gigabyte to say no."""
    answer = await talk(branch, head(branch, 10**9))
    assert b" 413 " in answer
    assert b"the body has more than 1048576 bytes" in answer


async def test_a_chunked_body_over_the_limit_is_cut(branch: Branch, till: HttpClient) -> None:
    """A body without a length is not a body without a limit."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    reply: Reply = await till.send(
        "POST", "/v1/payments", None, data=endless(), headers={"Content-Type": "application/json"}
    )
    assert (reply.status, reply.code) == (413, "body_too_large")


async def test_garbage_and_hang_ups_leave_the_box_as_it_was(branch: Branch, till: HttpClient) -> None:
    """What is no HTTP must cost the sender its connection and nobody else anything."""
    before = branch.pen.desk.tip.size
    for garbage in (b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"A" * 20_000):
        await talk(branch, garbage, end=True)
    await talk(branch, head(branch, 500), b'{"id"', end=True)
    assert branch.pen.desk.tip.size == before
    assert (await till.pay()).status == 201


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"hello world\r\n\r\n", 400, "malformed_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50, 400, "malformed_http"),
        (b"FOO /v1/payments HTTP/1.1\r\nHost: box\r\n\r\n", 400, "malformed_http"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: box\r\n\r\n", 400, "malformed_http"),
        (b"GET /healthz HTTP/1.1\r\nHost: box\r\nno colon\r\n\r\n", 400, "malformed_http"),
        (b"GET * HTTP/1.1\r\nHost: box\r\n\r\n", 400, "malformed_http"),
        (b"GET /%b HTTP/4.1 %b\r\nHost: box\r\n\r\n" % (PAN.encode(), PAN.encode()), 400, "malformed_http"),
        (b"OPTIONS * HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (b"CONNECT box:443 HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n", 404, "not_found"),
    ],
)
async def test_what_is_no_request_is_answered_with_a_problem_too(
    branch: Branch, caplog: pytest.LogCaptureFixture, sent: bytes, status: int, code: str
) -> None:
    """A client that reads problem documents should not meet another program's words, nor its own bytes."""
    top, _, body = (await talk(branch, sent)).partition(b"\r\n\r\n")
    assert int(top.split()[1]) == status
    assert b"application/problem+json" in top
    problem = json.loads(body)
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["message"]
    assert problem["hint"]
    assert PAN not in body.decode() + caplog.text


async def test_rubbish_fills_no_log(branch: Branch, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reaches the port could else push all that matters out of the log."""
    for _ in range(3 * LINES_EACH_MINUTE):
        await talk(branch, b"hello\r\n\r\n")
    assert 0 < len([one for one in caplog.records if "not a request" in one.message]) <= 2 * LINES_EACH_MINUTE


async def test_a_host_that_is_none_is_the_sender_s_fault(branch: Branch) -> None:
    """Nobody has to show who he is there: a failure of the program would count against new settings, and let
    a stranger take them back."""
    for host in (b"\xff\xfe", b'a"b<>', b"", b"a b"):
        top, _, body = (
            await talk(
                branch,
                b"GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: %b\r\n" % host,
                b"Connection: close\r\n\r\n",
            )
        ).partition(b"\r\n\r\n")
        assert (int(top.split()[1]), json.loads(body)["code"]) == (400, "malformed_http")
    assert 'event="failed"' not in branch.metrics.exposition()[0].decode()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate"])
async def test_a_compressed_body_is_refused_unread(till: HttpClient, encoding: str) -> None:
    """A small body that unpacks to gigabytes must cost nothing, and its sender must hear why."""
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    reply: Reply = await till.send(
        "POST", "/v1/payments", None, data=b"\x1f\x8b" + b"x" * 50, headers=headers
    )
    assert (reply.status, reply.code) == (415, "unsupported_media_type")
    assert reply.json["field"] == "Content-Encoding"


async def test_a_client_that_shuts_its_half_still_gets_its_answer(branch: Branch) -> None:
    """The payment is made, so its answer is owed; one that was cut off is told so at once."""
    body = raw()
    assert b"HTTP/1.1 201 " in await talk(branch, head(branch, len(body)), body, end=True)
    answer = await talk(branch, head(branch, len(body) + 10), body, end=True)
    assert b'"code":"malformed_json"' in answer
    assert b"did not arrive whole" in answer


async def _greeted(branch: Branch, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that stays open after the answer to this request, whose body is read."""
    assert branch.server is not None
    host, port = branch.server.addresses[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    headers = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in headers.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return reader, writer


_STATUS = b"GET /v1/status HTTP/1.1\r\nHost: box\r\n"
_READY = b"GET /readyz HTTP/1.1\r\nHost: box\r\n\r\n"


async def test_one_connection_too_many_is_told_so(branch: Branch, till: HttpClient) -> None:
    """The box's file descriptors belong to everybody; those of known clients are never ended for others."""
    known = _STATUS + f"Authorization: Bearer {branch.token()}\r\n\r\n".encode()
    held = [await _greeted(branch, known) for _ in range(20)]
    answer = await talk(branch)
    assert b" 429 " in answer
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"] == "overloaded"
    for _, writer in held:
        writer.close()
    http = branch.server._runner.server if branch.server else None
    assert http is not None
    await until(lambda: len(http.connections) == 0, "the connections are gone")
    assert (await till.pay()).status == 201


async def test_strangers_that_hold_all_places_give_way_to_a_client(branch: Branch) -> None:
    """Whoever reaches the port could else lock all clients out by saying nothing, asking what everybody may
    ask, showing a wrong token or never ending its request; the client that paid before keeps its own."""
    wrong = _STATUS + b"Authorization: Bearer x\r\n\r\n"
    known = _STATUS + f"Authorization: Bearer {branch.token()}\r\n\r\n".encode()
    kept = await _greeted(branch, known)
    assert branch.server is not None
    host, port = branch.server.addresses[0].split(":")
    strangers = [await _greeted(branch, first) for first in (_READY, _READY, wrong, wrong)]
    for said in (
        b"",
        b"GET /v1/status HTTP/1.1\r\nHo",
        (
            b"POST /v1/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nhalf"
        ),
    ):
        for _ in range(5):
            strangers.append(await asyncio.open_connection(host, int(port)))
            strangers[-1][1].write(said)
    places = branch.server._places
    await until(lambda: len(places) == 20, "all places to be taken")
    came = [await _greeted(branch, known) for _ in range(19)]
    for reader, writer in strangers:
        assert await reader.read() == b""
        writer.close()
    for reader, writer in (kept, *came):
        writer.write(known)
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
    assert b" 429 " in await talk(branch)
    for _, writer in (kept, *came):
        writer.close()


async def test_a_burst_of_connections_stays_within_the_limit(branch: Branch) -> None:
    """Those that come in one turn of the event loop were all let in, each before the others were counted."""
    burst = [asyncio.create_task(talk(branch)) for _ in range(60)]
    await until(lambda: sum(one.done() for one in burst) >= 40, "forty to be sent away")
    assert all(one.result() == b"" or b" 429 " in one.result() for one in burst if one.done())
    for one in burst:
        one.cancel()
    await asyncio.wait(burst)


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(branch: Branch) -> None:
    """curl sends `Expect: 100-continue` with every larger body."""
    body = raw()
    answer = await talk(branch, head(branch, len(body), Expect="100-continue", Connection="close"), body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")


async def test_the_callers_trace_goes_through_and_a_bad_one_is_replaced(till: HttpClient) -> None:
    """A payment that is followed across programs keeps one name."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    reply = await till.send("GET", "/healthz", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert reply.headers["Trace-Id"] == trace
    reply = await till.send("GET", "/x", headers={"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"})
    assert reply.json["trace_id"] == reply.headers["Trace-Id"] != "0" * 32


async def test_a_fault_of_ours_is_a_problem_and_the_box_lives_on(branch: Branch, till: HttpClient) -> None:
    """A bug in one request must not take the branch down, nor show its insides."""

    async def broken(*_: object, **__: object) -> Any:
        raise KeyError(PAN)

    decide, branch.gateway.decide = branch.gateway.decide, broken  # type: ignore[method-assign]
    reply = await till.pay()
    assert (reply.status, reply.code) == (500, "internal_error")
    assert PAN not in reply.body.decode()
    branch.gateway.decide = decide  # type: ignore[method-assign]
    assert (await till.pay()).status == 201


# -- reading --------------------


async def verify(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    print(output.decode())
    return process.returncode or 0


async def test_a_receipt_verifies_with_the_stand_alone_verifier(
    branch: Branch, till: HttpClient, tmp_path: Path
) -> None:
    """A receipt that only we can check proves nothing."""
    paid = [await till.pay(1) for _ in range(3)]
    path = tmp_path / "receipt.json"
    command = [sys.executable, verifier.__file__, "--box-key", branch.key.public.text(), "receipt", str(path)]
    for reply in paid:
        receipt = (await till.get(f"/v1/receipts/{reply.json['id']}")).json
        path.write_text(json.dumps(receipt))
        assert await verify(command) == 0
    receipt["record"] = receipt["record"].replace('"amount_minor":1', '"amount_minor":2')
    path.write_text(json.dumps(receipt))
    assert await verify(command) == 1


async def test_a_receipt_carries_the_centres_cosignature_once_there_is_one(
    branch: Branch, till: HttpClient, tmp_path: Path
) -> None:
    """Without the other side's word, who holds the box's key can write another history."""
    paid = await till.pay(1)
    hub = type(branch.key)("demo-bank/hub", type(branch.key._private).generate())
    checkpoint = branch.key.public.open(branch.pen.desk.tip.checkpoint)
    note = hub.cosign(checkpoint, time_s=1_790_000_000)
    await till.pay(1)
    await branch.pen.keep_cosignature(epoch=1, size=checkpoint.size, note=note)
    receipt = (await till.get(f"/v1/receipts/{paid.json['id']}")).json
    assert receipt["cosignature"] == note
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt))
    keys = ["--box-key", branch.key.public.text(), "--hub-key", hub.public.text()]
    assert await verify([sys.executable, verifier.__file__, *keys, "receipt", str(path)]) == 0
    status = (await till.get("/v1/status")).json
    assert status["records_waiting"] == status["journal_size"] - checkpoint.size


async def test_accounts_are_listed_in_pages_without_a_gap(till: HttpClient) -> None:
    """A page that skips an account hides its money."""
    seen, after = [], ""
    while True:
        page = (await till.get(f"/v1/accounts?limit=1&after={after}")).json
        seen += [account["id"] for account in page["accounts"]]
        after = page["next_after"]
        if not after:
            break
    assert seen == sorted(seen) == ["baker", "far-away", "pupil"]
    one = (await till.get("/v1/accounts/baker")).json
    assert one["available_minor"] == 10_000


async def test_readiness_says_no_when_the_box_does_not_clear(branch: Branch, till: HttpClient) -> None:
    """A balancer that sends payments to a box that is behind loses every one of them."""
    assert (await till.get("/readyz")).status == 200
    await branch.pen.change_mode(Mode.FENCED, "test")
    reply = await till.get("/readyz")
    assert (reply.status, reply.code) == (503, "not_clearing")
    assert (await till.get("/healthz")).status == 200


async def test_windows_and_checkpoint_are_readable(branch: Branch, till: HttpClient) -> None:
    """Positions that nobody can read are settled by nobody."""
    await till.pay(100)
    closed = await till.send("POST", "/v1/windows/close", {"window": 1, "business_date": "2026-11-21"})
    again = await till.send("POST", "/v1/windows/close", {"window": 1, "business_date": "2026-11-21"})
    assert closed.body == again.body
    page = (await till.get("/v1/windows")).json
    assert (page["open_window"], page["windows"]) == (2, [closed.json])
    checkpoint = (await till.get("/v1/checkpoint")).json
    signed = branch.key.public.open(checkpoint["checkpoint"])
    assert signed.size == checkpoint["size"]
    assert base64.b64decode(checkpoint["checkpoint"].split("\n")[2]) == signed.root


async def test_a_window_that_takes_two_is_closed_by_nobody_alone(branch: Branch, till: HttpClient) -> None:
    """A clerk's token, or the same one twice, ends no window; the record names both who did."""
    await branch.use_site(branch.site(2, window_close_takes_two=True))
    wanted = {"window": 1, "business_date": "2026-11-21"}
    for second, code in (
        ("", "second_person_needed"),
        (branch.token("till"), "second_person_needed"),
        (branch.token("reader"), "scope_missing"),
        ("nobody's", "token_invalid"),
    ):
        reply = await till.send("POST", "/v1/windows/close", {**wanted, "second_token": second})
        assert reply.code == code
    assert branch.gateway.book.window == 1
    both = {**wanted, "second_token": branch.token("clerk")}
    closed = await till.send("POST", "/v1/windows/close", both)
    assert (closed.status, closed.json["closed_by"]) == (200, "till+clerk")
    assert (await till.send("POST", "/v1/windows/close", both)).body == closed.body


def test_the_folder_finds_its_protocols_with_their_documentation() -> None:
    """A newcomer's file that is not found is a protocol that nobody can switch on."""
    found = discover()
    assert {"http", "iso8583"} <= set(found)
    assert all(adapter.documentation for adapter in found.values())
