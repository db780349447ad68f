"""The process that speaks multicast DNS: `python -m edgegw.discovery.multicast`, orders in, reports out.

It lives as long as its standard input is open, so a killed box is said goodbye for as well. It runs when
nobody else wants the processor, takes a fifth of one at most and little memory; whatever goes wrong ends it,
and its parent starts another. IPv4 only. Leaves out what is done with what it finds (`discovery.finder`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import psutil
from zeroconf import IPVersion, NonUniqueNameException, ServiceListener, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from edgegw.discovery.messages import (
    ADDRESSES_MAX,
    LINE_BYTES_MAX,
    PEERS_MAX,
    TYPES,
    Advert,
    Kind,
    Order,
    Peer,
    Report,
    peer_of,
    text_of,
)

LOOK_S: Final = 2.0
"""How often addresses of the machine and one's own name are looked at."""
REPORT_S: Final = 0.5
ALIVE_S: Final = 5.0
"""A report is sent at least so often."""
RESOLVE_MS: Final = 1_500
RESOLVERS: Final = 4
NAMES_WAITING_MAX: Final = 64
MEMORY_BYTES_MAX: Final = 192 << 20
"""Of address space, of which the interpreter and its libraries take about 40 MB."""
PROCESSOR_SHARE: Final = 0.2
PROCESSOR_LOOK_S: Final = 0.1
PAUSE_S_MAX: Final = 2.0
RENAME_PAUSE_S: Final = 60.0
GOODBYE_S: Final = 1.0
_NO_ADDRESS: Final = "no interface of [discovery] has an IPv4 address"

Network = ipaddress.IPv4Interface


def networks_of(wanted: Sequence[str]) -> tuple[Network, ...]:
    """The IPv4 addresses, with their networks, of these interfaces, if up; for none of all but loopback."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = []
    for name, rows in sorted(psutil.net_if_addrs().items()):
        for row in rows:
            if row.family != socket.AF_INET or name not in up:
                continue
            one = Network(f"{row.address}/{row.netmask or '255.255.255.255'}")
            if (name in wanted or row.address in wanted) if wanted else not one.ip.is_loopback:
                found.append(one)
    return tuple(found)


class Speaker(ServiceListener):
    """Says the newest order's advert on its interfaces, and keeps who else is there."""

    def __init__(self) -> None:
        self.order: Order | None = None
        self._changed = asyncio.Event()
        self._networks: tuple[Network, ...] = ()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._said: tuple[Advert, tuple[str, ...]] | None = None
        self._info: AsyncServiceInfo | None = None
        self._host = f"edgegw-{secrets.token_hex(4)}.local."
        """Of this process alone: two machines' addresses must never stand under one name."""
        self._problem = ""
        self._renamed_s = -RENAME_PAUSE_S
        self._peers: dict[Kind, dict[str, Peer]] = {kind: {} for kind in TYPES}
        self._waiting: asyncio.Queue[tuple[str, str]] = asyncio.Queue(NAMES_WAITING_MAX)

    def take(self, order: Order) -> None:
        """This is what to do from now on."""
        self.order = order
        self._changed.set()

    def report(self) -> Report:
        """How it is."""
        own = "" if self._info is None else self._info.name
        return Report(
            instance=own,
            addresses=() if self._info is None or self._said is None else self._said[1],
            problem=self._problem,
            peers=tuple(
                peer
                for peers in self._peers.values()
                for name, peer in sorted(peers.items())
                if name.lower() != own.lower()
            ),
        )

    async def speak(self) -> None:
        """Follow orders, addresses and one's own name until cancelled."""
        while True:
            if self.order is not None:
                await self._follow(self.order)
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _follow(self, order: Order) -> None:
        networks = networks_of(order.interfaces)
        if networks != self._networks or self._zeroconf is None:
            await self.close()
            self._networks = networks
            await self._bind(networks)
        if self._zeroconf is None:
            return
        wanted = None if order.advert is None else self._reachable(order.advert)
        if wanted != self._said:
            await self._say(self._zeroconf, wanted)
        elif self._is_taken(self._zeroconf.zeroconf):
            self._renamed_s = time.monotonic()
            await self._say(self._zeroconf, None)
            await self._say(self._zeroconf, wanted)

    async def _bind(self, networks: tuple[Network, ...]) -> None:
        if not networks:
            self._problem = _NO_ADDRESS
            return
        try:
            self._zeroconf = AsyncZeroconf(
                interfaces=[str(one.ip) for one in networks], ip_version=IPVersion.V4Only
            )
            await self._zeroconf.zeroconf.async_wait_for_start()
        except OSError as problem:
            self._problem = f"multicast DNS cannot be spoken: {problem.strerror or problem}"
            await self.close()
            return
        self._problem = ""
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, list(TYPES.values()), listener=self)

    def _reachable(self, advert: Advert) -> tuple[Advert, tuple[str, ...]] | None:
        """The advert with the ways that listen on these networks, and the addresses where they do."""
        mine = [str(one.ip) for one in self._networks]
        ways, places = {}, set()
        for name, way in advert.ways.items():
            at = mine if _is_everywhere(way.host) else [way.host] if way.host in mine else []
            if at:
                ways[name] = way
                places.update(at)
        if not ways:
            self._problem = "no way in listens on the interfaces of [discovery]"
            return None
        self._problem = ""
        return msgspec.structs.replace(advert, ways=ways), tuple(one for one in mine if one in places)

    async def _say(self, zeroconf: AsyncZeroconf, wanted: tuple[Advert, tuple[str, ...]] | None) -> None:
        """List this instead of what is listed."""
        previous, self._said = self._info, wanted
        if wanted is None:
            self._info = None
            if previous is not None:
                await (await zeroconf.async_unregister_service(previous))
            return
        advert, addresses = wanted
        kind = TYPES[advert.kind]
        port = advert.ways.get("http", next(iter(advert.ways.values()))).port
        name = f"{advert.name}.{kind}" if previous is None else previous.name
        info = AsyncServiceInfo(
            kind,
            name,
            port,
            properties=text_of(advert),
            server=self._host,
            parsed_addresses=list(addresses[:ADDRESSES_MAX]),
        )
        if previous is None:
            try:
                await (await zeroconf.async_register_service(info, allow_name_change=True))
            except NonUniqueNameException:
                self._said = None
                return
        else:
            await (await zeroconf.async_update_service(info))
        self._info = info

    def _is_taken(self, zeroconf: Zeroconf) -> bool:
        """Whether somebody else is listed under one's own name: two networks were joined, or somebody lies.
        One of the two must take another name, and not again and again."""
        own = self._info
        if own is None or time.monotonic() - self._renamed_s < RENAME_PAUSE_S:
            return False
        hosts = {
            str(getattr(record, "server", "")).lower()
            for record in zeroconf.cache.entries_with_name(own.name.lower())
        }
        return any(host > self._host for host in hosts if host)

    # --- who else is there ---

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002 - its shape
        """Somebody is listed; with too much at once some are left out."""
        if not self._waiting.full():
            self._waiting.put_nowait((type_, name))

    update_service = add_service

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002 - its shape
        """Somebody has said goodbye, or was not heard for long."""
        for peers in self._peers.values():
            peers.pop(name, None)

    async def resolve(self) -> None:
        """Look up who is listed, one after the other, until cancelled."""
        while True:
            type_, name = await self._waiting.get()
            order, zeroconf = self.order, self._zeroconf
            if order is None or zeroconf is None:
                continue
            info = AsyncServiceInfo(type_, name)
            if await info.async_request(zeroconf.zeroconf, RESOLVE_MS):
                self._keep(info, order.bank)

    def _keep(self, info: AsyncServiceInfo, bank: str) -> None:
        if (info.server or "").lower() == self._host:
            return
        kind = next(kind for kind, type_ in TYPES.items() if type_ == info.type)
        on_link = [
            one
            for one in info.parsed_addresses(IPVersion.V4Only)
            if any(ipaddress.IPv4Address(one) in network.network for network in self._networks)
        ]
        instance = info.name.removesuffix(f".{info.type}")
        peer = peer_of(kind, instance, info.decoded_properties, addresses=on_link, bank=bank)
        peers = self._peers[kind]
        if peer is None:
            peers.pop(info.name, None)
            return
        if info.name not in peers and len(peers) >= PEERS_MAX:
            peers.pop(secrets.choice(list(peers)))
        peers[info.name] = peer

    async def close(self) -> None:
        """Say goodbye, and forget who was there."""
        zeroconf, self._zeroconf = self._zeroconf, None
        browser, self._browser = self._browser, None
        self._said = self._info = None
        for peers in self._peers.values():
            peers.clear()
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await zeroconf.async_unregister_all_services()
            except (TimeoutError, OSError):
                pass
            await zeroconf.async_close()


