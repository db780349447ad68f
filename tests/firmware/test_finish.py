"""A finished root: nothing of one machine, what packages keep in /var is made on the box, no surprise."""

import os
import stat
from pathlib import Path

import pytest

from firmware import finish, product
from firmware.places import BuildError

EPOCH = 1_700_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root as a build leaves it."""
    for name in (
        "etc/ssh",
        "usr/bin",
        "usr/lib",
        "var/lib/chrony",
        "var/lib/drives",
        "var/log/apt",
        "var/lib/dpkg",
    ):
        (tmp_path / name).mkdir(parents=True)
    me, mine = os.getuid(), os.getgid()
    (tmp_path / "etc/passwd").write_text(f"someone:x:{me}:{mine}::/:/bin/false\n")
    (tmp_path / "etc/group").write_text(f"some:x:{mine}:\n")
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "etc/ssh/ssh_host_ed25519_key").write_text("a key\n")
    (tmp_path / "etc/passwd-").write_text("before\n")
    (tmp_path / "var/log/apt/history.log").write_text("today\n")
    (tmp_path / "var/lib/dpkg/status").write_text("packages\n")
    (tmp_path / "var/lib/drives/known.h").write_text("drives\n")
    (tmp_path / "var/lib/chrony").chmod(0o750)
    (tmp_path / "usr/bin/su").write_text("program\n")
    (tmp_path / "usr/bin/su").chmod(0o4755)
    return tmp_path


def test_nothing_of_the_building_machine_stays(tree: Path) -> None:
    """Two boxes with one host key or one machine id are one box to whoever looks at them."""
    finish.clean(tree)
    assert not (tree / "etc/ssh/ssh_host_ed25519_key").exists()
    assert (tree / "etc/machine-id").read_text() == ""
    assert not (tree / "etc/passwd-").exists()
    assert (tree / "etc/hostname").read_text() == "edgegw\n"
    assert list((tree / "var").iterdir()) == []


def test_the_box_gets_the_folders_that_packages_keep_in_var(tree: Path) -> None:
    """The data partition is empty at first, and a service without its folder does not start."""
    finish.clean(tree)
    rules = (tree / finish.VAR_RULES).read_text()
    assert "d /var/lib/chrony 0750 someone some -\n" in rules
    assert f"L+ /var/lib/drives/known.h - - - - /{finish.FACTORY}/lib/drives/known.h\n" in rules
    assert (tree / finish.FACTORY / "lib/drives/known.h").read_text() == "drives\n"
    assert "dpkg" not in rules


def test_everything_bears_one_time_and_nothing_runs_as_another_user(tree: Path) -> None:
    """One file with its own time, and two builds differ; a program with another's rights is a way up."""
    finish.clean(tree)
    finish.settle(tree, epoch=EPOCH)
    found = [path.lstat() for path in (tree, *tree.rglob("*"))]
    assert {kept.st_mtime for kept in found} == {EPOCH}
    assert not [
        kept for kept in found if stat.S_ISREG(kept.st_mode) and kept.st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]


def test_a_secret_stops_the_build(tree: Path) -> None:
    """Whoever has one image has read all that is in every box."""
    finish.clean(tree)
    body = "\n".join(["MC4CAQAwBQYDK2VwBCIEIOhb" * 2] * 3)
    (tree / "etc/tls.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    with pytest.raises(BuildError, match=r"/etc/tls\.pem"):
        finish.settle(tree, epoch=EPOCH)


def test_a_root_that_is_too_large_says_where_it_is_large(tree: Path) -> None:
    """A slot's size never changes on boxes in the field: what does not fit can never be installed there."""
    (tree / "usr/lib/heavy.so").write_bytes(bytes(3_000_000))
    most = product.SIZE_BYTES_MAX["cloud"]
    product.check_size(tree, most * 98 // 100, profile="cloud")
    with pytest.raises(BuildError, match=r"3 MB  /usr/lib"):
        product.check_size(tree, most, profile="cloud")
