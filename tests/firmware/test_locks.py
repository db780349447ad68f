"""The locks: they name all that a root asks for, each line is held to its form, and Python's agree."""

import re
from pathlib import Path

import pytest

from firmware import lockfile, wheels
from firmware.places import BuildError

ROOT = Path(__file__).resolve().parents[2]
LINE = f"debian installed lamp 1.0 all 10 {'a' * 64} pool/main/l/lamp/lamp_1.0_all.deb"
HEAD = "root tools\nsuite trixie\nepoch 10\n"


@pytest.mark.parametrize("root", lockfile.catalogue().roots)
def test_the_lock_has_what_the_root_asks_for(root: str) -> None:
    """A name that was added without `make image-lock` would be missing in every image, silently."""
    wanted = lockfile.catalogue().wanted(root)
    lock = lockfile.read_lock(root)
    installed = {package.name for package in lock.packages if not package.unpacked}
    unpacked = {package.name for package in lock.packages if package.unpacked}
    kernels = {re.sub(r"^linux-image-.*?((cloud-)?amd64)$", r"linux-image-\1", name) for name in unpacked}
    assert set(wanted.packages) <= installed
    assert set(wanted.unpacked) == kernels
    assert lock.root == root
    assert lockfile.text_of(lock) == lockfile.lock_path(root).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("debian", "elsewhere"),
        ("lamp 1.0", "la;mp 1.0"),
        ("pool/main/l/", "pool/../../"),
        ("pool/main/l/", "https://example.org/pool/"),
        ("a" * 64, "a" * 63),
        (" 10 ", " ten "),
        ("installed ", ""),
    ],
)
def test_a_line_that_is_not_a_package_is_named(right: str, wrong: str) -> None:
    """Names and paths of a lock become commands of root: a merge gone wrong must not be run."""
    with pytest.raises(BuildError, match="somewhere:4") as raised:
        lockfile.parse(HEAD + LINE.replace(right, wrong), origin="somewhere")
    assert "make image-lock" in raised.value.hint


def test_a_package_that_is_named_twice_is_refused() -> None:
    """Two versions of one package are two roots."""
    with pytest.raises(BuildError, match="lamp more than once"):
        lockfile.parse(HEAD + LINE + "\n" + LINE.replace("1.0", "1.1"), origin="somewhere")


def test_a_lock_that_differs_has_another_hash() -> None:
    """A root is kept by the hash of its lock: one hash for two locks would give out the wrong root."""
    one = lockfile.parse(HEAD + LINE, origin="one")
    other = lockfile.parse(HEAD + LINE.replace("1.0", "1.1"), origin="other")
    assert one.hash() == lockfile.parse(HEAD + LINE, origin="again").hash()
    assert one.hash() != other.hash()


def pinned(path: Path) -> dict[tuple[str, str], set[str]]:
    """Name and version to the hashes that a file of pip's pins them to."""
    pins: dict[tuple[str, str], set[str]] = {}
    key = ("", "")
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.match(r"([a-z0-9.-]+)==([^ ;]+)", line)
        if found:
            key = (found.group(1), found.group(2))
        for digest in re.findall(r"--hash=sha256:([0-9a-f]{64})", line):
            pins.setdefault(key, set()).add(digest)
    return pins


def test_the_image_has_the_versions_that_were_tested() -> None:
    """A version that no test has met must not be what the boxes run: `make lock` writes both files."""
    tested, shipped = pinned(ROOT / "requirements.lock"), pinned(wheels.RUNTIME)
    assert {name for name, _ in shipped} == set(wheels.pins())
    for key, digests in shipped.items():
        assert digests <= tested.get(key, set()), f"{key} is not what requirements.lock pins: run `make lock`"