def _is_everywhere(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - it is compared


# --- the process --------------------------------------------------------------------------------------------


def take_little() -> None:
    """Run when nobody else wants the processor, in little memory, to the parent's end and no signal's."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)  # a service manager may forbid the other one


async def _rest() -> None:
    """Stand still whenever more than the share was used: what comes meanwhile is the kernel's to drop."""
    used_s, at_s = time.process_time(), time.monotonic()
    while True:
        await asyncio.sleep(PROCESSOR_LOOK_S)
        used_s, before_s = time.process_time(), used_s
        at_s, then_s = time.monotonic(), at_s
        too_soon_s = (used_s - before_s) / PROCESSOR_SHARE - (at_s - then_s)
        if too_soon_s > 0:
            time.sleep(min(too_soon_s, PAUSE_S_MAX))  # noqa: ASYNC251 - the whole process is to rest


async def _tell(speaker: Speaker) -> None:
    """Write a report when there is something new, and now and then to show that this lives."""
    told, told_s = b"", 0.0
    while True:
        line = msgspec.json.encode(speaker.report())
        if line != told or time.monotonic() - told_s > ALIVE_S:
            told, told_s = line, time.monotonic()
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        await asyncio.sleep(REPORT_S)


async def _listen(speaker: Speaker) -> None:
    """Take orders until there are no more."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        speaker.take(msgspec.json.decode(line, type=Order))


async def main() -> None:
    """Speak until the parent is gone."""
    speaker = Speaker()
    works = [speaker.speak(), _tell(speaker), _rest(), *(speaker.resolve() for _ in range(RESOLVERS))]
    tasks = [asyncio.create_task(_listen(speaker)), *(asyncio.create_task(work) for work in works)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await speaker.close()
    for task in done:
        task.result()


if __name__ == "__main__":
    take_little()
    asyncio.run(main())
