"""What a machine says of itself: memory, processor, heat, clock, network, and this process.

Every file of the kernel is read below a root path, so that any machine's files can be read in its place. What
is missing or unreadable is no reading, or one without a value that says why; nothing here raises for it.
Disks are `observe.disks`; what a reading means is `observe.health`.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import psutil

CAPPED_BYTES_MAX: Final = 1 << 60
"""A limit of a control group above this is none."""
CLOCK_STEP_S: Final = 0.5
COLDEST_C: Final = -60.0
HOTTEST_C: Final = 150.0
CRITICAL_C_MIN: Final = 40.0
"""A critical temperature outside is a sensor's nonsense; so is any temperature below the first or above."""
PSTORE_NAMES: Final = ("sys/fs/pstore", "var/lib/systemd/pstore")
FIREWALL_NAME: Final = "run/edgegw-firewall/state"
"""Where `edgegw-firewall.service` leaves how it went."""
_UNSYNCHRONISED: Final = 0x40
_TIME_ERROR: Final = 5
_CARD_RESET: Final = 0x20
"""In a watchdog's bootstatus: it has reset the machine."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read for one check of one subject."""

    check: str
    subject: str = ""
    value: float | None = None
    """None: nobody knows."""
    told: str = ""
    """What else was read, or why nothing was."""


class Tree:
    """The kernel's files below one root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where /NAME is."""
        return self.root / name

    def text(self, name: str) -> str | None:
        """The stripped text of /NAME; None where it cannot be read."""
        try:
            with open(self.root / name, encoding="utf-8", errors="replace") as file:
                return file.read(65_536).strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """The whole number in /NAME, decimal or 0x…; None where there is none."""
        text = self.text(name)
        try:
            return None if text is None else int(text.split()[0], 0)
        except (ValueError, IndexError):
            return None

    def names(self, name: str) -> list[str]:
        """What the directory /NAME holds, sorted; nothing where there is none."""
        try:
            return sorted(os.listdir(self.root / name))
        except OSError:
            return []


class Clocks(NamedTuple):
    """The machine's clocks, and the kernel's word on its own."""

    wall_s: float
    boottime_s: float
    adjusted: tuple[float, bool] | None
    """By how many parts a million the rate is corrected, and whether nothing keeps the clock; None where the
    kernel does not say."""


