"""Where the product meets the machine, and the simulator takes the machine's place.

Replaced while `open_seams` is in force: the composition root's clock, randomness, signals, keys and metrics;
the anchor's thread and file; the transport under the line; COMMIT (a process may die right before or right
after it); SM2, whose signatures are randomised and slow, by a keyed hash of the same shape (`sm.sm2` is
tested elsewhere). Everything else is the product as it is. Each seam asks `loop.living()` whose it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

import edgegw.app as app
import edgegw.hub.app as hub_app
import edgegw.rereading as rereading
from edgegw.access.checkpoint_keys import CheckpointKeys
from edgegw.access.keys import SigningKey
from edgegw.box_health import BoxHealth
from edgegw.core.book import Book
from edgegw.ledger import anchor as anchor_module
from edgegw.ledger.anchor import INTERVAL_S, Anchor
from edgegw.ledger.store import Store
from edgegw.payments.cards import NoVault
from edgegw.sm import sm2
from edgegw.uplink import session as session_module
from edgegw.uplink.line import Line
from edgegw.uplink.session import Sources
from tests.simulator.loop import Died, Life, living, passed


class Process(Life):
    """A life that the seams know: where its chance and its clocks come from, and what must end with it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.commits = 0
        self.dies_at_commit = 0
        """0: it does not."""
        self.dies_after_commit = False
        self.dies_with_records = 0
        """Not before a COMMIT of at least so many."""
        self.kill: Callable[[], None] = lambda: None
        self.stores: list[Store] = []
        self.gateway: Any = None
        self.line: Any = None
        self.opened: Any = None
        self.stop: asyncio.Event | None = None
        self.keys: Any = None
        self.wall_ns: Callable[[], int] = lambda: 0
        self.mono_ns: Callable[[], int] = lambda: 0
        self.boot_id: Callable[[], str] = lambda: ""
        self.token: Callable[[int], bytes] = bytes
        self.fraction: Callable[[], float] = lambda: 0.0
        self.transport: Callable[[Any], Any] = lambda _settings: None
        self.room: Callable[[], bool] = lambda: True

    def commit(self, work: Callable[[], None], *, records: int) -> None:
        """Run one COMMIT, unless this process dies right before it; it may die right after it."""
        if self.dead:
            raise Died
        self.commits += 1
        dies = 0 < self.dies_at_commit <= self.commits and records >= self.dies_with_records
        if dies and not self.dies_after_commit:
            self.kill()
            raise Died
        work()
        if dies:
            self.kill()
            raise Died


def process() -> Process:
    """The process whose code is running."""
    life = living()
    if not isinstance(life, Process):
        raise AssertionError("product code runs outside every process")
    return life


# --- keys that sign by a keyed hash -------------------------------------------------------------------------


class HashedPublic:
    """A public key whose signatures are a keyed hash: whoever has the point could sign; nobody here does."""

    def __init__(self, point: bytes) -> None:
        self.point = bytes(point)

    def verify(self, message: bytes, signature: bytes) -> bool:
        return signature == _signature(self.point, message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashedPublic) and self.point == other.point

    def __hash__(self) -> int:
        return int.from_bytes(self.point[:8])


class HashedPrivate:
    """The other half of it."""

    def __init__(self, seed: bytes) -> None:
        self.public = HashedPublic(b"\x04" + hashlib.sha512(seed).digest())

    def sign(self, message: bytes) -> bytes:
        return _signature(self.public.point, message)


def _signature(point: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=point[:64], digest_size=64).digest()


def key_of(name: str, seed: bytes) -> SigningKey:
    """A signing key made from a seed."""
    return SigningKey(name, HashedPrivate(seed))  # type: ignore[arg-type]


class SimulatedKeys(CheckpointKeys):
    """The checkpoint keys of a machine, without their files: they outlive its processes, as files do."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._name, self._seed, self.made = name, seed, 0
        self.current = key_of(name, seed)
        self.following = None

    def look(self) -> SigningKey | None:
        return self.following

    def prepare(self) -> SigningKey:
        if self.following is None:
            self.made += 1
            self.following = key_of(self._name, self._seed + b"/%d" % self.made)
        return self.following

    def settle(self, text: str) -> None:
        if self.following is not None and self.following.public.text() == text:
            self.current, self.following = self.following, None


# --- the parts that stand in for the machine ----------------------------------------------------------------


class ProcessClock:
    """The clocks of the machine that the constructing process runs on."""

    def __init__(self) -> None:
        self._process = process()

    def wall_ns(self) -> int:
        return self._process.wall_ns()

    def mono_ns(self) -> int:
        return self._process.mono_ns()

    def boot_id(self) -> str:
        return self._process.boot_id()


class QuietMetrics:
    """Counts nothing: what is counted reaches no journal, and a registry costs more than a start."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_values, **_named: None


