"""The product's engine in a process of its own: ledger, rules, pen, signed checkpoints, no way in.

Opened as `edgegw run` opens a box. Asked by a line `{"seconds": s, "first": n, "batch": b}` it decides so
many payments at a time and says how many and how long; with `--socket PATH` it also answers requests of
clients there, a JSON line each, as a database does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.core.decide import Funding
from edgegw.core.records import Kind, Request, Transfer
from edgegw.ledger.boot import open_ledger
from edgegw.ledger.outcomes import Budget, Decision
from edgegw.ledger.reserve import Reserve
from edgegw.ledger.start import Ways, prepare, take_over
from edgegw.ledger.writer import Pen
from edgegw.machine import MachineClock, settle_memory
from edgegw.own import load_keys, own_of
from edgegw.payments import rules
from tests.bench import payments

PORTION: Final = 100
"""Batches whose requests are made beforehand, outside the time that counts."""
FUNDING: Final = Funding(line_up=False)
CLIENT: Final = "till"


def request(number: int) -> Request:
    """The payment that a way in would hand over."""
    return Request(
        kind=Kind.PAYMENT,
        id=payments.identity(number),
        debit_account_id=payments.account_id(payments.payer(number)),
        credit_account_id=payments.account_id(payments.payee(number)),
        amount_minor=payments.amount_minor(number),
        currency="CNY",
        terminal="T0000012",
        reference=f"receipt {number:09d}",
    )


def is_right(outcome: object, asked: Request) -> bool:
    """Whether it is this payment's first answer, cleared by its allowance."""
    return (
        isinstance(outcome, Decision)
        and not outcome.repeat
        and isinstance(outcome.record, Transfer)
        and outcome.record.request == asked
        and outcome.record.cleared_by == "allowance"
    )


async def in_batches(pen: Pen, *, seconds: float, first: int, batch: int) -> dict[str, Any]:
    """Decide batch after batch; what counts is the time in the pen."""
    number, wall_s, cpu_s = first, 0.0, 0.0
    while wall_s < seconds:
        portion = [
            [request(number + start + n) for n in range(batch)] for start in range(0, PORTION * batch, batch)
        ]
        answers = []
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for requests in portion:
            answers.append(await pen.decide(CLIENT, requests, FUNDING))
            if time.perf_counter() - began_s + wall_s > seconds:
                break
        wall_s += time.perf_counter() - began_s
        cpu_s += time.process_time() - began_cpu_s
        for requests, outcomes in zip(portion, answers, strict=False):
            for asked, outcome in zip(requests, outcomes, strict=True):
                if not is_right(outcome, asked):
                    return {"fault": f"{asked.id} was answered {outcome!r}"}
        number += batch * len(answers)
    return {"count": number - first, "seconds": wall_s, "cpu_s": cpu_s}


class Peer(asyncio.Protocol):
    """One client at the socket, one request at a time."""

    decoder = msgspec.json.Decoder(Request)

    def __init__(self, pen: Pen) -> None:
        self._pen = pen
        self._rest = b""
        self._work: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Decide each whole line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            task = asyncio.ensure_future(self._answer(line))
            self._work.add(task)
            task.add_done_callback(self._work.discard)

    async def _answer(self, line: bytes) -> None:
        [outcome] = await self._pen.decide(CLIENT, [self.decoder.decode(line)], FUNDING)
        if isinstance(outcome, Decision):
            self._transport.write(outcome.body + b"\n")
        else:
            self._transport.write(b"not decided\n")


async def serve(folder: Path, socket: str) -> None:
    """Open the box in the folder, and answer until the input ends."""
    os.chdir(folder)
    box = load_box(Path("box.toml"), protocol_shapes())
    settings = box.settings
    opened = open_ledger(
        Path(settings.data_dir),
        anchor_directory=Path(settings.anchor_dir),
        bank=settings.bank,
        box=settings.box,
        boot="be" * 8,
        create=False,
    )
    reserve = Reserve(
        Path(settings.data_dir),
        reserve_bytes=settings.disk.reserve_bytes,
        payments_bytes_min=settings.disk.payments_bytes_min,
    )
    reserve.state()
    ways = Ways(
        clock=MachineClock(),
        rules=[rule.refuses for rule in rules.discover()],
        budget=Budget(burst=1, per_second=1),
        room_for_payments=reserve.room_for_payments,
        make_room=reserve.make_room,
    )
    began_s = time.perf_counter()
    pen = prepare(opened.store, own_of(box, load_keys(settings), opened.store, boot="be" * 8), ways)
    take_over(pen)
    settle_memory()
    started_s = time.perf_counter() - began_s
    writing = asyncio.create_task(pen.run())
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Peer(pen), socket, backlog=512) if socket else None
    _say({"ready": True, "started_s": started_s})
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(await in_batches(pen, **json.loads(line)))
    finally:
        if server is not None:
            server.close()
        pen.close()
        await writing
        opened.close()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--socket", default="")
    given = parser.parse_args()
    asyncio.run(serve(given.folder, given.socket))
