"""Makes root file systems from locks, once for each state of a lock, and says where the ready ones are.

    tools = ready("tools").path
    root = ready("appliance-cloud")     # Debian's packages alone; `firmware.product` adds the product

A ready root is never changed: copy it. Leaves out the product, its settings, and everything that is signed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from firmware import lockfile, places, pool
from firmware.lockfile import Lock, Wanted
from firmware.places import SOURCE, BuildError, alone, build_folder, need_room, remove, run, workshop
from firmware.tree import remove_globs

DOCUMENTS: Final = (
    "usr/share/doc/*/*",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/man",
    "usr/share/locale/*",
    "usr/share/bug",
    "usr/share/reportbug",
)
"""What no root needs. The texts of the licences stay."""
KEPT_DOCUMENTS: Final = ("usr/share/doc/*/copyright", "usr/share/locale/locale.alias")
_ROOTS_KEPT: Final = 2
"""Of each name: the one in use and the one before."""
_GROWTH: Final = 8
"""A root needs about this many times the room of its packages while it is built."""


class Root(msgspec.Struct, frozen=True):
    """A ready root file system."""

    name: str
    key: str
    path: Path
    lock: Lock


def key_of(lock: Lock, wanted: Wanted) -> str:
    """What tells a root from every other one: its lock, what is asked for, and how roots are made."""
    digest = hashlib.sha256(lock.hash().encode() + msgspec.json.encode(wanted))
    for name in ("roots.py", "tree.py"):
        digest.update((SOURCE / name).read_bytes())
    return digest.hexdigest()[:16]


def ready(name: str) -> Root:
    """The root of that name, made from its lock if it is not there yet; raises BuildError."""
    wanted = lockfile.catalogue().wanted(name)
    lock = lockfile.read_lock(name)
    key = key_of(lock, wanted)
    path = build_folder("roots") / f"{name}-{key}"
    with alone(f"root-{name}"):
        if not path.exists():
            _make(lock, path, without=wanted.without)
            prune(name)
        os.utime(path)
    return Root(name=name, key=key, path=path, lock=lock)


def prune(name: str) -> list[Path]:
    """Remove the roots of a name but the newest; those that were removed."""
    found = sorted(
        build_folder("roots").glob(f"{name}-????????????????"), key=lambda path: -path.stat().st_mtime
    )
    for path in found[_ROOTS_KEPT:]:
        remove(path)
    return found[_ROOTS_KEPT:]


def _make(lock: Lock, path: Path, *, without: tuple[str, ...]) -> None:
    if os.geteuid() != 0:
        raise BuildError(
            "roots are made by root, as their files belong to many users",
            hint="Run the command as root.",
        )
    pool.fill(lock)
    need_room(
        build_folder("roots"), need_bytes=_GROWTH * lock.size_bytes, purpose=f"making the root {lock.root}"
    )
    with workshop("root") as folder:
        root = folder / "root"
        archive = folder / "archive"
        archive.mkdir()
        _install(lock, root, pool.archive_of(lock, archive))
        _check(lock, root)
        for package in lock.packages:
            if package.unpacked:
                run(["dpkg-deb", "--extract", pool.pooled(package), root], doing=f"unpacking {package.name}")
        merged = [name for name in ("bin", "lib", "sbin") if not (root / name).is_symlink()]
        if merged:
            raise BuildError(
                f"an unpacked package replaced the links {', '.join(merged)} of the root {lock.root}"
            )
        remove_globs(root, (*DOCUMENTS, *without), kept=KEPT_DOCUMENTS)
        root.rename(path)


def _install(lock: Lock, root: Path, archive: Path) -> None:
    names = [package.name for package in lock.packages if not package.unpacked]
    options = [f"--dpkgopt=path-exclude=/{glob}" for glob in DOCUMENTS]
    options += [f"--dpkgopt=path-include=/{glob}" for glob in KEPT_DOCUMENTS]
    run(
        [
            # What it mounts below the root ends with it, also when it is killed.
            *("unshare", "--mount", "mmdebstrap"),
            "--mode=root",
            "--variant=essential",
            "--format=directory",
            "--architectures=amd64",
            f"--include={','.join(names)}",
            *options,
            "--aptopt=APT::Install-Recommends false",
            "--aptopt=Acquire::Languages none",
            lock.suite,
            root,
            f"deb [trusted=yes] copy:{archive} ./",
        ],
        doing=f"making the root {lock.root}",
        environment={"SOURCE_DATE_EPOCH": str(lock.epoch), "TMPDIR": str(places.build_folder("work"))},
        hint="A package that apt misses is not in the lock: run `make image-lock`.",
    )


def _check(lock: Lock, root: Path) -> None:
    """The root holds what the lock names, and nothing else."""
    said = run(
        [
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "-W",
            "-f",
            "${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\n",
        ],
        doing="listing the root's packages",
    )
    found = {line.strip() for line in said.splitlines()}
    locked = {f"{it.name} {it.version} {it.architecture} ii" for it in lock.packages if not it.unpacked}
    if found != locked:
        raise BuildError(
            f"the root {lock.root} is not what its lock says; too much: {sorted(found - locked)}, missing:"
            f" {sorted(locked - found)}",
            hint="Run `make image-lock`.",
        )
