"""An event loop whose time is played, and lives: what a process has scheduled, dropped whole when it dies.

The selector never waits: when nothing is ready it moves the clock to the next timer. Work for threads runs
inline, after a seeded pause before it and another before its result is heard, so that one seed is one order
of events. Leaves out what a life is (a box, a hub) and what happens to its disk.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
_CLOSINGS_MAX = 50
"""A coroutine that is closed may wait for more in its `finally`, each time it is closed again."""


class Died(BaseException):
    """The process of the code that is running is no more; nothing may catch this and go on."""


class Life:
    """One run of a process. Everything scheduled in its context is dropped when it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.slow = 1.0
        """How many times as long as usual its threads take: a slow disk."""
        self.context = contextvars.copy_context()
        self.context.run(_life.set, self)

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine as a part of this process."""
        return self.context.copy().run(asyncio.get_running_loop().create_task, work)


_life: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


def living() -> Life | None:
    """The life in whose context the caller runs; None is the world itself."""
    return _life.get()


class _Selector(selectors.BaseSelector):
    """Never waits: time passes instead."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self.now_s = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is ready and no timer runs: everybody waits for ever")
        self.now_s += max(0.0, timeout)
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, chance: Random) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._chance = chance
        self._graves: list[set[asyncio.Task[Any]]] = []

    def time(self) -> float:
        """Seconds since the beginning of the run."""
        return self._virtual.now_s

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> events.Handle:
        """As asyncio's, but for the dead."""
        handle = events.Handle(callback, args, self, context)
        life = _life.get() if context is None else context.get(_life)
        if life is not None and life.dead:
            handle.cancel()
        else:
            self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> events.TimerHandle:
        """As asyncio's, but for the dead."""
        life = _life.get() if context is None else context.get(_life)
        timer = super().call_at(when, callback, *args, context=context)
        if life is not None and life.dead:
            timer.cancel()
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Run it inline a little later, and let its result be heard a little after that."""
        heard: asyncio.Future[T] = self.create_future()
        life = _life.get()
        slow = 0.001 if life is None else 0.001 * life.slow

        def work() -> None:
            try:
                result = func(*args)
            except Exception as problem:  # noqa: BLE001 - handed to whoever waits, as a thread's is
                self.call_later(slow * self._chance.random(), _fail, heard, problem)
            else:
                self.call_later(slow * self._chance.random(), _tell, heard, result)

        self.call_later(slow * self._chance.random(), work)
        return heard

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """There is none; the next box of this loop must find it all the same."""

    def kill(self, life: Life) -> None:
        """Drop all that this life has scheduled; whatever of it runs now must raise `Died`."""
        life.dead = True
        # Kept, or the garbage collector would finish what the dead were doing.
        self._graves.append(asyncio.all_tasks(self))
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            context = handle._context
            if not handle.cancelled() and context is not None and context.get(_life) is life:
                handle.cancel()


def _tell(heard: asyncio.Future[T], result: T) -> None:
    if not heard.done():
        heard.set_result(result)


def _fail(heard: asyncio.Future[Any], problem: Exception) -> None:
    if not heard.done():
        heard.set_exception(problem)


async def passed(seconds: float) -> None:
    """Return when so much played time has passed."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _tell, over, None)
    try:
        await over
    finally:
        timer.cancel()


def buried(loop: VirtualLoop) -> None:
    """Close a loop whose tasks may be anywhere in their work: all of it is given up, nothing is said."""
    loop.set_exception_handler(lambda _loop, _context: None)
    left = asyncio.all_tasks(loop).union(*loop._graves)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _problem: None
    try:
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _give_up(task)
        loop.close()
        loop._graves.clear()
    finally:
        sys.unraisablehook = hook


def _give_up(task: asyncio.Task[Any]) -> None:
    work = task.get_coro()
    for _ in range(_CLOSINGS_MAX):
        try:
            work.close()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001, S112 - whatever its last words are, nobody hears them
            continue
        return
