"""What is watched of a machine, from which reading on, and what each level does.

The thresholds that are settings come in by `Limits`; the others stand here, in one table. What a reading is,
is `observe.readings`; how levels rise and fall is `observe.health`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

LEDGER: Final = "ledger"
"""The subject of readings about the disk that the ledger is on."""
LEAVE: Final = 0.8
"""A level is left when its reading is a fifth clear of the threshold."""


class Level(enum.IntEnum):
    """How bad it is, and what is done; each includes those before it."""

    WELL = 0
    NOTICE = 1
    """A person is told."""
    SHED = 2
    """Log lines below warning are not written, metrics leave out what costs reading."""
    PAUSE = 3
    """Work that can wait does: pruning, reading the ledger again, new site settings, copies and drills."""
    REFUSE = 4
    """No new payment is decided; repeats are answered."""


ACTIONS: Final = {
    Level.WELL: "",
    Level.NOTICE: "told",
    Level.SHED: "log lines below warning and costly metrics are left out",
    Level.PAUSE: "pruning, re-reading, new site settings, copies and drills wait",
    Level.REFUSE: "new payments are refused",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say, and the ledger's own line."""

    payments_bytes_min: int
    memory_percent_min: int
    temperature_celsius_max: int
    wear_percent_max: int
    clock_ahead_seconds_max: int
    calm_seconds: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is watched. Without thresholds it is told and judges nothing."""

    name: str
    unit: str
    help: str
    mend: str = ""
    thresholds: Mapping[Level, float] = {}
    is_low_bad: bool = False
    hourly: bool = False
    """Its readings are counts since some time; what is judged is their growth in the last hour."""
    elsewhere: Level = Level.REFUSE
    """The highest level for any subject but the ledger's disk."""
    keeps_copies: bool = False
    """The trouble is the disk's: its copy is wanted more, not less."""
    passes: bool = False
    """It comes and goes with the work, and waits for no person."""
    least: float = 0.0
    most: float = float("inf")
    """Readings outside are a sensor's nonsense, and unknown."""

    def beyond(self, value: float, subject: str) -> Level:
        """The highest level whose threshold this value has reached."""
        return self._level(value, subject, 1.0)

    def held(self, value: float, subject: str) -> Level:
        """The highest level that this value is not clear of yet."""
        return self._level(value, subject, LEAVE)

    def _level(self, value: float, subject: str, share: float) -> Level:
        found = Level.WELL
        for level, threshold in self.thresholds.items():
            if value <= threshold / share if self.is_low_bad else value >= threshold * share:
                found = max(found, level)
        return found if subject == LEDGER else min(found, self.elsewhere)


