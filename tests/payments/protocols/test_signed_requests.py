"""Signed requests over HTTP: who must sign, what is altered on the way, replays, floods, sessions."""

import asyncio
import base64
import json
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgegw.access.arrivals import LINES_EACH_MINUTE
from edgegw.access.tokens import mint_token
from edgegw.access.webhook_key import WebhookKey
from edgegw.commands import ExitCode
from edgegw.payments.protocols.http import HttpOptions, start
from edgegw.sm.sm2 import PrivateKey, from_der, to_der
from tests.docs.readme import block_of
from tests.payments.branch import BAKER, BOX, Branch, Reply, open_branch, payment
from tests.processes import edgegw
from tests.signing import SessionSigner, Sm2Signer, signing_client
from tests.waiting import until

PAY = "/v1/payments"


class Till:
    """A client that signs; its connections are kept."""

    def __init__(self, branch: Branch, signer: Sm2Signer | SessionSigner) -> None:
        self.branch, self.signer = branch, signer
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self, headers: dict[str, str], *, path: str = PAY, body: bytes | None = None, method: str = "POST"
    ) -> Reply:
        """A request exactly so."""
        async with self._session.request(
            method, f"{self.branch.url}{path}", headers=headers, data=body
        ) as response:
            return Reply(response.status, await response.read(), response.headers)

    @property
    def host(self) -> str:
        return self.branch.url.partition("//")[2]

    def headers(self, body: bytes | None, *, path: str = PAY, **changes: Any) -> dict[str, str]:
        return self.signer.headers(host=self.host, path=path, body=body, **changes)

    async def post(self, sent: dict[str, Any], *, path: str = PAY, **changes: Any) -> Reply:
        body = msgspec.json.encode(sent)
        return await self.send(self.headers(body, path=path, **changes), path=path, body=body)

    async def session(self) -> "Till":
        """The same client in a new session."""
        own = X25519PrivateKey.generate()
        share = base64.b64encode(own.public_key().public_bytes_raw()).decode()
        answer = await self.post({"share": share}, path="/v1/sessions")
        assert answer.status == 201, answer.body
        assert isinstance(self.signer, Sm2Signer)
        return Till(self.branch, SessionSigner(self.signer.client, own, answer.json))


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    async with open_branch(tmp_path) as opened:
        await opened.grant(BAKER, 1_000_000)
        yield opened


@pytest.fixture
async def till(branch: Branch) -> AsyncIterator[Till]:
    """A client of the profile `signed`, whose token key is known as well."""
    made = Till(branch, Sm2Signer("signer"))
    await use_keys(branch, made.signer.key)
    yield made
    await made.close()


async def use_keys(branch: Branch, *keys: PrivateKey, version: int = 2, profile: str = "signed") -> None:
    """New settings: the client `signer` has these keys, and the token key of `till`."""
    clients = branch.site().clients
    signer = signing_client("signer", *keys, profile=profile, public_key=clients[0].public_key)
    await branch.use_site(branch.site(version=version, clients=(*clients, signer)))


def bearer(branch: Branch) -> dict[str, str]:
    """The signer's own token, which is sound."""
    token = mint_token(
        branch.client_keys["till"], client="signer", box=BOX, lifetime_seconds=60, now_s=int(time.time())
    )
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


async def test_a_signed_payment_is_paid_once_however_often_it_is_signed(till: Till) -> None:
    """A retry is signed anew and gets the first answer; the same signature gets none."""
    body = msgspec.json.encode(payment(100))
    headers = till.headers(body)
    first = await till.send(headers, body=body)
    assert first.status == 201
    assert (await till.send(headers, body=body)).code == "signature_replayed"
    again = await till.send(till.headers(body), body=body)
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotent-Replay"] == "true"
    assert till.branch.book.available(BAKER) == 1_000_000 - 100


async def test_a_replay_is_counted_and_logged_and_fills_no_log(till: Till) -> None:
    """Who watches the branch sees it; who repeats it often writes few lines."""
    body = msgspec.json.encode(payment(100))
    headers = till.headers(body)
    with structlog.testing.capture_logs() as logs:
        for _ in range(70):
            await till.send(headers, body=body)
    lines = [line for line in logs if line["event"] == "stranger_refused"]
    assert {line["code"] for line in lines} == {"signature_replayed"}
    assert 0 < len(lines) <= 2 * LINES_EACH_MINUTE < 69
    counted = till.branch.metrics.exposition()[0].decode()
    assert 'edgegw_protocol_events_total{event="signature_replayed",protocol="http"} 69.0' in counted


