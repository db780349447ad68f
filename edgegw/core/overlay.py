"""Layers over the state that can be merged into it or thrown away: a mapping, and an index of deadlines.

A batch decides on a layer and merges it after its COMMIT; a linked group inside the batch is a layer on that
layer. Reading falls through to the base; nothing below is ever written before `merge()`. Leaves out: the
tables themselves (`edgegw.core.state`) and the rules (`edgegw.core.ledger`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Final, Generic, Literal, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")


class _Gone(Enum):
    removed = "removed"


_REMOVED: Final = _Gone.removed


class Overlay(Generic[K, V]):
    """A mapping that reads through to `base` and keeps its own changes; values must not be None."""

    __slots__ = ("_base", "_changes", "_removes")

    def __init__(self, base: dict[K, V] | Overlay[K, V]) -> None:
        self._base = base
        self._changes: dict[K, V | Literal[_Gone.removed]] = {}
        self._removes = False

    def __len__(self) -> int:
        """How many keys are seen from this layer; takes time by what it has changed."""
        return sum(1 for _ in self.items()) if self._removes else len(self._base) + self._new_keys()

    def _new_keys(self) -> int:
        return sum(1 for key in self._changes if key not in self._base)

    def __bool__(self) -> bool:
        return True

    def has_fewer_than(self, count: int) -> bool:
        """Whether fewer keys are seen from this layer; quick, where it is far from the count."""
        base = self._base
        rest = count - len(self._changes)
        near = base.has_fewer_than(rest) if isinstance(base, Overlay) else len(base) < rest
        return near or len(self) < count

    def get(self, key: K) -> V | None:
        """Return the value seen from this layer, or None."""
        value = self._changes.get(key)
        if value is None:
            return self._base.get(key)
        if value is _REMOVED:
            return None
        return value

    def __getitem__(self, key: K) -> V:
        value = self._changes.get(key)
        if value is None:
            return self._base[key]
        if value is _REMOVED:
            raise KeyError(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def remove(self, key: K) -> None:
        """Hide the key from this layer on; `merge()` takes it out of the base."""
        self._changes[key] = _REMOVED
        self._removes = True

    def changes(self) -> Iterator[tuple[K, V]]:
        """Yield what this layer set, without what it removed."""
        for key, value in self._changes.items():
            if value is not _REMOVED:
                yield key, value

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield every key and value seen from this layer."""
        changes = self._changes
        for key, value in self._base.items():
            if key not in changes:
                yield key, value
        yield from self.changes()

    def merge(self) -> None:
        """Write the changes into the base and start again with none."""
        base, changes = self._base, self._changes
        if isinstance(base, Overlay):
            base._changes.update(changes)
            base._removes |= self._removes
        elif self._removes:
            for key, value in changes.items():
                if value is _REMOVED:
                    base.pop(key, None)
                else:
                    base[key] = value
        else:
            base.update(cast("dict[K, V]", changes))
        self.clear()

    def clear(self) -> None:
        """Throw the changes away."""
        self._changes.clear()
        self._removes = False


Deadline = tuple[int, int, int]
"""(expires_at_ns, created_at_ns, transfer id): sorts in the order in which holds expire."""

_COMPACT_FROM: Final = 64  # below this many entries a clean-up costs more than it frees


class Deadlines:
    """A heap of deadlines in layers.

    A hold that is posted or voided leaves its entry behind, because a heap cannot remove from its middle:
    whoever reads `due` checks that the hold is still pending, and `compact` drops the left-overs once they
    are the majority.
    """

    __slots__ = ("_base", "_heap", "_resolved_count", "_through_ns")

    def __init__(self, base: Deadlines | None = None) -> None:
        self._base = base
        self._heap: list[Deadline] = []
        self._resolved_count = 0
        self._through_ns = -1

    def __len__(self) -> int:
        return len(self._heap) + (0 if self._base is None else len(self._base))

    def add(self, deadline: Deadline) -> None:
        """Remember a deadline in this layer."""
        heappush(self._heap, deadline)

    def note_resolved(self) -> None:
        """Count one hold that was resolved before its deadline."""
        self._resolved_count += 1

    def due(self, *, at_ns: int) -> list[Deadline]:
        """Return every deadline of this layer and those below that is not after `at_ns`, earliest first."""
        return sorted(self._walk(at_ns))

    def _walk(self, at_ns: int) -> Iterator[Deadline]:
        # An entry of a heap is never earlier than its parent: only due ones and their children are visited.
        heap, places = self._heap, [0]
        while places:
            place = places.pop()
            if place < len(heap) and heap[place][0] <= at_ns:
                yield heap[place]
                places += (2 * place + 1, 2 * place + 2)
        if self._base is not None:
            yield from self._base._walk(at_ns)

    def forget(self, *, through_ns: int) -> None:
        """Drop the deadlines up to `through_ns`: here at once, below when this layer is merged."""
        heap = self._heap
        while heap and heap[0][0] <= through_ns:
            heappop(heap)
        if self._base is not None:
            self._through_ns = max(self._through_ns, through_ns)

    def merge(self) -> None:
        """Hand this layer's changes to the base and start again with none."""
        base = self._base
        if base is None:
            raise ValueError("these deadlines have no base to merge into; merge a layer made over them")
        # Forget first: a deadline added here after this layer's expiry run must survive, however early it is.
        base.forget(through_ns=self._through_ns)
        for deadline in self._heap:
            heappush(base._heap, deadline)
        base._resolved_count += self._resolved_count
        self._heap.clear()
        self._resolved_count = 0
        self._through_ns = -1

    def compact(self, is_live: Callable[[int], bool]) -> None:
        """Drop this layer's left-overs: those that come first at once, all once they may be the majority."""
        while self._heap and not is_live(self._heap[0][2]):
            heappop(self._heap)
            self._resolved_count = max(0, self._resolved_count - 1)
        if len(self._heap) < _COMPACT_FROM or 2 * self._resolved_count < len(self._heap):
            return
        self._heap = [deadline for deadline in self._heap if is_live(deadline[2])]
        heapify(self._heap)
        self._resolved_count = 0