CHECKS: Final = (
    Check(
        name="ledger_room",
        unit="bytes",
        help="Free on the ledger's disk; payments end at disk.payments_bytes_min, by the reserve.",
        mend="Free space on the ledger's disk, or give it a larger one.",
        is_low_bad=True,
        keeps_copies=True,  # They have a line of their own (`ledger.space`).
    ),
    Check(
        name="room",
        unit="percent",
        help="Free on another file system that the box uses.",
        mend="Free space there.",
        thresholds={Level.NOTICE: 5.0},
        is_low_bad=True,
        most=100.0,
    ),
    Check(
        name="inodes",
        unit="percent",
        help="Free inodes of a file system that the box uses.",
        mend="Look for a folder with very many small files there.",
        thresholds={Level.NOTICE: 5.0, Level.PAUSE: 1.0},
        is_low_bad=True,
        most=100.0,
    ),
    Check(
        name="read_only",
        unit="flag",
        help="1 while a file system that the box writes to is mounted read-only.",
        mend="Read the kernel's log for this disk; replace it where it fails, else check it and mount it"
        " for writing again.",
        thresholds={Level.REFUSE: 1.0},
        elsewhere=Level.NOTICE,
        keeps_copies=True,
        most=1.0,
    ),
    Check(
        name="file_system_errors",
        unit="errors an hour",
        help="Errors that ext4 has counted in its own structures.",
        mend="Read the kernel's log; have the ledger's copies at hand, check the file system, replace the"
        " disk.",
        thresholds={Level.PAUSE: 1.0, Level.REFUSE: 5.0},
        hourly=True,
        elsewhere=Level.NOTICE,
        keeps_copies=True,
    ),
    Check(
        name="file_system_errors_kept",
        unit="errors",
        help="Errors that ext4 has counted since the file system was last checked.",
        mend="Stop the box, check the file system (`e2fsck -f`), start it again.",
        thresholds={Level.NOTICE: 1.0},
    ),
    Check(
        name="io_errors",
        unit="errors an hour",
        help="Requests that a disk has failed.",
        mend="Read the kernel's log for this disk; check its cable, replace it.",
        thresholds={Level.NOTICE: 1.0, Level.PAUSE: 20.0},
        hourly=True,
        elsewhere=Level.NOTICE,
        keeps_copies=True,
    ),
    Check(
        name="disk_wear",
        unit="percent",
        help="How much of its rated endurance a disk has used up, by its own word.",
        mend="Plan to replace the disk; a new box takes over as after a loss.",
        most=255.0,
    ),
    Check(
        name="disk_failing",
        unit="flag",
        help="1 while a disk says of itself that it is failing.",
        mend="Replace the disk now.",
        thresholds={Level.NOTICE: 1.0},
        most=1.0,
    ),
    Check(
        name="memory",
        unit="percent",
        help="Memory that can be had, of the machine or of the service's own limit, whichever is less.",
        mend="`edgegw health` says how much is the box's own; stop what else runs here, or add memory.",
        is_low_bad=True,
        most=100.0,
    ),
    Check(
        name="memory_stall",
        unit="percent",
        help="Of the last minute all tasks waited for memory.",
        mend="Stop what else runs here, or add memory.",
        thresholds={Level.NOTICE: 5.0, Level.SHED: 10.0, Level.PAUSE: 20.0},
        most=100.0,
        passes=True,
    ),
    Check(
        name="io_stall",
        unit="percent",
        help="Of the last minute all tasks waited for a disk.",
        mend="Look which program uses the disk (`pidstat -d`); a slow one may be failing.",
        thresholds={Level.NOTICE: 40.0, Level.PAUSE: 70.0},
        keeps_copies=True,
        most=100.0,
        passes=True,
    ),
    Check(
        name="cpu_stall",
        unit="percent",
        help="Of the last five minutes some task waited for a processor.",
        mend="Look which program uses the processor (`top`); move it to another machine.",
        thresholds={Level.NOTICE: 90.0, Level.SHED: 97.0},
        most=100.0,
        passes=True,
    ),
    Check(
        name="load",
        unit="tasks a processor",
        help="The load of five minutes.",
        mend="Look which program uses the processor (`top`); move it to another machine.",
        thresholds={Level.NOTICE: 8.0},
        passes=True,
    ),
    Check(
        name="steal",
        unit="percent",
        help="Of the time since the last reading the host of this virtual machine took for others.",
        mend="Give the virtual machine processors of its own.",
        thresholds={Level.NOTICE: 20.0},
        most=100.0,
        passes=True,
    ),
    Check(
        name="out_of_memory_kills",
        unit="kills an hour",
        help="Processes that the kernel has ended for want of memory.",
        mend="Read the kernel's log which one; add memory or limit that program.",
        thresholds={Level.NOTICE: 1.0, Level.PAUSE: 2.0},
        hourly=True,
    ),
    Check(
        name="own_memory",
        unit="percent",
        help="Of the machine's memory that this process holds.",
        mend="Restart the box at a quiet hour, and send its support bundle.",
        thresholds={Level.NOTICE: 50.0, Level.SHED: 70.0},
        most=100.0,
    ),
    Check(
        name="own_growth",
        unit="mebibytes an hour",
        help="By which this process has grown.",
        mend="Restart the box at a quiet hour, and send its support bundle.",
        thresholds={Level.NOTICE: 256.0},
        hourly=True,
    ),
    Check(
        name="descriptors",
        unit="percent",
        help="Open files and connections of this process, of its limit.",
        mend="Look who holds so many connections (`ss -tnp`); raise LimitNOFILE of the service.",
        thresholds={Level.NOTICE: 70.0, Level.PAUSE: 85.0},
        most=100.0,
    ),
    Check(
        name="heat_margin",
        unit="celsius",
        help="How far the hottest sensor of a chip is below that sensor's own critical temperature, or below"
        " health.temperature_celsius_max where it has none.",
        mend="Look at fans, dust and the room.",
        thresholds={Level.NOTICE: 10.0, Level.PAUSE: 3.0},
        is_low_bad=True,
        least=-100.0,
        most=250.0,
    ),
    Check(
        name="throttling",
        unit="events an hour",
        help="How often a processor has slowed down for its heat.",
        mend="Look at fans, dust and the room.",
        thresholds={Level.NOTICE: 60.0},
        hourly=True,
    ),
    Check(
        name="clock_ahead",
        unit="seconds",
        help="How far the machine's clock is from the centre's signed time.",
        mend="Set the machine's clock.",
    ),
    Check(
        name="clock_steps",
        unit="steps an hour",
        help="Jumps of the machine's clock by more than half a second.",
        mend="Look at what sets the clock; a time server that contradicts another one must go.",
        thresholds={Level.NOTICE: 3.0},
        hourly=True,
    ),
    Check(
        name="clock_drift",
        unit="parts a million",
        help="By which the kernel corrects the clock's rate.",
        mend="The clock's crystal is at the end of what can be corrected: plan to replace the board.",
        thresholds={Level.NOTICE: 400.0},
        most=1000.0,
    ),
    Check(
        name="clock_unsynchronised",
        unit="flag",
        help="1 while nothing keeps the kernel's clock to a time server.",
        most=1.0,
    ),
    Check(
        name="link_down",
        unit="flag",
        help="1 while a network port that was up has no link.",
        mend="Check the cable and the switch.",
        thresholds={Level.NOTICE: 1.0},
        most=1.0,
    ),
    Check(
        name="network_errors",
        unit="errors an hour",
        help="Frames that a network port has failed to send or take.",
        mend="Check the cable and the switch.",
        thresholds={Level.NOTICE: 100.0},
        hourly=True,
    ),
    Check(
        name="firewall",
        unit="flag",
        help="1 while this machine's firewall is not in force.",
        mend="Look at `systemctl status edgegw-firewall`, mend it, and `systemctl restart edgegw-firewall`.",
        thresholds={Level.NOTICE: 1.0},
        most=1.0,
    ),
    Check(
        name="memory_errors",
        unit="errors an hour",
        help="Memory errors that the machine has corrected.",
        mend="Plan to replace the memory.",
        thresholds={Level.NOTICE: 10.0},
        hourly=True,
    ),
    Check(
        name="memory_errors_uncorrected",
        unit="errors",
        help="Memory errors since the machine's start that could not be corrected.",
        mend="Replace the memory now; run `edgegw ledger check`.",
        thresholds={Level.NOTICE: 1.0},
    ),
    Check(
        name="system_corrupt",
        unit="flag",
        help="1 while the root's verity tree has met a block that is not what was signed.",
        mend="Install the running version again (`edgegw update install`), or replace the disk.",
        thresholds={Level.NOTICE: 1.0},
        most=1.0,
    ),
    Check(
        name="crash_logs",
        unit="files",
        help="Logs of kernel crashes that the machine's firmware has kept.",
        mend="Send the files in /sys/fs/pstore and /var/lib/systemd/pstore with the support bundle, and"
        " remove them.",
        thresholds={Level.NOTICE: 1.0},
    ),
    Check(name="uptime", unit="seconds", help="Since the machine's start."),
    Check(
        name="watchdog",
        unit="flag",
        help="1 while a hardware watchdog runs, 0 while one is there and does not.",
        most=1.0,
    ),
    Check(
        name="watchdog_reset",
        unit="flag",
        help="1 where the machine's last start was the watchdog's doing.",
        mend="Read the log of the boot before this one (`journalctl -b -1`).",
        thresholds={Level.NOTICE: 1.0},
        most=1.0,
    ),
)
"""Every check; `checks` gives the thresholds that are settings."""


def checks(limits: Limits) -> dict[str, Check]:
    """All checks by name."""
    room, memory = limits.payments_bytes_min, limits.memory_percent_min
    settings: dict[str, dict[Level, float]] = {
        "ledger_room": {Level.SHED: 4 * room, Level.PAUSE: 3 * room},
        "memory": {Level.SHED: memory, Level.PAUSE: memory / 2, Level.REFUSE: memory / 5},
        "disk_wear": {Level.NOTICE: limits.wear_percent_max},
        "clock_ahead": {Level.NOTICE: limits.clock_ahead_seconds_max},
    }
    return {
        check.name: msgspec.structs.replace(check, thresholds=settings.get(check.name, check.thresholds))
        for check in CHECKS
    }
