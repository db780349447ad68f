"""Makes root file systems from locks, once for each state of a lock, and says where the ready ones are.

    tools = ready("tools").path
    root = ready("appliance-cloud")     # Debian's packages alone; `firmware.product` adds the product

A ready root is never changed: copy it. Leaves out the product, its settings, and everything that is signed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import Final

import msgspec

from firmware import lockfile, places, pool
from firmware.lockfile import Lock, Wanted
from firmware.places import SOURCE, BuildError, alone, build_folder, need_room, remove, run, workshop
from firmware.sandbox import inside
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
_ROOTS_KEPT: Final = 3
"""Of each name: the one in use, and those that another checkout may use."""
_FIRST_OF_PACKAGES: Final = 100
_NOBODY: Final = 65534
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
            _make(lock, path, wanted)
        os.utime(path)
        prune(name)
    return Root(name=name, key=key, path=path, lock=lock)


def prune(name: str) -> list[Path]:
    """Remove the roots of a name but the newest; those that were removed."""
    found = sorted(
        build_folder("roots").glob(f"{name}-????????????????"), key=lambda path: -path.stat().st_mtime
    )
    for path in found[_ROOTS_KEPT:]:
        remove(path)
    return found[_ROOTS_KEPT:]


def _make(lock: Lock, path: Path, wanted: Wanted) -> None:
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
        _install(lock, root, pool.archive_of(lock, archive), users=_users(wanted, folder))
        _check(lock, root)
        _check_users(wanted, root, lock.root)
        for package in lock.packages:
            if package.unpacked:
                run(["dpkg-deb", "--extract", pool.pooled(package), root], doing=f"unpacking {package.name}")
        merged = [name for name in ("bin", "lib", "sbin") if not (root / name).is_symlink()]
        if merged:
            raise BuildError(
                f"an unpacked package replaced the links {', '.join(merged)} of the root {lock.root}"
            )
        remove_globs(root, (*DOCUMENTS, *wanted.without), kept=KEPT_DOCUMENTS)
        for modules in sorted((root / "usr/lib/modules").glob("*")):
            inside(root, ["depmod", modules.name], doing="listing the kernel's modules")
        root.rename(path)


def _users(wanted: Wanted, folder: Path) -> Path:
    """Write the lines that the wanted users and groups add to passwd, group and their shadows."""
    users = folder / "users"
    users.mkdir()
    rows = {name: value.split(":", 2) for name, value in sorted(wanted.users.items())}
    lines = {
        "passwd": [f"{name}:x:{uid}:{gid}:{rest}" for name, (uid, gid, rest) in rows.items()],
        # The day of the last change is one without a meaning, as there is no password.
        "shadow": [f"{name}:!*:20000::::::" for name in rows],
        "group": [f"{name}:x:{number}:" for name, number in sorted(wanted.groups.items())],
        "gshadow": [f"{name}:!*::" for name in sorted(wanted.groups)],
    }
    for name, text in lines.items():
        (users / name).write_text("".join(f"{line}\n" for line in text), encoding="ascii")
    return users


def _check_users(wanted: Wanted, root: Path, name: str) -> None:
    """Every user and group that packages made has its number from roots.toml, if any has."""
    for file, told in (("passwd", wanted.users), ("group", wanted.groups)):
        rows = (line.split(":") for line in (root / "etc" / file).read_text(encoding="utf-8").splitlines())
        made = {row[0] for row in rows if _FIRST_OF_PACKAGES <= int(row[2]) < _NOBODY and row[0] != "users"}
        if told and made != set(told):
            raise BuildError(
                f"{file} of the root {name} differs from roots.toml: {sorted(made ^ set(told))}",
                hint=f"Give every one a number below [roots.{name}] that no image before has used.",
            )


def _install(lock: Lock, root: Path, archive: Path, *, users: Path) -> None:
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
            *(
                f'--essential-hook=cat {shlex.quote(str(path))} >> "$1/etc/{path.name}"'
                for path in sorted(users.iterdir())
            ),
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
