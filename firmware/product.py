"""The root of the appliance: Debian's packages, the product with its Python packages, the overlay, the units.

    built = appliance("cloud", added={"etc/rauc/keyring.pem": certificate})
    built.squashfs, built.kernel, built.kernel_version, built.tree

Made once for each state of what goes in; two builds give the same bytes. Leaves out the kernel's image and
what is signed: both are outside this file system.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from firmware import finish, wheels
from firmware.drivers import check_drivers, kernel_version
from firmware.layout import ProfileName
from firmware.places import (
    LOCKS,
    SOURCE,
    BuildError,
    alone,
    build_folder,
    need_room,
    remove,
    run,
    sha256_of,
    source_date_epoch,
    workshop,
)
from firmware.roots import Root, ready
from firmware.sandbox import SCRATCH, in_tools, inside
from firmware.tree import everything, remove_globs, sizes_by_folder

SIZE_BYTES_MAX: Final[dict[ProfileName, int]] = {"cloud": 150_000_000, "hardware": 250_000_000}
"""What a root slot may hold, with the tree of hashes that is appended to it."""
HOME: Final = "opt/edgegw"
PACKAGES: Final = f"{HOME}/lib/python{wheels.PYTHON}/site-packages"
_LIBRARY: Final = f"usr/lib/python{wheels.PYTHON}"
_VERITY_SHARE: Final = 100
"""The tree of hashes is less than one part in so many of the file system."""
_TOLD_FOLDERS: Final = 15
_KEPT: Final = 2
_ROOM_BYTES: Final = 2_000_000_000
_CODE: Final = ("finish.py", "product.py", "secrets_in_root.py", "tree.py", "wheels.py")
NEEDLESS: Final = (
    # Only `sqlite-utils install` would use it; nothing is installed on a box.
    f"{PACKAGES}/pip",
    f"{PACKAGES}/pip-*",
    f"{HOME}/bin/pip*",
    f"{HOME}/bin/[aA]ctivate*",
    f"{PACKAGES}/*/tests",
    f"{PACKAGES}/securesystemslib/_vendor/ed25519/test_data",
    f"{_LIBRARY}/ensurepip",
    f"{_LIBRARY}/idlelib",
    f"{_LIBRARY}/pydoc_data",
    f"{_LIBRARY}/test",
    f"{_LIBRARY}/turtledemo",
    # The kernel reads it before there is a root: it is in the kernel image.
    "usr/lib/firmware/*-ucode",
)


class Product(msgspec.Struct, frozen=True):
    """A finished root of the appliance."""

    profile: ProfileName
    key: str
    version: str
    epoch: int
    """The time of all its files, in seconds."""
    tree: Path
    """The root as a folder: never change it."""
    squashfs: Path
    kernel: Path
    kernel_version: str
    base: Root
    tools: Root
    """Whose programs made it; the kernel image begins with one of them."""


def appliance(profile: ProfileName, *, added: Mapping[str, bytes] | None = None) -> Product:
    """The finished root of a profile, made if it is not there yet; raises BuildError.

    `added` are files beside those of the overlay, by their path below the root.
    """
    os.umask(0o022)
    base, tools = ready(f"appliance-{profile}"), ready("tools")
    epoch = source_date_epoch()
    with alone(f"product-{profile}"), workshop("product") as folder:
        wheel = wheels.own(folder, epoch=epoch)
        key = _key(base, tools, wheel, profile=profile, epoch=epoch, added=added or {})
        place = build_folder("products") / f"{profile}-{key}"
        if not place.exists():
            need_room(
                place.parent, need_bytes=_ROOM_BYTES, purpose=f"making the root of the profile {profile}"
            )
            _make(folder, base, wheel, profile=profile, epoch=epoch, added=added or {})
            _pack(tools, folder, profile=profile, epoch=epoch)
            (folder / "made").rename(place)
        os.utime(place)
        _prune(profile)
        version = wheel.name.split("-")[1]
    return Product(
        profile=profile,
        key=key,
        version=version,
        epoch=epoch,
        tree=place / "tree",
        squashfs=place / "root.squashfs",
        kernel=place / "vmlinuz",
        kernel_version=kernel_version(place / "tree"),
        base=base,
        tools=tools,
    )


def overlays(profile: ProfileName) -> list[Path]:
    """The folders whose files are laid over the root of a profile, in this order."""
    folders = [SOURCE / "overlay", SOURCE / f"overlay-{profile}"]
    return [folder for folder in folders if folder.is_dir()]


def _key(
    base: Root, tools: Root, wheel: Path, *, profile: ProfileName, epoch: int, added: Mapping[str, bytes]
) -> str:
    digest = hashlib.sha256(f"{base.key} {tools.key} {epoch} {sha256_of(wheel)}".encode())
    for path in (
        wheels.RUNTIME,
        *(SOURCE / name for name in _CODE),
    ):
        digest.update(path.read_bytes())
    for name, content in sorted(added.items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    for folder in overlays(profile):
        for path in everything(folder):
            if path.is_symlink() or path.is_file():
                content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
                digest.update(
                    f"{path.relative_to(folder)} {os.access(path, os.X_OK)} {len(content)} ".encode()
                )
                digest.update(content)
    return digest.hexdigest()[:16]


def _make(
    folder: Path, base: Root, wheel: Path, *, profile: ProfileName, epoch: int, added: Mapping[str, bytes]
) -> None:
    tree = folder / "made" / "tree"
    tree.parent.mkdir()
    run(["cp", "--archive", "--reflink=auto", base.path, tree], doing="copying the root")
    version = kernel_version(tree)
    shutil.copyfile(tree / f"boot/vmlinuz-{version}", folder / "made" / "vmlinuz")
    _install(tree, wheel)
    for overlay in overlays(profile):
        _lay(overlay, tree)
    for name, content in sorted(added.items()):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check_drivers(tree, profile)
    _say_units(tree, epoch=epoch)
    finish.clean(tree)
    remove_globs(tree, NEEDLESS)
    _compile(tree)
    finish.settle(tree, epoch=epoch)


def _install(tree: Path, wheel: Path) -> None:
    """Put the product and its Python packages into /opt/edgegw of a tree, by the tree's own Python."""
    at = SCRATCH
    uv = Path(sys.executable).with_name("uv")
    beside = {
        wheels.fetched(): f"{at}/wheels",
        wheel.parent: f"{at}/own",
        LOCKS: f"{at}/locks",
        uv: f"{at}/uv",
    }
    doing = "installing the product into the root"
    inside(tree, ["python3", "-m", "venv", "--without-pip", f"/{HOME}"], doing=doing)
    words = [
        f"{at}/uv",
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-config",
        "--no-cache",
        "--no-index",
        "--no-deps",
    ]
    words += ["--link-mode", "copy", "--only-binary", ":all:", "--python", f"/{HOME}/bin/python3"]
    inside(
        tree,
        [*words, "--find-links", f"{at}/wheels", "--require-hashes", "-r", f"{at}/locks/runtime.txt"],
        doing=doing,
        read_only=beside,
    )
    inside(tree, [*words, "--find-links", f"{at}/own", "edgegw"], doing=doing, read_only=beside)
    _forget_wheels(tree / PACKAGES)
    (tree / "usr/bin/edgegw").symlink_to(f"/{HOME}/bin/edgegw")


