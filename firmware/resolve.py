"""Makes the locks: apt's own resolver against the signed archive, nothing installed, no recommendations."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firmware.archives import NO_NETWORK, Apt
from firmware.lockfile import ArchiveName, Catalogue, Lock, Package, Wanted, catalogue, lock_path, text_of
from firmware.places import BuildError, workshop

_INST: Final = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)
_DATE: Final = "%a, %d %b %Y %H:%M:%S %Z"
Stanza = dict[str, str]


class _Known:
    """All packages of the archive's lists by (name, version); their stanzas with the archive they are in."""

    def __init__(self, apt: Apt) -> None:
        listed = apt.get(
            "indextargets", "--format", "$(REPO_URI) $(FILENAME)", "Identifier: Packages", doing="listing"
        )
        self._stanzas: dict[tuple[str, str], tuple[ArchiveName, Stanza]] = {}
        self._names: dict[str, list[str]] = {}
        self.epoch = 0
        for line in listed.splitlines():
            address, _, path = line.partition(" ")
            archive = apt.archive_of[address]
            self.epoch = max(self.epoch, _signed_at(path))
            for stanza in _stanzas(apt.read(path)):
                key = stanza["Package"], stanza["Version"]
                if key not in self._stanzas:
                    self._names.setdefault(stanza["Package"], []).append(stanza["Version"])
                # The same version may be in both; the main archive keeps it longer.
                if key not in self._stanzas or archive == "debian":
                    self._stanzas[key] = archive, stanza

    def package(self, name: str, version: str, *, unpacked: bool) -> Package:
        """A lock's line for one package."""
        if (name, version) not in self._stanzas:
            raise BuildError(f"apt chose {name} {version}, which the lists do not have")
        archive, stanza = self._stanzas[name, version]
        return Package(
            name=name,
            version=version,
            architecture=stanza["Architecture"],
            archive=archive,
            unpacked=unpacked,
            size_bytes=int(stanza["Size"]),
            sha256=stanza["SHA256"],
            path=stanza["Filename"],
        )

    def depends(self, name: str, version: str) -> str:
        """What a package depends on, as the archive words it."""
        return self._stanzas[name, version][1].get("Depends", "")


def _signed_at(packages_path: str) -> int:
    """When the list's archive was signed, from the release file that lies beside the list."""
    archive, _, rest = packages_path.partition("_dists_")
    release = f"{archive}_dists_{rest.split('_')[0]}_InRelease"
    text = Path(release).read_text(encoding="utf-8", errors="replace")
    date = re.search(r"^Date: (.+)$", text, re.MULTILINE)
    if date is None:
        raise BuildError(f"{release} has no date", hint=NO_NETWORK)
    return calendar.timegm(time.strptime(date.group(1), _DATE))


def _stanzas(text: str) -> Iterator[Stanza]:
    wanted = ("Package", "Version", "Architecture", "Filename", "Size", "SHA256", "Depends")
    for block in text.split("\n\n"):
        fields = (line.partition(": ") for line in block.splitlines() if not line.startswith(" "))
        stanza = {name: value for name, _, value in fields if name in wanted}
        if stanza:
            yield stanza


def write_locks(names: list[str]) -> list[Lock]:
    """Resolve the roots anew against today's archive and write their locks; the locks."""
    wanted = catalogue()
    suites = {wanted.debian.suite_of(name) for name in names}
    locks = []
    for suite in sorted(suites):
        with workshop("lock") as folder:
            apt = Apt(folder, wanted.debian, suite)
            apt.get("update", "-q", "--error-on=any", doing="fetching the archive's lists", hint=NO_NETWORK)
            known = _Known(apt)
            mine = [name for name in names if wanted.debian.suite_of(name) == suite]
            locks += [_resolved(apt, known, wanted, name) for name in mine]
    for lock in locks:
        path = lock_path(lock.root)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_of(lock), encoding="utf-8")
    return locks


def _resolved(apt: Apt, known: _Known, wanted: Catalogue, name: str) -> Lock:
    asked = wanted.wanted(name)
    # apt counts itself among the essential packages; a box does without it.
    installed = _chosen(apt, name, ["?and(?essential, ?not(?exact-name(apt)))", *asked.packages])
    packages = [known.package(*found, unpacked=False) for found in installed]
    packages += [known.package(*found, unpacked=True) for found in _unpacked(apt, known, name, asked)]
    return Lock(
        root=name,
        suite=wanted.debian.suite_of(name),
        epoch=known.epoch,
        packages=tuple(sorted(set(packages))),
    )


def _chosen(apt: Apt, name: str, words: list[str]) -> list[tuple[str, str]]:
    said = apt.get(
        "install",
        "--simulate",
        *words,
        doing=f"resolving the packages of {name}",
        hint="Mend the names in firmware/roots.toml: a package of another release may be called otherwise.",
    )
    return [(found.group(1), found.group(2)) for found in _INST.finditer(said)]


def _unpacked(apt: Apt, known: _Known, name: str, asked: Wanted) -> Iterator[tuple[str, str]]:
    """The packages that are only unpacked: those named, a kernel's meta package exchanged for the kernel."""
    if not asked.unpacked:
        return
    chosen = dict(_chosen(apt, name, list(asked.unpacked)))
    for package in asked.unpacked:
        version = chosen[package]
        kernel = re.match(r"(linux-image-\S+) \(= (\S+)\)", known.depends(package, version))
        yield (kernel.group(1), kernel.group(2)) if kernel else (package, version)
