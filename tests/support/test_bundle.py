"""The bundle of a machine that is full of secrets and not well."""

import base64
import hashlib
import json
import secrets
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from edgegw import units
from edgegw.demo.card_search import CardSearch
from edgegw.support import bundle
from edgegw.support import machine as machine_facts
from edgegw.support.bundle import Part, write_bundle
from edgegw.support.redact import Redactor
from tests.card_leaks import NUMBERS, spaced
from tests.processes import edgegw

NAMES = ("Zhangfei", "Wei-Ling", "zhangfei@bank.example", "ACME Noodles 88")


def files_of(path: Path) -> dict[str, bytes]:
    """What a bundle holds, by name."""
    with tarfile.open(path) as opened:
        return {
            one.name.removeprefix("support/"): found.read()
            for one in opened.getmembers()
            if (found := opened.extractfile(one)) is not None
        }


def forms_of(secret: bytes) -> list[bytes]:
    """A secret as it may be written, and each half of it."""
    halves = [secret, secret[: len(secret) // 2], secret[len(secret) // 2 :]]
    return [
        form
        for one in halves
        for form in (one, one.hex().encode(), base64.b64encode(one)[:-3], base64.urlsafe_b64encode(one)[:-3])
        if len(form) >= 8
    ]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, bytes]:
    """A box's folder with secrets in every place where one may come to lie; the secrets."""
    device = str(tmp_path / "secrets/device.pem")
    public = edgegw("keygen", "box", "--bank", "b1", "--box", "box-1", "--out", device).stdout.strip()
    planted = {
        "device": b"".join((tmp_path / "secrets/device.pem").read_bytes().splitlines()[1:-1]),
        "seed": secrets.token_bytes(32),
        "token": base64.urlsafe_b64encode(secrets.token_bytes(48)),
        "password": b"9Xq-" + secrets.token_hex(8).encode(),
        "pasted": base64.b64encode(secrets.token_bytes(32)),
    }
    (tmp_path / "claim.json").write_text(json.dumps({"seed": base64.b64encode(planted["seed"]).decode()}))
    (tmp_path / "secrets/sftp").write_bytes(planted["password"] + b"\n")
    (tmp_path / "box.toml").write_text(
        f'bank = "b1"\nbox = "box-1"\nnote = "{planted["token"].decode()}"\n[hub]\nkey = "{public}"\n'
        f'[[hub.addresses]]\nurl = "http://{NAMES[0]}:{planted["password"].decode()}@10.1.2.3:8600"\n'
        f'[mirror]\nkey = "-----BEGIN PRIVATE KEY----- {planted["pasted"].decode()}"\n[http]\n'
        f'[[replica.targets]]\nname = "t"\nuser = "{NAMES[0]}"\npassword_file = "secrets/sftp"\n'
    )
    log = tmp_path / "data" / "log"
    log.mkdir(parents=True)
    lines: list[Any] = [
        {"at": "2026-11-22T10:00:00Z", "event": "payment_refused", "client": name} for name in NAMES
    ]
    lines += [{"event": "asked", "problem": f"card {spaced(number)} of {NAMES[0]}"} for number in NUMBERS]
    lines += [{"event": "asked", number: int(number)} for number in NUMBERS]
    lines += [{"event": name, "said": value.decode("latin-1")} for name, value in planted.items()]
    lines += [{"event": name, "said": base64.b64encode(value).decode()} for name, value in planted.items()]
    body = [json.dumps(line) for line in lines]
    (log / "box.jsonl").write_text("\n".join([*body, f"no JSON: {NUMBERS[0]} {NAMES[1]}"]) + "\n")
    return planted


def test_nothing_planted_comes_out_of_a_box_that_is_not_well(
    tmp_path: Path, machine: dict[str, bytes]
) -> None:
    """Settings with faults, a damaged ledger, no process: there is a bundle, and not a secret in it."""
    (tmp_path / "data" / "ledger.db").write_bytes(b"SQLite format 3\0" + NUMBERS[0].encode() * 500)
    output = tmp_path / "out.tar.gz"
    done = edgegw("support", str(tmp_path / "box.toml"), "--output", str(output))
    assert done.exit_code == 0, done.output
    files = files_of(output)
    whole = b"\n".join(files.values()) + done.output.encode()
    assert not list(CardSearch(NUMBERS).in_bytes(whole))
    for name, secret in machine.items():
        for form in forms_of(secret):
            assert form not in whole, name
    for name in NAMES:
        assert name.encode() not in whole
    manifest = json.loads(files["manifest.json"])
    assert {"status.json", "metrics.txt", "heads.json"} <= set(manifest["left_out"])
    assert {"settings.json", "versions.json", "kernel.json", "disk.json", "clock.json", "log.jsonl"} <= set(
        files
    )
    assert manifest["secret_files_looked_for"] >= 3
    for one in manifest["files"]:
        assert hashlib.sha256(files[one["name"]]).hexdigest() == one["sha256"]
    log = [json.loads(line) for line in files["log.jsonl"].splitlines() if line.startswith(b"{")]
    assert log[0]["event"] == "payment_refused"
    settings = json.loads(files["settings.json"])
    assert settings["bank"] == "b1"
    assert "10.1.2.3:8600" in settings["hub"]["addresses"][0]["url"]
    assert output.stat().st_mode & 0o777 == 0o600


def test_settings_that_are_no_toml_leave_a_bundle(tmp_path: Path) -> None:
    """The one file that everything else hangs on may be the damaged one."""
    (tmp_path / "box.toml").write_text("[[[")
    output = tmp_path / "out.tar.gz"
    assert edgegw("support", str(tmp_path / "box.toml"), "--output", str(output)).exit_code == 0
    assert "settings.json" in json.loads(files_of(output)["manifest.json"])["left_out"]


def written(tmp_path: Path, *parts: Part, secret_files: tuple[Path, ...] = ()) -> dict[str, bytes]:
    """A bundle of these parts."""
    path = tmp_path / "b.tar.gz"
    write_bundle(path, parts, of="box", version="1", redactor=Redactor(), secret_files=secret_files)
    return files_of(path)


def test_a_part_that_holds_a_secret_after_all_is_left_out(tmp_path: Path) -> None:
    """The last look finds what every rule before it forgot."""
    (tmp_path / "key").write_text("c2VjcmV0LXNlY3JldA==\n")
    files = written(
        tmp_path, Part("a", lambda: b"x c2VjcmV0LXNlY3JldA== x"), secret_files=(tmp_path / "key",)
    )
    assert "a" in json.loads(files["manifest.json"])["left_out"]
    assert "a" not in files


def test_a_part_that_hangs_or_is_too_large_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer, or a log without an end, keeps nobody from the rest."""
    monkeypatch.setattr(bundle, "PART_S_MAX", 0.05)
    released = threading.Event()
    files = written(
        tmp_path,
        Part("hangs", lambda: bytes(int(released.wait(60)))),
        Part("large", lambda: bytes(bundle.PART_BYTES_MAX + 1)),
        Part("well", lambda: b"well"),
    )
    assert set(json.loads(files["manifest.json"])["left_out"]) == {"hangs", "large"}
    released.set()
    assert files["well"] == b"well"


def test_the_units_that_are_asked_for_are_units_that_are_installed() -> None:
    """A name that no unit has would tell that the unit is not there."""
    files = Path(units.__file__).with_name("files")
    assert [unit for unit in machine_facts.UNITS if not (files / unit).is_file()] == []
