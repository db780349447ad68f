"""What is read of a machine: kernel files as real machines have them, broken ones, and this machine's."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgegw.observe.checks import CHECKS
from edgegw.observe.disks import (
    COLLECTED_NAME,
    COLLECTED_S_MAX,
    Collected,
    Disks,
    DiskWord,
    collect,
    smart_word,
)
from edgegw.observe.readings import Clocks, Machine, Reading, Tree, read_clocks

MEMINFO = "MemTotal:        4000000 kB\nMemFree: 12 kB\nMemAvailable:     400000 kB\nSwapFree:  0 kB\n"
PRESSURE = (
    "some avg10=9.00 avg60=12.50 avg300=91.00 total=1\nfull avg10=1.00 avg60=7.25 avg300=0.00 total=1\n"
)
BRANCH_SERVER = {
    "proc/meminfo": MEMINFO,
    "proc/vmstat": "nr_free_pages 12\noom_kill 3\n",
    "proc/pressure/memory": PRESSURE,
    "proc/pressure/io": PRESSURE,
    "proc/pressure/cpu": PRESSURE,
    "proc/stat": "cpu  100 0 50 800 0 0 0 50 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0\n",
    "proc/loadavg": "0.10 3.00 0.90 1/123 4567\n",
    "proc/self/cgroup": "0::/system.slice/edgegw.service\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5\n",
    "sys/class/hwmon/hwmon0/name": "coretemp\n",
    "sys/class/hwmon/hwmon0/temp1_input": "45000\n",
    "sys/class/hwmon/hwmon0/temp1_crit": "100000\n",
    "sys/class/hwmon/hwmon0/temp1_label": "Package id 0\n",
    "sys/class/hwmon/hwmon0/temp2_input": "93000\n",
    "sys/class/hwmon/hwmon0/temp2_crit": "100000\n",
    "sys/class/hwmon/hwmon0/temp2_label": "Core 1\n",
    "sys/class/hwmon/hwmon1/name": "nct6775\n",
    "sys/class/hwmon/hwmon1/temp7_input": "-128000\n",
    "sys/class/hwmon/hwmon1/temp8_input": "30000\n",
    "sys/class/hwmon/hwmon1/temp8_crit": "0\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "119000\n",
    "sys/class/net/eno1/device/vendor": "0x8086\n",
    "sys/class/net/eno1/carrier": "1\n",
    "sys/class/net/eno1/speed": "1000\n",
    "sys/class/net/eno1/statistics/rx_errors": "7\n",
    "sys/class/net/eno1/statistics/tx_errors": "1\n",
    "sys/class/net/lo/carrier": "1\n",
    "run/edgegw-firewall/state": "not loaded: exit-code\n",
    "sys/devices/system/edac/mc/mc0/ce_count": "12\n",
    "sys/devices/system/edac/mc/mc0/ue_count": "1\n",
    "sys/fs/pstore/dmesg-efi-1": "Panic\n",
    "sys/class/watchdog/watchdog0/state": "active\n",
    "sys/class/watchdog/watchdog0/bootstatus": "32\n",
}
"""A small Intel server with one port in use, a hot core, a sensor that is not connected, and bad memory."""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """That server's files."""
    return planted(tmp_path, BRANCH_SERVER)