class Room:
    """A disk with room, or without."""

    free_bytes = 0

    def __init__(self, directory: Path, **sizes: int) -> None:
        self._process = process()

    def state(self) -> None:
        """Nothing is reserved."""

    def room_for_payments(self) -> bool:
        return self._process.room()

    def make_room(self) -> None:
        """There is nothing to give up."""


def _line(*arguments: Any, **named: Any) -> Line:
    own = process()
    sources = Sources(
        now_ns=own.mono_ns,
        wall_s=lambda: own.wall_ns() // 1_000_000_000,
        chance=own.fraction,
        token=own.token,
    )
    own.line = Line(*arguments, **{**named, "sources": sources})
    return own.line


def _transport(settings: Any, *, tls: Any) -> Any:
    return process().transport(settings)


def _gateway(*arguments: Any, **named: Any) -> Any:
    own = process()
    own.gateway = app_gateway(*arguments, **named)
    return own.gateway


def _open_ledger(*arguments: Any, **named: Any) -> Any:
    own = process()
    own.opened = app_open_ledger(*arguments, **named)
    return own.opened


app_gateway = app.Gateway
app_open_ledger = app.open_ledger


def _stop_signal() -> asyncio.Event:
    own = process()
    own.stop = asyncio.Event()
    return own.stop


def _token_hex(count: int) -> str:
    return process().token(count).hex()


def _seconds() -> float:
    return asyncio.get_running_loop().time()


# --- disks --------------------------------------------------------------------------------------------------

_store_commit = Store._commit
_store_init = Store.__init__
_replace_file = anchor_module._replace_file


def _commit(store: Store) -> None:
    life = living()
    if isinstance(life, Process):
        life.commit(lambda: _store_commit(store), records=store._appended)
    else:
        _store_commit(store)


def _opened_store(store: Store, path: Path, connection: Any) -> None:
    _store_init(store, path, connection)
    life = living()
    if isinstance(life, Process):
        life.stores.append(store)


def _written_anchor(path: Path, past: Any) -> None:
    life = living()
    if life is not None and life.dead:
        raise Died
    _replace_file(path, past)


def _follow_anchor(anchor: Anchor) -> None:
    """The anchor's thread as a task: it dies with its process, and not a second later."""

    async def follow() -> None:
        while not anchor._stopping.is_set():
            anchor._follow()
            await passed(INTERVAL_S)

    process().run(follow())


# --- the hub ------------------------------------------------------------------------------------------------

_hub_transact = hub_app.Hub._transact


def _transact(hub: hub_app.Hub, work: Any) -> Any:
    life = living()
    if not isinstance(life, Process):
        return _hub_transact(hub, work)
    done: list[Any] = []
    life.commit(lambda: done.append(_hub_transact(hub, work)), records=1)
    return done[0]


def _urandom(count: int) -> bytes:
    return process().token(count)


async def _no_look(_: BoxHealth) -> None:
    """The machine that the simulator runs on is none of the boxes' business."""


class NamedCards:
    """Cards here are named alike by settings and records: what a vault keeps is for other tests."""

    is_open = True

    def __init__(self, *_: object) -> None:
        self.cards = NoVault()

    def use(self, book: Book) -> None:
        """Nothing to name."""

    def look(self, book: Book) -> None:
        """Nothing to tell."""

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def open_seams() -> Iterator[None]:
    """Put the simulator's parts where the machine's are, until the block ends."""
    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    replaced: list[tuple[Any, str, Any]] = [
        (app, "secrets", types.SimpleNamespace(token_hex=_token_hex)),
        (rereading, "time", types.SimpleNamespace(monotonic=_seconds)),
        (BoxHealth, "run", _no_look),
        (app, "MachineClock", ProcessClock),
        (app, "Metrics", QuietMetrics),
        (app, "CardVault", NamedCards),
        (app, "Reserve", Room),
        (app, "Line", _line),
        (app, "Gateway", _gateway),
        (app, "open_ledger", _open_ledger),
        (app, "load_keys", lambda _settings: process().keys),
        (app, "stop_signal", _stop_signal),
        (app, "raise_descriptor_limit", lambda: None),
        (sm2, "PublicKey", HashedPublic),
        (anchor_module, "secrets", types.SimpleNamespace(token_hex=_token_hex)),
        (anchor_module, "_replace_file", _written_anchor),
        (Anchor, "start", _follow_anchor),
        (Store, "_commit", _commit),
        (Store, "__init__", _opened_store),
        (session_module, "Transport", _transport),
        (hub_app, "os", types.SimpleNamespace(urandom=_urandom)),
        (hub_app.Hub, "_transact", _transact),
    ]
    with ExitStack() as stack:
        for owner, name, part in replaced:
            stack.enter_context(patch.object(owner, name, part))
        stack.callback(structlog.configure, **logging)
        yield
