"""The pool of packages: what is not what the lock names is never used, and each error says what to do."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from firmware import pool
from firmware.archives import MIRROR, SECURITY_MIRROR
from firmware.lockfile import Lock, Package
from firmware.places import BuildError, need_room, program, sha256_of


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in a folder with one package, and an empty folder for the build."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: lamp\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: nobody\nDescription: a lamp\n"
    )
    place = tmp_path / "archive/pool/main/l/lamp"
    place.mkdir(parents=True)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, place / "lamp_2.0-3_all.deb"],
        check=True,
        capture_output=True,
    )
    (tmp_path / "archive/dists/trixie").mkdir(parents=True)
    (tmp_path / "archive/dists/trixie/Release").write_text("Suite: trixie\n")
    monkeypatch.setenv("EDGEGW_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv(MIRROR, f"copy:{tmp_path}/archive")
    return tmp_path / "archive"


def locked(archive: Path) -> Lock:
    path = archive / "pool/main/l/lamp/lamp_2.0-3_all.deb"
    package = Package(
        name="lamp",
        version="1:2.0-3",
        architecture="all",
        archive="debian",
        unpacked=False,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        path="pool/main/l/lamp/lamp_2.0-3_all.deb",
    )
    return Lock(root="lab-host", suite="trixie", epoch=1, packages=(package,))


def test_a_kept_pool_needs_no_archive(archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A site that must rebuild last year's image has last year's packages, and nobody else does."""
    lock = locked(archive)
    pool.fill(lock)
    monkeypatch.setenv(MIRROR, f"copy:{tmp_path}/nowhere")
    pool.fill(lock)
    offered = tmp_path / "offered"
    offered.mkdir()
    index = (pool.archive_of(lock, offered) / "Packages").read_text()
    assert re.search(r"^Package: lamp$", index, re.MULTILINE)
    assert f"SHA256: {lock.packages[0].sha256}" in index


def test_a_package_that_vanished_is_named_with_the_mend(archive: Path) -> None:
    """Debian keeps one version of a package: a lock of last month names what is gone."""
    lock = locked(archive)
    (archive / lock.packages[0].path).unlink()
    with pytest.raises(BuildError, match=r"no longer in the Debian archive: lamp 1:2\.0-3") as raised:
        pool.fill(lock)
    assert "make image-lock" in raised.value.hint


def test_no_archive_is_another_thing_than_a_vanished_package(archive: Path) -> None:
    """Who has no network must not be told to renew the locks."""
    lock = locked(archive)
    archive.rename(archive.with_name("gone"))
    with pytest.raises(BuildError, match="does not answer") as raised:
        pool.fill(lock)
    assert MIRROR in raised.value.hint


def test_a_security_archive_that_is_away_is_no_vanished_package(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its address is often another one, and wrong by itself."""
    lock = locked(archive)
    (package,) = lock.packages
    patched = msgspec.structs.replace(package, name="fuse", archive="security", sha256="0" * 64)
    monkeypatch.setenv(SECURITY_MIRROR, f"copy:{tmp_path}/nowhere")
    with pytest.raises(BuildError, match=r"does not answer \(security\)"):
        pool.fill(msgspec.structs.replace(lock, packages=(package, patched)))


def test_an_archive_with_other_bytes_is_refused(archive: Path) -> None:
    """The lock is worth its hashes: a package that somebody changed never gets into the pool."""
    lock = locked(archive)
    path = archive / lock.packages[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BuildError, match="other bytes than the lock names"):
        pool.fill(lock)
    assert not pool.pooled(lock.packages[0]).exists()


def test_a_changed_file_of_the_pool_is_refused(archive: Path) -> None:
    """The pool may be years old, on anybody's disk: every file is hashed before each use."""
    lock = locked(archive)
    pool.fill(lock)
    path = pool.pooled(lock.packages[0])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BuildError, match=r"lamp 1:2\.0-3.*not the locked one") as raised:
        pool.fill(lock)
    assert "remove that file" in raised.value.hint


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """A disk that fills up in mid-build takes others' work with it."""
    with pytest.raises(BuildError, match=r"fetching needs .* MiB") as raised:
        need_room(tmp_path, need_bytes=1 << 60, purpose="fetching")
    assert "EDGEGW_BUILD" in raised.value.hint


def test_a_missing_program_is_named_with_the_mend() -> None:
    """The build's own set-up has the programs; nobody should look for their package by hand."""
    with pytest.raises(BuildError, match="no-such-program") as raised:
        program("no-such-program")
    assert ".ci/setup-image" in raised.value.hint
