"""`python -m tests.drills --count 200`: so many drills over all classes, each from a seed of its own."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.drills.classes import CLASSES
from tests.drills.run import run


def main() -> int:
    """Run the drills, print a table, and for each that failed the command that repeats it."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--count", type=int, default=len(CLASSES), help="how many drills in all")
    parser.add_argument("--seed", type=int, default=1, help="the first drill's seed; each has the next one")
    parser.add_argument("--only", choices=sorted(CLASSES), help="this class alone")
    parser.add_argument("--workers", type=int, default=2, help="drills at a time")
    parser.add_argument("--json", action="store_true", help="figures as JSON on standard output")
    options = parser.parse_args()
    names = [options.only] if options.only else list(CLASSES)
    drills = [(names[index % len(names)], options.seed + index) for index in range(options.count)]
    began_s = time.monotonic()
    passed = dict.fromkeys(names, 0)
    faults: list[dict[str, str]] = []
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as workers:
        for (name, seed), fault in zip(drills, workers.map(run, *zip(*drills, strict=True)), strict=True):
            passed[name] += not fault
            if fault:
                command = f"python -m tests.drills --only {name} --seed {seed} --count 1"
                faults.append({"drill": name, "seed": str(seed), "repeat": command})
                print(f"{fault}\nrepeat: {command}", file=sys.stderr)
            else:
                print(f"{name} seed {seed}: passed", file=sys.stderr)
    figures = {
        "drills": len(drills),
        "passed": sum(passed.values()),
        "classes": passed,
        "faults": faults,
        "seconds": round(time.monotonic() - began_s),
    }
    print(json.dumps(figures) if options.json else "\n".join(f"{n:45} {c}" for n, c in passed.items()))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
