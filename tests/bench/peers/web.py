"""The peers that answer over HTTP: FastAPI on PostgreSQL, and a bare echo."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from tests.bench.children import Child, bench_program, cpu_s, environment, kept
from tests.bench.client import load
from tests.bench.peers.postgres import HERE, ROLE, tuned
from tests.bench.place import Place
from tests.bench.product import Answered
from tests.bench.rounds import Measure, WrongAnswer
from tests.ports import free_ports

PATH: Final = "/v1/payments"
PLAIN: Final = {"workers": 2, "pool": 16}
"""Where the sweep begins."""


class Echo:
    """One process of bare aiohttp."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.port = 0

    def open(self, stack: ExitStack) -> None:
        """Start it, once."""
        if self.port:
            return
        python = bench_program("python")
        [self.port] = free_ports(1)
        words = [python, HERE / "echo.py", str(self.port)]
        self.child: Child = kept(stack, Child(words, log=self._place.fresh("echo.log")))
        self.child.listens(self.port)


class EchoLane:
    """The same bodies, sent back."""

    def __init__(self, echo: Echo, *, name: str, connections: int, **settings: Any) -> None:
        self.name = name
        self._echo, self._settings = echo, {"connections": connections, **settings}
        self._next = 1

    def open(self, stack: ExitStack) -> None:
        """Its server."""
        self._echo.open(stack)

    def measure(self, seconds: float) -> Measure:
        """Load by the client."""
        measure = load(
            self._echo.child.pid,
            kind="echo",
            first=self._next,
            seconds=seconds,
            port=self._echo.port,
            path=PATH,
            **self._settings,
        )
        self._next += measure.count
        return measure

    def check(self) -> None:
        """Each body was held to its request."""


class FastApi:
    """FastAPI's workers before the run's PostgreSQL."""

    def __init__(
        self, place: Place, answered: Answered, *, style: str, settings: dict[str, int] | None = None
    ) -> None:
        self._place, self._style = place, style
        self._given = settings
        self.port = 0
        self.answered = answered
        """Of all who share the database."""

    def open(self, stack: ExitStack) -> None:
        """Start it, once."""
        if self.port:
            return
        uvicorn = bench_program("uvicorn")
        self.server = self._place.postgres
        found = tuned().get(f"fastapi_{self._style}", {}) if self._given is None else self._given
        settings = PLAIN | found
        [port] = free_ports(1)
        more = {
            "PAY_DSN": f"postgresql://{ROLE}@/postgres?host={self.server.socket_folder}&port={self.server.port}",
            "PAY_STYLE": self._style,
            "PAY_POOL": str(settings["pool"]),
        }
        words = [uvicorn, "tests.bench.peers.fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        words += ["--workers", str(settings["workers"]), "--backlog", "1024"]
        log = self._place.fresh(f"fastapi-{self._style}.log")
        self.child: Child = kept(stack, Child(words, log=log, env=environment(**more)))
        self.child.listens(port)
        self.port = port

    @property
    def cpu_s(self) -> float:
        """Of its workers and of the database."""
        return cpu_s(self.child.pid) + self.server.cpu_s

    def check(self) -> None:
        """The database holds what was answered, and the balances agree."""
        self.server.check_balances()
        held = {row[0].bytes for row in self.server.query("SELECT id FROM transfer")}
        if lost := self.answered.identities() - held:
            raise WrongAnswer(f"{len(lost)} answered payments are not in PostgreSQL, as {min(lost).hex()}")


class FastApiLane:
    """Payments, one a request."""

    def __init__(self, app: FastApi, *, name: str, connections: int) -> None:
        self.name = name
        self._app, self._connections = app, connections

    def open(self, stack: ExitStack) -> None:
        """Its server."""
        self._app.open(stack)

    def measure(self, seconds: float) -> Measure:
        """Load by the client; what was answered is noted."""
        app = self._app
        measure = load(
            lambda: app.cpu_s,
            kind="paid",
            first=app.answered.next,
            seconds=seconds,
            port=app.port,
            path=PATH,
            connections=self._connections,
        )
        app.answered.add(measure.count)
        return measure

    def check(self) -> None:
        """See `FastApi.check`."""
        self._app.check()