def planted(root: Path, files: dict[str, str]) -> Tree:
    """A tree with these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


class Clockwork:
    """Clocks that stand where they are put."""

    def __init__(self) -> None:
        self.now = Clocks(1_000_000.0, 500.0, (-420.0, True))

    def __call__(self) -> Clocks:
        return self.now


def machine(tree: Tree, clocks: Clockwork | None = None, ahead_s: float | None = None) -> Machine:
    """A watch of that tree."""
    return Machine(
        tree, temperature_celsius_max=90, clocks=clocks or Clockwork(), clock_ahead_s=lambda: ahead_s
    )


def by_name(readings: Iterator[Reading]) -> dict[str, Reading]:
    """By check, and subject where there is one."""
    return {f"{one.check} {one.subject}".strip(): one for one in readings}


def test_a_branch_server_is_read_as_it_is(tree: Tree) -> None:
    """A file that is misread is a sensor that lies."""
    found = by_name(machine(tree).read())
    values = {name: one.value for name, one in found.items() if not name.startswith("own")}
    del values["descriptors"]
    assert values == {
        "memory": 10.0,
        "out_of_memory_kills": 3,
        "memory_stall": 7.25,
        "io_stall": 7.25,
        "cpu_stall": 91.0,
        "load": 1.5,
        "throttling": 9,
        "heat_margin coretemp": 7.0,
        "heat_margin nct6775": 60.0,
        "heat_margin acpitz": pytest.approx(91.2),
        "clock_steps": 0,
        "uptime": 500.0,
        "clock_ahead": None,
        "clock_drift": 420.0,
        "clock_unsynchronised": 1,
        "link_down eno1": 0,
        "network_errors eno1": 8,
        "firewall": 1,
        "memory_errors mc0": 12,
        "memory_errors_uncorrected mc0": 1,
        "crash_logs": 1,
        "watchdog": 1,
        "watchdog_reset": 1,
    }
    assert found["heat_margin coretemp"].told == "Core 1 93 of 100 °C"


def test_the_services_own_limit_counts_where_it_is_closer(tree: Tree) -> None:
    """The kernel ends a process at its group's limit, however much the machine has."""
    planted(
        tree.root,
        {
            "sys/fs/cgroup/system.slice/edgegw.service/memory.max": f"{1 << 30}\n",
            "sys/fs/cgroup/system.slice/edgegw.service/memory.current": f"{(1 << 30) - (64 << 20)}\n",
            "sys/fs/cgroup/system.slice/edgegw.service/memory.stat": f"anon 5\ninactive_file {12 << 20}\n",
        },
    )
    memory = by_name(machine(tree).read())["memory"]
    assert (memory.value, memory.told) == (100 * 76 / 1024, "76 of 1024 MiB of the service's limit")
    planted(tree.root, {"sys/fs/cgroup/system.slice/edgegw.service/memory.max": "max\n"})
    assert by_name(machine(tree).read())["memory"].value == 10.0


def test_a_step_of_the_clock_is_counted_and_its_passing_is_not(tree: Tree) -> None:
    """What steps the clock moves leases, cut-offs and certificates."""
    clocks = Clockwork()
    watch = machine(tree, clocks, ahead_s=-12.5)

    def steps(wall_s: float, boottime_s: float) -> float | None:
        clocks.now = Clocks(wall_s, boottime_s, None)
        return by_name(watch.read())["clock_steps"].value

    assert [steps(1000, 0), steps(1060, 60), steps(1065.2, 65), steps(5000, 70), steps(4000, 75)] == [
        0,
        0,
        0,
        1,
        2,
    ]
    ahead = by_name(watch.read())["clock_ahead"]
    assert (ahead.value, ahead.told) == (12.5, "-12.5 s")


def test_a_port_that_never_had_a_link_is_not_missed_and_one_that_had_is(tree: Tree) -> None:
    """The second port of every server is unused: it would be a warning for ever."""
    planted(tree.root, {"sys/class/net/eno2/device/vendor": "x\n", "sys/class/net/eno2/carrier": "0\n"})
    watch = machine(tree)
    assert by_name(watch.read())["link_down eno2"].value == 0
    planted(tree.root, {"sys/class/net/eno1/carrier": "0\n"})
    found = by_name(watch.read())
    assert (found["link_down eno1"].value, found["link_down eno2"].value) == (1, 0)


def test_steal_is_the_share_of_the_time_between_two_looks(tree: Tree) -> None:
    """A host that gives a virtual box half a processor looks like a slow box."""
    watch = machine(tree)
    assert "steal" not in by_name(watch.read())
    planted(tree.root, {"proc/stat": "cpu  140 0 60 820 0 0 0 80 0 0\ncpu0 1\n"})
    assert by_name(watch.read())["steal"].value == 30.0


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_in_the_kernels_files_is_no_fault_of_ours(tree: Tree, data: st.DataObject) -> None:
    """A driver that writes what no other writes would end the watch of everything else."""
    name = data.draw(st.sampled_from(sorted(BRANCH_SERVER)))
    text = data.draw(st.one_of(st.text(max_size=30), st.sampled_from(["²", "-", "cpu  ² 1", "full avg60=x"])))
    planted(tree.root, {name: text})
    names = {check.name for check in CHECKS}
    assert all(one.check in names for one in machine(tree).read())
    planted(tree.root, {name: BRANCH_SERVER[name]})


