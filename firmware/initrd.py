"""Builds the initial RAM file system: `initrd/init`, busybox, what opens the root, modules for the disk.

Every byte comes from a root (its packages are locked) and from this folder; the archive is written here, so
that the same root gives the same bytes. Leaves out systemd and udev: a signed kernel image has one task until
the root is proven.
"""

from __future__ import annotations

import lzma
import os
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from firmware.drivers import kernel_version
from firmware.layout import SLOTS, ProfileName, boot_entry, settings
from firmware.places import SOURCE
from firmware.sandbox import in_tools, inside

RESCUE_GUID: Final = "ed6e0002-0000-4000-8000-000000000001"
"""Whose variable tells that the other slot was started because this one's root was not what was signed."""
PROGRAMS: Final = ("dmsetup", "blkid", "e2fsck", "resize2fs", "sfdisk", "chattr")
_BUSYBOX: Final = (
    *(
        "base64",
        "cat",
        "chmod",
        "cp",
        "cut",
        "dd",
        "echo",
        "find",
        "grep",
        "head",
        "hexdump",
        "mkdir",
        "modprobe",
        "mount",
    ),
    *(
        "mv",
        "printf",
        "readlink",
        "reboot",
        "rm",
        "sed",
        "sh",
        "sleep",
        "sort",
        "switch_root",
        "sync",
        "tail",
        "tr",
    ),
)
MICROCODE: Final = {"AuthenticAMD.bin": "amd-ucode/*.bin", "GenuineIntel.bin": "intel-ucode/*"}
"""The kernel's names for what it reads early, and where Debian's packages have the parts of each."""
_MICROCODE_ALIGN_BYTES: Final = 16
"""What Intel's processors ask of an update's address."""
_HEAD_BYTES: Final = 110
# The last two are not in ext4's own list: it asks for that sum when it is mounted.
_ALWAYS: Final = ("dm_verity", "squashfs", "efivarfs", "ext4", "crc32c_generic", "crc32c_intel")
# Whatever may stand between a branch server's board and its disk, with what these need.
_CONTROLLERS: Final = (
    *("kernel/drivers/ata", "kernel/drivers/block", "kernel/drivers/message", "kernel/drivers/mmc"),
    *(
        "kernel/drivers/nvme/host",
        "kernel/drivers/scsi",
        "kernel/drivers/usb/host",
        "kernel/drivers/usb/storage",
    ),
    *("kernel/drivers/virtio", "kernel/drivers/md", "kernel/drivers/pci/controller/vmd"),
)
# Left out of these folders: what no disk of a branch server hangs on, as fabrics need a network first.
_NO_CONTROLLER: Final = (
    "dm-vdo",
    "fcoe",
    "iscsi",
    "libfc",
    "fnic",
    "qedf",
    "qedi",
    "cxgbi",
    "bnx2",
    "lpfc",
    "qla2",
    "qla4",
    "bfa",
    "drbd",
    "rbd",
    "nbd",
    "pata_",
)


def write_initrd(
    target: Path,
    *,
    profile: ProfileName,
    version: str,
    said: Mapping[str, bytes],
    words: str,
    root: Path,
    tools: Path,
    work: Path,
    epoch: int,
) -> None:
    """Write the archive for a root, packed with zstd; `work` is an empty folder on the same disk.

    `said` are files that the running image finds in /run/edgegw; `words` are all that the kernel may be told.
    """
    tree = work / "initrd"
    begin(tree, root, first=SOURCE / "initrd/init", applets=_BUSYBOX)
    _copy_programs(root, tree)
    wanted = (*_ALWAYS, *settings().profiles[profile].modules)
    controllers = is_controller if settings().profiles[profile].by_hardware else None
    copy_modules(root, tree, names=wanted, also=controllers, tools=tools)
    _write_settings(tree / "etc", profile=profile, version=version)
    (tree / "etc/words").write_text(words + "\n", encoding="ascii")
    (tree / "etc/image").mkdir()
    for name, content in said.items():
        (tree / "etc/image" / name).write_bytes(content)
    pack(tree, target, tools=tools, epoch=epoch)


def begin(tree: Path, root: Path, *, first: Path, applets: Sequence[str]) -> None:
    """Begin an initial RAM file system: its folders, its first program, busybox under these names."""
    for folder in ("bin", "etc", "proc", "sys", "dev", "run", "sysroot", "usr"):
        (tree / folder).mkdir(parents=True)
    _place(first, tree / "init", mode=0o755)
    _place(root / "usr/bin/busybox", tree / "bin/busybox", mode=0o755)
    for name in applets:
        (tree / "bin" / name).symlink_to("busybox")
    # Where the kernel looks for modprobe when it wants a module by itself.
    (tree / "sbin").symlink_to("bin")
    for folder in ("lib", "lib64", "sbin"):
        (tree / "usr" / folder).symlink_to(f"../{'bin' if folder == 'sbin' else folder}")


def pack(tree: Path, target: Path, *, tools: Path, epoch: int) -> None:
    """Pack a tree as an initial RAM file system."""
    plain = tree.with_suffix(".cpio")
    write_cpio(tree, plain, epoch=epoch)
    in_tools(
        tools,
        ["zstd", "--quiet", "-12", "--force", plain, "-o", target],
        doing="packing the initial RAM file system",
        writable=[plain.parent, target.parent],
    )