def _forget_wheels(packages: Path) -> None:
    """Take out what uv notes of the file that it installed from: when that was made."""
    for note in packages.glob("*.dist-info/uv_cache.json"):
        listed = note.with_name("RECORD")
        own = f"{note.parent.name}/{note.name},"
        lines = listed.read_text(encoding="utf-8").splitlines(keepends=True)
        listed.write_text("".join(line for line in lines if not line.startswith(own)), encoding="utf-8")
        note.unlink()


def _lay(overlay: Path, tree: Path) -> None:
    """Copy the files of an overlay over a tree; of their rights only the one to run counts, as with git."""
    for path in everything(overlay):
        target = tree / path.relative_to(overlay)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target, follow_symlinks=False)
        if not path.is_symlink():
            target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _say_units(tree: Path, *, epoch: int) -> None:
    """The product's own units and users; what of all units starts is the preset's word."""
    made_at = {"SOURCE_DATE_EPOCH": str(epoch)}
    if (tree / f"{PACKAGES}/edgegw/units").is_dir():
        inside(tree, ["edgegw", "units", "install", "/", "--role", "appliance"], doing="installing the units")
    inside(tree, ["systemd-sysusers"], doing="making the users", environment=made_at)
    remove_globs(tree, ("etc/systemd/system/*.wants", "etc/systemd/system/*.requires"))
    inside(tree, ["systemctl", "preset-all"], doing="enabling the units")


def _compile(tree: Path) -> None:
    """Compile all Python once, as the root is read-only; the bytecode bears no time, and is not compared with
    its source on the box.

    One process and one order of names: what a process compiled before may change what it writes.
    """
    inside(
        tree,
        [
            *("python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *(f"/{_LIBRARY}", "/usr/lib/python3/dist-packages", f"/{PACKAGES}"),
        ],
        doing="compiling the Python of the root",
        environment={"PYTHONHASHSEED": "0"},
    )


def _pack(tools: Root, folder: Path, *, profile: ProfileName, epoch: int) -> None:
    made = folder / "made"
    squashfs = made / "root.squashfs"
    in_tools(
        tools.path,
        [
            *("mksquashfs", made / "tree", squashfs, "-noappend", "-no-progress", "-quiet"),
            *("-comp", "zstd", "-Xcompression-level", "9", "-b", "131072"),
            *("-all-time", str(epoch), "-mkfs-time", str(epoch)),
        ],
        doing="packing the root",
        writable=[folder],
    )
    check_size(made / "tree", squashfs.stat().st_size, profile=profile)


def check_size(tree: Path, packed_bytes: int, *, profile: ProfileName) -> None:
    """Raise BuildError, with the largest folders, if a packed root with its hashes exceeds its slot."""
    need = packed_bytes + packed_bytes // _VERITY_SHARE
    if need <= SIZE_BYTES_MAX[profile]:
        return
    largest = sizes_by_folder(tree, depth=4, top=_TOLD_FOLDERS)
    told = "\n".join(f"  {size // 1_000_000:4} MB  /{name}" for name, size in largest)
    raise BuildError(
        f"the root of the profile {profile} is {need} bytes with its hashes,"
        f" {SIZE_BYTES_MAX[profile]} are allowed; its largest folders before packing:\n{told}",
        hint="Take something out by `without` in firmware/roots.toml.",
    )


def _prune(profile: ProfileName) -> None:
    found = list(build_folder("products").glob(f"{profile}-????????????????"))
    found.sort(key=lambda path: -path.stat().st_mtime)
    for path in found[_KEPT:]:
        remove(path)