def test_an_empty_machine_tells_what_it_does_not_know(tmp_path: Path) -> None:
    """A container without /sys must not look well."""
    found = by_name(machine(Tree(tmp_path)).read())
    assert {name for name, one in found.items() if one.value is None} == {
        "memory",
        "memory_stall",
        "io_stall",
        "cpu_stall",
        "heat_margin",
        "clock_ahead",
        "watchdog",
    }
    assert all(one.told for one in found.values() if one.value is None)


def test_this_machine_can_be_read() -> None:
    """Recorded trees alone would prove that we can read what we wrote."""
    found = by_name(Machine(Tree(), temperature_celsius_max=90).read())
    assert found["memory"].value is not None
    assert 0 < found["memory"].value <= 100
    held = found["own_growth"].value
    assert held is not None
    assert abs(held - psutil.Process().memory_info().rss / 2**20) < 64
    assert read_clocks().boottime_s > 0


# --- disks --------------------------------------------------------------------------------------------------


def on_disk(root: Path, *, errors: int = 0, failed: int = 0) -> Tree:
    """A tree in which the test's own folder lies on the second partition of an SSD, by a mapped device."""
    device = os.stat(root).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    tree = planted(
        root,
        {
            "sys/devices/pci0/ata1/sda/device/ioerr_cnt": f"{failed:#x}\n",
            "sys/devices/pci0/ata1/sda/sda2/partition": "2\n",
            "sys/devices/virtual/dm-0/dm/name": "data\n",
            "sys/fs/ext4/dm-0/errors_count": f"{errors}\n",
            "sys/fs/ext4/dm-0/last_error_time": "1800000000\n",
            "sys/fs/ext4/dm-0/last_error_func": "ext4_lookup\n",
        },
    )
    for name in ("sys/devices/virtual/dm-0/slaves", "sys/dev/block", "sys/block"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for link, target in {
        "sys/devices/virtual/dm-0/slaves/sda2": "sys/devices/pci0/ata1/sda/sda2",
        f"sys/dev/block/{number}": "sys/devices/virtual/dm-0",
        "sys/block/sda": "sys/devices/pci0/ata1/sda",
        "sys/block/dm-0": "sys/devices/virtual/dm-0",
    }.items():
        if not (root / link).is_symlink():
            (root / link).symlink_to(root / target)
    return tree


def disks(tree: Tree, now_s: float = 2e9) -> dict[str, Reading]:
    """What is read of it."""
    places = {"ledger": tree.root, "anchor": tree.root / "sys"}
    return by_name(Disks(tree, places, now_s=lambda: now_s).read())


def test_errors_are_found_below_the_mapped_device_that_the_ledger_is_on(tmp_path: Path) -> None:
    """The data partition is grown, checked and mapped: the disk that fails is two levels down."""
    tree = on_disk(tmp_path, errors=3, failed=0x11)
    found = disks(tree)
    assert found["file_system_errors ledger"].value == 3
    assert found["file_system_errors ledger"].told == (
        "3 in all, the last at 2027-01-15 08:00:00 UTC in ext4_lookup"
    )
    assert found["io_errors ledger"].value == 17
    assert found["read_only ledger"].value == 0
    disk = os.statvfs(tmp_path)
    assert found["ledger_room ledger"].value == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.01)
    assert "read_only anchor" not in found  # the same file system once


