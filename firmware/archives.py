"""Where Debian's archive is for this machine, and apt as a tool beside the machine's own packages.

No address is written in the repository: the archive is the one of the machine's own apt settings with the
suite exchanged, or EDGEGW_DEBIAN_MIRROR (and EDGEGW_DEBIAN_SECURITY_MIRROR). apt's other settings, a proxy
for instance, stay in force.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

from firmware.lockfile import ArchiveName, Debian, Package
from firmware.places import BuildError, run

MIRROR: Final = "EDGEGW_DEBIAN_MIRROR"
SECURITY_MIRROR: Final = "EDGEGW_DEBIAN_SECURITY_MIRROR"
NO_NETWORK: Final = (
    "Look whether this machine reaches its Debian archive (`apt-get update`), or name another one in"
    " EDGEGW_DEBIAN_MIRROR. A kept pool needs no network."
)
_APT_HELPER: Final = "/usr/lib/apt/apt-helper"
_BATCH: Final = 40
_WRONG_HASH: Final = "Hash Sum mismatch"


def archives() -> dict[ArchiveName, str]:
    """The addresses of Debian's archive and of its security archive, without a slash at the end."""
    debian = os.environ.get(MIRROR, "")
    security = os.environ.get(SECURITY_MIRROR, "")
    if not debian:
        debian, found = _of_this_machine()
        security = security or found
    debian = debian.rstrip("/")
    return {"debian": debian, "security": security.rstrip("/") or f"{debian}-security"}


def _of_this_machine() -> tuple[str, str]:
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listed = run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Identifier: Packages"],
        doing="reading this machine's apt sources",
    )
    debian = security = ""
    for line in listed.splitlines():
        release, _, address = line.partition(" ")
        if release == f"{codename}-security":
            security = security or address
        elif release in (codename, f"{codename}-updates", "stable", "testing", "unstable"):
            debian = debian or address
    if not debian or platform.freedesktop_os_release().get("ID") != "debian":
        raise BuildError(
            "this machine's apt sources name no Debian archive",
            hint=f"Set {MIRROR} to the address of one (the folder that holds dists/ and pool/).",
        )
    return debian, security


class Apt:
    """apt with sources, lists and a status of its own: what the machine has installed is not looked at."""

    def __init__(self, folder: Path, debian: Debian, suite: str) -> None:
        """Write the settings for a suite into an empty folder; debian names components and keyring."""
        self._options: list[str] = []
        keyring = Path(debian.keyring)
        if not keyring.exists():
            raise BuildError(
                f"there is no keyring {keyring}", hint="Run .ci/setup-image as root (debian-archive-keyring)."
            )
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        found = archives()
        self.archive_of: dict[str, ArchiveName] = {address + "/": name for name, address in found.items()}
        components = " ".join(debian.components)
        sources = [
            (found["debian"], suite),
            (found["debian"], f"{suite}-updates"),
            (found["security"], f"{suite}-security"),
        ]
        lines = [
            f"deb [signed-by={keyring} arch={debian.architecture}] {address} {name} {components}\n"
            for address, name in sources
        ]
        (folder / "sources.list").write_text("".join(lines), encoding="utf-8")
        for option in (
            f"Dir::State={folder}/state",
            f"Dir::State::status={folder}/status",
            f"Dir::Cache={folder}/cache",
            f"Dir::Etc::sourcelist={folder}/sources.list",
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            "Dir::Etc::trusted=/dev/null",
            "Dir::Etc::trustedparts=/dev/null",
            f"APT::Architecture={debian.architecture}",
            f"APT::Architectures={debian.architecture}",
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=root",
            "APT::Get::AllowUnauthenticated=false",
            "Acquire::AllowInsecureRepositories=false",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
        ):
            self._options += ["-o", option]

    def get(self, *words: str, doing: str, hint: str = "") -> str:
        """Run apt-get with these settings and return what it printed."""
        return run(["apt-get", *self._options, *words], doing=doing, hint=hint)

    def read(self, path: str) -> str:
        """One of apt's lists, unpacked."""
        return run([_APT_HELPER, *self._options, "cat-file", path], doing=f"reading {path}")


def fetch(packages: list[Package], folder: Path, *, suite: str) -> list[Package]:
    """Fetch packages as `folder/SHA256.deb` by apt's own ways; return those that the archive lacks.

    apt holds each to its hash. Raises BuildError for other bytes, and if an archive does not answer at all.
    """
    found = archives()
    failed: BuildError | None = None
    for start in range(0, len(packages), _BATCH):
        words: list[str] = []
        for package in packages[start : start + _BATCH]:
            address = f"{found[package.archive]}/{package.path}"
            words += [address, str(folder / f"{package.sha256}.deb"), f"SHA256:{package.sha256}"]
        try:
            _download(words, doing="fetching packages")
        except BuildError as error:
            if _WRONG_HASH in str(error):
                raise BuildError(
                    f"the archive gave other bytes than the lock names: {error}",
                    hint=f"Do not use this archive; look at the way to it, or name another one in {MIRROR}.",
                ) from error
            failed = error
    missing = [package for package in packages if not (folder / f"{package.sha256}.deb").exists()]
    gave = {package.archive for package in packages if package not in missing}
    for name in sorted({package.archive for package in missing} - gave):
        # A package that is gone is another thing than no network.
        release = f"dists/{suite if name == 'debian' else f'{suite}-security'}/Release"
        try:
            _download([f"{found[name]}/{release}", str(folder / f"answer-{name}")], doing="asking")
        except BuildError:
            raise BuildError(
                f"the Debian archive does not answer ({name}): {failed}", hint=NO_NETWORK
            ) from failed
    return missing


def _download(words: list[str], *, doing: str) -> None:
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    run([_APT_HELPER, *options, "download-file", *words], doing=doing)
