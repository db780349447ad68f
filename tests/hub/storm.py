"""All boxes come back at once: real hub processes, real signatures, one database, and one of the hubs may
be killed.

    python -m tests.hub.storm --boxes 200 --hubs 3 --kill
    python -m tests.hub.storm --boxes 20 --hubs 1 --engine sqlite

Prints one JSON object: what it took, what the hubs' memory came to, and what plain SQL finds in the books
afterwards.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import psutil
from sqlalchemy import text

from edgegw.access import key_files
from edgegw.core.messages import EXCHANGE_PATH, PackageVerdict, Verdict
from edgegw.hub.identities import register_boxes
from tests.hub.fleet import Fleet
from tests.hub.places import Place, PostgresPlace, SqlitePlace, make_database, own_engine
from tests.hub.simulated_box import BANK, SimulatedBox
from tests.hub.world import check_books
from tests.ports import free_ports
from tests.postgres_server import end_server, the_server
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parent.parent.parent
EACH: Final = 50
"""Records of one push."""
TRIES_MAX: Final = 400
PAUSE_S: Final = 0.05
START_S_MAX: Final = 120.0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One storm."""

    engine: str
    boxes: int
    hubs: int
    records: int
    pushes: int
    seconds: float
    pushes_per_second: float
    records_per_second: float
    rss_max_bytes: tuple[int, ...]
    """Of each hub process."""
    killed: bool
    records_kept: int
    """By plain SQL, the epochs' first records and directives among them."""
    records_sent: int
    duplicates_or_again: int
    """Pushes that had to be sent again, because a hub was gone or another had taken them."""


class Hubs:
    """Hub processes on one database."""

    def __init__(self, folder: Path, fleet: Fleet, place: Place, count: int) -> None:
        key_files.store_private_key(folder / "hub.pem", fleet.hub_key._private)
        boxes = "".join(f'{name} = "{key.public.text()}"\n' for name, key in fleet.devices.items())
        self.ports = free_ports(count)
        self.processes = []
        for number, port in enumerate(self.ports):
            settings = folder / f"hub-{number}.toml"
            settings.write_text(
                f'bank = "{BANK}"\nlisten = ["127.0.0.1:{port}"]\nkey_file = "hub.pem"\n'
                f'{_database(place)}[log]\nlevel = "error"\n[boxes]\n{boxes}'
            )
            self.processes.append(
                subprocess.Popen([sys.executable, "-m", "edgegw", "hub", str(settings)], cwd=ROOT)
            )
        for port in self.ports:
            wait_until(lambda port=port: _is_open(port), "a hub to listen", timeout_seconds=START_S_MAX)
        self.rss_max_bytes = [0] * count
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._measure)
        self._watch.start()

    def _measure(self) -> None:
        while not self._over.wait(PAUSE_S):
            for number, process in enumerate(self.processes):
                try:
                    used = psutil.Process(process.pid).memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                self.rss_max_bytes[number] = max(self.rss_max_bytes[number], used)

    def talk(self, data: bytes, *, first: int) -> bytes:
        """A box's message to whichever hub answers, the same bytes until one does."""
        for number in range(first, first + TRIES_MAX):
            line = http.client.HTTPConnection("127.0.0.1", self.ports[number % len(self.ports)], timeout=60)
            try:
                line.request("POST", EXCHANGE_PATH, data)
                reply = line.getresponse()
                body = reply.read()
                if reply.status == 200:
                    return body
            except (OSError, http.client.HTTPException):
                pass
            finally:
                line.close()
            threading.Event().wait(PAUSE_S)
        raise ConnectionError("no hub answers")

    def kill_one(self) -> None:
        """SIGKILL for the first of them."""
        self.processes[0].send_signal(signal.SIGKILL)

    def end(self) -> None:
        """End them all."""
        self._over.set()
        self._watch.join()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _database(place: Place) -> str:
    if isinstance(place, PostgresPlace):
        return f'database_url = "{place.url}"\ndatabase_password_file = "{place.password_file}"\n'
    assert isinstance(place, SqlitePlace)
    return f'database_file = "{place.path}"\n'


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