def test_wear_is_what_the_machines_service_has_left_and_unknown_once_that_is_old(tmp_path: Path) -> None:
    """A worn disk told as fine by an answer of last year would fail unannounced."""
    tree = on_disk(tmp_path)
    assert disks(tree)["disk_wear sda"].value is None
    word = DiskWord(wear_percent=91.0, failing=False, told="a model")
    left = Collected(at_s=2_000_000_000, disks={"sda": word}, verity={"root": True})
    planted(tmp_path, {COLLECTED_NAME: msgspec.json.encode(left).decode()})
    found = disks(tree)
    assert (found["disk_wear sda"].value, found["disk_failing sda"].value) == (91.0, 0)
    assert found["system_corrupt root"].value == 1
    old = disks(tree, now_s=2e9 + COLLECTED_S_MAX + 1)["disk_wear sda"]
    assert (old.value, "older than" in old.told) == (None, True)
    planted(tmp_path, {COLLECTED_NAME: "{"})
    assert "cannot be read" in disks(tree)["disk_wear sda"].told


def test_a_root_that_the_initial_system_has_opened_is_asked_for_corrupt_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first program opens it by `dmsetup`, without a name of its own for the kernel: asked as one of
    `veritysetup`'s devices it was never found, and a rotting root was told by nobody."""
    said = "root: 0 297888 verity C\nrauc-verity-bundle: 0 8 verity V -\nhome: 0 8 crypt\n"
    for name, answer in {"dmsetup": said, "veritysetup": "", "smartctl": "{}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{answer}END\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    planted(tmp_path / "machine", {"sys/block/dm-0/dm/name": "root\n", "sys/block/dm-0/dm/uuid": "\n"})
    found = collect(Tree(tmp_path / "machine"))
    assert found.verity == {"root": True, "rauc-verity-bundle": False}


@pytest.mark.parametrize(
    ("life", "spare", "wear", "failing"),
    [
        ("0x01 0x03", "0x01", 30.0, 0),
        ("0x0b 0x02", "0x03", 110.0, 1),
        ("0x00 0x00", "0x00", None, None),
        ("0xff what", "0x01", None, 0),
    ],
)
def test_an_emmc_tells_its_life_in_tenths(
    tmp_path: Path, life: str, spare: str, wear: float | None, failing: int | None
) -> None:
    """Appliances boot from these, and nobody asks them."""
    tree = planted(
        tmp_path,
        {
            "sys/block/mmcblk0/device/life_time": f"{life}\n",
            "sys/block/mmcblk0/device/pre_eol_info": f"{spare}\n",
        },
    )
    found = disks(tree)
    assert (found["disk_wear mmcblk0"].value, found["disk_failing mmcblk0"].value) == (wear, failing)


NVME = (
    '{"model_name":"N","smart_status":{"passed":true},"nvme_smart_health_information_log":'
    '{"percentage_used":37,"critical_warning":4,"available_spare":99,"media_errors":2}}'
)
ATA = (
    '{"model_name":"A","smart_status":{"passed":true},"ata_smart_attributes":{"table":['
    '{"id":5,"name":"Reallocated_Sector_Ct","value":100,"raw":{"value":8}},'
    '{"id":177,"name":"Wear_Leveling_Count","value":88,"raw":{"value":150}}]}}'
)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (
            NVME,
            DiskWord(wear_percent=37.0, failing=True, told="N, spare 99 %, 2 media errors"),
        ),
        (
            ATA,
            DiskWord(wear_percent=12.0, failing=False, told="A, Reallocated_Sector_Ct 8"),
        ),
        (
            '{"smart_status":{"passed":false},"endurance_used":{"current_percent":3}}',
            DiskWord(wear_percent=3.0, failing=True),
        ),
        (
            '{"smartctl":{"messages":[{"string":"Permission denied","severity":"error"}]}}',
            DiskWord(told="Permission denied"),
        ),
        ("", DiskWord(told="smartctl gave no answer in time, or none that can be read")),
        ("[1]", DiskWord(told="smartctl gave no answer in time, or none that can be read")),
    ],
)
def test_smartctls_answers_are_understood_or_told_as_unknown(said: str, word: DiskWord) -> None:
    """Three kinds of disk tell the same thing in three ways."""
    assert smart_word(said) == word