async def test_a_client_that_must_sign_does_nothing_by_token_but_read(till: Till) -> None:
    """Taking the signature off is no way around it; reading needs none."""
    branch, body = till.branch, msgspec.json.encode(payment(100))
    stripped = {name: value for name, value in till.headers(body).items() if not name.startswith("Signature")}
    for headers in (bearer(branch), {**stripped, **bearer(branch)}):
        refused = await till.send(headers, body=body)
        assert (refused.status, refused.code) == (401, "signature_missing")
    assert (await till.send(stripped, body=body)).code == "token_missing"
    assert (await till.send(bearer(branch), path="/v1/status", method="GET")).status == 200
    counted = branch.metrics.exposition()[0].decode()  # settings that lock everybody out are taken back
    assert 'edgegw_protocol_events_total{event="turned_away",protocol="http"} 2.0' in counted
    session = base64.b64encode(bytes(32)).decode()
    refused = await till.send(bearer(branch), path="/v1/sessions", body=b'{"share":"%s"}' % session.encode())
    assert refused.code == "signature_missing"
    await use_keys(branch, till.signer.key, version=3, profile="token")
    assert (await till.send(bearer(branch), body=body)).status == 201


async def test_a_second_persons_token_is_no_way_around_signing(till: Till) -> None:
    """Where two people close a window, one who must sign cannot be there by a token that was stolen."""
    branch = till.branch
    clients = tuple(
        msgspec.structs.replace(one, scopes=("operate", "read")) if one.name == "signer" else one
        for one in branch.book.site.clients
    )
    await branch.use_site(branch.site(version=3, clients=clients, window_close_takes_two=True))
    token = bearer(branch)["Authorization"].removeprefix("Bearer ")
    asked = msgspec.json.encode({"window": 1, "business_date": "2026-11-21", "second_token": token})
    clerk = {"Authorization": f"Bearer {branch.token('clerk')}", "Content-Type": "application/json"}
    refused = await till.send(clerk, path="/v1/windows/close", body=asked)
    assert (refused.code, refused.json["field"]) == ("signature_missing", "second_token")


async def test_reading_can_be_signed_as_well(till: Till) -> None:
    """Without a body no digest is asked; the query is covered."""
    headers = till.headers(None, path="/v1/accounts", query="limit=1", method="GET")
    assert (await till.send(headers, path="/v1/accounts?limit=1", method="GET")).status == 200
    headers = till.headers(None, path="/v1/accounts", query="limit=1", method="GET")
    refused = await till.send(headers, path="/v1/accounts?limit=2", method="GET")
    assert (refused.status, refused.code) == (401, "signature_invalid")


async def test_one_altered_byte_anywhere_is_refused_and_pays_nothing(till: Till) -> None:
    """In the body, in each covered header, in each of the two of the signature: 401 whatever it is."""
    body = msgspec.json.encode(payment(100))
    chance, paid = random.Random(5), till.branch.book.available(BAKER)
    for name in (None, "Content-Digest", "Content-Type", "Signature-Input", "Signature", "Host"):
        for _ in range(6):
            headers = till.headers(body)
            text = body.decode() if name is None else headers[name]
            at = chance.randrange(len(text))
            other = chr(ord(text[at]) ^ 1)
            if other in "\r\n\x7f" or other.lower() == text[at].lower():
                continue
            text = text[:at] + other + text[at + 1 :]
            sent = text.encode() if name is None else body
            answer = await till.send(headers if name is None else {**headers, name: text}, body=sent)
            assert answer.status == 401, (name, at, answer.body)
            assert answer.code.startswith(("signature_", "session_")), answer.body
    assert till.branch.book.available(BAKER) == paid
    assert (await till.send(till.headers(body), body=body)).status == 201


