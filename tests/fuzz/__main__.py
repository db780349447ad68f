"""The long fuzz campaign: every decoder for so many seconds, guided by coverage where atheris is installed.

    python -m tests.fuzz --seconds 60 [--target NAME ...] [--json]

Inputs begin with the targets' own samples; one that is a finding is kept below `proof-run/fuzz/`, and played
again by `python -m tests.fuzz --input FILE --target NAME`. Exits with 1 when there is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.fuzz.mutation import mutated
from tests.fuzz.target import BYTES_MAX, SECONDS_MAX, Target, took
from tests.proof.machine import ROOT

HOME = ROOT / "proof-run" / "fuzz"
MEMORY_MB_MAX = 1_024
"""Of the whole process, with Python and the package in it."""
ALL = "all"
GUIDE = "atheris"
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


class Played(NamedTuple):
    """What came of one target: how often it was played, what code it reached, and what was found."""

    executions: int
    covered: int
    finding: str


def all_targets(*, guided: bool) -> tuple[Target, ...]:
    """Every target; with a guide the package is imported so that its paths are seen."""
    if not guided:
        from tests.fuzz.targets import TARGETS

        return TARGETS
    import atheris

    with atheris.instrument_imports(include=["edgegw"]):
        from tests.fuzz.targets import TARGETS
    return TARGETS


def play_guided(target: Target, seconds: int, *, seed: int) -> Played:
    """The target under atheris, in a process of its own, because libFuzzer ends it."""
    log = HOME / f"{target.name}.log"
    with tempfile.TemporaryDirectory(prefix="edgegw-corpus-") as corpus:
        for number, sample in enumerate(target.samples()):
            (Path(corpus) / str(number)).write_bytes(sample)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _fuzz(target, seconds, corpus, log, seed=seed)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text(errors="replace")
    executed, covered = _EXECUTED.search(said), _COVERED.findall(said)
    finding = "" if status == 0 else said[-3_000:]
    return Played(int(executed[1]) if executed else 0, int(covered[-1]) if covered else 0, finding)


def _fuzz(target: Target, seconds: int, corpus: str, log: Path, *, seed: int) -> NoReturn:
    """In the child: play until the time is up or something is found."""
    import atheris

    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    samples = target.samples()

    def change(data: bytes, size_max: int, seed: int) -> bytes:
        if seed % 3 == 0:
            return bytes(atheris.Mutate(data, size_max))
        return mutated(data, random.Random(seed), samples)[:size_max]

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={int(SECONDS_MAX * 5)}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-max_len={BYTES_MAX}",
        f"-seed={seed}",
        f"-artifact_prefix={HOME}/{target.name}-",
        "-print_final_stats=1",
    ]
    atheris.Setup(["fuzz", corpus, *options], lambda data: took(target, data) and None, custom_mutator=change)
    atheris.Fuzz()
    os._exit(0)


def play_unguided(target: Target, seconds: int, *, seed: int) -> Played:
    """The target on seeded changes of its samples, for machines without atheris."""
    rng, samples, executions = random.Random(seed), target.samples(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(rng.choice(samples), rng, samples)
        executions += 1
        try:
            took(target, data)
        except Exception as problem:  # noqa: BLE001 - whatever is not documented is what is looked for
            (HOME / f"{target.name}-finding").write_bytes(data)
            return Played(executions, 0, f"{type(problem).__name__}: {problem} for {data[:200]!r}")
    return Played(executions, 0, "")


def campaign(targets: Sequence[Target], seconds: int, *, seed: int, guided: bool) -> dict[str, object]:
    """Play each target; the figures of all."""
    HOME.mkdir(parents=True, exist_ok=True)
    executions, findings = 0, []
    for target in targets:
        played = (play_guided if guided else play_unguided)(target, seconds, seed=seed)
        executions += played.executions
        reached = f", {played.covered} places reached" if guided else ""
        verdict = f"FOUND\n{played.finding}" if played.finding else "nothing found"
        print(f"{target.name}: {played.executions} inputs{reached}, {verdict}", flush=True)
        if played.finding:
            findings.append(target.name)
    return {
        "targets": len(targets),
        "executions": executions,
        "guided": guided,
        "findings": len(findings),
        "found_in": " ".join(findings),
    }


def main() -> int:
    """Run the campaign, or one input again; 0 when nothing was found."""
    options = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--seconds", type=int, default=60, help="for each target")
    options.add_argument("--target", action="append", metavar="NAME", help="all when it is not given")
    options.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)) + 1)
    options.add_argument("--input", type=Path, help="play this one input again")
    options.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = options.parse_args()
    guided = chosen.input is None and importlib.util.find_spec(GUIDE) is not None
    known = {target.name: target for target in all_targets(guided=guided)}
    names = list(known) if chosen.target in (None, [ALL]) else chosen.target
    if unknown := [name for name in names if name not in known]:
        options.error(f"no target {', '.join(unknown)}; there are {', '.join(known)}")
    targets = [known[name] for name in names]
    if chosen.input is not None:
        for target in targets:
            print(f"{target.name}: {'taken' if took(target, chosen.input.read_bytes()) else 'refused'}")
        return 0
    print(f"seed {chosen.seed}", flush=True)
    figures = campaign(targets, chosen.seconds, seed=chosen.seed, guided=guided)
    if chosen.json:
        print(json.dumps(figures))
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
