"""The product as it is installed: its wheel, and the locked wheels that it needs at run time.

`locks/runtime.txt` is made by `make lock`: what the product's own dependencies came to in requirements.lock,
for the Python of the image, without what only tests need. Wheels that were fetched once are kept.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Final

import msgspec

from firmware.places import CHECKOUT, LOCKS, BuildError, alone, build_folder, run, sha256_of

RUNTIME: Final = LOCKS / "runtime.txt"
PYTHON: Final = "3.13"
"""The Python of the Debian that roots.toml names."""
_GLIBC: Final = 41
"""Wheels may ask for this glibc 2.N at most: the one of that Debian."""
_PIN: Final = re.compile(r"^([a-z0-9.-]+)==(\S+) \\$", re.MULTILINE)


class Fetched(msgspec.Struct, frozen=True):
    """What was fetched for one state of the runtime lock: file names with their SHA-256."""

    files: dict[str, str]


def pins() -> dict[str, str]:
    """Names and versions that runtime.txt pins; raises BuildError if it is missing."""
    if not RUNTIME.exists():
        raise BuildError(f"there is no {RUNTIME}", hint="Run `make lock`.")
    return dict(_PIN.findall(RUNTIME.read_text(encoding="utf-8")))


def fetched() -> Path:
    """The folder that has all wheels of runtime.txt, fetched with the user's pip settings if need be.

    Every one was held to a hash of runtime.txt, and is hashed again each time.
    """
    folder = build_folder("wheels")
    listed = folder / f"{hashlib.sha256(RUNTIME.read_bytes()).hexdigest()[:16]}.json"
    with alone("wheels"):
        if not _whole(folder, listed):
            _fetch(folder, listed)
    return folder


def _whole(folder: Path, listed: Path) -> bool:
    if not listed.exists():
        return False
    files = msgspec.json.decode(listed.read_bytes(), type=Fetched).files
    return all(
        (folder / name).exists() and sha256_of(folder / name) == digest for name, digest in files.items()
    )


def _fetch(folder: Path, listed: Path) -> None:
    fresh = folder / "fetching"
    fresh.mkdir(exist_ok=True)
    platforms = ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, _GLIBC + 1))]
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--require-hashes", "--only-binary", ":all:", "--implementation", "cp"]
    words += ["--python-version", PYTHON, "--abi", "cp313", "--abi", "abi3", "--abi", "none"]
    for platform in platforms:
        words += ["--platform", platform]
    run(
        [*words, "--dest", str(fresh), "--requirement", str(RUNTIME)],
        doing="fetching the wheels that the product needs",
        hint="Look whether pip reaches its package index. A kept `wheels` folder of the build needs none.",
    )
    files = {}
    for path in sorted(fresh.iterdir()):
        files[path.name] = sha256_of(path)
        path.replace(folder / path.name)
    fresh.rmdir()
    listed.write_bytes(msgspec.json.format(msgspec.json.encode(Fetched(files=files))))


def own(folder: Path, *, epoch: int) -> Path:
    """Build the product's own wheel from this checkout into an empty folder; its path."""
    run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        doing="building the product's wheel",
        folder=CHECKOUT,
        environment={"SOURCE_DATE_EPOCH": str(epoch)},
        hint="Run .ci/setup.",
    )
    return next(folder.glob("edgegw-*.whl"))
