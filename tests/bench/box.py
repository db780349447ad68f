"""The product as a process: `edgegw run` in a folder of its own, and the lanes that load it."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.client import load
from tests.bench.place import Place
from tests.bench.product import Answered, check_box
from tests.bench.rounds import Measure
from tests.bench.world import TOKEN_MINUTES
from tests.processes import LINE, Process, edgegw
from tests.waiting import wait_until

START_SECONDS = 120.0


@contextmanager
def preloaded(library: str) -> Iterator[None]:
    """What is started meanwhile loads this shared object first; "" changes nothing."""
    before = os.environ.get("LD_PRELOAD")
    if library:
        os.environ["LD_PRELOAD"] = library
    try:
        yield
    finally:
        if library:
            os.environ.pop("LD_PRELOAD")
            if before is not None:
                os.environ["LD_PRELOAD"] = before


class Box:
    """One box, started by the first lane that needs it and checked by the last."""

    def __init__(self, place: Place, *, name: str = "box", preload: str = "") -> None:
        self._place, self._name, self._preload = place, name, preload
        self.answered = Answered()
        self._process: Process | None = None
        self.is_checked = False

    def open(self, stack: ExitStack) -> None:
        """Copy the world, start, wait until it takes payments."""
        if self._process is not None:
            return
        self.folder = self.copied()
        self.start()
        stack.callback(self.end)

    def copied(self) -> Path:
        """Its folder, with the line's own pauses: those of the tests keep a box busy with asking."""
        folder = self._place.box(self._name)
        settings = folder / "box.toml"
        settings.write_text(settings.read_text().replace(LINE, ""))
        return folder

    def start(self) -> None:
        """`edgegw run`."""
        log = self._place.fresh(f"{self._name}.log")
        with preloaded(self._preload):
            self._process = Process("run", folder=self.folder, log=log)
        addresses = self._process.opened()["addresses"]
        self.port, self.iso_port = (
            int(addresses[name][0].rpartition(":")[2]) for name in ("http", "iso8583")
        )
        wait_until(self._is_ready, "the box to take payments", timeout_seconds=START_SECONDS)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.popen.pid

    @property
    def rss_mb(self) -> float:
        """What it keeps in memory now."""
        return psutil.Process(self.pid).memory_info().rss / 2**20

    @property
    def token(self) -> str:
        """A fresh one: those of a world that was kept have ended."""
        key = str(self.folder / "till.pem")
        words = ("--client", "till", "--box", "box-1", "--key", key, "--minutes", str(TOKEN_MINUTES))
        return edgegw("token", *words).stdout.strip()

    def end(self) -> None:
        """In order; nothing where it has ended."""
        if self._process is not None and self._process.popen.poll() is None:
            self._process.end(signal.SIGTERM)

    def check(self) -> None:
        """Once, with its process ended: every answered payment is in its ledger, which verifies."""
        if not self.is_checked:
            self.end()
            self.hold()
            self.is_checked = True

    def hold(self) -> None:
        """The ledger against what was answered."""
        check_box(self.folder, self.answered.identities())

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask it over HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200


class BoxLane:
    """Payments over HTTP, one a request."""

    kind, path, each = "edgegw", "/v1/payments", 1

    def __init__(self, box: Box, *, name: str, connections: int, **settings: Any) -> None:
        self.name = name
        self.box = box
        self._settings = {"connections": connections, **settings}

    def open(self, stack: ExitStack) -> None:
        """Its box."""
        self.box.open(stack)

    def measure(self, seconds: float) -> Measure:
        """Load by the client; what was answered is noted."""
        return self.loaded(seconds, **self._settings)

    def loaded(self, seconds: float, **settings: Any) -> Measure:
        """The same with these settings of the client."""
        numbers = self.box.answered
        headers = {"Authorization": f"Bearer {self.box.token}"}
        # A batch's number counts batches.
        first = -(-numbers.next // self.each)
        measure = load(
            self.box.pid,
            kind=self.kind,
            first=first,
            seconds=seconds,
            port=self.box.port,
            path=self.path,
            headers=headers,
            **settings,
        )
        numbers.next = first * self.each
        numbers.add(measure.count * self.each)
        return Measure(
            count=measure.count * self.each,
            seconds=measure.seconds,
            cpu_s=measure.cpu_s,
            client_cpu_s=measure.client_cpu_s,
            latency_ms=measure.latency_ms,
            figures={"rss_mb": self.box.rss_mb},
        )

    def check(self) -> None:
        """See `Box.check`."""
        self.box.check()


class BatchLane(BoxLane):
    """A hundred payments a request."""

    kind, path, each = "batch", "/v1/payments/batch", 100
