"""Faults planted in the product: the simulator's auditor must name each of them.

An auditor that is never seen to be angry proves nothing. Every plant is the smallest change that breaks one
promise; the seeds are fixed, and without the plant they are green (`test_simulator`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from edgegw.core import exchange, journal
from edgegw.ledger import schema
from edgegw.ledger.store import Store
from edgegw.ledger.writer import Pen
from edgegw.uplink import line as line_module
from edgegw.uplink import outbox
from tests.simulator.drill import FAULTS, run_seed
from tests.simulator.loop import passed
from tests.simulator.world import World

SEEDS = (11, *range(1, 9))
STEPS = 200


async def killed_with_payments(world: World, chance: Random) -> None:
    """Boxes die right before COMMITs of many records: where payments are."""
    while True:
        await passed(1 + chance.random() * 2)
        own = chance.choice(list(world.machines.values())).process
        if own is not None and not own.dies_at_commit:
            own.dies_with_records = 6
            own.dies_at_commit = own.commits + 1


def found(faults: tuple[str, ...]) -> str:
    """What the auditor says of the first seed that it does not like."""
    for seed in SEEDS:
        with patch.dict(FAULTS, {"killed": killed_with_payments}):
            report = run_seed(seed, steps=STEPS, faults=faults)
        if report.findings:
            return "\n".join(report.findings)
    return ""


@contextmanager
def no_dedupe() -> Iterator[None]:
    """Nobody looks an identity up, and the disk takes it twice."""
    migrations = tuple(script.replace("CREATE UNIQUE INDEX", "CREATE INDEX") for script in schema.MIGRATIONS)
    with patch.object(Store, "find", lambda *_: {}), patch.object(schema, "MIGRATIONS", migrations):
        yield


@contextmanager
def told_before_commit() -> Iterator[None]:
    """Answers leave before the COMMIT that they stand for."""
    decided = Pen._decided

    def telling(pen: Pen, jobs: list[Any]) -> Any:
        batch = decided(pen, jobs)
        for job in jobs:
            job.tell()
        return batch

    with patch.object(Pen, "_decided", telling):
        yield


@contextmanager
def prefix_unchecked() -> Iterator[None]:
    """Nobody compares the past that a push continues with the one that is held: neither hub nor box."""

    def unproved(package: Any, held: Any, checkpoint: Any, fresh: Any) -> Any:
        if not held.frontier.size or not fresh:
            return judge_proof(package, held, checkpoint, fresh)
        leaves = journal.chain(held.leaf_at(held.frontier.size - 1), fresh)
        frontier = held.frontier.copy()
        frontier.extend(leaves)
        head = exchange.LogHead(package.number, package.size, frontier.root())
        return exchange.PackageJudgement(
            exchange.PackageVerdict.ACCEPTED,
            head,
            records=fresh,
            leaves=tuple(leaves),
            frontier=frontier,
            checkpoint=checkpoint,
        )

    def unsent(source: Any, head: Any, have: Any, bytes_max: int) -> Any:
        own = exchange.frontier_at(have.size, source.node(epoch=head.epoch, size=head.size))
        return pack(source, head, exchange.LogHead(head.epoch, have.size, own.root()), bytes_max)

    judge_proof, pack = exchange._judge_proof, outbox.pack
    with (
        patch.object(exchange, "_judge_proof", unproved),
        patch.object(exchange, "_overlap_fault", lambda *_: ""),
        patch.object(exchange, "_signed_head_fault", lambda *_: ""),
        patch.object(exchange, "_judge_journal", lambda *_: None),
        patch.object(outbox, "pack", unsent),
        patch.object(line_module, "other_history", lambda *_: None),
    ):
        yield


@pytest.mark.parametrize(
    ("plant", "faults", "words"),
    [
        (no_dedupe, ("network", "crash"), "was decided before"),
        (told_before_commit, ("killed",), "is not in the journal"),
        (prefix_unchecked, ("clone",), "another history"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_auditor_names_a_broken_promise(plant: Any, faults: tuple[str, ...], words: str) -> None:
    """Each promise is broken once in the product itself; a green seed would be a blind auditor."""
    with plant():
        said = found(faults)
    assert words in said
