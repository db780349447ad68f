"""What a server tells the service manager: it serves, how it is, and that it lives by its work."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgegw import app
from edgegw.ledger.writer import Pen
from edgegw.liveness import ROUNDS, Liveness
from tests.ledger.running_box import TestClock, enrol, open_pen, running
from tests.mirror.branch import MirroredBranch
from tests.waiting import until, wait_until

ROUND_S = 0.02


class Listener:
    """A service manager's socket: what was said to it, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self._said: list[str] = []

    def said(self) -> list[str]:
        """All words so far."""
        while True:
            try:
                self._said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._said

    def environment(self, *, watchdog_s: float = ROUND_S * ROUNDS) -> dict[str, str]:
        """What a manager gives to the process."""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def close(self) -> None:
        """No more."""
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A manager that listens at a path."""
    one = Listener(str(tmp_path / "notify"))
    yield one
    one.close()


async def test_a_pen_that_hangs_says_no_more_that_it_lives(tmp_path: Path, listener: Listener) -> None:
    """A bare timer would go on: here the thread that commits is stuck, as on a disk that does not answer."""
    life, stuck = Liveness(listener.environment()), threading.Event()
    async with running(open_pen(tmp_path, TestClock())) as pen:
        await enrol(pen)
        size = pen.desk.tip.size
        watching = asyncio.create_task(life.watch(partial(pen.work, app._nothing)))
        await until(lambda: listener.said().count("WATCHDOG=1") > 2, "signs of life")
        assert pen.desk.tip.size == size, "a sign of life wrote a record"
        hold(pen, stuck)
        await beats(20)
        heard = len(listener.said())
        await beats(20)
        assert len(listener.said()) == heard
        stuck.set()
        await until(lambda: len(listener.said()) > heard, "signs of life once the disk answers")
        watching.cancel()


def hold(pen: Pen, stuck: threading.Event) -> None:
    """Keep the thread that commits busy until `stuck` is set."""
    pen._thread.submit(stuck.wait)


async def beats(count: int) -> None:
    """Let the loop go on for so many rounds."""
    loop = asyncio.get_running_loop()
    enough = loop.time() + count * ROUND_S
    await until(lambda: loop.time() >= enough, "time to pass")


async def test_what_a_round_raises_is_an_answer(listener: Listener) -> None:
    """A hub whose database is away must not be started again and again for it."""

    async def away() -> None:
        raise ConnectionError("the database is away")

    watching = asyncio.create_task(Liveness(listener.environment()).watch(away))
    await until(lambda: listener.said().count("WATCHDOG=1") > 2, "signs of life")
    watching.cancel()


async def test_a_watchdog_of_another_process_is_not_fed(listener: Listener) -> None:
    """A child that inherits the variables would speak for a parent that hangs."""
    life = Liveness({**listener.environment(), "WATCHDOG_PID": "1"})
    watching = asyncio.create_task(life.watch(partial(asyncio.sleep, 0)))
    await beats(5)
    assert listener.said() == []
    assert not watching.done(), "a task that ends would end the server"
    watching.cancel()


def test_a_status_is_one_line_and_said_once(listener: Listener) -> None:
    """A reason with a line break could say READY=1 for a server that is not."""
    life = Liveness(listener.environment())
    life.status("offline: no\nREADY=1")
    life.status("offline: no READY=1")
    assert listener.said() == ["STATUS=offline: no READY=1"]


def test_an_abstract_socket_and_none_and_a_dead_one(tmp_path: Path) -> None:
    """Containers give abstract ones; without one nothing is said; one that is gone stops no server."""
    abstract = Listener(f"@edgegw-{tmp_path.name}")
    Liveness(abstract.environment()).ready()
    Liveness({}).ready()
    Liveness({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert abstract.said() == ["READY=1"]
    abstract.close()


def test_hub_mirror_and_box_say_that_they_serve_and_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type=notify waits for the first, WatchdogSec= for the second; a stop is told before it is done."""
    names = ("mirror", "hub", "box")
    heard = {name: Listener(str(tmp_path / name)) for name in names}
    branch = MirroredBranch(tmp_path / "branch")
    try:
        for name in names:
            for key, value in heard[name].environment(watchdog_s=0.4).items():
                monkeypatch.setenv(key, value)
            getattr(branch, f"start_{name}")()
        for name in names:
            wait_until(
                lambda name=name: heard[name].said().count("WATCHDOG=1") > 1,  # type: ignore[misc]
                f"signs of life of the {name}",
            )
        wait_until(lambda: "STATUS=active" in "".join(heard["box"].said()), "the box to say how it is")
        assert [heard[name].said().count("READY=1") for name in names] == [1, 1, 1]
        assert branch.box is not None
        assert branch.box.end(signal.SIGTERM) == 0
        assert "STOPPING=1" in heard["box"].said()
    finally:
        branch.end()
        for one in heard.values():
            one.close()
