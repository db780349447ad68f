"""Builds what a disk of the appliance holds: proven root, signed kernel image, EFI partitions, the GPT.

Everything is made in files; nothing is mounted and no loop device is used. Leaves out what is in the root.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from firmware.drivers import kernel_version
from firmware.initrd import write_initrd, write_microcode
from firmware.keys import Keys
from firmware.layout import MIB, SECTOR_BYTES, Partition, ProfileName, partition, partitions, settings
from firmware.places import BuildError, need_room, sha256_of
from firmware.sandbox import in_tools

BLOCK_BYTES: Final = 4096
_STUB: Final = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_FAKE_TIME: Final = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
_COPY_BYTES: Final = MIB


class Made(msgspec.Struct, frozen=True):
    """What everything that is built at once has in common."""

    profile: ProfileName
    version: str
    tools: Path
    keys: Keys
    epoch: int
    """The time that everything bears, in seconds."""
    said: Mapping[str, bytes]
    """What the running image says of itself, and whom it believes: files by name."""


class Proven(msgspec.Struct, frozen=True):
    """A squashfs with its tree of hashes, and what proves it."""

    path: Path
    blocks: int
    salt: str
    root_hash: str


def add_hashes(image: Path, *, made: Made) -> Proven:
    """Append the tree of hashes (dm-verity, SHA-256, blocks of 4 KiB) to a squashfs.

    The salt follows from the content, so that the same content has the same hash.
    """
    blocks = -(-image.stat().st_size // BLOCK_BYTES)
    os.truncate(image, blocks * BLOCK_BYTES)
    salt = sha256_of(image)
    said = in_tools(
        made.tools,
        [
            *("veritysetup", "format", image, image, "--no-superblock", "--hash", "sha256", "--salt", salt),
            *("--data-blocks", str(blocks), "--hash-offset", str(blocks * BLOCK_BYTES)),
        ],
        doing=f"making the tree of hashes of {image.name}",
        writable=[image.parent],
    )
    root_hash = next(line.split()[-1] for line in said.splitlines() if line.startswith("Root hash"))
    return Proven(path=image, blocks=blocks, salt=salt, root_hash=root_hash)


def check_slot(proven: Proven, *, made: Made) -> None:
    """Raise BuildError if a root with its hashes is too large for a slot."""
    room = settings().profiles[made.profile].root_mib * MIB
    if proven.path.stat().st_size > room:
        raise BuildError(
            f"the root of profile {made.profile} has {proven.path.stat().st_size // MIB} MiB with its hashes,"
            f" and a slot has {room // MIB} MiB",
            hint="Take packages out of roots.toml. Do not enlarge the slot: boxes in the field keep theirs.",
        )


def write_kernel_image(
    target: Path,
    *,
    kernel: Path,
    root: Path,
    base: Path,
    proven: Proven,
    made: Made,
    work: Path,
    more_words: Sequence[str] = (),
) -> None:
    """Write the signed kernel image (UKI) for a root: kernel, microcode (of `base`), initial RAM file system,
    and the root's hash in one file. `more_words` are for the kernel, for images that must not be kept.
    """
    proof = f"edgegw.root={proven.blocks}:{proven.salt}:{proven.root_hash}"
    # What stands after two dashes is no word for the kernel: whatever systemd's stub appends (it takes words
    # from the machine's SMBIOS, also under Secure Boot), and the first program refuses to go on with it.
    words = " ".join([*settings().kernel.command_line, *more_words, proof, "--"])
    initrd = work / "initrd.img"
    write_initrd(
        initrd,
        profile=made.profile,
        version=made.version,
        said=made.said,
        words=words,
        root=root,
        tools=made.tools,
        work=work,
        epoch=made.epoch,
    )
    write_signed(
        target, kernel=kernel, initrd=initrd, words=words, root=root, base=base, made=made, work=work
    )


def write_signed(
    target: Path,
    *,
    kernel: Path,
    initrd: Path,
    words: str,
    root: Path,
    base: Path,
    made: Made,
    work: Path,
) -> None:
    """Write kernel, microcode, initial RAM file system and the kernel's words as one signed program (UKI)."""
    unsigned, vmlinuz, os_release = work / "unsigned.efi", work / "vmlinuz", work / "os-release"
    shutil.copyfile(kernel, vmlinuz)
    shutil.copyfile(root / "usr/lib/os-release", os_release)
    microcode = work / "microcode.img"
    early = write_microcode(microcode, root=base, work=work, epoch=made.epoch)
    in_tools(
        made.tools,
        [
            *("ukify", "build", "--linux", vmlinuz, "--initrd", initrd, "--stub", _STUB),
            *("--output", unsigned, "--cmdline", words),
            *("--uname", kernel_version(root), "--os-release", f"@{os_release}"),
            *(("--microcode", microcode) if early else ()),
        ],
        doing="making the kernel image",
        writable=[work],
    )
    sign_efi(unsigned, target, made=made)


