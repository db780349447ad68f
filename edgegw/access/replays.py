"""That a signed request counts once: nonces of the times that its signer names, or of a challenge of the box.

*Times.* A request names when it was made; it must be within a window around the box's clock and later than
the client's floor, and its nonce must be new within its second. Below the floor all counts as spent, so
memory is bounded: the oldest second goes, and the floor rises. The floor is on disk before a request that is
above it is let through, up to FLOOR_AHEAD_S further, so that one fsync serves for that long. After a restart,
and when the clock went back, what was let through before is below the floor.

*Challenges.* Who is refused is given a fresh one: random bytes and the box's monotonic second under a key of
this process. They need no clock, nothing on disk, and no memory before they are used; a restart ends them.

Leaves out signatures (`access.signatures`)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from edgegw.sm.sm3 import hmac_sm3

_log = structlog.get_logger("edgegw.replays")

FLOORS_NAME: Final = "signatures.json"
WINDOW_S: Final = 60
"""So far a request's time may lie before or behind the box's clock."""
FLOOR_AHEAD_S: Final = 2
NONCES_MAX: Final = 100_000
"""Remembered for each client and of each kind, some 15 MB at most; then the oldest second is forgotten and
refused."""
CHALLENGE_LIFETIME_S: Final = 300
CHALLENGE_PREFIX: Final = "box."
_RANDOM_BYTES: Final = 12
_STAMP: Final = f">{_RANDOM_BYTES}sI"
_MAC_BYTES: Final = 16


class Refused(Exception):
    """A request that does not count; `code` is `signature_stale`, `signature_replayed` or `storage_full`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Spent:
    """Nonces by their second; all of the floor's second and below are spent."""

    def __init__(self, floor_s: int) -> None:
        self.floor_s = floor_s
        self._seconds: dict[int, set[str]] = {}
        self._count = 0

    def spend(self, second: int, nonce: str) -> bool:
        """Spend a nonce of a second above the floor; False when it is spent already."""
        nonces = self._seconds.setdefault(second, set())
        if nonce in nonces:
            return False
        nonces.add(nonce)
        self._count += 1
        while self._count > NONCES_MAX:
            self._forget(min(self._seconds))
        return True

    def forget_before(self, second: int) -> None:
        """Let all before this second count as spent."""
        for old in [one for one in self._seconds if one < second]:
            self._forget(old)

    def _forget(self, second: int) -> None:
        self._count -= len(self._seconds.pop(second))
        self.floor_s = max(self.floor_s, second)


