"""Each host of a fleet has control groups of its own, whichever kind the kernel has."""

from __future__ import annotations

from pathlib import Path

from tests.lab.fleet import hierarchies


def test_hosts_share_no_control_group_on_todays_kernels(tmp_path: Path) -> None:
    """Two systems in one group kill each other's services: they have the same names."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "systemd").mkdir()
    assert hierarchies(tmp_path) == [tmp_path]


def test_the_older_kind_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    """A folder that is no hierarchy is left alone."""
    for name in ("systemd", "pids", "blkio"):
        (tmp_path / name).mkdir()
    assert hierarchies(tmp_path) == [tmp_path / "systemd", tmp_path / "pids"]
