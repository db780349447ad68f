"""Who gives way when places run out: of the address that has the most, the one that has waited longest. An
address that takes many places so loses its own, and others keep theirs.

Each step takes the same time however many there are. Leaves out what a place is (`access.arrivals`,
`access.shield`)."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

One = TypeVar("One")


class Crowd(Generic[One]):
    """Those that may give way, by their address."""

    def __init__(self) -> None:
        self._host_of: dict[One, str] = {}
        self._of_host: dict[str, dict[One, None]] = {}
        """The longest waiting first."""
        self._by_count: dict[int, dict[str, None]] = {}
        """The addresses that have so many."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._host_of)

    def count(self, host: str) -> int:
        """How many this address has."""
        return len(self._of_host.get(host, ()))

    def add(self, one: One, host: str) -> None:
        """Let it wait from now on."""
        self.discard(one)
        self._host_of[one] = host
        self._of_host.setdefault(host, {})[one] = None
        count = self.count(host)
        self._move(host, count - 1, count)
        self._most = max(self._most, count)

    def discard(self, one: One) -> None:
        """It waits no longer, if it did."""
        host = self._host_of.pop(one, None)
        if host is None:
            return
        del self._of_host[host][one]
        count = self.count(host)
        if not count:
            del self._of_host[host]
        self._move(host, count + 1, count)
        if self._most not in self._by_count:
            self._most = count

    def _move(self, host: str, before: int, count: int) -> None:
        if before:
            del self._by_count[before][host]
            if not self._by_count[before]:
                del self._by_count[before]
        if count:
            self._by_count.setdefault(count, {})[host] = None

    def first(self) -> One | None:
        """Who gives way next; None where nobody waits."""
        if not self._host_of:
            return None
        host = next(iter(self._by_count[self._most]))
        return next(iter(self._of_host[host]))


def host_of(transport: asyncio.BaseTransport) -> str:
    """The address of a connection's peer, `?` where it is gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else "?"
