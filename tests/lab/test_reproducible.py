"""Two builds of one commit give the same bytes: what a site installs can be built by whoever doubts it."""

from pathlib import Path

import pytest

from firmware import image
from firmware.places import build_folder, sha256_of
from tests.lab.skips import IMAGE, needs

pytestmark = [pytest.mark.lab_long, pytest.mark.timeout(1_800), needs(IMAGE)]


def differing(one: Path, other: Path) -> list[str]:
    """The files of two trees that are not the same, for the message of a failed test."""
    names = sorted({str(path.relative_to(tree)) for tree in (one, other) for path in tree.rglob("*")})
    return [name for name in names if _told(one / name) != _told(other / name)]


def _told(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    if not path.exists():
        return None
    content = sha256_of(path) if path.is_file() else ""
    kept = path.lstat()
    return content, kept.st_mode, kept.st_uid, kept.st_gid, kept.st_mtime


def test_an_image_from_its_packages_has_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk, kernel image, bundle, list of contents, from the packages on: every script of every package runs
    again, at another time, in another folder. Only the keys are the same.
    """
    first, tree = image.image("cloud"), image.finished_root("cloud").tree
    for name in ("pool", "wheels", "keys"):
        (tmp_path / name).symlink_to(build_folder(name))
    with monkeypatch.context() as changed:
        changed.setenv("EDGEGW_BUILD", str(tmp_path))
        second = image.image("cloud")
        assert differing(tree, image.finished_root("cloud").tree) == []
    for name in ("kernel_image", "disk", "bundle", "contents", "facts"):
        one, other = getattr(first, name), getattr(second, name)
        assert one != other
        assert sha256_of(one) == sha256_of(other), f"{one} and {other} differ"
