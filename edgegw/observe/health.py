"""How well the machine is, from readings to levels: thresholds, hysteresis, and what each level does.

A level rises when several readings in a row say so, and falls when the readings have been clear of the
threshold for a calm time that doubles with each relapse: nothing here flaps. What is unknown raises nothing.
Only what really endangers the ledger may stop payments, so a wrong sensor never does. Pure: no file is read
here (`observe.readings`, `observe.disks`), and nothing is done (`edgegw.box_health`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from edgegw.observe.checks import ACTIONS, Check, Level, Limits, checks
from edgegw.observe.readings import Reading

HOUR_S: Final = 3600.0
CALM_S_MAX: Final = HOUR_S
RISE_READINGS: Final = 3
"""So many readings in a row are beyond a threshold before anything is done."""
SUBJECTS_MAX: Final = 16
"""Of one check: metrics and status stay small on a machine with a hundred sensors."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one thing stands: what was read, what it is held to, what is done, and what would help."""

    check: str
    subject: str
    level: str
    """A level's name in small letters, or `unknown`."""
    value: float | None
    unit: str
    threshold: float | None
    """Of the level in force, else of the first one there is; None where none is."""
    action: str = ""
    told: str = ""
    """What else was read, or why nothing was."""
    mend: str = ""
    """Only where it is not well."""
    needs_person: bool = False
    """It does not pass by itself."""


class Change(NamedTuple):
    """A level that has changed."""

    check: Check
    subject: str
    level: Level
    before: Level
    why: str
    """The reading and the threshold, in one line."""


class Judge:
    """The level of one subject of one check."""

    def __init__(self, check: Check, subject: str, *, calm_s: float) -> None:
        self.level = Level.WELL
        self._check = check
        self._subject = subject
        self._calm_s = calm_s
        self._recent: deque[Level] = deque(maxlen=RISE_READINGS)
        self._calm_since_s: float | None = None
        self._calm_highest = Level.WELL
        self._has_fallen = False
        self._relapses_s: deque[float] = deque(maxlen=8)

    def take(self, value: float | None, now_s: float) -> Level:
        """The level after this reading; None is unknown and raises nothing."""
        beyond = Level.WELL if value is None else self._check.beyond(value, self._subject)
        held = Level.WELL if value is None else self._check.held(value, self._subject)
        self._recent.append(beyond)
        agreed = min(self._recent) if len(self._recent) == RISE_READINGS else Level.WELL
        if agreed > self.level:
            self.level = agreed
            if self._has_fallen:
                self._has_fallen = False
                self._relapses_s.append(now_s)
            self._calm_since_s = None
        elif held >= self.level:
            self._calm_since_s = None
        else:
            self._fall(held, now_s)
        return self.level

    def _fall(self, held: Level, now_s: float) -> None:
        """Fall once the readings were calm for long enough, to the worst of that time."""
        if self._calm_since_s is None:
            self._calm_since_s, self._calm_highest = now_s, held
        self._calm_highest = max(self._calm_highest, held)
        relapses = sum(1 for at_s in self._relapses_s if now_s - at_s <= 2 * HOUR_S)
        if now_s - self._calm_since_s >= min(CALM_S_MAX, self._calm_s * 2**relapses):
            self.level, self._has_fallen = self._calm_highest, True
            self._calm_since_s = None


