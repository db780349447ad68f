"""`python -m tests.bench.sweep`: find the settings by which the peers are fastest here, and write them down.

One setting after the other, all its values in interleaved rounds on the best of those before; a value is
taken over when it is better by more than rounds scatter. Durability is never a setting of the sweep: fsync,
full_page_writes and synchronous_commit stay on. tuned.json holds what was chosen and every figure that led
there; `make bench` runs the peers by it. Meant for a quiet machine; takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.bench import machine
from tests.bench.peers.postgres import TUNED, PgbenchLane, Postgres
from tests.bench.peers.web import PLAIN, FastApi, FastApiLane
from tests.bench.place import DEFAULT, Place
from tests.bench.product import Answered
from tests.bench.rounds import Group, Lane, Spread, run_group

BETTER: Final = 1.03
POSTGRESQL: Final[dict[str, tuple[str, ...]]] = {
    "shared_buffers": ("1GB", "256MB", "4GB"),
    "wal_buffers": ("64MB", "16MB"),
    "wal_sync_method": ("fdatasync", "open_datasync"),
    "commit_delay": ("0", "50", "200", "1000"),
    "wal_compression": ("off", "on"),
    "io_method": ("worker", "sync"),
    "huge_pages": ("try", "off"),
    "max_wal_size": ("8GB", "1GB"),
}
"""The first value of each is where the sweep begins."""
FASTAPI: Final = tuple({"workers": workers, "pool": pool} for workers in (2, 1, 3) for pool in (16, 4, 8, 32))


class SweptLane(PgbenchLane):
    """The one-call transfer on a server of its own settings."""

    def __init__(self, place: Place, settings: Mapping[str, str]) -> None:
        super().__init__(place, name=_named(settings), function="pay", table="transfer")
        self._settings = settings

    def served(self, stack: ExitStack) -> Postgres:
        """A server that ends with the set of rounds."""
        server = Postgres(self._place, self._settings)
        server.start(stack)
        return server


def _named(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "as it begins"


def medians(lanes: Sequence[Lane], place: Place, *, rounds: int, seconds: float) -> dict[str, float]:
    """Payments a second of each lane that stands, in the order of the lanes."""
    group = Group(name="sweep", about="", lanes=lambda _: lanes)
    found = run_group(group, place, rounds=rounds, seconds=seconds, tell=_tell)
    return {
        lane.name: round(Spread.of([one.per_s for one in lane.measures]).median)
        for lane in found.lanes
        if lane.stands
    }


def best(found: Mapping[str, float]) -> str:
    """The first name, unless another is better by more than BETTER."""
    first, fastest = next(iter(found)), max(found, key=lambda name: found[name])
    return fastest if found[fastest] > found[first] * BETTER else first


def sweep_postgres(place: Place, *, rounds: int, seconds: float) -> tuple[dict[str, str], list[Any]]:
    """The settings chosen, and all figures."""
    chosen: dict[str, str] = {}
    figures = []
    for name, values in POSTGRESQL.items():
        tried = [chosen | {name: value} for value in values]
        lanes = [SweptLane(place, settings) for settings in tried]
        found = medians(lanes, place, rounds=rounds, seconds=seconds)
        if found:
            winner = best(found)
            chosen = next(settings for settings in tried if _named(settings) == winner)
            figures.append({"setting": name, "transfers_each_second": found, "chosen": chosen[name]})
    return chosen, figures


def sweep_fastapi(place: Place, style: str, *, rounds: int, seconds: float) -> tuple[dict[str, int], Any]:
    """Workers and connections chosen, and all figures."""
    answered = Answered()
    tried = {_named(one): one for one in FASTAPI}
    found: dict[str, float] = {}
    # All at once would be 24 processes.
    for at in range(0, len(tried), 4):
        names = list(tried)[at : at + 4]
        lanes = [
            FastApiLane(
                FastApi(place, answered, style=style, settings=tried[name]), name=name, connections=64
            )
            for name in names
        ]
        found |= medians(lanes, place, rounds=rounds, seconds=seconds)
    return tried.get(best(found), PLAIN) if found else PLAIN, found


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Sweep, and write tuned.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sweep", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one value in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=DEFAULT)
    given = parser.parse_args()
    place = Place(given.folder.resolve())
    times = {"rounds": given.rounds, "seconds": given.seconds}
    try:
        told = machine.told(place.kept)
        settings, figures = sweep_postgres(place, **times)
        written: dict[str, Any] = {"postgresql": settings}
        TUNED.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
        for style in ("call", "statements"):
            written[f"fastapi_{style}"], swept = sweep_fastapi(place, style, **times)
            figures.append({"setting": f"fastapi_{style}", "payments_each_second": swept})
    finally:
        place.close()
    written |= {"sweep": figures, "times": times, "machine": told}
    TUNED.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
    _tell(f"{TUNED}: {_named(settings)}")


if __name__ == "__main__":
    main()
