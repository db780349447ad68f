"""Where a bench runs: its folder on the disk that is measured, the world that lanes copy, numbers of payments
that nobody has used yet."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import payments
from tests.bench.children import ROOT
from tests.bench.world import copy_world, make_world

if TYPE_CHECKING:
    from tests.bench.peers.postgres import Postgres

DEFAULT: Final = ROOT / "build" / "bench"


class Place:
    """See the module; `close` ends what lanes share."""

    def __init__(self, folder: Path, *, payments_grown: int = 10_000_000) -> None:
        self.payments = payments_grown
        """How far a ledger is to grow."""
        self.kept = folder
        """What later runs use again."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another bench runs in {folder}: wait for its end") from None
        self.folder = folder / "run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for path in (folder, self.folder):
            path.chmod(0o755)
        self._names = itertools.count()
        self.stack = ExitStack()
        self._postgres: Postgres | None = None

    def fresh(self, name: str) -> Path:
        """A path of this run that nobody has."""
        return self.folder / f"{next(self._names):02d}-{name}"

    def box(self, name: str) -> Path:
        """A folder with a box of its own, that takes payments without its hub."""
        world = self.kept / f"world-{_state()}"
        if not world.exists():
            for old in self.kept.glob("world-*"):
                shutil.rmtree(old)
            making = self.kept / "world.new"
            shutil.rmtree(making, ignore_errors=True)
            make_world(making)
            making.rename(world)
        return copy_world(world, self.fresh(name))

    @property
    def grown(self) -> Path:
        """Where the grown ledger of this program is kept."""
        return self.kept / f"grown-{_state()}-{self.payments}"

    @property
    def postgres(self) -> Postgres:
        """The one PostgreSQL of the run; raises Unavailable."""
        if self._postgres is None:
            from tests.bench.peers.postgres import Postgres

            server = Postgres(self)
            server.start(self.stack)
            self._postgres = server
        return self._postgres

    def close(self) -> None:
        """End what lanes share, and drop what they wrote."""
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _state() -> str:
    """Of the program: a world of another one is not used again."""
    digest = hashlib.sha256(f"{payments.ACCOUNTS} {payments.OPENING_MINOR}".encode())
    for path in (Path(__file__).with_name("world.py"), *sorted((ROOT / "edgegw").rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