class _Growth:
    """What a count has grown by in the last hour, in steps of a minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()

    def take(self, count: float, now_s: float) -> float:
        if self._marks and count < self._marks[-1][1]:
            self._marks.clear()  # It began anew: the device was taken out, or counts for itself.
        if not self._marks or now_s - self._marks[-1][0] >= HOUR_S / 60:
            self._marks.append((now_s, count))
        while len(self._marks) > 1 and self._marks[1][0] <= now_s - HOUR_S:
            self._marks.popleft()
        return count - self._marks[0][1]


class Health:
    """All checks of one machine; not for several threads."""

    def __init__(self, limits: Limits) -> None:
        self.checks = checks(limits)
        self._calm_s = float(limits.calm_seconds)
        self._judges: dict[tuple[str, str], Judge] = {}
        self._growths: dict[tuple[str, str], _Growth] = {}
        self.standings: tuple[Standing, ...] = ()
        """As of the last readings, the worst first."""

    def take(self, readings: Iterable[Reading], now_s: float) -> list[Change]:
        """Judge readings that were made together at this monotonic second; what has changed by them."""
        changes: list[Change] = []
        standings: list[Standing] = []
        seen: set[tuple[str, str]] = set()
        counted: dict[str, int] = {}
        for reading in readings:
            counted[reading.check] = counted.get(reading.check, 0) + 1
            if counted[reading.check] > SUBJECTS_MAX:
                continue
            seen.add((reading.check, reading.subject))
            self._take_one(reading, now_s, changes, standings)
        for name, subject in [key for key in self._judges if key not in seen]:
            gone = Reading(check=name, subject=subject, told="it is not there any more")
            self._take_one(gone, now_s, changes, standings)
            if self._judges[name, subject].level is Level.WELL:
                del self._judges[name, subject]
        self.standings = tuple(sorted(standings, key=_rank))
        return changes

    def level(self, *, of: Callable[[Check], bool] = lambda _: True) -> Level:
        """The worst level in force, of these checks."""
        return max(
            (judge.level for (name, _), judge in self._judges.items() if of(self.checks[name])),
            default=Level.WELL,
        )

    def _take_one(
        self, reading: Reading, now_s: float, changes: list[Change], standings: list[Standing]
    ) -> None:
        check, key = self.checks[reading.check], (reading.check, reading.subject)
        value, told = plausible(check, reading)
        if value is not None and check.hourly:
            total = value
            value = self._growths.setdefault(key, _Growth()).take(total, now_s)
            told = told or f"{total:g} in all"
        judge = self._judges.setdefault(key, Judge(check, reading.subject, calm_s=self._calm_s))
        before = judge.level
        level = judge.take(value, now_s)
        standing = standing_of(check, reading.subject, level, value, told)
        standings.append(standing)
        if level is not before:
            changes.append(Change(check, reading.subject, level, before, why(standing)))


def judged_once(
    limits: Limits, readings: Iterable[Reading], held: Mapping[tuple[str, str], tuple[Level, str]]
) -> tuple[Standing, ...]:
    """How it stands by one set of readings alone, the worst first; growth in an hour is unknown then. What a
    running box holds to, by check and subject, with its words, counts instead of what one look says."""
    known, left = checks(limits), dict(held)

    def stands(reading: Reading) -> Standing:
        check = known[reading.check]
        value, told = plausible(check, reading)
        if value is not None and check.hourly:
            value, told = None, told or f"{value:g} in all; only a running box knows how fast they grow"
        level = Level.WELL if value is None else check.beyond(value, reading.subject)
        if (held_now := left.pop((reading.check, reading.subject), None)) is not None:
            level, told = held_now[0], "; ".join(filter(None, (told, held_now[1])))
        return standing_of(check, reading.subject, level, value, told)

    found = [stands(reading) for reading in readings]
    found += [stands(Reading(check=check, subject=subject)) for check, subject in list(left)]
    return tuple(sorted(found, key=_rank))


def plausible(check: Check, reading: Reading) -> tuple[float | None, str]:
    """The value and what is told with it; no value where no sensor can mean it."""
    value = reading.value
    if value is None or check.least <= value <= check.most:
        return value, reading.told
    return None, f"{value:g} is no value for this"


def standing_of(check: Check, subject: str, level: Level, value: float | None, told: str) -> Standing:
    """One thing at this level."""
    levels = sorted(check.thresholds)
    shown = level if level in check.thresholds else next(iter(levels), None)
    unwell = level is not Level.WELL
    return Standing(
        check=check.name,
        subject=subject,
        level="unknown" if value is None and not unwell else level.name.lower(),
        value=None if value is None else round(value, 3),
        unit=check.unit,
        threshold=None if shown is None else check.thresholds[shown],
        action=ACTIONS[level],
        told=told,
        mend=check.mend if unwell else "",
        needs_person=unwell and not check.passes,
    )


def why(standing: Standing) -> str:
    """Reading and threshold in one line, as journal and log have it."""
    value = "unknown" if standing.value is None else f"{standing.value:g} {standing.unit}"
    line = f"{standing.check} {standing.subject}".rstrip() + f": {value}"
    if standing.threshold is not None:
        line += f", threshold {standing.threshold:g}"
    return f"{line} ({standing.told})" if standing.told else line


def _rank(standing: Standing) -> tuple[int, str, str]:
    level = -1 if standing.level == "unknown" else Level[standing.level.upper()].value
    return -level, standing.check, standing.subject