class _Again:
    """Counts what had to be sent again."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.Lock()


def _push_all(box: SimulatedBox, again: _Again) -> int:
    pushes = 0
    while box.held < len(box.bodies):
        end = min(len(box.bodies), box.held + EACH)
        beaten = box.beat(push=box.package(box.held, end))
        pushes += 1
        if beaten.verdict is Verdict.REOPEN:
            box.open()
        if beaten.push is not PackageVerdict.ACCEPTED:
            with again.lock:
                again.count += 1
    return pushes


def storm(place: Place, folder: Path, *, boxes: int, hubs: int, records: int, kill: bool) -> Figures:
    """Let them all come back, and read the books afterwards. Raises AssertionError for what is wrong
    there."""
    fleet = Fleet(boxes)
    database = place.open()
    database.transact(lambda c: register_boxes(c, fleet.keyring, now_ns=1))
    fleet.set_up(database)
    database.close()
    centre = Hubs(folder, fleet, place, hubs)
    again = _Again()
    try:
        numbers = range(boxes)
        each = records // boxes

        def begin(number: int) -> SimulatedBox:
            def talk(data: bytes) -> bytes:
                return centre.talk(data, first=number)

            box = fleet.box(fleet.names[number], talk)
            for _ in range(each):
                box.pay(f"{box.name}:payer", "MALL", 1)
            return box

        with ThreadPoolExecutor(8) as threads:
            fleet_up = list(threads.map(begin, numbers))
        start_s = time.monotonic()
        with ThreadPoolExecutor(boxes) as threads:
            work = [threads.submit(_push_all, box, again) for box in fleet_up]
            if kill:
                wait_until(
                    lambda: sum(one.done() for one in work) >= boxes // 10, "some boxes", timeout_seconds=600
                )
                centre.kill_one()
            pushes = sum(one.result() for one in work)
        seconds = time.monotonic() - start_s
    finally:
        centre.end()
    sent = sum(len(box.bodies) for box in fleet_up)
    with place.engine.begin() as connection:
        check_books(connection)
        kept = connection.execute(text("SELECT COUNT(*) FROM record")).scalar_one()
        mall = connection.execute(
            text("SELECT balance_minor FROM account WHERE account_id = 'MALL'")
        ).scalar_one()
        assert connection.execute(text("SELECT COUNT(*) FROM suspense_item")).scalar_one() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM loss")).scalar_one() == 0
    assert (kept, mall) == (sent, each * boxes)
    return Figures(
        engine="postgresql" if isinstance(place, PostgresPlace) else "sqlite",
        boxes=boxes,
        hubs=hubs,
        records=each * boxes,
        pushes=pushes,
        seconds=round(seconds, 2),
        pushes_per_second=round(pushes / seconds, 1),
        records_per_second=round(each * boxes / seconds, 1),
        rss_max_bytes=tuple(centre.rss_max_bytes),
        killed=kill,
        records_kept=kept,
        records_sent=sent,
        duplicates_or_again=again.count,
    )


def main() -> None:
    """See the module."""
    words = argparse.ArgumentParser(description="All boxes come back at once.")
    words.add_argument("--boxes", type=int, default=200)
    words.add_argument("--hubs", type=int, default=3)
    words.add_argument("--records", type=int, default=20_000, help="in all")
    words.add_argument("--engine", choices=("postgresql", "sqlite"), default="postgresql")
    words.add_argument("--kill", action="store_true", help="kill one of the hubs in the middle")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgegw-storm-") as name:
        folder = Path(name)
        os.environ["EDGEGW_TESTS_MAIN_PID"] = str(os.getpid())
        place: Place = SqlitePlace(folder / "hub.db")
        try:
            if asked.engine == "postgresql":
                server = the_server(folder)
                make_database(server, "storm")
                place = PostgresPlace(server, "storm", folder, own_engine(server, "storm"))
            figures = storm(
                place, folder, boxes=asked.boxes, hubs=asked.hubs, records=asked.records, kill=asked.kill
            )
        finally:
            end_server(folder)
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
