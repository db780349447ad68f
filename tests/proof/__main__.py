"""Measure every claim: what is lost, doubled, created or altered unseen, on this machine.

    python -m tests.proof [--only NAME ...] [--again] [--short]

Writes logs and results below `proof-run/`, tests/RESULTS.md at the end, and exits with 1 when anything is
short of what is asked, or was measured with an older source. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from tests.proof import results
from tests.proof.machine import ROOT
from tests.proof.runner import Run, source_digest
from tests.proof.steps import STEPS

HOME = ROOT / "proof-run"


def main() -> int:
    """Run the steps that are asked for; 0 when all that was asked for holds."""
    options = argparse.ArgumentParser(
        prog="python -m tests.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [step.name for step in STEPS]
    options.add_argument("--only", action="append", choices=names, metavar="NAME", help="only this step")
    options.add_argument("--again", action="store_true", help="also what is done for this source")
    options.add_argument("--short", action="store_true", help="the short form of each step, in minutes")
    options.add_argument("--list", action="store_true", help="name the steps, what is asked, their commands")
    options.add_argument("--report", action="store_true", help="run nothing: write RESULTS.md anew")
    options.add_argument("--home", type=Path, default=HOME, help="where logs and results lie")
    chosen = options.parse_args()
    steps = [step for step in STEPS if not chosen.only or step.name in chosen.only]
    if chosen.list:
        for step in steps:
            print(f"{step.name} (about {step.minutes} min)\n    {step.claim}")
            print(f"    {', '.join(step.asked)}\n    python {step.command}")
        return 0
    run = Run(chosen.home, source=source_digest(), short=chosen.short, say=partial(print, flush=True))
    # Whatever ends the runner ends its steps: left alone, they would disturb the next run.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if not chosen.report:
        try:
            run.play(steps, again=chosen.again)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
    all_hold = results.show(steps, run)
    if not chosen.short:
        results.write(STEPS, run)
        print(f"written: {results.RESULTS.relative_to(ROOT)}")
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
