"""Where a repository is read from: the hub, over the box's own line, or a folder, as on a stick.

Nothing that comes is trusted here; it is bounded, and silence ends. Leaves out what it means
(`update.trusted`) and where bundles go (`update.bundle`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from edgegw.errors import LinkDown
from edgegw.foreign_files import open_regular

UPDATES_PATH: Final = "/exchange/updates/"
METADATA_FOLDER: Final = "metadata"
TARGETS_FOLDER: Final = "targets"
NOW_NAME: Final = "NOW"
"""In a stick's folder: whoever put it in does not wait for the hours."""
CONNECT_S: Final = 10.0
SILENCE_S: Final = 30.0
METADATA_S_MAX: Final = 120.0
BUNDLE_S_MAX: Final = 12 * 3600.0
"""A line so thin that it takes longer goes on where it was; each look begins a new try."""
CHUNK_BYTES: Final = 1 << 18
_AGAIN: Final = "The agent tries again by itself, and goes on where it was."


class NotThere(Exception):
    """The source has no such file."""


class TooLong(Exception):
    """More came than the file may have."""


class Source(Protocol):
    """A repository of releases: metadata and bundles by their names."""

    @property
    def name(self) -> str:
        """As problems tell it."""
        ...

    def metadata(self, name: str, *, bytes_max: int) -> bytes:
        """A whole file; raises NotThere, TooLong and LinkDown."""
        ...

    def bundle(self, name: str, *, start: int, take: Callable[[int, bytes], None]) -> None:
        """Give the bundle's bytes to take(position, bytes), in order, from position `start` on or, where the
        source cannot, from 0; raises NotThere, LinkDown and what `take` raises."""
        ...


class FolderSource:
    """A repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = str(folder)

    def metadata(self, name: str, *, bytes_max: int) -> bytes:
        """As `Source` has it."""
        try:
            with open_regular(self._folder, METADATA_FOLDER, name) as file:
                body = file.read(bytes_max + 1)
        except FileNotFoundError:
            raise NotThere(name) from None
        except OSError as problem:
            raise LinkDown(f"{self.name}: {name}: {problem.strerror}", hint="Try another stick.") from None
        if len(body) > bytes_max:
            raise TooLong(f"{name}: more than {bytes_max} bytes")
        return body

    def bundle(self, name: str, *, start: int, take: Callable[[int, bytes], None]) -> None:
        """As `Source` has it."""
        try:
            with open_regular(self._folder, TARGETS_FOLDER, name) as file:
                file.seek(start)
                for chunk in _chunks(lambda: file.read(CHUNK_BYTES)):
                    take(start, chunk)
                    start += len(chunk)
        except FileNotFoundError:
            raise NotThere(name) from None
        except OSError as problem:
            if problem.filename is None and not isinstance(problem, FileNotFoundError):
                raise
            raise LinkDown(f"{self.name}: {name}: {problem.strerror}", hint="Try another stick.") from None


def _chunks(read: Callable[[], bytes]) -> Iterator[bytes]:
    while chunk := read():
        yield chunk


class HubSource:
    """The repository that the hub serves, at the first of its addresses that answers."""

    def __init__(self, addresses: Sequence[str], tls: ssl.SSLContext | None) -> None:
        self._addresses = tuple(address.rstrip("/") for address in addresses)
        self._tls = tls
        self.name = "the hub"

    def metadata(self, name: str, *, bytes_max: int) -> bytes:
        """As `Source` has it."""
        body = bytearray()

        def take(_: int, chunk: bytes) -> None:
            if len(body) + len(chunk) > bytes_max:
                raise TooLong(f"{name}: more than {bytes_max} bytes")
            body.extend(chunk)

        def begin() -> int:
            body.clear()
            return 0

        self._first(f"{METADATA_FOLDER}/{name}", begin, take, METADATA_S_MAX)
        return bytes(body)

    def bundle(self, name: str, *, start: int, take: Callable[[int, bytes], None]) -> None:
        """As `Source` has it."""
        reached = start

        def taken(position: int, chunk: bytes) -> None:
            nonlocal reached
            take(position, chunk)
            reached = position + len(chunk)

        self._first(f"{TARGETS_FOLDER}/{name}", lambda: reached, taken, BUNDLE_S_MAX)

    def _first(
        self, path: str, begin: Callable[[], int], take: Callable[[int, bytes], None], seconds_max: float
    ) -> None:
        """Read from one address after the other until one has given all."""
        said = []
        for address in self._addresses:
            try:
                asyncio.run(self._read(address + UPDATES_PATH + path, begin(), take, seconds_max))
            except (aiohttp.ClientError, TimeoutError, ssl.SSLError, ConnectionError) as problem:
                said.append(f"{address}: {str(problem) or 'no answer in time'}")
            else:
                return
        raise LinkDown("; ".join(said), hint=_AGAIN)

    async def _read(
        self, url: str, start: int, take: Callable[[int, bytes], None], seconds_max: float
    ) -> None:
        timeout = aiohttp.ClientTimeout(total=seconds_max, connect=CONNECT_S, sock_read=SILENCE_S)
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, auto_decompress=False
            ) as session,
            session.get(url, headers=headers, allow_redirects=False, ssl=self._tls or True) as answer,
        ):
            if answer.status == 404:
                raise NotThere(url)
            if answer.status == 416:
                return  # there is nothing behind what we have
            if answer.status not in (200, 206):
                raise aiohttp.ClientPayloadError(f"HTTP {answer.status}")
            position = start if answer.status == 206 else 0
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                take(position, chunk)
                position += len(chunk)