def _place(source: Path, target: Path, *, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    target.chmod(mode)


def _copy_programs(root: Path, tree: Path) -> None:
    paths = [
        next(p for p in (f"/usr/sbin/{name}", f"/usr/bin/{name}") if (root / p[1:]).exists())
        for name in PROGRAMS
    ]
    for path in paths:
        _place(root / path[1:], tree / "bin" / Path(path).name, mode=0o755)
    said = inside(root, ["ldd", *paths], doing="looking for the libraries of the initial RAM file system")
    libraries = {word for line in said.splitlines() for word in line.split() if word.startswith("/lib")}
    for library in sorted(libraries):
        _place((root / library[1:]).resolve(), tree / library[1:], mode=0o755)


def is_controller(path: str) -> bool:
    """Whether a module (its path below its kernel's folder) may stand between a board and its disk."""
    return path.startswith(_CONTROLLERS) and not any(no in path for no in _NO_CONTROLLER)


def copy_modules(
    root: Path, tree: Path, *, names: Sequence[str], also: Callable[[str], bool] | None, tools: Path
) -> list[Path]:
    """Copy modules by name, and those whose path `also` takes, with all that they need; what was copied."""
    release = kernel_version(root)
    source = root / "usr/lib/modules" / release
    target = tree / "lib/modules" / release
    needs = _dependencies(source)
    wanted = {_found(needs, name) for name in names} - {""}
    if also is not None:
        wanted |= {path for path in needs if also(path)}
    copied = []
    for path in sorted({each for name in wanted for each in (name, *needs[name])}):
        packed = (source / path).read_bytes()
        plain = target / path.removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        # Packed once as a whole: that is smaller, and the signature at a module's end stays as it was.
        plain.write_bytes(lzma.decompress(packed) if path.endswith(".xz") else packed)
        copied.append(plain)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        _place(source / name, target / name, mode=0o644)
    in_tools(tools, ["depmod", "-b", tree, release], doing="listing the modules", writable=[tree])
    for extra in target.glob("modules.*.bin"):
        extra.unlink()
    return copied


def _dependencies(source: Path) -> dict[str, tuple[str, ...]]:
    """The modules of a kernel with all that each needs, as paths below its folder."""
    lines = (source / "modules.dep").read_text(encoding="ascii").splitlines()
    return {path: tuple(others.split()) for path, _, others in (line.partition(":") for line in lines)}


def _found(needs: dict[str, tuple[str, ...]], name: str) -> str:
    """The path of a module, or nothing for one that is part of the kernel."""
    names = {
        f"{spelling}.ko{packing}"
        for spelling in (name, name.replace("_", "-"))
        for packing in ("", ".xz", ".zst")
    }
    return next((path for path in needs if path.rpartition("/")[2] in names), "")


def _write_settings(folder: Path, *, profile: ProfileName, version: str) -> None:
    read = settings()
    names = {"ESP_A": "esp-a", "ROOT_A": "root-a", "ESP_B": "esp-b", "ROOT_B": "root-b", "DATA": "data"}
    lines = [f"{name}={uuid.UUID(read.disk.partitions[part])}" for name, part in names.items()]
    lines += [f"RESCUE_GUID={RESCUE_GUID}", f"VERSION='{version}'"]
    lines += [f"MODULES='{' '.join((*_ALWAYS, *read.profiles[profile].modules))}'"]
    lines += [f"BY_HARDWARE={'1' if read.profiles[profile].by_hardware else ''}"]
    (folder / "slots").write_text("\n".join(lines) + "\n", encoding="ascii")
    for slot in SLOTS:
        option = boot_entry(profile, slot)
        (folder / f"entry-{slot}.bin").write_bytes(option)
        # Without the attributes and the length in front: a firmware may have added a flag.
        (folder / f"entry-{slot}.match").write_text(option[6:].hex() + "\n", encoding="ascii")


def write_microcode(target: Path, *, root: Path, work: Path, epoch: int) -> bool:
    """Write the archive that the kernel reads before all else: what a root has of processors' microcode.

    Whether there is any: a virtual machine's processor is its host's care.
    """
    tree = work / "microcode"
    found = {
        name: b"".join(path.read_bytes() for path in sorted((root / "usr/lib/firmware").glob(pattern)))
        for name, pattern in MICROCODE.items()
    }
    folder = tree / "kernel/x86/microcode"
    folder.mkdir(parents=True)
    for name, content in found.items():
        if content:
            (folder / name).write_bytes(content)
    write_cpio(tree, target, epoch=epoch, align_bytes=_MICROCODE_ALIGN_BYTES)
    return any(found.values())


def write_cpio(tree: Path, target: Path, *, epoch: int, align_bytes: int = 4) -> None:
    """Write a tree as a newc archive: sorted, owned by root, with one time and counted inodes."""
    with target.open("wb") as out:
        paths = sorted(path.relative_to(tree) for path in tree.rglob("*"))
        for inode, path in enumerate(paths, start=1):
            whole = tree / path
            mode = whole.lstat().st_mode
            if stat.S_ISLNK(mode):
                content, mode = os.readlink(whole).encode(), 0o120777
            elif stat.S_ISDIR(mode):
                content, mode = b"", 0o040755
            else:
                content, mode = whole.read_bytes(), 0o100000 | (0o755 if mode & 0o100 else 0o644)
            # The name may end with more than one zero: so its content begins where it should.
            name = str(path).encode() + b"\0"
            name += bytes(-(out.tell() + _HEAD_BYTES + len(name)) % align_bytes)
            _write_member(out, name, content, inode=inode, mode=mode, epoch=epoch)
        _write_member(out, b"TRAILER!!!\0", b"", inode=0, mode=0, epoch=0)


def _write_member(out: BinaryIO, name: bytes, content: bytes, *, inode: int, mode: int, epoch: int) -> None:
    links = 2 if stat.S_ISDIR(mode) else 1
    numbers = (inode, mode, 0, 0, links, epoch, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    out.write(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))
