"""Bytes to a hub address and back, within a time limit: the only file of the line that knows HTTP.

Nothing here is trusted: what comes back is checked by its envelope's signature or by its digest. A peer that
accepts and stays silent, answers too much or answers anything but 200 is a `LineFault`, never a hang.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
from typing import Final, NamedTuple

import aiohttp

from edgegw.core.messages import EXCHANGE_PATH, MESSAGE_BYTES_MAX, SITE_BYTES_MAX, SITE_PATH
from edgegw.errors import LinkDown
from edgegw.uplink.ports import LineSettings

_CHUNK_BYTES: Final = 1 << 16
_ERROR_BYTES_MAX: Final = 200
_SITE_S_MAX: Final = 1_800
"""A line that cannot carry a bundle in half an hour needs a person."""
_GZIP_LEVEL: Final = 6
CONTENT_TYPE: Final = "application/msgpack"


class LineFault(LinkDown):
    """This address did not answer as a hub does; the text says what it did."""


class NotThere(LineFault):
    """The address answers, but does not have what was asked for."""


class Sent(NamedTuple):
    """An answer, and how many bytes went out for it on the wire."""

    answer: bytes
    sent_bytes: int


class Transport:
    """HTTP to the hub's addresses; `tls` is for https addresses."""

    def __init__(self, settings: LineSettings, *, tls: ssl.SSLContext | None = None) -> None:
        self._answer_s = settings.answer_timeout_ms / 1_000
        self._connect_s = settings.connect_timeout_ms / 1_000
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, address: str, message: bytes) -> Sent:
        """POST one envelope and read the answer, answer_timeout_ms at most in all; raises LineFault."""
        body = await asyncio.to_thread(gzip.compress, message, _GZIP_LEVEL, mtime=0)
        timeout = aiohttp.ClientTimeout(total=self._answer_s, connect=self._connect_s)
        headers = {"Content-Encoding": "gzip", "Content-Type": CONTENT_TYPE}
        try:
            async with self._client().post(
                address.rstrip("/") + EXCHANGE_PATH,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._tls or True,
            ) as response:
                return Sent(await _read(response, MESSAGE_BYTES_MAX), len(body))
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise LineFault(f"{address}: {_said(problem)}") from None

    async def site(self, address: str, digest: str) -> bytes:
        """GET a site bundle by its digest in hex; slow is well, silent is not. Raises LineFault, NotThere."""
        timeout = aiohttp.ClientTimeout(total=_SITE_S_MAX, connect=self._connect_s, sock_read=self._answer_s)
        try:
            async with self._client().get(
                address.rstrip("/") + SITE_PATH + digest,
                timeout=timeout,
                allow_redirects=False,
                ssl=self._tls or True,
            ) as response:
                return await _read(response, SITE_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise LineFault(f"{address}: {_said(problem)}") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True)
        return self._session


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body of a 200, bytes_max at most after decompression."""
    if response.status != 200:
        text = (await response.content.read(_ERROR_BYTES_MAX)).decode("ascii", "replace")
        kind = NotThere if response.status == 404 else LineFault
        raise kind(f"{response.url.origin()}: HTTP {response.status} {text.strip()}")
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        size += len(chunk)
        if size > bytes_max:
            raise LineFault(f"{response.url.origin()}: an answer of more than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _said(problem: BaseException) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    return str(problem) or type(problem).__name__
