"""A storm of clients against one limit, on a real ledger: exactly the limit goes through, not one minor unit
more, and a restart goes on where the storm ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from edgegw.core import journal, snapshot
from edgegw.core.decide import Funding
from edgegw.core.records import Kind, Refusal, Request, Transfer
from edgegw.core.site import LimitRule
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.start import load
from edgegw.payments.rules import discover
from tests.payments.branch import BAKER, BANK, BOX, PUPIL, Branch, open_branch

CLIENTS = 64
LIMIT_MINOR = 6_007
DOWN = Funding(line_up=False, reason="line_down")
MINTED = itertools.count()


async def one(branch: Branch, client: str, kind: Kind, amount_minor: int, original_id: str = "") -> str:
    """Decide one request; its id when cleared, else ""."""
    request = Request(
        kind=kind,
        id=f"{next(MINTED):032x}",
        debit_account_id="" if original_id else PUPIL,
        credit_account_id="" if original_id else BAKER,
        currency="" if original_id else "CNY",
        amount_minor=amount_minor,
        original_id=original_id,
        merchant="" if original_id else "M1",
    )
    (outcome,) = await branch.pen.decide(client, [request], DOWN)
    assert isinstance(outcome, Decision), outcome
    if isinstance(outcome.record, Refusal):
        assert outcome.record.code in ("exceeds_amount_limit", "exceeds_velocity", "stand_in_merchant_limit")
        return ""
    return request.id


async def storm(branch: Branch, client: str, chance: Random) -> None:
    """Payments, and holds that are voided or posted in part, until not even one minor unit goes through."""
    for _ in range(LIMIT_MINOR):
        amount_minor = chance.choice((1, 1, 3, 7, 20, 45))
        if chance.random() < 0.3:
            held = await one(branch, client, Kind.HOLD, amount_minor)
            if held and chance.random() < 0.5:
                await one(branch, client, Kind.VOID, 0, held)
            elif held:
                await one(branch, client, Kind.POST, chance.randint(1, amount_minor), held)
        elif not await one(branch, client, Kind.PAYMENT, amount_minor) and amount_minor == 1:
            return


def stands(branch: Branch) -> Iterator[int]:
    """What of each record of the ledger stands: added up without the product's counters."""
    back: dict[str, int] = {}
    records = [branch.pen.desk.book.at(f"1/{seq}") for seq in range(branch.pen.desk.tip.size)]
    for record in records:
        if isinstance(record, Transfer) and record.request.kind in (Kind.PAYMENT, Kind.HOLD):
            back[f"{record.epoch}/{record.seq}"] = record.request.amount_minor
        elif isinstance(record, Transfer) and record.request.kind is Kind.VOID:
            back[record.original] = 0
        elif isinstance(record, Transfer) and record.request.kind is Kind.POST:
            back[record.original] = record.legs[0].amount_minor
    yield from back.values()


@pytest.mark.parametrize(
    "rule",
    [
        LimitRule(name="w", currency="CNY", per="window", amount_minor=LIMIT_MINOR),
        LimitRule(name="v", of="merchant", currency="CNY", seconds=3_600, amount_minor=LIMIT_MINOR),
    ],
    ids=lambda rule: rule.name,
)
async def test_64_clients_reach_a_limit_and_do_not_pass_it(tmp_path: Path, rule: LimitRule) -> None:
    """Concurrently, in batches, with holds that come and go."""
    async with open_branch(tmp_path) as branch:
        branch.pen.desk.rules = [rule.refuses for rule in discover()]
        await branch.use_site(branch.site(2, limits=(rule,)))
        await branch.grant(PUPIL, 10_000_000)
        await asyncio.gather(*(storm(branch, f"till-{n}", Random(n)) for n in range(CLIENTS)))
        left = LIMIT_MINOR - sum(stands(branch))
        assert left >= 0
        for _ in range(left):
            assert await one(branch, "last", Kind.PAYMENT, 1)
        assert not await one(branch, "last", Kind.PAYMENT, 1)
        assert sum(stands(branch)) == LIMIT_MINOR
        assert branch.pen.records > 10 * branch.pen.batches / 4, "batches must have formed"
        image = snapshot.dump(branch.pen.desk.book)
        book, _, _ = load(
            branch.store, bank=BANK, box=BOX, open_note=lambda _epoch, note: journal.parse_checkpoint(note)[0]
        )
        assert snapshot.dump(book) == image
