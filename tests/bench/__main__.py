"""`make bench`: the product and its peers side by side on one disk, in interleaved rounds, told as ratios.

Peers are installed by .ci/setup-bench; their settings are what `python -m tests.bench.sweep` found. Load goes
to loopback only and ends by itself. Exit codes: 0 all that ran could be compared, 1 a lane failed, answered
wrongly or lost what it had answered. A missed target and a ratio worse than the recorded one are told, and
are no failure.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.bench import groups, machine
from tests.bench.children import BENCH_PYTHON
from tests.bench.place import DEFAULT, Place
from tests.bench.results import Results, record, recorded_ratios, table, warnings
from tests.bench.rounds import Group, run_group

PLOTS: Final = Path(__file__).with_name("plots.py")


def discover() -> dict[str, Group]:
    """Every group of the folder, by name."""
    names = [f"{groups.__name__}.{one.name}" for one in pkgutil.iter_modules(groups.__path__)]
    found: list[Group] = [importlib.import_module(name).GROUP for name in names]
    return {one.name: one for one in found}


def chosen(all_groups: dict[str, Group], only: str, *, quick: bool) -> list[Group]:
    """The groups of this run; raises SystemExit for a name that there is not."""
    if only:
        names = only.split(",")
        if unknown := [name for name in names if name not in all_groups]:
            raise SystemExit(f"no group {', '.join(unknown)}; there are {', '.join(all_groups)}")
        return [all_groups[name] for name in names]
    return [one for one in all_groups.values() if not one.asked and (one.quick or not quick)]


def main() -> int:
    """Run the groups; see the module."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    all_groups = discover()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"groups, with commas between: {', '.join(all_groups)}")
    parser.add_argument("--seconds", type=float, default=0.0, help="of one lane in one round")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="short rounds, and not the long groups")
    parser.add_argument("--json", type=Path, help="keep the results here too")
    parser.add_argument("--folder", type=Path, default=DEFAULT, help="on the disk that is to be measured")
    parser.add_argument("--payments", type=int, default=10_000_000, help="in the ledger that `growth` grows")
    parser.add_argument("--record", action="store_true", help="make these ratios the ones to compare with")
    given = parser.parse_args()
    seconds = given.seconds or (2.0 if given.quick else 10.0)
    rounds = given.rounds or (3 if given.quick else 5)
    wanted = chosen(all_groups, given.only, quick=given.quick)
    place = Place(given.folder.resolve(), payments_grown=given.payments)
    results = run(wanted, place, rounds=rounds, seconds=seconds)
    kept = [given.folder / "results.json", *([given.json] if given.json else [])]
    for path in kept:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    sys.stdout.write("\n" + table(results))
    for warning in warnings(results, recorded_ratios()):
        sys.stdout.write(f"WORSE THAN RECORDED: {warning}\n")
    if given.record and not results.faults:
        record(results)
    _draw(kept[-1])
    return 1 if results.faults else 0


def run(wanted: list[Group], place: Place, *, rounds: int, seconds: float) -> Results:
    """All rounds of these groups, one group after the other."""
    folder, began_s = place.kept, time.monotonic()
    results = Results(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        rounds=rounds,
        machine=machine.told(folder),
        machine_after={},
        groups=[],
    )

    def tell(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began_s:7.1f}  {line}\n")
        sys.stdout.flush()

    try:
        for group in wanted:
            results.groups.append(run_group(group, place, rounds=rounds, seconds=seconds, tell=tell))
    finally:
        place.close()
    results.machine_after = machine.told(folder)
    return results


def _draw(path: Path) -> None:
    """Beside the results, where matplotlib is installed."""
    if BENCH_PYTHON.exists():
        subprocess.run([BENCH_PYTHON, PLOTS, path], check=False)


if __name__ == "__main__":
    sys.exit(main())