class _Timex(ctypes.Structure):
    """`struct timex` as far as it is read, with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def read_clocks() -> Clocks:
    """The clocks of this machine, now."""
    said = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(said))
    except (OSError, AttributeError):
        state = -1
    unsynchronised = state == _TIME_ERROR or bool(said.status & _UNSYNCHRONISED)
    adjusted = None if state < 0 else (said.freq / 65_536, unsynchronised)
    return Clocks(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), adjusted)


class Machine:
    """One machine's readings; keeps what a rate or a change needs, so one object is one watch."""

    def __init__(
        self,
        tree: Tree,
        *,
        process: psutil.Process | None = None,
        temperature_celsius_max: int,
        clocks: Callable[[], Clocks] = read_clocks,
        clock_ahead_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """temperature_celsius_max: of a sensor that names no critical temperature. clock_ahead_s: how far the
        machine's clock is ahead of the centre's time, None where none is known."""
        self._tree = tree
        self._process = psutil.Process() if process is None else process
        self._hot_c = float(temperature_celsius_max)
        self._clocks = clocks
        self._clock_ahead_s = clock_ahead_s
        self._cpu_before: tuple[int, int] | None = None
        self._wall_less_boot_s: float | None = None
        self._clock_steps = 0
        self._links_up: set[str] = set()

    def read(self) -> Iterator[Reading]:
        """Everything, once."""
        yield from self._memory()
        yield from self._pressure()
        yield from self._processor()
        yield from self._own()
        yield from self._heat()
        yield from self._time()
        yield from self._network()
        yield from self._hardware()

    # -- memory --------------------

    def _memory(self) -> Iterator[Reading]:
        lines = _fields(self._tree.text("proc/meminfo"))
        total, available = lines.get("MemTotal", 0), lines.get("MemAvailable")
        if not total or available is None:
            yield Reading(check="memory", told="the kernel does not tell")
        else:
            # What can be swapped out can be had, too.
            share = min(1.0, (available + lines.get("SwapFree", 0)) / total)
            told = f"{available >> 10} of {total >> 10} MiB"
            own = self._capped()
            if own is not None and own[0] / own[1] < share:
                share = own[0] / own[1]
                told = f"{own[0] >> 20} of {own[1] >> 20} MiB of the service's limit"
            yield Reading(check="memory", value=100 * share, told=told)
        kills = _fields(self._tree.text("proc/vmstat"), by=" ").get("oom_kill")
        if kills is not None:
            yield Reading(check="out_of_memory_kills", value=kills)

    def _capped(self) -> tuple[int, int] | None:
        """Bytes that are left and the limit of this process's control group, caches counted as free; None
        without a limit."""
        for line in (self._tree.text("proc/self/cgroup") or "").splitlines():
            number, _, path = line.partition("::")
            if number != "0":
                continue
            folder = f"sys/fs/cgroup{path.rstrip('/')}"
            limit, used = self._tree.number(f"{folder}/memory.max"), None
            if limit is not None and limit < CAPPED_BYTES_MAX:
                used = self._tree.number(f"{folder}/memory.current")
            if limit and used is not None:
                cached = _fields(self._tree.text(f"{folder}/memory.stat"), by=" ").get("inactive_file", 0)
                return max(0, limit - used + cached), limit
        return None

    def _pressure(self) -> Iterator[Reading]:
        # Short of a processor, a machine only gets slow: that counts once it lasts.
        for name, line, average in (
            ("memory", "full", "avg60"),
            ("io", "full", "avg60"),
            ("cpu", "some", "avg300"),
        ):
            text = self._tree.text(f"proc/pressure/{name}")
            yield Reading(
                check=f"{name}_stall",
                value=_average(text, line, average),
                told="" if text is not None else "the kernel does not tell",
            )

    # -- processor --------------------

    def _processor(self) -> Iterator[Reading]:
        stat = self._tree.text("proc/stat") or ""
        processors = max(1, sum(line.startswith("cpu") for line in stat.splitlines()) - 1)
        loads = (self._tree.text("proc/loadavg") or "").split()
        load = _float(loads[1]) if len(loads) > 1 else None
        if load is not None:
            yield Reading(check="load", value=load / processors, told=f"{processors} processors")
        first = stat.splitlines()[0].split()[1:9] if stat.startswith("cpu ") else []
        ticks = [int(part) for part in first if part.isdecimal()]
        if len(ticks) == 8:
            now, before = (ticks[7], sum(ticks)), self._cpu_before
            self._cpu_before = now
            if before is not None and now[1] > before[1]:
                yield Reading(check="steal", value=100 * (now[0] - before[0]) / (now[1] - before[1]))
        folder = "sys/devices/system/cpu"
        slowed = [
            count
            for name in self._tree.names(folder)
            if name[3:].isdigit()
            and (count := self._tree.number(f"{folder}/{name}/thermal_throttle/core_throttle_count"))
            is not None
        ]
        if slowed:
            yield Reading(check="throttling", value=sum(slowed))

    # -- this process --------------------

    def _own(self) -> Iterator[Reading]:
        try:
            with self._process.oneshot():
                held = self._process.memory_info().rss
                limit = self._process.rlimit(psutil.RLIMIT_NOFILE)[0]
                files = _open_files(self._process)
        except (psutil.Error, OSError) as problem:
            yield Reading(check="own_memory", told=str(problem))
            return
        total = _fields(self._tree.text("proc/meminfo")).get("MemTotal", 0) << 10
        if total:
            yield Reading(check="own_memory", value=min(100.0, 100 * held / total), told=f"{held >> 20} MiB")
        yield Reading(check="own_growth", value=held / 2**20, told=f"{held >> 20} MiB")
        if limit > 0:
            yield Reading(check="descriptors", value=100 * files / limit, told=f"{files} of {limit}")

    # -- heat --------------------

    def _heat(self) -> Iterator[Reading]:
        closest: dict[str, tuple[float, str]] = {}
        for chip, sensor, temperature_c, own_c in (*self._chips(), *self._zones()):
            if not COLDEST_C <= temperature_c <= HOTTEST_C:
                continue  # A sensor that is not connected says so by nonsense.
            critical_c = own_c if own_c and CRITICAL_C_MIN <= own_c <= HOTTEST_C else self._hot_c
            margin = critical_c - temperature_c
            if chip not in closest or margin < closest[chip][0]:
                told = f"{sensor} {temperature_c:.0f} of {critical_c:.0f} °C".strip()
                closest[chip] = (margin, told)
        for chip, (margin, told) in closest.items():
            yield Reading(check="heat_margin", subject=chip, value=margin, told=told)
        if not closest:
            yield Reading(check="heat_margin", told="this machine shows no sensor")

    def _chips(self) -> Iterator[tuple[str, str, float, float | None]]:
        """Chip, sensor, temperature and critical temperature of each sensor of hwmon."""
        for monitor in self._tree.names("sys/class/hwmon"):
            folder = f"sys/class/hwmon/{monitor}"
            chip = self._tree.text(f"{folder}/name") or monitor
            for name in self._tree.names(folder):
                if not (name.startswith("temp") and name.endswith("_input")):
                    continue
                sensor = f"{folder}/{name.removesuffix('_input')}"
                if (milli := self._tree.number(f"{sensor}_input")) is not None:
                    critical = self._tree.number(f"{sensor}_crit")
                    label = self._tree.text(f"{sensor}_label") or ""
                    yield chip, label, milli / 1000, None if critical is None else critical / 1000

    def _zones(self) -> Iterator[tuple[str, str, float, float | None]]:
        """The same of each thermal zone."""
        for zone in self._tree.names("sys/class/thermal"):
            folder = f"sys/class/thermal/{zone}"
            if not zone.startswith("thermal_zone") or (milli := self._tree.number(f"{folder}/temp")) is None:
                continue
            critical = None
            for name in self._tree.names(folder):
                if name.startswith("trip_point_") and name.endswith("_type"):
                    trip = f"{folder}/{name.removesuffix('_type')}"
                    if self._tree.text(f"{trip}_type") == "critical":
                        critical = self._tree.number(f"{trip}_temp")
            chip = self._tree.text(f"{folder}/type") or zone
            yield chip, "", milli / 1000, None if critical is None else critical / 1000

    # -- time --------------------

    def _time(self) -> Iterator[Reading]:
        clocks = self._clocks()
        between_s, before_s = clocks.wall_s - clocks.boottime_s, self._wall_less_boot_s
        if before_s is not None and abs(between_s - before_s) > CLOCK_STEP_S:
            self._clock_steps += 1
        self._wall_less_boot_s = between_s
        yield Reading(check="clock_steps", value=self._clock_steps)
        yield Reading(check="uptime", value=clocks.boottime_s)
        ahead_s = self._clock_ahead_s()
        yield Reading(
            check="clock_ahead",
            value=None if ahead_s is None else abs(ahead_s),
            told="the centre has told no time yet" if ahead_s is None else f"{ahead_s:+.1f} s",
        )
        if clocks.adjusted is None:
            yield Reading(check="clock_drift", told="this process may not ask the kernel")
        else:
            rate, unsynchronised = clocks.adjusted
            yield Reading(check="clock_drift", value=abs(rate), told=f"{rate:+.1f}")
            yield Reading(check="clock_unsynchronised", value=int(unsynchronised))

    # -- network --------------------

    def _network(self) -> Iterator[Reading]:
        for port in self._tree.names("sys/class/net"):
            folder = f"sys/class/net/{port}"
            if not self._tree.path(f"{folder}/device").exists():
                continue  # not a port of the machine
            # Unreadable while the port is switched off by a person: then it has no link to lose.
            carrier = self._tree.number(f"{folder}/carrier")
            if carrier == 1:
                self._links_up.add(port)
            if carrier is not None:
                speed = self._tree.number(f"{folder}/speed") or -1
                told = "no link" if not carrier else f"{speed} Mbit/s" if speed > 0 else "up"
                down = carrier == 0 and port in self._links_up
                yield Reading(check="link_down", subject=port, value=int(down), told=told)
            counts = [self._tree.number(f"{folder}/statistics/{way}_errors") for way in ("rx", "tx")]
            if any(count is not None for count in counts):
                yield Reading(check="network_errors", subject=port, value=sum(count or 0 for count in counts))
        # Only a machine on which the firewall's unit was started has the file; others have none of ours.
        if (state := self._tree.text(FIREWALL_NAME)) is not None:
            yield Reading(check="firewall", value=int(state != "loaded"), told=state)

    # -- hardware --------------------

    def _hardware(self) -> Iterator[Reading]:
        for controller in self._tree.names("sys/devices/system/edac/mc"):
            folder = f"sys/devices/system/edac/mc/{controller}"
            for name, check in (("ce", "memory_errors"), ("ue", "memory_errors_uncorrected")):
                if (count := self._tree.number(f"{folder}/{name}_count")) is not None:
                    yield Reading(check=check, subject=controller, value=count)
        # A service of the distribution moves them from the firmware to the disk.
        kept = [name for name in PSTORE_NAMES if self._tree.path(name).is_dir()]
        if kept:
            yield Reading(check="crash_logs", value=sum(len(self._tree.names(name)) for name in kept))
        dogs = self._tree.names("sys/class/watchdog")
        states = [self._tree.text(f"sys/class/watchdog/{dog}/state") for dog in dogs]
        if not dogs:
            yield Reading(check="watchdog", told="this machine shows no watchdog")
        elif any(states):
            yield Reading(check="watchdog", value=int("active" in states))
        causes = [self._tree.number(f"sys/class/watchdog/{dog}/bootstatus") or 0 for dog in dogs]
        if dogs:
            reset = any(cause & _CARD_RESET for cause in causes)
            yield Reading(check="watchdog_reset", value=int(reset))


def _fields(text: str | None, *, by: str = ":") -> dict[str, int]:
    """`name: 12 kB` or `name 12` lines as numbers."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, rest = line.partition(by)
        number = rest.split(maxsplit=1)
        if number and number[0].isdecimal():
            found[name] = int(number[0])
    return found


def _average(text: str | None, wanted: str, average: str) -> float | None:
    """Of the `some` or `full` line of a pressure file, percent."""
    for line in (text or "").splitlines():
        kind, *parts = line.split() or [""]
        if kind == wanted:
            for part in parts:
                name, _, value = part.partition("=")
                if name == average:
                    return _float(value)
    return None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _open_files(process: psutil.Process) -> int:
    """Newer kernels tell the number by the directory's size; of thousands, a listing costs."""
    size = os.stat(f"/proc/{process.pid}/fd").st_size
    return size or process.num_fds()