async def test_a_signature_is_good_for_its_own_address_method_and_box_alone(till: Till) -> None:
    """A signed payment is no payment elsewhere: not at another path, query, host or branch."""
    body = msgspec.json.encode(payment(100))
    good = till.headers(body)
    for path in ("/v1/holds", "/v1/payments?x=1", "/v1/payments/batch"):
        assert (await till.send(good, path=path, body=body)).code == "signature_invalid", path
    assert (await till.send({**good, "Host": "branch-2"}, body=body)).code == "signature_invalid"
    elsewhere = till.headers(body, box="branch-2")
    assert (await till.send(elsewhere, body=body)).code == "signature_malformed"
    spliced = {**elsewhere, "Signature-Input": elsewhere["Signature-Input"].replace("branch-2", BOX)}
    assert (await till.send(spliced, body=body)).code == "signature_invalid"
    assert (await till.send(good, body=body)).status == 201


async def test_a_bad_signature_is_refused_before_its_body_is_read_or_decoded(till: Till) -> None:
    """Neither JSON that is none nor megabytes that never come are looked at for a stranger."""
    body = b"no json"
    headers = till.headers(body)
    wrong = {**headers, "Signature": f"edgegw=:{base64.b64encode(bytes(range(1, 65))).decode()}:"}
    assert (await till.send(wrong, body=body)).code == "signature_invalid"
    assert (await till.send(headers, body=body)).code == "malformed_json"
    reader, writer = await asyncio.open_connection(*till.host.split(":"))
    lines = [f"{name}: {value}" for name, value in wrong.items()]
    writer.write("\r\n".join([f"POST {PAY} HTTP/1.1", *lines, "Content-Length: 1000000", "", ""]).encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    assert b" 401 " in answer.splitlines()[0]
    assert b"signature_invalid" in answer
    writer.close()


async def test_a_body_in_chunks_is_covered_whole(till: Till) -> None:
    """What is signed are the bytes, not how they come."""
    body = msgspec.json.encode(payment(100))

    async def pieces(sent: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 7):
            yield sent[at : at + 7]

    for sent, status in ((body, 201), (body + b" ", 401)):
        async with till._session.post(
            f"{till.branch.url}{PAY}", headers=till.headers(body), data=pieces(sent)
        ) as answer:
            assert answer.request_info.headers["Transfer-Encoding"] == "chunked"
            assert answer.status == status


async def test_keys_change_one_after_the_other(till: Till) -> None:
    """Two at once, then the new one alone; a session goes with the key that opened it."""
    branch, new = till.branch, Sm2Signer("signer")
    old_session = await till.session()
    await use_keys(branch, till.signer.key, new.key, version=3)
    newer = Till(branch, new)
    for one in (till, newer, old_session):
        assert (await one.post(payment(1))).status == 201
    await use_keys(branch, new.key, version=4)
    assert (await newer.post(payment(1))).status == 201
    assert (await till.post(payment(1))).code == "signature_key_unknown"
    assert (await old_session.post(payment(1))).code == "session_unknown"
    await use_keys(branch, till.signer.key, version=5)
    assert (await till.post(payment(1))).status == 201
    assert (await old_session.post(payment(1))).code == "session_unknown"
    for one in (newer, old_session):
        await one.close()


async def test_another_clients_key_signs_for_nobody_else(till: Till) -> None:
    """Naming somebody's keyid is not having the key; nor do two clients share one by its digits."""
    thief = Sm2Signer("signer")
    thief.keyid = till.signer.keyid
    theirs = Till(till.branch, thief)
    assert (await theirs.post(payment(1))).code == "signature_invalid"
    thief.keyid = till.signer.keyid.replace("signer", "till")
    assert (await theirs.post(payment(1))).code == "signature_key_unknown"
    await theirs.close()


async def test_a_clock_that_is_wrong_is_told_and_a_challenge_does_without(till: Till) -> None:
    """Years off: the refusal says the box's time and gives a nonce, and either lets the next one through."""
    body, wrong_s = msgspec.json.encode(payment(100)), 1_000_000_000
    refused = await till.send(till.headers(body, created_s=wrong_s), body=body)
    assert (refused.status, refused.code) == (401, "signature_stale")
    assert abs(refused.json["server_time_s"] - time.time()) < 10
    challenge = refused.json["challenge"]
    for nonce in (challenge, f"{challenge}.1"):
        headers = till.headers(body, created_s=wrong_s, nonce=nonce)
        assert (await till.send(headers, body=body)).status == 201
        assert (await till.send(headers, body=body)).code == "signature_replayed"
    right = till.headers(body, created_s=refused.json["server_time_s"])
    assert (await till.send(right, body=body)).status == 201


async def test_nothing_from_before_a_restart_counts_after_it(till: Till, tmp_path: Path) -> None:
    """Whatever a way in had let through, a fresh one on the same disk refuses; what is new goes on."""
    branch = till.branch
    asked = msgspec.json.encode({"up_to": "1/1"})
    path = "/v1/notices/acknowledgements"
    spent = till.headers(asked, path=path)
    assert (await till.send(spent, path=path, body=asked)).code == "notice_not_found"
    session = await till.session()
    assert branch.server is not None
    await branch.server.stop()
    branch.server = await start(branch.gateway, HttpOptions(port=int(till.host.split(":")[1])))
    refused = await till.send(spent, path=path, body=asked)
    assert refused.code == "signature_stale"
    fresh = till.headers(asked, path=path, nonce=refused.json["challenge"])
    assert (await till.send(fresh, path=path, body=asked)).code == "notice_not_found"
    assert (await session.post(payment(1))).code == "session_unknown"
    await session.close()


async def test_64_connections_in_one_session_overtake_each_other(till: Till) -> None:
    """Each number counts once, in any order; a second look at any of them does not."""
    session = await till.session()
    sent = [(body, session.headers(body)) for body in (msgspec.json.encode(payment(1)) for _ in range(256))]
    random.Random(3).shuffle(sent)
    lanes = [sent[lane::64] for lane in range(64)]

    async def lane(requests: list[tuple[bytes, dict[str, str]]]) -> list[Reply]:
        return [await session.send(headers, body=body) for body, headers in requests]

    for status in (201, 401):
        answers = [answer for answers in await asyncio.gather(*map(lane, lanes)) for answer in answers]
        assert {answer.status for answer in answers} == {status}
    assert {answer.code for answer in answers} == {"signature_replayed"}
    assert till.branch.book.available(BAKER) == 1_000_000 - 256
    await session.close()


async def test_a_sessions_mac_is_for_its_own_request_and_no_other(till: Till) -> None:
    """Another body, path, number or session is another MAC; and it opens no further session."""
    session, other = await till.session(), await till.session()
    body, different = msgspec.json.encode(payment(1)), msgspec.json.encode(payment(1))
    good = session.headers(body)
    keyid = good["Signature-Input"].replace(session.signer.keyid, other.signer.keyid)
    nonce = good["Signature-Input"].replace('nonce="1"', 'nonce="2"')
    assert (await session.send(good, body=different)).code == "signature_invalid"
    assert (await session.send(good, path="/v1/holds", body=body)).code == "signature_invalid"
    for changed in (keyid, nonce):
        assert changed != good["Signature-Input"]
        assert (
            await session.send({**good, "Signature-Input": changed}, body=body)
        ).code == "signature_invalid"
    short = {**good, "Signature": "edgegw=:AAAA:"}
    assert (await session.send(short, body=body)).code == "signature_invalid"
    assert (await session.send(good, body=body)).status == 201
    share = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    assert (await session.post({"share": share}, path="/v1/sessions")).code == "signature_missing"
    for one in (session, other):
        await one.close()


async def test_the_box_signs_its_share(till: Till) -> None:
    """So that a client that pins the box's key knows with whom its session is."""
    private = Ed25519PrivateKey.generate()
    till.branch.gateway.webhook = WebhookKey(private)
    own = X25519PrivateKey.generate()
    share = base64.b64encode(own.public_key().public_bytes_raw()).decode()
    answer = (await till.post({"share": share}, path="/v1/sessions")).json
    signer = SessionSigner("signer", own, answer)
    status = await till.send(bearer(till.branch), path="/v1/status", method="GET")
    pinned = base64.b64decode(status.json["webhook_key"].removeprefix("whpk_"))
    Ed25519PublicKey.from_public_bytes(pinned).verify(
        base64.b64decode(answer["signature"]), signer.transcript
    )


async def test_a_flood_of_bad_signatures_keeps_nobody_from_paying(till: Till) -> None:
    """One address floods with a known keyid; another's payments go through between, by turns, and its own
    wait for theirs."""
    body = msgspec.json.encode(payment(1))
    wrong = {**till.headers(body), "Signature": f"edgegw=:{base64.b64encode(bytes(range(1, 65))).decode()}:"}
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), limit=400)
    stop = asyncio.Event()
    seen: dict[str, int] = {}

    async def flood(session: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            async with session.post(f"{till.branch.url}{PAY}", headers=wrong, data=body) as answer:
                code = (await answer.json())["code"]
                seen[code] = seen.get(code, 0) + 1

    async with aiohttp.ClientSession(connector=connector) as session:
        floods = [asyncio.create_task(flood(session)) for _ in range(100)]
        await until(lambda: bool(seen), "the first answer to the flood")
        for _ in range(5):
            assert (await asyncio.wait_for(till.post(payment(1)), 5)).status == 201
        beside = msgspec.json.encode(payment(1))
        async with session.post(
            f"{till.branch.url}{PAY}", headers=till.headers(beside), data=beside
        ) as answer:
            assert answer.status == 201
        stop.set()
        await asyncio.gather(*floods)
    assert set(seen) == {"signature_invalid"}


BY_HAND = "set -eu\n" + "\n".join(block_of("Sign with openssl and curl alone").commands).replace(
    "127.0.0.1:8443", "$box"
).replace("till/", "signer/")
"""The README's, for a box elsewhere and another client."""


async def test_a_client_of_openssl_and_curl_alone_pays(till: Till, tmp_path: Path) -> None:
    """The page's worked example: nothing of ours signs, and the box takes it."""
    (tmp_path / "till-sm2.pem").write_bytes(till.signer.key.to_pem())
    for _ in range(3):  # r or s that begins with a zero comes by itself, now and then
        (tmp_path / "pay.json").write_bytes(msgspec.json.encode(payment(100)))
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            BY_HAND,
            cwd=tmp_path,
            env={**os.environ, "box": till.host},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert json.loads(output)["outcome"] == "cleared", output


def test_a_short_number_is_padded_in_the_worked_example(tmp_path: Path) -> None:
    """DER drops zeros in front; r || s keeps them: 64 bytes always."""
    der = to_der(bytes([0, 7]) + bytes(29) + b"\x01" + bytes(31) + b"\xff")
    (tmp_path / "der").write_bytes(der)
    line = BY_HAND[BY_HAND.index("signature=$(openssl asn1parse") : BY_HAND.index("curl -sS")]
    done = subprocess.run(
        ["bash", "-c", f'{line}printf %s "$signature"'],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert base64.b64decode(done.stdout) == from_der(der)


async def test_a_session_is_opened_and_used_by_hand(till: Till, tmp_path: Path) -> None:
    """The commands' own words against a box: begin, sign, keep, and then no SM2 key any more."""
    private = Ed25519PrivateKey.generate()
    till.branch.gateway.webhook = box = WebhookKey(private)
    (tmp_path / "till-sm2.pem").write_bytes(till.signer.key.to_pem())
    (tmp_path / "till-sm2.pem").chmod(0o600)
    kept, who = tmp_path / "session.json", ("--client", "signer", "--box", BOX)

    def run(*words: str, code: int = 0) -> str:
        done = edgegw(*words)
        assert done.exit_code == code, done.output
        return done.output

    async def sent(body: str, path: str, *by: str) -> Reply:
        (tmp_path / "body.json").write_text(body)
        address = f"{till.branch.url}{path}"
        printed = run("sign", *by, "--body", str(tmp_path / "body.json"), "POST", address)
        headers = dict(line.split(": ", 1) for line in printed.splitlines())
        return await till.send(headers, path=path, body=body.encode())

    answer = tmp_path / "opened.json"
    share = run("session", "begin", "--out", str(kept))
    run("sign", "--session", str(kept), "GET", till.branch.url, code=2)
    opened = await sent(share, "/v1/sessions", *who, "--key", str(tmp_path / "till-sm2.pem"))
    answer.write_bytes(opened.body)
    stranger = WebhookKey(Ed25519PrivateKey.generate())
    keep = ("session", "keep", *who, str(kept), str(answer))
    run(*keep, "--box-key", stranger.text, code=2)
    run(*keep, "--box-key", box.text)
    run(*keep, code=2)
    assert kept.stat().st_mode & 0o777 == 0o600
    for _ in range(3):
        assert (await sent(json.dumps(payment(1)), PAY, "--session", str(kept))).status == 201
    run("session", "begin", "--out", str(kept), code=ExitCode.USAGE)
