"""What the disks of a machine say: room, errors, wear, and the root's verity tree.

Wear needs a program with rights that a box does not have (`smartctl`), so a service of the machine asks once
an hour (`collect`) and leaves the answer in a file that the box reads. An eMMC tells it in a plain file.
Everything unknown is told as unknown, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from edgegw.observe.readings import Reading, Tree

COLLECTED_NAME: Final = "run/edgegw-health/disks.json"
"""Below the root: what `collect` has left for the box."""
COLLECTED_S_MAX: Final = 3 * 3600
_LAST_S: Final = 1 << 33
"""ext4 keeps no later time."""
COMMAND_S_MAX: Final = 20.0
_EMMC_STEP_PERCENT: Final = 10
_EMMC_LIFE: Final = tuple(f"0x{tenths:02x}" for tenths in range(12))
"""Tenths of its life that are spent; the last is more than all of it, the first that it does not say."""
_LEFT_ATTRIBUTES: Final = frozenset((169, 173, 177, 202, 231, 232, 233))
"""Of ATA disks: their normalised values count down from 100 while the disk wears out."""
_REMAPPED_ATTRIBUTES: Final = frozenset((5, 197, 198))
"""Sectors that such a disk has replaced, or is to."""
_SPARE_BLOCKS: Final = ("not told", "normal", "warning", "urgent")
"""An eMMC's `pre_eol_info`."""
_SMARTCTL_OPTIONS: Final = ("--json=c", "-n", "standby", "-i", "-H", "-A")


class DiskWord(msgspec.Struct, frozen=True, kw_only=True):
    """What one disk says of itself."""

    wear_percent: float | None = None
    failing: bool | None = None
    told: str = ""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine's service has found."""

    at_s: int
    """Unix seconds."""
    disks: dict[str, DiskWord] = {}
    verity: dict[str, bool] = {}
    """Verity devices by name, and whether each has met a corrupt block."""


class Disks:
    """The readings of the file systems that a box uses, and of what lies below them."""

    def __init__(
        self,
        tree: Tree,
        places: Mapping[str, Path],
        *,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """places: a name for the subject, `ledger` first, and any path on that file system."""
        self._tree = tree
        self._places = places
        self._statvfs = statvfs
        self._now_s = now_s

    def read(self) -> Iterator[Reading]:
        """Everything, once."""
        seen: set[int] = set()
        for place, path in self._places.items():
            try:
                device, disk = os.stat(path).st_dev, self._statvfs(path)
            except OSError as problem:
                yield Reading(check="room", subject=place, told=f"{path}: {problem.strerror}")
                continue
            if device not in seen:
                seen.add(device)
                yield from _file_system(place, disk)
                yield from self._errors(place, device)
        yield from self._wear()

    def _errors(self, place: str, device: int) -> Iterator[Reading]:
        """What ext4 and the disks below have counted."""
        block = self._block(device)
        if block is None:
            yield Reading(check="file_system_errors", subject=place, told="it lies on no block device")
            return
        folder = f"sys/fs/ext4/{block.name}"
        errors = self._tree.number(f"{folder}/errors_count")
        if errors is None:
            yield Reading(check="file_system_errors", subject=place, told=f"{block.name} counts none")
        else:
            told = ""
            if errors:
                last_s = self._tree.number(f"{folder}/last_error_time") or 0
                where = self._tree.text(f"{folder}/last_error_func") or "?"
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(last_s, _LAST_S)))
                told = f"{errors} in all, the last at {at} UTC in {where}"
            yield Reading(check="file_system_errors", subject=place, value=errors, told=told)
            yield Reading(check="file_system_errors_kept", subject=place, value=errors, told=told)
        counts = [
            count
            for disk in _below(block)
            if (count := self._tree.number(f"sys/block/{disk}/device/ioerr_cnt")) is not None
        ]
        if counts:
            yield Reading(check="io_errors", subject=place, value=sum(counts))

    def _block(self, device: int) -> Path | None:
        """The kernel's folder of a block device; None where there is none."""
        link = self._tree.path(f"sys/dev/block/{os.major(device)}:{os.minor(device)}")
        try:
            return link.resolve(strict=True)
        except OSError:
            return None

    def _wear(self) -> Iterator[Reading]:
        collected, told = self._collected()
        # Without a driver behind it, it is no disk: loop, ram, device mapper.
        for disk in self._tree.names("sys/block"):
            if not self._tree.path(f"sys/block/{disk}/device").exists():
                continue
            word = self._emmc(disk) or collected.disks.get(disk, DiskWord(told=told))
            yield Reading(check="disk_wear", subject=disk, value=word.wear_percent, told=word.told)
            failing = None if word.failing is None else int(word.failing)
            yield Reading(check="disk_failing", subject=disk, value=failing, told=word.told)
        for name, corrupt in collected.verity.items():
            yield Reading(check="system_corrupt", subject=name, value=int(corrupt))

    def _emmc(self, disk: str) -> DiskWord | None:
        """What an eMMC says in plain files: tenths of its life, and how its spare blocks are."""
        folder = f"sys/block/{disk}/device"
        spent = self._tree.text(f"{folder}/life_time")
        if spent is None:
            return None
        known = [_EMMC_LIFE.index(part) for part in spent.split() if part in _EMMC_LIFE[1:]]
        spare = self._tree.number(f"{folder}/pre_eol_info") or 0
        return DiskWord(
            wear_percent=float(max(known) * _EMMC_STEP_PERCENT) if known else None,
            failing=spare == 3 if spare else None,
            told=f"life time {spent}, spare blocks {_SPARE_BLOCKS[min(spare, 3)]}",
        )

    def _collected(self) -> tuple[Collected, str]:
        """What the machine's service has left, or nothing and why."""
        try:
            found = msgspec.json.decode(self._tree.path(COLLECTED_NAME).read_bytes(), type=Collected)
        except OSError:
            return Collected(at_s=0), "nobody has asked it: edgegw-disks.timer does, as root"
        except msgspec.MsgspecError:
            return Collected(at_s=0), f"/{COLLECTED_NAME} cannot be read"
        if self._now_s() - found.at_s > COLLECTED_S_MAX:
            return Collected(at_s=0), f"/{COLLECTED_NAME} is older than {COLLECTED_S_MAX // 3600} hours"
        return found, "it was not there when the disks were asked"