def sign_efi(source: Path, target: Path, *, made: Made, name: str = "db") -> None:
    """Sign a program of the firmware with a key of Secure Boot; the time in the signature is the build's."""
    in_tools(
        made.tools,
        [
            *("env", *at_time(made.epoch)),
            *("sbsign", "--key", made.keys.key(name), "--cert", made.keys.certificate(name)),
            *("--output", target, source),
        ],
        doing="signing the kernel image",
        writable=[source.parent, target.parent, made.keys.folder],
    )


def at_time(epoch: int) -> tuple[str, str]:
    """Words for `env`: the program sees a clock that stands still at this time, in seconds."""
    said = dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"LD_PRELOAD={_FAKE_TIME}", f"FAKETIME={said}"


def write_esp(target: Path, kernel_image: Path, *, made: Made) -> None:
    """Write a slot's EFI partition with its kernel image at the place where every firmware looks."""
    size = settings().disk.esp_mib * MIB
    _empty(target, size)
    shell = (
        'export SOURCE_DATE_EPOCH="$1" MTOOLS_SKIP_CHECK=1\n'
        'mkfs.vfat --invariant -F 32 -i ed6e0004 -n SLOT "$2" >/dev/null\n'
        'touch -d "@$1" "$3"\n'
        'mmd -i "$2" ::EFI ::EFI/BOOT\n'
        'mcopy -m -i "$2" "$3" ::EFI/BOOT/BOOTX64.EFI\n'
    )
    in_tools(
        made.tools,
        ["sh", "-euc", shell, "sh", str(made.epoch), target, kernel_image],
        doing="making the EFI partition",
        writable=[target.parent, kernel_image.parent],
    )


def write_disk(target: Path, *, esp: Path, root: Path, made: Made, work: Path) -> None:
    """Write the image that is flashed: slot a filled, slot b empty, a data partition that grows."""
    parts = partitions(made.profile)
    last = parts[-1]
    # The copy of the table at the end takes 33 sectors.
    size = last.start_bytes + last.size_bytes + MIB
    need_room(target.parent, need_bytes=2 * size, purpose="making the disk's image")
    _empty(target, size)
    in_tools(
        made.tools,
        ["sfdisk", "--quiet", target],
        doing="making the partitions",
        writable=[target.parent],
        give=_table(parts).encode(),
    )
    data = work / "data.img"
    _write_data(data, partition(made.profile, "data"), made=made)
    for name, content in (("esp-a", esp), ("root-a", root), ("data", data)):
        _lay(content, target, partition(made.profile, name))


def _table(parts: tuple[Partition, ...]) -> str:
    lines = ["label: gpt", f"label-id: {settings().disk.uuid}", "unit: sectors"]
    for part in parts:
        start, size = part.start_bytes // SECTOR_BYTES, part.size_bytes // SECTOR_BYTES
        lines.append(f"start={start}, size={size}, type={part.type}, uuid={part.uuid}, name={part.name}")
    return "\n".join(lines) + "\n"


def _write_data(target: Path, part: Partition, *, made: Made) -> None:
    _empty(target, part.size_bytes)
    shell = (
        'export SOURCE_DATE_EPOCH="$1" E2FSPROGS_FAKE_TIME="$1"\n'
        # A ledger must not be written into a file system whose structures are found to be wrong.
        'mkfs.ext4 -q -F -b 4096 -I 256 -m 1 -e remount-ro -J size=32 -L data -U "$2"'
        ' -E "hash_seed=$2,lazy_itable_init=0,root_owner=0:0" "$3"\n'
    )
    in_tools(
        made.tools,
        ["sh", "-euc", shell, "sh", str(made.epoch), part.uuid, target],
        doing="making the data partition",
        writable=[target.parent],
    )


def _empty(target: Path, size_bytes: int) -> None:
    target.unlink(missing_ok=True)
    with target.open("wb") as file:
        file.truncate(size_bytes)


def _lay(content: Path, disk: Path, part: Partition) -> None:
    """Copy a file into a partition, leaving out what is zero there anyway."""
    if content.stat().st_size > part.size_bytes:
        raise BuildError(f"{content.name} does not fit into the partition {part.name}")
    nothing = bytes(_COPY_BYTES)
    with content.open("rb") as source, disk.open("r+b") as target:
        place = part.start_bytes
        while portion := source.read(_COPY_BYTES):
            if portion != nothing[: len(portion)]:
                target.seek(place)
                target.write(portion)
            place += len(portion)
