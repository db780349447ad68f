"""The parts of the boot chain that need no image: the disk's layout, firmware entries, archive, keys."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from firmware import disk, keys, layout
from firmware.bundle import box_files
from firmware.initrd import MICROCODE, write_cpio, write_microcode
from firmware.layout import MIB, PROFILES, ProfileName
from firmware.places import SOURCE, BuildError

SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def lab_keys(tmp_path_factory: pytest.TempPathFactory) -> keys.Keys:
    made = keys.Keys(folder=tmp_path_factory.mktemp("keys"))
    keys.make(made)
    return made


@pytest.mark.parametrize("profile", PROFILES)
def test_partitions_neither_overlap_nor_leave_the_boundaries_of_a_disk(profile: ProfileName) -> None:
    """A root that is written over the next partition destroys the slot that still runs."""
    parts = layout.partitions(profile)
    assert [part.name for part in parts] == ["esp-a", "root-a", "esp-b", "root-b", "data"]
    for before, after in itertools.pairwise(parts):
        assert before.start_bytes + before.size_bytes == after.start_bytes
    assert all(part.start_bytes % MIB == part.size_bytes % MIB == 0 for part in parts)


@pytest.mark.parametrize("slot", layout.SLOTS)
def test_an_entry_starts_the_slots_own_partition(slot: str) -> None:
    """An entry that finds the other slot would try an update that never runs."""
    option = layout.boot_entry("cloud", slot)
    esp = layout.partition("cloud", f"esp-{slot}")
    name = f"edgegw-{slot}\0".encode("utf-16-le")
    length = int.from_bytes(option[4:6], "little")
    path = option[6 + len(name) :]
    assert option[6 : 6 + len(name)] == name
    assert len(path) == length
    assert path[:4] == bytes([4, 1, 42, 0])
    assert int.from_bytes(path[8:16], "little") * layout.SECTOR_BYTES == esp.start_bytes
    assert uuid.UUID(bytes_le=path[24:40]) == uuid.UUID(esp.uuid)
    assert path.endswith(bytes([0x7F, 0xFF, 4, 0]))


def test_the_archive_is_the_same_whoever_wrote_the_files_and_when(tmp_path: Path) -> None:
    """Two builds that differ cannot be compared with what was signed."""
    written = []
    for name, mode in (("one", 0o755), ("two", 0o700)):
        tree = tmp_path / name
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/sh").symlink_to("busybox")
        (tree / "bin/busybox").write_bytes(b"program")
        (tree / "bin/busybox").chmod(mode)
        target = tmp_path / f"{name}.cpio"
        write_cpio(tree, target, epoch=1_700_000_000)
        written.append(target.read_bytes())
    assert written[0] == written[1]
    assert len(written[0]) % 4 == 0
    assert b"TRAILER!!!" in written[0]


def test_the_kernel_finds_the_microcode_where_a_processor_takes_it(tmp_path: Path) -> None:
    """An update at an address that Intel's processors refuse leaves its old holes in a branch."""
    parts = {
        "amd-ucode/fam19h.bin": b"A" * 12,
        "intel-ucode/06-8f": b"I" * 2048,
        "intel-ucode/06-97": b"J" * 1024,
    }
    for name, content in parts.items():
        path = tmp_path / "usr/lib/firmware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    target = tmp_path / "early.cpio"
    assert write_microcode(target, root=tmp_path, work=tmp_path, epoch=1)
    archive = target.read_bytes()
    for name, content in zip(MICROCODE, (b"A" * 12, b"I" * 2048 + b"J" * 1024), strict=True):
        path = f"kernel/x86/microcode/{name}\0".encode()
        head = archive.index(path) - 110
        name_bytes = int(archive[head + 94 : head + 102], 16)
        begins = head + 110 + name_bytes
        assert begins % 16 == 0
        assert int(archive[head + 54 : head + 62], 16) == len(content)
        assert archive[begins : begins + len(content)] == content
    (tmp_path / "none").mkdir()
    assert not write_microcode(target, root=tmp_path / "none", work=tmp_path / "none", epoch=1)


def test_only_a_signer_of_code_signs_bundles(lab_keys: keys.Keys) -> None:
    """A box that took any certificate of the authority would take a server's."""
    signer = x509.load_pem_x509_certificate(lab_keys.certificate(keys.SIGNER).read_bytes())
    authority = x509.load_pem_x509_certificate(lab_keys.certificate(keys.AUTHORITY).read_bytes())
    signer.verify_directly_issued_by(authority)
    purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CODE_SIGNING]
    settings = box_files("cloud", lab_keys)["etc/rauc/system.conf"].decode()
    for word in ("check-crl=true", "check-purpose=codesign", "bundle-formats=verity", "bootloader=efi"):
        assert word in settings


def test_a_revoked_signer_is_in_the_list_that_images_carry(lab_keys: keys.Keys) -> None:
    """A key that was stolen must stop at the next image."""
    keys.new_signer(lab_keys, "stolen")
    keys.revoke(lab_keys, ["stolen"])
    stolen = x509.load_pem_x509_certificate(lab_keys.certificate("stolen").read_bytes())
    listed = x509.load_pem_x509_crl(lab_keys.revoked.read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(stolen.serial_number) is not None
    assert lab_keys.revoked.read_bytes() in keys.keyring(lab_keys)


@pytest.mark.parametrize("name", ["init", "flash"])
def test_the_first_program_is_good_shell(name: str) -> None:
    """A slip in it is a machine that does not start."""
    subprocess.run(["sh", "-n", SOURCE / "initrd" / name], check=True)


def test_keys_that_were_given_are_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that lacks one of a site's own keys names it; new ones in its place would end every update."""
    (tmp_path / "db.key").write_text("the site's own")
    monkeypatch.setenv("EDGEGW_IMAGE_KEYS", str(tmp_path))
    with pytest.raises(BuildError, match=r"lacks db\.crt, bundles\.key"):
        keys.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["db.key"]
    assert (tmp_path / "db.key").read_text() == "the site's own"


def test_a_ledger_is_not_written_into_a_broken_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 goes on after an error unless it is told not to; payments would be answered upon it."""
    if shutil.which("mkfs.ext4", path=SEARCH) is None:
        pytest.skip("mkfs.ext4 is not on this machine (Debian's package e2fsprogs)")
    monkeypatch.setenv("PATH", SEARCH)

    def here(_: Path, command: Sequence[str | Path], *, doing: str, writable: Sequence[Path]) -> None:
        assert doing
        assert writable
        subprocess.run(command, check=True)

    monkeypatch.setattr(disk, "in_tools", here)
    made = disk.Made(
        profile="cloud", version="1", tools=tmp_path, keys=keys.Keys(folder=tmp_path), epoch=1, said={}
    )
    part = layout.partition("cloud", "data")
    disk._write_data(tmp_path / "data.img", part, made=made)
    told = subprocess.run(
        ["dumpe2fs", "-h", tmp_path / "data.img"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^Errors behavior: +Remount read-only$", told.stdout, re.MULTILINE)
