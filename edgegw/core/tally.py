"""What a book has counted for limits, and which periods are running.

A part of `core.book.Book`, layered as it is: sums over periods, and unconfirmed stand-ins. Leaves out how one
sum is kept (`core.counts`) and what is allowed (`core.limits`).
"""

from __future__ import annotations

from typing import Final, TypeVar

from edgegw.core.counts import (
    OFFLINE,
    OUTAGE,
    STAND_IN,
    Count,
    LimitChange,
    StandIn,
    Stood,
    counted,
    is_over,
    subject,
    taken_off,
    used,
)
from edgegw.core.overlay import Overlay
from edgegw.core.records import (
    BlockDirective,
    ClearedBy,
    LimitDirective,
    Measure,
    Transfer,
    Undone,
    WindowClosed,
)

K = TypeVar("K")
V = TypeVar("V")
Table = dict[K, V] | Overlay[K, V]

MONTH_LENGTH: Final = len("2026-01")
_STAND_IN: Final = ClearedBy.STAND_IN  # reaching a member through its class is a call of a function
SWEEP_FROM: Final = 4096
"""So many sums are kept before those that are over are looked for, and again whenever they have doubled."""


class Tally:
    """See the module; a layer over another tally when `base` is given."""

    __slots__ = (
        "_base",
        "_sweep_at",
        "blocked",
        "blocks",
        "box",
        "changed",
        "changes",
        "counts",
        "day",
        "day_window",
        "keys",
        "measures",
        "month_window",
        "outage_ns",
        "stood",
        "window",
    )

    def __init__(self, box: str, *, base: Tally | None = None) -> None:
        self.box = box
        self._base = base
        self._sweep_at = SWEEP_FROM
        self.counts: Table[tuple[str, str], Count] = {} if base is None else Overlay(base.counts)
        """By the measure's key and whose."""
        self.stood: Table[tuple[str, str, str], Stood] = {} if base is None else Overlay(base.stood)
        """Unconfirmed stand-ins by in which respect, whose, currency."""
        self.blocked: Table[tuple[str, str], str] = {} if base is None else Overlay(base.blocked)
        """Who pays nothing, by an order of the centre: in which respect, whose; with the reason."""
        self.blocks: int = 0 if base is None else base.blocks
        """How many these are: reading none costs nothing."""
        self.changed: Table[tuple[str, str], LimitChange] = {} if base is None else Overlay(base.changed)
        """Other values of limits, by orders of the centre: the limit's name, whose ("" for all)."""
        self.changes: int = 0 if base is None else base.changes
        """How many these are."""
        self.keys: tuple[str, ...] = () if base is None else base.keys
        """Of the measures."""
        self.measures: tuple[Measure, ...] = () if base is None else base.measures
        """What is counted, by the word of the last site directive."""
        self.day: str = "" if base is None else base.day
        """The business date of the open window where the calendar says it, else what the last close gives."""
        self.window: int = 1 if base is None else base.window
        """The open window."""
        self.day_window: int = 1 if base is None else base.day_window
        """The first window of its business day."""
        self.month_window: int = 1 if base is None else base.month_window
        """The first window of its month."""
        self.outage_ns: int = 0 if base is None else base.outage_ns
        """When the outage began, 0 while the line is up; a doubted clock moves it not."""

    def overlay(self) -> Tally:
        """A layer over this one."""
        return Tally(self.box, base=self)

    def merge(self, *, at_ns: int) -> None:
        """Write this layer into the one below; at_ns is the last record's, for what is over by then."""
        base = self._base
        if base is None:
            raise ValueError("a base tally has nothing to merge into; merge what its overlay() returned")
        for table in (self.counts, self.stood, self.blocked, self.changed):
            if isinstance(table, Overlay):
                table.merge()
        base.blocks, base.changes, base.keys = self.blocks, self.changes, self.keys
        base.measures, base.day, base.outage_ns = self.measures, self.day, self.outage_ns
        base.window, base.day_window, base.month_window = self.window, self.day_window, self.month_window
        if isinstance(base.counts, dict) and len(base.counts) >= base._sweep_at:
            base._sweep(at_ns)

    def _sweep(self, at_ns: int) -> None:
        living = {(key, whose): count for key, whose, count in self.living(at_ns)}
        if isinstance(self.counts, dict):
            self.counts.clear()
            self.counts.update(living)
        self._sweep_at = max(SWEEP_FROM, 2 * len(living))

    def living(self, at_ns: int) -> list[tuple[str, str, Count]]:
        """The sums that still count, sorted."""
        by_key = dict(zip(self.keys, self.measures, strict=True))
        found = []
        for (key, whose), count in self.counts.items():
            measure = by_key.get(key)
            if measure is not None and not is_over(count, measure, since=self.since(measure), at_ns=at_ns):
                found.append((key, whose, count))
        return sorted(found, key=lambda row: row[:2])

    def since(self, measure: Measure) -> int:
        """Which period of a measure is running: the number of its first window, when the outage began, or 0
        for a sliding one."""
        if measure.seconds:
            return 0
        if measure.per == OUTAGE:
            return self.outage_ns
        if measure.per == "window":
            return self.window
        return self.day_window if measure.per == "day" else self.month_window

    def used(self, measure: Measure, key: str, whose: str, *, at_ns: int) -> Count | Stood:
        """What counts of one id at this moment."""
        return used(self.counts.get((key, whose)), measure, since=self.since(measure), at_ns=at_ns)

    # -- changing --------------------

    def measure(self, measures: tuple[Measure, ...]) -> None:
        """Count these from now on, and what was counted already on; forget the rest."""
        keys = tuple(measure.key for measure in measures)
        gone = set(self.keys) - set(keys)
        self.measures, self.keys = measures, keys
        for key in [key for key, _ in self.counts.items() if key[0] in gone] if gone else ():
            _drop(self.counts, key)

    def begin(self, window: int) -> None:
        """The first window of an epoch."""
        self.window = self.day_window = self.month_window = window

    def close(self, record: WindowClosed) -> None:
        """A window has ended. Without a calendar each close ends a business day, and the month is the last
        close's: it may end a window late, never early."""
        self.window = record.window + 1
        day = record.next_business_date or record.business_date
        if day != self.day or not record.next_business_date:
            self.day_window = self.window
        if day[:MONTH_LENGTH] != self.day[:MONTH_LENGTH]:
            self.month_window = self.window
        self.day = day

    def add(self, record: Transfer, *, is_offline: bool) -> None:
        """Add a payment or hold to every sum that it belongs to."""
        request = record.request
        is_stand_in = record.cleared_by is _STAND_IN
        for name, measure in zip(self.keys, self.measures, strict=True):
            if measure.currency and measure.currency != request.currency:
                continue
            if measure.when == STAND_IN and not is_stand_in:
                continue
            if measure.when == OFFLINE and not (is_offline or is_stand_in):
                continue
            whose = subject(measure.of, request, self.box)
            if whose and (measure.per != OUTAGE or self.outage_ns):
                key = name, whose
                self.counts[key] = counted(
                    self.counts.get(key),
                    measure,
                    since=self.since(measure),
                    at_ns=record.at_ns,
                    amount_minor=request.amount_minor,
                )

    def give_back(self, original: Undone, *, at_ns: int, amount_minor: int, count: int) -> None:
        """Take what a payment or hold did not use off the periods in which it counted and that still run."""
        is_of_this_outage = 0 < self.outage_ns <= original.at_ns
        for name, measure in zip(self.keys, self.measures, strict=True):
            if measure.when == STAND_IN and not original.is_stand_in:
                continue
            if measure.when == OFFLINE and not (original.is_stand_in or is_of_this_outage):
                continue
            key = name, subject(measure.of, original, self.box)
            before = self.counts.get(key)
            if before is None or measure.currency not in ("", original.currency):
                continue
            less = taken_off(
                before,
                measure,
                since=self.since(measure),
                at_ns=at_ns,
                counted_at_ns=original.at_ns,
                amount_minor=amount_minor,
                count=count,
            )
            if less is not None:
                self.counts[key] = less

    def obey(self, said: BlockDirective | LimitDirective) -> None:
        """Keep an order of the centre about one account, card, terminal or merchant, or about one limit."""
        if isinstance(said, BlockDirective):
            self._block(said)
        else:
            self._change(said)

    def _block(self, said: BlockDirective) -> None:
        key = said.of, said.whose
        self.blocks += said.blocked - (key in self.blocked)
        if said.blocked:
            self.blocked[key] = said.reason
        else:
            _drop(self.blocked, key)

    def _change(self, said: LimitDirective) -> None:
        key = said.name, said.whose
        self.changes += (not said.lifted) - (key in self.changed)
        if said.lifted:
            _drop(self.changed, key)
        else:
            self.changed[key] = LimitChange(said.payment_minor, said.amount_minor, said.count)

    def change_of(self, name: str, whose: str) -> LimitChange | None:
        """The values of a limit for this id, where they are not the site's."""
        return self.changed.get((name, whose)) or self.changed.get((name, ""))

    def stand_in(self, waiting: StandIn) -> None:
        """One more stand-in waits."""
        for key in waiting.subjects(self.box):
            stood = self.stood.get(key) or Stood()
            self.stood[key] = Stood(
                amount_minor=stood.amount_minor + waiting.amount_minor, count=stood.count + 1
            )

    def settle(self, waiting: StandIn) -> None:
        """It does not wait any more."""
        for key in waiting.subjects(self.box):
            stood = self.stood[key]
            if stood.count == 1:
                _drop(self.stood, key)
            else:
                self.stood[key] = Stood(
                    amount_minor=stood.amount_minor - waiting.amount_minor, count=stood.count - 1
                )


def _drop(table: Table[K, V], key: K) -> None:
    if isinstance(table, Overlay):
        table.remove(key)
    else:
        table.pop(key, None)
