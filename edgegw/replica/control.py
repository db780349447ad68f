"""Asking a running litestream where it is, by its control socket.

Its word "running" proves nothing; the position that it has copied is what counts.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec


class Position(msgspec.Struct, frozen=True):
    """How far litestream is, in its own numbers: each counts a batch of pages, not a payment."""

    txid: int
    """What it has read of the ledger."""
    replicated_txid: int = 0
    """What of that is at the target."""


class ControlError(Exception):
    """It answered, and the answer is a complaint."""


class _Complaint(msgspec.Struct):
    error: str


class Busy(Exception):
    """It answers, and is at work on something long: a whole copy."""


class Control:
    """One litestream's control socket."""

    def __init__(self, socket: Path, *, ledger: Path) -> None:
        self._socket = socket
        self._ledger = str(ledger)
        self._session: aiohttp.ClientSession | None = None

    async def position(self, *, timeout_s: float) -> Position:
        """Let it read what is new of the ledger, and say how far it is.

        Raises ControlError for a complaint, Busy, and OSError or TimeoutError when it does not answer.
        """
        try:
            content = await self._ask("POST", "/sync", timeout_s, {"path": self._ledger, "wait": False})
        except TimeoutError:
            await self._ask("GET", "/debug/sync-status", timeout_s)
            raise Busy from None
        try:
            return msgspec.json.decode(content, type=Position)
        except msgspec.MsgspecError:
            raise ControlError(_complaint(content)) from None

    async def close(self) -> None:
        """Give the connection back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, path: str, timeout_s: float, body: object = None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._opened().request(
                method, f"http://litestream{path}", json=body, timeout=timeout
            ) as answer:
                return await answer.read()
        except aiohttp.ClientError as problem:
            raise OSError(str(problem)) from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def _complaint(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=_Complaint).error
    except msgspec.MsgspecError:
        return content[:200].decode(errors="replace")
