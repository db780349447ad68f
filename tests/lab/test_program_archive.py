"""The archive by which the program comes to a plain server, on that server's own Python."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.module_files import Failed, fail, load


@pytest.fixture
def unpack(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Path, Path], None]:
    """The module's own function, without Ansible, whose parts are on servers alone, and without what the
    tarfile of Debian 12 lacks."""
    for word in ("extract", "extractall"):
        monkeypatch.delattr(tarfile.TarFile, word)
    function: Callable[[Any, Path, Path], None] = load("edgegw_program", monkeypatch).unpack
    return function


def packed(folder: Path, *entries: tuple[str, bytes, bytes]) -> Path:
    """An archive of names, kinds and contents."""
    path = folder / "release.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_wheels_and_their_list_are_unpacked(
    tmp_path: Path, unpack: Callable[[Any, Path, Path], None]
) -> None:
    """Debian 12 and 13 take the same archive."""
    archive = packed(
        tmp_path,
        ("requirements.txt", tarfile.REGTYPE, b"a==1\n"),
        ("wheels/a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", tarfile.REGTYPE, b"wheel"),
    )
    folder = tmp_path / "unpacked"
    folder.mkdir()
    unpack(SimpleNamespace(fail_json=fail), archive, folder)
    assert (folder / "requirements.txt").read_bytes() == b"a==1\n"
    assert [path.read_bytes() for path in (folder / "wheels").iterdir()] == [b"wheel"]


@pytest.mark.parametrize(
    "entry",
    [
        ("../outside.whl", tarfile.REGTYPE, b"x"),
        ("wheels/../../outside.whl", tarfile.REGTYPE, b"x"),
        ("/outside.whl", tarfile.REGTYPE, b"x"),
        ("wheels/a-1-py3-none-any.whl", tarfile.SYMTYPE, b""),
        ("wheels/setup.py", tarfile.REGTYPE, b"x"),
    ],
)
def test_nothing_else_is_written(
    tmp_path: Path, unpack: Callable[[Any, Path, Path], None], entry: tuple[str, bytes, bytes]
) -> None:
    """An archive that somebody made never writes beside its folder, as root."""
    folder = tmp_path / "a" / "unpacked"
    folder.mkdir(parents=True)
    with pytest.raises(Failed, match="does not belong there"):
        unpack(SimpleNamespace(fail_json=fail), packed(tmp_path, entry), folder)
    assert not list(tmp_path.rglob("outside.whl"))


def test_a_version_is_whole_on_the_disk_before_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the mark was there, and files of no length beside it: the server had no program."""
    module, done = load("edgegw_program", monkeypatch), []
    for name in ("unpack", "_environment"):
        monkeypatch.setattr(module, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(module, "write_whole", lambda path, _: done.append(path.name))
    monkeypatch.setattr(module.os, "sync", lambda: done.append("sync"))
    archive = packed(tmp_path, ("requirements.txt", tarfile.REGTYPE, b"a==1\n"))
    params = {"archive": str(archive), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    module.install(SimpleNamespace(params=params, fail_json=fail), tmp_path / "opt", tmp_path / "opt/0.2.0")
    assert done == ["unpack", "_environment", "sync", ".complete"]
