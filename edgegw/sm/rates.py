"""How fast this machine computes the SM algorithms through our ways in, beside its own `openssl speed`.

Both are counted per second of CPU on one core, so that other work on the machine hardly counts. Ours is taken
in halves around the command's, because a machine's speed drifts. No figure decides anything.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from edgegw.sm import sm4_gcm
from edgegw.sm.sm2 import PrivateKey
from edgegw.sm.sm3 import sm3

HALF_SECONDS: Final = 0.5
OPENSSL_TIMEOUT_SECONDS: Final = 60
SIGNED_BYTES: Final = 256
SIZES_BYTES: Final = (1024, 16384)
_BATCH: Final = 10


class Openssl(msgspec.Struct, frozen=True):
    """The openssl command of this machine."""

    program: str
    """Its path; empty when there is none."""
    version: str
    """What it calls itself; empty when there is none."""


class Rate(msgspec.Struct, frozen=True):
    """One figure, and the command's where it has one."""

    name: str
    """sm2_sign, sm2_verify (256 bytes each), or sm3 and sm4_gcm with the bytes of one message."""
    unit: str
    """What is counted: operations or bytes."""
    per_second: float
    """How many in a second of CPU, through our ways in."""
    openssl_per_second: float | None
    """How many `openssl speed` does; null when it cannot tell."""
    ratio: float | None
    """`per_second` divided by `openssl_per_second`."""
    note: str
    """Why there is no figure of the command; else empty."""


class _Probe(msgspec.Struct, frozen=True):
    """What the command measures in one run, and what we do for each of its figures."""

    asked: tuple[str, ...]
    unit: str
    each: int
    """Units of one call."""
    works: dict[str, Callable[[], object]]


def openssl() -> Openssl:
    """The openssl command that the path leads to."""
    program = shutil.which("openssl")
    return Openssl(program, _output(program, "version").strip()) if program else Openssl("", "")


def rates(program: str) -> list[Rate]:
    """SM2 over 256 bytes, SM3 and SM4-GCM over 1 and 16 KiB, beside that openssl, or alone when it is empty.

    Takes about 12 seconds, half of them ours.
    """
    return [rate for probe in _probes() for rate in _measured(probe, program)]


def _probes() -> Iterator[_Probe]:
    key, message = PrivateKey.generate(), secrets.token_bytes(SIGNED_BYTES)
    signature = key.sign(message)
    signing: dict[str, Callable[[], object]] = {
        "sm2_sign": partial(key.sign, message),
        "sm2_verify": partial(key.public.verify, message, signature),
    }
    yield _Probe(("sm2",), "operations", 1, signing)
    sealing_key, nonce = secrets.token_bytes(sm4_gcm.KEY_BYTES), sm4_gcm.fresh_nonce()
    for size in SIZES_BYTES:
        data, common = secrets.token_bytes(size), ("-bytes", str(size), "-evp")
        yield _Probe((*common, "sm3"), "bytes", size, {f"sm3_{size}": partial(sm3, data)})
        sealing = partial(sm4_gcm.seal, sealing_key, data, nonce=nonce, associated=b"")
        yield _Probe((*common, "sm4-gcm"), "bytes", size, {f"sm4_gcm_{size}": sealing})


def _measured(probe: _Probe, program: str) -> Iterator[Rate]:
    before = [_calls_per_second(work) for work in probe.works.values()]
    told, note = _told(program, probe) if program else ([], "there is no openssl command on this machine")
    after = [_calls_per_second(work) for work in probe.works.values()]
    for index, name in enumerate(probe.works):
        ours = round((before[index] + after[index]) / 2 * probe.each, 1)
        theirs = told[index] if told else None
        yield Rate(name, probe.unit, ours, theirs, round(ours / theirs, 3) if theirs else None, note)


def _calls_per_second(work: Callable[[], object]) -> float:
    work()
    calls, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < HALF_SECONDS:
        for _ in range(_BATCH):
            work()
        calls += _BATCH
    return calls / spent


def _told(program: str, probe: _Probe) -> tuple[list[float], str]:
    """The command's figures for a probe, or none and why."""
    output = _output(program, "speed", "-mr", "-seconds", "1", *probe.asked)
    figures = figures_of(output, count=len(probe.works))
    return figures, "" if figures else f"this openssl does not measure {probe.asked[-1]}"


def figures_of(output: str, *, count: int) -> list[float]:
    """The last count figures of the one line with results (+F...) of `openssl speed -mr`; none where there is
    no such line."""
    lines = [line.split(":") for line in output.splitlines() if line.startswith("+F")]
    try:
        figures = [float(figure) for figure in lines[-1][-count:]] if lines else []
    except ValueError:
        return []
    return figures if all(figure > 0 for figure in figures) else []


def _output(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=OPENSSL_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
