"""Sends the day's wrong messages, byte for byte as they are, and judges what comes back.

Every one uses a connection of its own. Leaves out which messages are wrong (`mistakes`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from edgegw.demo.answers import Mistaken
from edgegw.demo.plan import Wrong
from edgegw.demo.terminal import ANSWER_SECONDS, ECHO, Broken, Terminal, fields_of


async def say_wrong(
    wrong: Wrong, *, http_port: int, token: str, terminal: Callable[[str], Terminal]
) -> Mistaken:
    """What came back for a wrong message."""
    if wrong.way == "http":
        return await _over_http(wrong, http_port, token)
    one = terminal(wrong.client)
    try:
        await one.open()
        if wrong.step is None:
            return await _frame(wrong, one)
        return await _message(wrong, one)
    except Broken as problem:
        return _mistaken(wrong, got="closed", body=str(problem))
    finally:
        await one.close()


def _mistaken(wrong: Wrong, *, got: str, field: str = "", clear: bool = False, body: str = "") -> Mistaken:
    return Mistaken(
        number=wrong.number,
        way=wrong.way,
        what=wrong.what,
        expect=wrong.expect,
        got=got,
        field=field,
        clear=clear,
        id=wrong.id,
        body=body,
    )


# -- HTTP --------------------


async def _over_http(wrong: Wrong, port: int, token: str) -> Mistaken:
    headers = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(wrong.body)), "Connection": "close"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | wrong.headers).items())
    head = f"{wrong.method} {wrong.path} HTTP/1.1\r\n{lines}\r\n".encode()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(head + wrong.body[: wrong.sent_bytes_max])
                body = await _response_body(reader)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as problem:
        return _mistaken(wrong, got="no answer", body=repr(problem))
    try:
        said = json.loads(body)
    except ValueError:
        return _mistaken(wrong, got="no JSON", body=body[:500].decode("latin-1"))
    field = str(said.get("field", ""))
    clear = bool(said.get("message") and said.get("hint")) and wrong.field in ("", field)
    return _mistaken(wrong, got=str(said.get("code")), field=field, clear=clear, body=body.decode())


async def _response_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return await reader.readexactly(int(value))
    raise ValueError("the response has no Content-Length")


# -- ISO 8583 --------------------


async def _message(wrong: Wrong, one: Terminal) -> Mistaken:
    if wrong.step is None:
        raise ValueError(f"step {wrong.number} has no message")
    said = await one.ask(wrong.step.mti, fields_of(wrong.step) | wrong.changes)
    word = said.get("44", "").strip()
    body = json.dumps({name: value for name, value in sorted(said.items()) if name != "2"})
    return _mistaken(wrong, got=said.get("39", ""), field=word, clear=bool(word), body=body)


async def _frame(wrong: Wrong, one: Terminal) -> Mistaken:
    """Bytes that are no message: dropped and the connection lives, or it ends and a new one lives."""
    await one.send_raw(wrong.frame)
    if "closed" in wrong.expect:
        ended = await one.ended()
        await one.open()
        return _mistaken(wrong, got="closed" if ended else "open", clear=True)
    echo = await one.network(ECHO)
    return _mistaken(wrong, got="dropped" if echo.get("39") == "00" else "deaf", clear=True)
