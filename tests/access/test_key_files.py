"""Files of keys: whose they are, that none is replaced, and what is said of one that cannot be used."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegw.access import key_files
from edgegw.access.key_files import KeyFileError
from edgegw.sm.sm2 import PrivateKey


def test_a_key_file_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, no half-written leftovers, and an existing file stays as it is."""
    path = tmp_path / "box.key"
    key = PrivateKey.generate()
    before = os.umask(0)
    try:
        key_files.store_private_key(path, key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_files.load_private_key(path).public == key.public
    with pytest.raises(KeyFileError, match="exists already") as refusal:
        key_files.store_private_key(path, PrivateKey.generate())
    assert refusal.value.path == path
    assert key_files.load_private_key(path).public == key.public
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_key_file_names_path_and_mend(tmp_path: Path) -> None:
    """Missing, open to others, too large, or not a key: the message says which file and what to do."""
    path = tmp_path / "box.key"
    with pytest.raises(KeyFileError, match=r"box\.key: cannot be read"):
        key_files.load_private_key(path)
    with pytest.raises(KeyFileError, match="cannot be written"):
        key_files.store_private_key(tmp_path / "nowhere" / "box.key", PrivateKey.generate())
    key_files.store_private_key(path, PrivateKey.generate())
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 640") as refusal:
        key_files.load_private_key(path)
    assert refusal.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIG\n")
    with pytest.raises(KeyFileError, match="libcrypto can read") as refusal:
        key_files.load_private_key(path)
    assert "backup" in refusal.value.hint
    path.write_bytes(bytes(20_000))
    with pytest.raises(KeyFileError, match="16384"):
        key_files.load_private_key(path)


WITHOUT_LINKS = """
import ctypes, pathlib, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
load, is_link, refuse, allow = (0x20, 0, 0, 0), 0x15, (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)
numbers = {"x86_64": (86, 265), "aarch64": (37, 37)}[sys.argv[2]]
steps = [load, (is_link, 1, 0, numbers[0]), (is_link, 0, 1, numbers[1]), refuse, allow]
body = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
program = Program(len(steps), ctypes.addressof(body))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("this machine lets no process give up its links")
from edgegw.access.key_files import KeyFileError, write_new_file
folder = pathlib.Path(sys.argv[1])
try:
    (folder / "linked").hardlink_to(folder)
except PermissionError:
    pass
else:
    sys.exit("links still work")
for body in (b"the first", b"another"):
    try:
        write_new_file(folder / "claim.json", body, mode=0o600)
    except KeyFileError as problem:
        print(problem)
"""
"""A process to which the kernel refuses links, as it does on FAT (link(2): EPERM)."""


def test_where_there_are_no_links_a_file_is_new_and_whole_all_the_same(tmp_path: Path) -> None:
    """A claim goes onto a stick, and sticks are FAT: "Operation not permitted" brought no branch a box."""
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64"):
        pytest.skip(f"the calls of {machine} are not known here")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINKS, str(tmp_path), machine],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "lets no process" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/claim.json: exists already\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"claim.json": b"the first"}


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Path]:
    """A true FAT file system, where the machine can make and mount one."""
    place = tmp_path / "stick"
    place.mkdir()
    make = shutil.which("mkfs.vfat", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip("there is no mkfs.vfat (dosfstools)")
    subprocess.run([make, "-C", str(tmp_path / "fat.img"), "4096"], check=True, capture_output=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", "-t", "vfat", str(tmp_path / "fat.img"), str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no FAT file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_file_on_a_stick_is_new_and_whole(stick: Path) -> None:
    """The same on a true stick."""
    key_files.write_new_file(stick / "claim.json", b"the first", mode=0o600)
    with pytest.raises(KeyFileError, match="exists already"):
        key_files.write_new_file(stick / "claim.json", b"another", mode=0o600)
    assert {path.name: path.read_bytes() for path in stick.iterdir()} == {"claim.json": b"the first"}
