"""Ports that nobody takes between their choice and their use."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_000


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens, and which the kernel gives to nobody who asks for any free one: another
    test would have it by the time that a process starts, or starts again, on it."""
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    taken: list[socket.socket] = []
    chance = random.SystemRandom()
    try:
        while len(taken) < count:
            port = chance.randrange(_FIRST, end) if end > _FIRST else 0
            try:
                taken.append(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return [int(one.getsockname()[1]) for one in taken]
    finally:
        for one in taken:
            one.close()
