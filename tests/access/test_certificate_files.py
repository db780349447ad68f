"""A certificate and its key change places together, wherever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from edgegw.access import certificate_files
from edgegw.access.certificate_files import CertificateFiles
from edgegw.access.keystore import OPEN_FILES, KeyFile
from edgegw.core.enrolment import Kind
from tests.certificates import authority_for


class Killed(BaseException):
    """The process is gone."""


def files_in(folder: Path, kind: Kind) -> CertificateFiles:
    key = KeyFile("key_file", folder / "box.key", "tls", "b1/box-1/tls")
    return CertificateFiles(certificate=folder / "box.pem", key=key, kind=kind, keystore=OPEN_FILES)


def fits(files: CertificateFiles) -> bool:
    return files.key().public in x509.load_der_x509_certificate(files.held()).tbs_certificate_bytes


@pytest.mark.parametrize("kind", ["p256", "sm2"])
@pytest.mark.parametrize("survives", [0, 1, 2, 3, 4])
def test_a_kill_at_any_step_leaves_a_pair_that_fits_once_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, survives: int
) -> None:
    """A certificate beside another key is a box that does not start."""
    files, issue = files_in(tmp_path, kind), authority_for(kind)
    files.write(issue(files.key().public))
    fresh = files.next_key()
    assert files.next_key().public == fresh.public
    left = survives

    def until_killed(work: Callable[..., None]) -> Callable[..., None]:
        def replace(*paths: Path) -> None:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            work(*paths)

        return replace

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", until_killed(os.replace))
        patched.setattr(Path, "rename", until_killed(Path.rename))
        try:
            files.install(issue(fresh.public))
        except Killed:
            assert survives < 3
        else:
            assert survives >= 3
    again = files_in(tmp_path, kind)
    again.finish()
    assert fits(again)
    assert (again.key().public == fresh.public) == (survives > 0)
    assert certificate_files.kind_of_certificate(x509.load_der_x509_certificate(again.held())) == kind
