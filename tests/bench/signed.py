"""`python -m tests.bench.signed`: what a payment costs the box when it is signed, beside one by token.

A real box and hub; 64 kept connections; the requests are made beforehand, so that the client's own work is
small. Told are payments a second of the box's processor time, and by the clock; the ways take turns, because
absolute figures belong to the machine and its other work.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.processes import Branch
from tests.signing import SessionSigner, Sm2Signer, sm2_text

ROUNDS = 6
COUNTS = {"token": 3_000, "session": 3_000, "sm2": 1_500}
LANES = 64
PAY = "/v1/payments"
Made = Callable[[bytes], dict[str, str]]


def body_of() -> bytes:
    """A fresh payment."""
    return json.dumps(
        {
            "id": f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}",
            "debit_account_id": "alice",
            "credit_account_id": "shop",
            "amount_minor": 1,
            "currency": "CNY",
        }
    ).encode()


def request_of(made: Made, host: str, path: str = PAY, body: bytes | None = None) -> bytes:
    """A whole request as it goes on the wire."""
    sent = body_of() if body is None else body
    lines = [f"{name}: {value}" for name, value in made(sent).items() if name != "Host"]
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(sent)}", *lines, "", ""]
    return "\r\n".join(head).encode() + sent


async def lane(port: int, requests: list[bytes]) -> list[bytes]:
    """Send them one after the other on one connection; their answers' bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201"), head + await reader.read(4096)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        answers.append(await reader.readexactly(length))
    writer.close()
    return answers


def measured(port: int, pid: int, requests: list[bytes]) -> tuple[float, float]:
    """Requests a second of the process's processor time, and of the clock."""
    box = psutil.Process(pid)

    async def all_lanes() -> None:
        await asyncio.gather(*(lane(port, requests[number::LANES]) for number in range(LANES)))

    before, began_s = box.cpu_times(), time.perf_counter()
    asyncio.run(all_lanes())
    after, taken_s = box.cpu_times(), time.perf_counter() - began_s
    cpu_s = after.user + after.system - before.user - before.system
    return len(requests) / cpu_s, len(requests) / taken_s


def main() -> None:
    """Measure in turns and print one line a way."""
    with tempfile.TemporaryDirectory() as folder:
        branch, signer = Branch(Path(folder)), Sm2Signer("till")
        try:
            found = _rounds(branch, signer)
        finally:
            branch.end()
    print("way        payments/cpu-s   payments/s   beside token (cpu; median, least-most)")
    for way, rounds in found.items():
        ratios = [one[0] / token[0] for one, token in zip(rounds, found["token"], strict=True)]
        cpu, wall = (statistics.median(one[column] for one in rounds) for column in (0, 1))
        print(
            f"{way:10} {cpu:14,.0f} {wall:12,.0f}   {statistics.median(ratios):.2f}"
            f"  {min(ratios):.2f}-{max(ratios):.2f}"
        )


def _rounds(branch: Branch, signer: Sm2Signer) -> dict[str, list[tuple[float, float]]]:
    site = json.loads((branch.folder / "site.json").read_text())
    site["clients"][0]["sm2_public_keys"] = [sm2_text(signer.key)]
    site["version"] = 2
    (branch.folder / "site.json").write_text(json.dumps(site))
    branch.run("site", "publish", branch.path("site.json"), "--hub", branch.path("hub.toml"))
    branch.start_hub()
    branch.start_box()
    assert branch.box is not None
    port, pid = branch.http_port, branch.box.popen.pid
    host = f"127.0.0.1:{port}"
    own = X25519PrivateKey.generate()
    share = base64.b64encode(own.public_key().public_bytes_raw()).decode()
    signed: Made = lambda body: signer.headers(host=host, path=PAY, body=body, box="box-1")  # noqa: E731
    opening = request_of(
        lambda body: signer.headers(host=host, path="/v1/sessions", body=body, box="box-1"),
        host,
        "/v1/sessions",
        json.dumps({"share": share}).encode(),
    )
    [answer] = asyncio.run(lane(port, [opening]))
    session = SessionSigner("till", own, json.loads(answer), box="box-1")
    ways: dict[str, Made] = {
        "token": lambda _: {"Authorization": f"Bearer {branch.token}", "Content-Type": "application/json"},
        "session": lambda body: session.headers(host=host, path=PAY, body=body, box="box-1"),
        "sm2": signed,
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, made in ways.items():
            requests = [request_of(made, host) for _ in range(COUNTS[way])]
            found[way].append(measured(port, pid, requests))
    return found


if __name__ == "__main__":
    main()
