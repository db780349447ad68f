"""The load client as lanes call it: in a process of its own, beside the server on the same cores."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.bench.children import BENCH_PYTHON, cpu_s, environment
from tests.bench.rounds import Measure, Unavailable, WrongAnswer

LOAD: Final = Path(__file__).with_name("load.py")
ISO_LOAD: Final = Path(__file__).with_name("iso_load.py")


def load(
    pid: int | Callable[[], float],
    *,
    kind: str,
    first: int,
    seconds: float,
    program: Path = LOAD,
    **settings: Any,
) -> Measure:
    """Run the client against a server, whose processes are below pid (or are told by a function). Raises
    WrongAnswer where one answer was not right, and Unavailable without the bench's environment."""
    if not BENCH_PYTHON.exists():
        raise Unavailable(".venv-bench is missing: run .ci/setup-bench")
    used = pid if callable(pid) else lambda: cpu_s(pid)
    given = {"kind": kind, "first": first, "seconds": seconds, **settings}
    before_s = used()
    done = subprocess.run(
        [BENCH_PYTHON, program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    server_s = used() - before_s
    if done.returncode:
        raise WrongAnswer(f"the load client failed: {done.stderr[-600:]}")
    told = json.loads(done.stdout)
    if "fault" in told:
        raise WrongAnswer(told["fault"])
    return Measure(cpu_s=server_s, **told)
