"""Lists by reference at a box: in force with the settings that name them, whole or not at all, over a
restart too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgegw.core import journal
from edgegw.core.decide import Funding
from edgegw.core.exchange import SiteBundle
from edgegw.core.lists import block_of
from edgegw.core.records import Kind, Refusal, Request, SiteDirective
from edgegw.core.site import LimitRule, ListRule, Site
from edgegw.errors import LedgerCorrupt
from edgegw.ledger.outcomes import Decision
from edgegw.ledger.start import load
from edgegw.payments.rules import discover
from tests.payments.branch import BAKER, BANK, BOX, PUPIL, Branch, HttpClient, open_branch

UP = Funding(line_up=True)


def rule_of(name: str, of: str, *ids: str, effect: str = "block") -> tuple[ListRule, bytes]:
    """A list and what names it."""
    block = block_of(of, ids)
    digest = journal.sm3(block).hex()
    return ListRule(name=name, of=of, effect=effect, digest=digest, entries=len(set(ids))), block


async def use(branch: Branch, site: Site, *blocks: bytes) -> None:
    """Put settings in force with these of their lists."""
    body = msgspec.json.encode(site)
    digest = journal.sm3(body).hex()
    lists = {journal.sm3(block).hex(): block for block in blocks}
    head = branch._directive_head()
    await branch.say(
        SiteDirective(**head, version=site.version, digest=digest, bytes=len(body)),
        sites={digest: SiteBundle(body, site, lists=lists)},
    )


async def said(branch: Branch, number: int, **fields: Any) -> str:
    """The code that a payment of one minor unit is refused with, "" when it is cleared."""
    request = Request(
        kind=Kind.PAYMENT,
        id=f"{number:032x}",
        debit_account_id=PUPIL,
        credit_account_id=BAKER,
        currency="CNY",
        amount_minor=1,
        **fields,
    )
    (outcome,) = await branch.pen.decide("till", [request], UP)
    assert isinstance(outcome, Decision)
    return outcome.record.code if isinstance(outcome.record, Refusal) else ""


async def test_who_is_on_a_list_to_block_or_not_on_one_to_allow_pays_nothing(tmp_path: Path) -> None:
    """Each in its respect; a payment that names no card is not held against a list of cards."""
    cards, hot = rule_of("hot", "card", "c" * 64)
    tills, ours = rule_of("ours", "terminal", "T1", "T2", effect="allow")
    async with open_branch(tmp_path) as branch:
        branch.pen.desk.rules = [rule.refuses for rule in discover()]
        await branch.grant(PUPIL, 1_000)
        await use(branch, branch.site(2, lists=(cards, tills)), hot, ours)
        assert await said(branch, 1, card="c" * 64, terminal="T1") == "card_blocked"
        assert await said(branch, 2, card="d" * 64, terminal="T3") == "not_on_list"
        assert await said(branch, 3, card="d" * 64, terminal="T2") == ""
        assert await said(branch, 4) == ""


async def test_a_card_is_limited_by_its_token_over_http_too(tmp_path: Path) -> None:
    """The token alone: what looks like a number is refused as malformed, and no limit counts it."""
    limit = LimitRule(name="card", of="card", currency="CNY", per="window", amount_minor=100)
    async with open_branch(tmp_path) as branch:
        branch.pen.desk.rules = [rule.refuses for rule in discover()]
        await branch.grant(BAKER, 1_000)
        await branch.use_site(branch.site(2, limits=(limit,)))
        client = HttpClient(branch)
        try:
            codes = [
                (await client.pay(amount, card=card)).json.get("code", "")
                for amount, card in ((100, "c" * 64), (1, "c" * 64), (1, "d" * 64), (1, "4" * 16))
            ]
        finally:
            await client.close()
        assert codes[:3] == ["", "exceeds_amount_limit", ""]
        assert codes[3] not in ("", "exceeds_amount_limit")


async def test_settings_whose_list_is_not_to_be_had_change_nothing(tmp_path: Path) -> None:
    """Applied whole or not at all: the list before goes on, and the directive's record says why."""
    first, block = rule_of("hot", "merchant", "M1")
    second, _ = rule_of("hot", "merchant", "M2")
    async with open_branch(tmp_path) as branch:
        branch.pen.desk.rules = [rule.refuses for rule in discover()]
        await branch.grant(PUPIL, 1_000)
        await use(branch, branch.site(2, lists=(first,)), block)
        await use(branch, branch.site(3, lists=(second,)))
        assert branch.book.site_version == 2
        assert await said(branch, 1, merchant="M1") == "merchant_blocked"
        assert await said(branch, 2, merchant="M2") == ""


async def test_lists_are_there_after_a_restart_and_go_with_their_settings(tmp_path: Path) -> None:
    """A start brings them back from the ledger; of older ones those stay that the box could return to."""
    rules = [rule_of("hot", "merchant", f"M{number}") for number in range(3)]
    async with open_branch(tmp_path) as branch:
        for version, (rule, block) in enumerate(rules, 2):
            await use(branch, branch.site(version, lists=(rule,)), block)
        kept = [branch.store.id_list(rule.digest) for rule, _ in rules]
        assert kept == [None, rules[1][1], rules[2][1]]
        book, _, _ = loaded(branch)
        ((rule, held),) = book.policy.lists
        assert rule == rules[2][0]
        assert held.has("merchant", "M2")
        branch.store.begin()
        branch.store.drop_id_lists(besides=())
        branch.store.commit()
        with pytest.raises(LedgerCorrupt, match="list hot"):
            loaded(branch)


def loaded(branch: Branch) -> Any:
    """What a start would load."""

    def checkpoint(_epoch: int, note: str) -> journal.Checkpoint:
        return journal.parse_checkpoint(note)[0]

    return load(branch.store, bank=BANK, box=BOX, open_note=checkpoint)
