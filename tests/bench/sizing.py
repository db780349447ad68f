"""`python -m tests.bench.sizing`: what a payment costs a box and a hub.

Real processes on loopback, plain HTTP, SQLite at the hub: a number of payments over some connections. Told
are processor seconds, resident memory, and how much the databases have grown; not the time that passed, which
belongs to the machine and to who else is at work there. `--json` prints one line for programs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.processes import Branch, Process
from tests.waiting import wait_until

PAYMENTS = 4_000
WARM_UP = 500
CONNECTIONS = 32
AMOUNT_MINOR = 1


class Cost(NamedTuple):
    """Of one process since its start."""

    processor_s: float
    resident_bytes: int
    disk_bytes: int


class SizedBranch(Branch):
    """Hub and box in processes of their own."""

    process = Process


def cost_of(process: Process, folder: Path, pattern: str) -> Cost:
    """What a process has used, and how large its database is."""
    found = psutil.Process(process.popen.pid)
    times = found.cpu_times()
    disk = sum(one.stat().st_size for one in folder.glob(pattern))
    return Cost(times.user + times.system, found.memory_info().rss, disk)


def pay(branch: Branch, count: int) -> None:
    """So many payments over CONNECTIONS connections; each must be paid."""
    numbers = iter(range(count))
    lock, refused = threading.Lock(), []

    def till() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", branch.http_port, timeout=120)
        headers = {"Authorization": f"Bearer {branch.token}", "Content-Type": "application/json"}
        while True:
            with lock:
                if next(numbers, None) is None:
                    break
            body = {"id": secrets.token_hex(16), "debit_account_id": "alice", "credit_account_id": "shop"}
            sent = json.dumps(body | {"amount_minor": AMOUNT_MINOR, "currency": "CNY"})
            connection.request("POST", "/v1/payments", sent, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 201:
                refused.append(answer.status)
        connection.close()

    tills = [threading.Thread(target=till) for _ in range(CONNECTIONS)]
    for one in tills:
        one.start()
    for one in tills:
        one.join()
    if refused:
        raise RuntimeError(f"{len(refused)} payments were not paid: {refused[:3]}")


def settled(branch: Branch) -> None:
    """Wait until the hub holds everything."""
    wait_until(
        lambda: json.loads(branch.run("status", branch.path("box.toml"), "--json"))["waiting"] == 0,
        "the hub to hold everything",
        timeout_seconds=300,
    )


def measured(folder: Path, payments: int) -> dict[str, float]:
    """Each figure of one payment, and the memory at its end."""
    branch = SizedBranch(folder)
    try:
        branch.start_hub()
        branch.start_box()
        assert branch.box is not None
        assert branch.hub is not None
        pay(branch, WARM_UP)
        settled(branch)
        sides = ((branch.box, folder / "data", "ledger.db*"), (branch.hub, folder, "hub.db*"))
        before = [cost_of(*side) for side in sides]
        pay(branch, payments)
        settled(branch)
        after = [cost_of(*side) for side in sides]
    finally:
        branch.end()
    told: dict[str, float] = {"payments": payments, "connections": CONNECTIONS}
    for name, one, then in zip(("box", "hub"), after, before, strict=True):
        told[f"{name}_payments_each_processor_second"] = round(
            payments / (one.processor_s - then.processor_s)
        )
        told[f"{name}_bytes_each_payment"] = round((one.disk_bytes - then.disk_bytes) / payments)
        told[f"{name}_resident_mb"] = round(one.resident_bytes / 1e6)
    return told


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=PAYMENTS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measured(Path(folder), asked.payments)
    if asked.json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"{name:38} {value:>12,.0f}")


if __name__ == "__main__":
    sys.exit(main())
