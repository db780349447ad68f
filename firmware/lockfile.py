"""The locks of Debian packages: what a root asks for (`roots.toml`), what that came to (`locks/NAME.lock`).

A lock is the whole closure: nothing that it does not name gets into a root. It names no host: the path of a
package is relative to the archive, which the machine's own settings give (`firmware.archives`).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Final, Literal

import msgspec

from firmware.places import LOCKS, SOURCE, BuildError

ArchiveName = Literal["debian", "security"]
_RENEW: Final = "Run `make image-lock`; it writes the locks anew."
_HEAD: Final = """\
# Written by `make image-lock` from roots.toml: do not edit.
# archive, how, package, version, architecture, bytes, sha256, path in the archive"""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9.+:~-]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PATH: Final = re.compile(r"pool/[A-Za-z0-9+._~%/-]+\.deb")


class Debian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which Debian the roots are made of."""

    suite: str
    architecture: str
    components: tuple[str, ...]
    keyring: str
    suites: dict[str, str] = {}
    """Of the roots that are made of another one."""

    def suite_of(self, root: str) -> str:
        """Which release a root is made of."""
        return self.suites.get(root, self.suite)


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one root asks for."""

    packages: tuple[str, ...]
    unpacked: tuple[str, ...]
    without: tuple[str, ...]
    like: str = ""
    users: dict[str, str] = {}
    """Name to `uid:gid:comment:home:shell`."""
    groups: dict[str, int] = {}


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """roots.toml."""

    debian: Debian
    roots: dict[str, Wanted]

    def wanted(self, name: str) -> Wanted:
        """What a root asks for, with what it takes over from the one that it is `like`."""
        if name not in self.roots:
            raise BuildError(f"there is no root {name!r}", hint=f"Name one of: {', '.join(self.roots)}.")
        own = self.roots[name]
        if not own.like:
            return own
        base = self.wanted(own.like)
        kernels = tuple(package for package in base.unpacked if not package.startswith("linux-image-"))
        return Wanted(
            packages=tuple(sorted({*base.packages, *own.packages})),
            unpacked=tuple(sorted({*kernels, *own.unpacked})),
            without=tuple(sorted({*base.without, *own.without})),
            users=base.users | own.users,
            groups=base.groups | own.groups,
        )


class Package(msgspec.Struct, frozen=True, order=True):
    """One Debian package of a lock."""

    name: str
    version: str
    architecture: str
    archive: ArchiveName
    unpacked: bool
    """Its files are unpacked; nothing of it is run, and dpkg does not know it."""
    size_bytes: int
    sha256: str
    path: str


class Lock(msgspec.Struct, frozen=True):
    """All packages of one root, sorted by name."""

    root: str
    suite: str
    epoch: int
    """When the archive was signed that it was resolved against, in seconds; the time of the root's files."""
    packages: tuple[Package, ...]

    @property
    def size_bytes(self) -> int:
        """What all its packages weigh as files."""
        return sum(package.size_bytes for package in self.packages)

    def hash(self) -> str:
        """16 hex digits that tell this lock from every other one."""
        return hashlib.sha256(text_of(self).encode()).hexdigest()[:16]


def catalogue() -> Catalogue:
    """Read roots.toml; raises BuildError that names the field."""
    path = SOURCE / "roots.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Catalogue)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint="Mend that entry.") from error


def lock_path(root: str) -> Path:
    """Where the lock of a root is."""
    return LOCKS / f"{root}.lock"


def text_of(lock: Lock) -> str:
    """A lock as text: a head, then one package a line."""
    lines = [_HEAD, f"root {lock.root}", f"suite {lock.suite}", f"epoch {lock.epoch}"]
    for package in lock.packages:
        how = "unpacked" if package.unpacked else "installed"
        lines.append(
            f"{package.archive} {how} {package.name} {package.version} {package.architecture}"
            f" {package.size_bytes} {package.sha256} {package.path}"
        )
    return "\n".join(lines) + "\n"


def read_lock(root: str) -> Lock:
    """Read the lock of a root; raises BuildError for one that is missing or that names its bad line."""
    path = lock_path(root)
    if not path.exists():
        raise BuildError(f"the root {root} has no lock {path}", hint=_RENEW)
    return parse(path.read_text(encoding="utf-8"), origin=str(path))


def parse(text: str, *, origin: str) -> Lock:
    """Read a lock from text; every field is held to its form, as paths and versions become commands."""
    head: dict[str, str] = {}
    packages: list[Package] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) == 2 and words[0] in ("root", "suite", "epoch"):
            head[words[0]] = words[1]
        else:
            packages.append(_package(words, where=f"{origin}:{number}"))
    missing = [name for name in ("root", "suite", "epoch") if name not in head]
    if missing or not head["epoch"].isdecimal() or not packages:
        raise BuildError(f"{origin} lacks {', '.join(missing) or 'an epoch or packages'}", hint=_RENEW)
    names = [package.name for package in packages]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise BuildError(f"{origin} names {', '.join(double)} more than once", hint=_RENEW)
    return Lock(root=head["root"], suite=head["suite"], epoch=int(head["epoch"]), packages=tuple(packages))


def _package(words: list[str], *, where: str) -> Package:
    if len(words) != 8:
        raise BuildError(f"{where}: {len(words)} words instead of 8", hint=_RENEW)
    archive, how, name, version, architecture, size, digest, path = words
    for value, right in (
        (archive, archive in ("debian", "security")),
        (how, how in ("installed", "unpacked")),
        (name, _NAME.fullmatch(name)),
        (version, _VERSION.fullmatch(version)),
        (architecture, architecture in ("all", "amd64")),
        (size, size.isdecimal()),
        (digest, _SHA256.fullmatch(digest)),
        (path, _PATH.fullmatch(path) and ".." not in path),
    ):
        if not right:
            raise BuildError(f"{where}: {value!r} is not what belongs there", hint=_RENEW)
    return Package(
        name=name,
        version=version,
        architecture=architecture,
        archive="security" if archive == "security" else "debian",
        unpacked=how == "unpacked",
        size_bytes=int(size),
        sha256=digest,
        path=path,
    )
