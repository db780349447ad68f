"""The build's command line, where it cannot begin."""

import os
from pathlib import Path

import pytest

from firmware.__main__ import main


def test_an_ordinary_user_without_sub_ids_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A root's files belong to many users; without sub-ids the build would fail an hour later, in dpkg."""
    for name, text in (("newuidmap", "exit 0"), ("unshare", "echo no line matching user >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main() == 1
    said = capsys.readouterr().err
    assert "no line matching user" in said
    assert "--add-subuids" in said
