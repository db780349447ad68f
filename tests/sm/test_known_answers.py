"""Known answers: a machine that lacks or miscomputes an algorithm is told so, and serves nothing."""

import ctypes
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from edgegw.commands import ExitCode
from edgegw.sm import known_answers, libcrypto, rates, sm2, sm3, sm4_gcm
from edgegw.sm.known_answers import QUESTIONS, answers, libraries, self_test
from edgegw.sm.libcrypto import Key, SmError
from tests.processes import Process, edgegw

NAMES = [question.name for question in QUESTIONS]
SETTINGS = {
    "run": 'bank = "b1"\nbox = "box-1"\n[hub]\nkey_file = "hub.pub"\n'
    '[[hub.addresses]]\nurl = "http://127.0.0.1:9"\n[http]\nport = 0\n',
    "hub": 'bank = "b1"\nlisten = ["127.0.0.1:0"]\n',
    "mirror": 'bank = "b1"\nmirror = "m"\nhub_key_file = "hub.pub"\nlisten = ["127.0.0.1:0"]\n'
    '[boxes]\nbox-1 = ""\n',
}
# What a start finds where OpenSSL was built without an algorithm, each planted before the program begins.
LACKS = {
    "SM3": """import hashlib

_new = hashlib.new


def new(name, *data, **more):
    if name == "sm3":
        raise ValueError("unsupported hash type sm3")
    return _new(name, *data, **more)


hashlib.new = new
""",
    "SM2": """import ctypes

_CDLL = ctypes.CDLL


class Lacking:
    def __init__(self, name, **options):
        self._real = _CDLL(name, **options)

    def __getattr__(self, name):
        if name == "EVP_sm3":
            raise AttributeError("undefined symbol: EVP_sm3")
        return getattr(self._real, name)


ctypes.CDLL = Lacking
""",
    "SM4-GCM": """from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher


def lacking(self):
    raise UnsupportedAlgorithm("cipher SM4 in GCM mode is not supported")


Cipher.encryptor = Cipher.decryptor = lacking
""",
}
OPENSSL_WITHOUT_ALGORITHMS = """openssl_conf = init
[init]
providers = providers
[providers]
base = base
[base]
activate = 1
"""


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """A process asks once; each test asks anew."""
    self_test.cache_clear()
    yield
    self_test.cache_clear()


def problems() -> dict[str, str]:
    """Name to problem of every answer that is wrong."""
    return {answer.name: answer.problem for answer in answers() if answer.problem}


def test_this_machine_gives_every_answer() -> None:
    """What follows plants faults in something that is right."""
    assert problems() == {}
    assert [answer.name for answer in answers()] == NAMES
    self_test()
    assert libraries()["libcrypto"].startswith(("OpenSSL 3", "OpenSSL 4"))
    assert "/libcrypto.so." in libraries()["libcrypto"]
    assert "OpenSSL" in libraries()["cryptography"]


