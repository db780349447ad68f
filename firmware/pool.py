"""The pool: every package that was ever fetched, by its hash, and archives of exactly what one lock names.

A kept pool rebuilds old locks without a network. Nothing is used before its bytes were hashed in this run.
"""

from __future__ import annotations

import email.utils
import os
from collections.abc import Iterator
from pathlib import Path

from firmware.archives import fetch
from firmware.lockfile import Lock, Package
from firmware.places import BuildError, alone, build_folder, need_room, run, sha256_of, workshop


def pooled(package: Package) -> Path:
    """Where the pool has, or would have, a package."""
    return build_folder("pool") / package.sha256[:2] / f"{package.sha256}.deb"


def fill(lock: Lock) -> None:
    """Have all packages of a lock in the pool, each held to its hash.

    Raises BuildError that names what is not to be had, and how to go on.
    """
    with alone("pool"):
        missing = [package for package in lock.packages if not _is_whole(package)]
        if missing:
            _fetch(missing, lock)


def _is_whole(package: Package) -> bool:
    path = pooled(package)
    if not path.exists():
        return False
    found = sha256_of(path)
    if found == package.sha256:
        return True
    raise BuildError(
        f"{path} ({package.name} {package.version}) has the hash {found}, not the locked one",
        hint="The disk or somebody changed it: remove that file, and it is fetched again.",
    )


def _fetch(missing: list[Package], lock: Lock) -> None:
    total = sum(package.size_bytes for package in missing)
    need_room(build_folder("pool"), need_bytes=2 * total, purpose=f"fetching {len(missing)} packages")
    with workshop("fetch") as folder:
        gone = fetch(missing, folder, suite=lock.suite)
        for package in missing:
            come = folder / f"{package.sha256}.deb"
            if not come.exists():
                continue
            found = sha256_of(come)
            if found != package.sha256:
                raise BuildError(
                    f"the archive gave {package.name} {package.version} with the hash {found}, not the locked"
                    " one",
                    hint="Do not use this archive; look at the way to it, or name another one in"
                    " EDGEGW_DEBIAN_MIRROR.",
                )
            path = pooled(package)
            path.parent.mkdir(exist_ok=True)
            come.replace(path)
    if gone:
        names = ", ".join(f"{package.name} {package.version}" for package in gone)
        raise BuildError(
            f"no longer in the Debian archive: {names} (locks/{lock.root}.lock)",
            hint="Run `make image-lock` to lock today's versions, or put the pool of the machine that built"
            f" this lock at {build_folder('pool')}.",
        )


def archive_of(lock: Lock, folder: Path) -> Path:
    """Make a Debian archive, flat and without signature, of exactly the installed packages of a lock.

    Its packages were hashed by `fill`; apt, which reads it, checks them once more.
    """
    with (folder / "Packages").open("w", encoding="utf-8") as index:
        for package in lock.packages:
            if not package.unpacked:
                index.write("\n".join(_stanza(package, folder)) + "\n\n")
    packages = folder / "Packages"
    date = email.utils.formatdate(lock.epoch, usegmt=True)
    (folder / "Release").write_text(
        f"Suite: {lock.suite}\nCodename: {lock.suite}\nDate: {date}\n"
        f"SHA256:\n {sha256_of(packages)} {packages.stat().st_size} Packages\n",
        encoding="utf-8",
    )
    return folder


def _stanza(package: Package, folder: Path) -> Iterator[str]:
    control = run(["dpkg-deb", "--field", pooled(package)], doing=f"reading {package.name}")
    fields = dict(line.split(": ", 1) for line in control.splitlines() if ": " in line and line[0] != " ")
    told = fields.get("Package"), fields.get("Version"), fields.get("Architecture")
    locked = package.name, package.version, package.architecture
    if told != locked:
        raise BuildError(
            f"{pooled(package)} holds {told}, the lock says {locked}", hint="Run `make image-lock`."
        )
    os.link(pooled(package), folder / f"{package.sha256}.deb")
    yield control.rstrip("\n")
    yield f"Filename: ./{package.sha256}.deb"
    yield f"Size: {package.size_bytes}"
    yield f"SHA256: {package.sha256}"