class Floors:
    """Each client's floor on disk: a second that no request let through so far lies above."""

    def __init__(self, file: Path, *, now_s: Callable[[], float]) -> None:
        """Read what the process before has left. Where a file is there and cannot be read, no time is
        believed before all that may have been let through lies behind."""
        self._file = file
        self._on_disk: dict[str, int] = {}
        self._base_s = int(now_s()) - 1
        """Of every client: what was signed before this process began was for the one before."""
        self._write: asyncio.Task[None] | None = None
        try:
            self._on_disk = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as problem:
            self._base_s += 1 + WINDOW_S
            _log.warning("floors_unreadable", path=str(file), problem=str(problem))
        self._wanted = dict(self._on_disk)

    def floor_s(self, client: str) -> int:
        """What counts as spent at the start of this process."""
        return max(self._on_disk.get(client, 0), self._base_s)

    async def cover(self, client: str, second: int) -> None:
        """Return once the floor on disk is at this second or above; raises Refused (`storage_full`)."""
        if self._on_disk.get(client, 0) >= second:
            return
        self._wanted[client] = max(self._wanted.get(client, 0), second + FLOOR_AHEAD_S)
        while self._on_disk.get(client, 0) < second:
            if self._write is None:
                self._write = asyncio.create_task(self._put())
            try:
                await asyncio.shield(self._write)
            except OSError as problem:
                raise Refused(
                    "storage_full", f"that the request was made cannot be kept: {problem.strerror}"
                ) from None

    async def _put(self) -> None:
        """One write for all that wait for it; who comes meanwhile waits for the next."""
        try:
            floors = dict(self._wanted)
            await asyncio.get_running_loop().run_in_executor(None, self._replace, msgspec.json.encode(floors))
            self._on_disk = floors
        finally:
            self._write = None

    def _replace(self, content: bytes) -> None:
        draft = self._file.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Replays:
    """What one box has let through of signed requests."""

    def __init__(
        self,
        file: Path,
        *,
        now_s: Callable[[], float] = time.time,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self._mono_s = mono_s
        self._began_s = mono_s()
        self._floors = Floors(file, now_s=now_s)
        self._key = secrets.token_bytes(32)
        self._timed: dict[str, _Spent] = {}
        self._challenged: dict[str, _Spent] = {}

    @property
    def now_s(self) -> int:
        """The box's clock."""
        return int(self._now_s())

    def challenge(self) -> str:
        """A fresh challenge: a nonce, or the beginning of nonces, for CHALLENGE_LIFETIME_S."""
        stamp = struct.pack(_STAMP, secrets.token_bytes(_RANDOM_BYTES), self._second())
        return CHALLENGE_PREFIX + base64.urlsafe_b64encode(stamp + self._mac(stamp)).decode().rstrip("=")

    async def spend(self, client: str, *, nonce: str, created_s: int, expires_s: int) -> None:
        """Let a request of this client through, once; -1: it names no such time. Raises Refused."""
        if nonce.startswith(CHALLENGE_PREFIX):
            self._spend_challenge(client, nonce)
            return
        now_s = self.now_s
        _check_times(now_s, created_s, expires_s)
        spent = self._timed.get(client)
        if spent is None:
            spent = self._timed[client] = _Spent(self._floors.floor_s(client))
        spent.forget_before(now_s - WINDOW_S)
        if created_s <= spent.floor_s:
            raise Refused(
                "signature_stale",
                f"created {created_s} is not after {spent.floor_s}, up to which all counts as sent before",
            )
        if not spent.spend(created_s, nonce):
            raise Refused("signature_replayed", "a request with this created and nonce came before")
        await self._floors.cover(client, created_s)

    def _spend_challenge(self, client: str, nonce: str) -> None:
        given = nonce.removeprefix(CHALLENGE_PREFIX).partition(".")[0]
        try:
            raw = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        stamp, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(stamp) != struct.calcsize(_STAMP) or not hmac.compare_digest(mac, self._mac(stamp)):
            raise Refused("signature_stale", "the nonce is no challenge of this box since it started")
        second = int(struct.unpack(_STAMP, stamp)[1])
        oldest = self._second() - CHALLENGE_LIFETIME_S
        spent = self._challenged.setdefault(client, _Spent(-1))
        spent.forget_before(oldest)
        if second <= max(spent.floor_s, oldest):
            raise Refused("signature_stale", f"the challenge is older than {CHALLENGE_LIFETIME_S} s")
        if not spent.spend(second, nonce):
            raise Refused("signature_replayed", "a request with this challenge as its nonce came before")

    def _second(self) -> int:
        return int(self._mono_s() - self._began_s)

    def _mac(self, stamp: bytes) -> bytes:
        return hmac_sm3(self._key, stamp)[:_MAC_BYTES]


def _check_times(now_s: int, created_s: int, expires_s: int) -> None:
    if created_s < 0:
        raise Refused("signature_stale", "it names no time: give created, or a challenge as the nonce")
    apart_s = created_s - now_s
    if abs(apart_s) > WINDOW_S:
        where = "ahead of" if apart_s > 0 else "behind"
        raise Refused(
            "signature_stale",
            f"created {created_s} is {abs(apart_s)} s {where} the box's clock, more than {WINDOW_S} s",
        )
    if 0 <= expires_s < now_s:
        raise Refused(
            "signature_stale", f"expires {expires_s} is {now_s - expires_s} s behind the box's clock"
        )