def test_a_machine_with_openssl_4_alone_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library has another name; a machine with neither hears which names were looked for."""
    load, here = ctypes.CDLL, libcrypto.FILES[0]
    asked: list[str] = []

    def loaded(there: str, name: str) -> ctypes.CDLL:
        asked.append(name)
        return load(here if name == there else f"not-here-{name}")

    monkeypatch.setattr(libcrypto.ctypes, "CDLL", functools.partial(loaded, "libcrypto.so.4"))
    assert libcrypto._libcrypto.__wrapped__().EVP_sm3()
    assert asked == ["libcrypto.so.3", "libcrypto.so.4"]
    monkeypatch.setattr(libcrypto.ctypes, "CDLL", functools.partial(loaded, ""))
    with pytest.raises(SmError) as refusal:
        libcrypto._libcrypto.__wrapped__()
    assert all(f"not-here-{name}" in str(refusal.value) for name in libcrypto.FILES)


def wrong_hash(data: bytes) -> bytes:
    """An SM3 that is right for short messages only."""
    return sm3.sm3(data) if len(data) < 56 else bytes(32)


FAULTS: list[tuple[object, str, Any, set[str]]] = [
    (sm2.PublicKey, "verify", lambda *_a, **_k: True, {"sm2_refuse"}),
    (sm2.PublicKey, "verify", lambda *_a, **_k: False, {"sm2_verify", "sm2_sign", "sm2_generate"}),
    (Key, "_checked", lambda key, _check: key, set()),  # d2i checks the curve as well
    (Key, "sign", lambda *_a: sm2.to_der(b"\x01" * 64), {"sm2_sign", "sm2_generate"}),
    (known_answers, "sm3", wrong_hash, {"sm3"}),
    (known_answers, "hmac_sm3", lambda _key, message: sm3.sm3(message), {"hmac_sm3"}),
    (sm4_gcm, "seal", lambda _key, plaintext, **_k: plaintext + bytes(16), {"sm4_gcm_seal"}),
    (sm4_gcm, "unseal", lambda *_a, **_k: known_answers._GCM_PLAINTEXT, {"sm4_gcm_unseal"}),
]


@pytest.mark.parametrize(("owner", "name", "fault", "wrong"), FAULTS)
def test_a_fault_is_found_and_named(owner: object, name: str, fault: Any, wrong: set[str]) -> None:
    """A library that computes wrongly must not sign one checkpoint; the text names it and what failed."""
    with mock.patch.object(owner, name, fault):
        assert set(problems()) == wrong
        if not wrong:
            return
        with pytest.raises(SmError) as refusal:
            self_test()
    for question in QUESTIONS:
        named = f"{question.library} ({libraries()[question.library]}) must {question.question}"
        assert (named in str(refusal.value)) == (question.name in wrong)
    assert "edgegw crypto self-test" in refusal.value.hint


@pytest.mark.parametrize(
    ("command", "lacking", "library"),
    [("run", "SM3", "hashlib ("), ("hub", "SM2", "libcrypto ("), ("mirror", "SM4-GCM", "cryptography (")],
)
def test_nothing_is_served_on_a_machine_that_lacks_an_algorithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, lacking: str, library: str
) -> None:
    """Box, hub and mirror end before they open a ledger, and say which library it is and what to do."""
    (tmp_path / "sitecustomize.py").write_text(LACKS[lacking])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "settings.toml").write_text(SETTINGS[command])
    before = set(tmp_path.iterdir())
    process = Process(command, "settings.toml", folder=tmp_path, log=tmp_path / "log")
    assert process.popen.wait(timeout=60) == ExitCode.CANNOT, process.log.read_text()
    said = process.log.read_text()
    assert said.startswith(f"edgegw: {library}")
    assert "\nhint: " in said
    assert "Traceback" not in said
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"log", "__pycache__"}


def test_the_command_says_what_an_openssl_without_sm_lacks(tmp_path: Path) -> None:
    """The real thing: an OpenSSL whose default algorithms are not there; the command runs and says so."""
    (tmp_path / "openssl.cnf").write_text(OPENSSL_WITHOUT_ALGORITHMS)
    done = subprocess.run(
        [sys.executable, "-m", "edgegw", "crypto", "self-test", "--json"],
        env=os.environ | {"OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == ExitCode.FOUND, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is False
    wrong = {answer["name"] for answer in report["answers"] if answer["problem"]}
    assert {"sm2_verify", "sm2_curve", "sm2_generate", "sm3", "hmac_sm3"} <= wrong
    assert report["rates"] == []


def test_a_wrong_answer_ends_the_command_with_a_code() -> None:
    """A script that watches a fleet reads the code, a person the line."""
    assert edgegw("crypto", "self-test", "--no-rates").exit_code == ExitCode.OK
    with mock.patch.object(known_answers, "sm3", wrong_hash):
        told = edgegw("crypto", "self-test", "--no-rates")
        assert told.exit_code == ExitCode.FOUND
        assert "WRONG  sm3 " in told.stdout
        assert "hashlib: it gives 0000" in told.stdout
        programs = edgegw("crypto", "self-test", "--json")
        assert programs.exit_code == ExitCode.FOUND
        report = json.loads(programs.stdout)
    assert not report["passed"]
    assert [answer["name"] for answer in report["answers"] if answer["problem"]] == ["sm3"]


FAKE_OPENSSL = """#!/bin/sh
case "$*" in
version) echo "OpenSSL 9.9" ;;
*sm2) echo "+F7:0:256:CurveSM2:2000.0:4000.0" ;;
*sm3) echo "+H:1024"; echo "+F:25:sm3:100000000.0" ;;
*) exit 1 ;;
esac
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_rates_stand_beside_those_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """A ratio needs both; where the command is not there or cannot tell one, the report says so."""
    monkeypatch.setattr(rates, "HALF_SECONDS", 0.005)
    if is_there:
        (tmp_path / "openssl").write_text(FAKE_OPENSSL)
        (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv(
        "PATH", str(tmp_path) if not is_there else f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    )
    done = edgegw("crypto", "self-test", "--json")
    assert done.exit_code == ExitCode.OK
    report = json.loads(done.stdout)
    assert report["openssl"]["version"] == ("OpenSSL 9.9" if is_there else "")
    rows = {rate["name"]: rate for rate in report["rates"]}
    assert set(rows) == {
        *("sm2_sign", "sm2_verify", "sm3_1024", "sm4_gcm_1024", "sm3_16384", "sm4_gcm_16384"),
    }
    theirs = {"sm2_sign": 2_000, "sm2_verify": 4_000, "sm3_1024": 1e8, "sm3_16384": 1e8} if is_there else {}
    for name, row in rows.items():
        assert row["per_second"] > 0
        assert row["openssl_per_second"] == theirs.get(name)
        assert bool(row["note"]) == (name not in theirs)
        if name in theirs:
            assert row["ratio"] == pytest.approx(row["per_second"] / theirs[name], abs=0.001)
    lines = edgegw("crypto", "self-test").stdout.splitlines()
    assert sum("no openssl command" in line for line in lines) == (0 if is_there else len(rows))
    assert sum("does not measure sm4-gcm" in line for line in lines) == (2 if is_there else 0)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_the_binding_keeps_up_with_openssl_itself() -> None:
    """The ceiling of SM2 is libcrypto's own speed; a binding far below it is a mistake in the binding."""
    best: dict[str, float] = {}
    for _ in range(3):  # a machine that is shared drifts between the two measurements
        report = json.loads(edgegw("crypto", "self-test", "--json").stdout)
        for rate in report["rates"]:
            best[rate["name"]] = max(best.get(rate["name"], 0), rate["ratio"] or 0)
    print(best)
    for name in ("sm2_sign", "sm2_verify", "sm3_16384"):
        assert best[name] > 0.7, best


def test_a_line_of_figures_that_cannot_be_read_is_no_figure() -> None:
    """Another version may write another form: then nothing is compared."""
    assert rates.figures_of("+F7:0:256:CurveSM2:1.5:2.5\n", count=2) == [1.5, 2.5]
    assert rates.figures_of("+H:16\n+F:25:sm3:7.25\n", count=1) == [7.25]
    assert rates.figures_of("", count=1) == []
    assert rates.figures_of("+F:25:sm3:\n", count=1) == []
    assert rates.figures_of("+F7:0:256:CurveSM2:0:0\n", count=2) == []
