"""The floor under the engine: see floor.c."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import apsw

from edgegw.ledger.schema import open_writer
from tests.bench.place import Place
from tests.bench.product import EngineLane
from tests.bench.rounds import Measure, Unavailable, WrongAnswer

SOURCE: Final = Path(__file__).with_name("floor.c")
ROWS: Final = 20_000
_TAKE: Final = (
    "SELECT type, client, id, leaf, body FROM record WHERE type = 'transfer' ORDER BY position LIMIT ?"
)


class FloorLane:
    """Bare prepared inserts of the rows that the engine's lane has just written."""

    def __init__(self, place: Place, engine: EngineLane) -> None:
        self.name = f"floor: inserts in C, batches of {engine.batch}"
        self._place, self._engine = place, engine

    def open(self, stack: ExitStack) -> None:
        """Compile it."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise Unavailable("there is no C compiler: run .ci/setup-bench as root")
        self._program = self._place.fresh("floor")
        done = subprocess.run(
            [compiler, "-O2", "-o", str(self._program), str(SOURCE), "-lsqlite3"],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"it does not compile: {done.stderr.decode()[-300:]}")

    def measure(self, seconds: float) -> Measure:
        """A fresh file with the product's tables each time."""
        rows, path = self._place.fresh("rows"), self._place.fresh("floor.db")
        self._take_rows(rows)
        open_writer(path, create=True).close()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [self._program, path, rows, str(self._engine.batch), str(seconds)],
            capture_output=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise WrongAnswer(f"the floor failed: {done.stderr.decode()[-300:]}")
        told = json.loads(done.stdout)
        self._hold(path, told["count"])
        rows.unlink()
        return Measure(**told, cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def check(self) -> None:
        """Each file was counted when it was written."""

    def _take_rows(self, path: Path) -> None:
        ledger = apsw.Connection(
            str(self._engine.folder / "data" / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY
        )
        with path.open("wb") as stream:
            for row in ledger.execute(_TAKE, (ROWS,)):
                for value in row:
                    encoded = value.encode() if isinstance(value, str) else value
                    stream.write(struct.pack("<I", len(encoded)) + encoded)
        ledger.close()

    def _hold(self, path: Path, count: int) -> None:
        connection = apsw.Connection(str(path))
        [(held,)] = connection.execute("SELECT count(*) FROM record").fetchall()
        connection.close()
        for name in (path, *path.parent.glob(path.name + "-*")):
            name.unlink(missing_ok=True)
        if held != count:
            raise WrongAnswer(f"the floor says {count} rows and holds {held}")