def _file_system(place: str, disk: os.statvfs_result) -> Iterator[Reading]:
    free = disk.f_bavail * disk.f_frsize
    read_only = bool(disk.f_flag & os.ST_RDONLY)
    yield Reading(check="read_only", subject=place, value=int(read_only))
    if place == "ledger":
        yield Reading(check="ledger_room", subject=place, value=free)
    elif disk.f_blocks:
        yield Reading(check="room", subject=place, value=100 * disk.f_bavail / disk.f_blocks)
    if disk.f_files:  # some file systems make inodes as they need them
        yield Reading(check="inodes", subject=place, value=100 * disk.f_favail / disk.f_files)


def _below(block: Path) -> Iterator[str]:
    """The disks below a block device's folder: a partition's disk, and what a mapped device is made of."""
    try:
        parts = sorted(path.resolve() for path in (block / "slaves").iterdir())
    except OSError:
        parts = []
    for part in parts:
        yield from _below(part)
    if not parts:
        yield block.parent.name if (block / "partition").exists() else block.name


def collect(tree: Tree) -> Collected:
    """Ask every disk by `smartctl` and every verity device by `dmsetup`; needs root's rights. A program
    that is not there, or says nothing, is told in the disk's word."""
    smartctl = shutil.which("smartctl")
    disks = {}
    for disk in tree.names("sys/block"):
        if not tree.path(f"sys/block/{disk}/device").exists():
            continue
        if smartctl is None:
            disks[disk] = DiskWord(told="smartctl is not installed (package smartmontools)")
        else:
            disks[disk] = smart_word(_run(smartctl, *_SMARTCTL_OPTIONS, f"/dev/{disk}"))
    dmsetup = shutil.which("dmsetup")
    verity = {} if dmsetup is None else verity_words(_run(dmsetup, "status", "--target", "verity"))
    return Collected(at_s=int(time.time()), disks=disks, verity=verity)


def verity_words(said: str) -> dict[str, bool]:
    """What `dmsetup status` says of verity devices: by name, whether each has met a corrupt block. Not
    `veritysetup`: it knows its own devices alone, and the appliance's root is opened by another program."""
    found = {}
    for line in said.splitlines():
        name, colon, rest = line.partition(": ")
        fields = rest.split()
        if colon and len(fields) > 3 and fields[2] == "verity":
            found[name] = fields[3] == "C"
    return found


class _Passed(msgspec.Struct):
    passed: bool | None = None


class _Message(msgspec.Struct):
    string: str = ""


class _Call(msgspec.Struct):
    messages: list[_Message] = []


class _Nvme(msgspec.Struct):
    percentage_used: float | None = None
    critical_warning: int = 0
    available_spare: int | None = None
    media_errors: int | None = None


class _Endurance(msgspec.Struct):
    current_percent: float | None = None


class _Raw(msgspec.Struct):
    value: int = 0


class _Attribute(msgspec.Struct):
    id: int
    name: str = ""
    value: int = 0
    raw: _Raw = msgspec.field(default_factory=_Raw)


class _Table(msgspec.Struct):
    table: list[_Attribute] = []


class _Report(msgspec.Struct):
    """What `smartctl --json` says, as far as it is read."""

    smartctl: _Call = msgspec.field(default_factory=_Call)
    smart_status: _Passed = msgspec.field(default_factory=_Passed)
    model_name: str = ""
    nvme_smart_health_information_log: _Nvme | None = None
    endurance_used: _Endurance | None = None
    ata_smart_attributes: _Table | None = None


def smart_word(said: str) -> DiskWord:
    """What `smartctl --json` says of a disk's wear."""
    try:
        report = msgspec.json.decode(said, type=_Report)
    except msgspec.MsgspecError:
        return DiskWord(told="smartctl gave no answer in time, or none that can be read")
    passed, told = report.smart_status.passed, [report.model_name]
    failing = None if passed is None else not passed
    wear: float | None = None
    if nvme := report.nvme_smart_health_information_log:
        wear = nvme.percentage_used
        failing = bool(failing or nvme.critical_warning)
        told += [f"spare {nvme.available_spare} %", f"{nvme.media_errors} media errors"]
    elif report.endurance_used is not None:
        wear = report.endurance_used.current_percent
    elif report.ata_smart_attributes is not None:
        table = report.ata_smart_attributes.table
        left = [row.value for row in table if row.id in _LEFT_ATTRIBUTES]
        wear = float(max(0, 100 - min(left))) if left else None
        told += [f"{row.name} {row.raw.value}" for row in table if row.id in _REMAPPED_ATTRIBUTES]
    if wear is None and failing is None:
        messages = "; ".join(one.string for one in report.smartctl.messages)
        return DiskWord(told=messages or "the disk tells nothing of its wear")
    return DiskWord(wear_percent=wear, failing=failing, told=", ".join(filter(None, told)))


def _run(*command: str) -> str:
    """What a program says; nothing where it does not come to an end."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
