"""A branch with a vault: settings name cards by their lookups, records carry tokens, and both mean the same
card."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgegw.core.records import BlockDirective
from edgegw.core.site import LimitRule
from edgegw.payments.cards import Cards, NoCards
from edgegw.payments.rules import discover
from edgegw.payments.vault_file import VaultFile
from tests.payments import branch as real
from tests.payments.branch import BAKER, PUPIL, Branch, HttpClient, payment_id
from tests.payments.protocols.iso8583_branch import PAN
from tests.payments.protocols.test_iso8583_ledger import paid, shop
from tests.payments.test_vault_file import BECAUSE, LOOKUP, LOOKUPS, POOR, opened


@asynccontextmanager
async def with_vault(branch: Branch, folder: Path) -> AsyncIterator[VaultFile]:
    """The branch with a vault of its own; the connection of another process to it."""
    cards = Cards(opened(folder), opened(folder))
    cards.use(branch.book)
    branch.gateway.cards = cards
    other = opened(folder)
    try:
        yield other
    finally:
        other.close()
        cards.close()


def bodies_of(branch: Branch) -> list[bytes]:
    """The journal's records."""
    return [one.body for one in branch.store.records(epoch=1, start=0, limit=1_000, bytes_max=1 << 20)]


def said(reply: real.Reply) -> str:
    """What an answer's code is, "" for a cleared payment."""
    return str(reply.json.get("code", "")) if reply.status >= 400 else ""


async def test_lists_blocks_and_limits_find_the_card_whose_record_names_a_token(tmp_path: Path) -> None:
    """A rule that is asked for the token finds nobody, and every stolen card pays."""
    only = LimitRule(name="mine", of="card", currency="CNY", per="window", amount_minor=100, only=(LOOKUP,))
    third = LOOKUPS.lookup("6222020000000000006")
    async with real.open_branch(tmp_path) as branch, with_vault(branch, tmp_path):
        branch.pen.desk.rules = [rule.refuses for rule in discover()]
        await branch.use_site(branch.site(2, limits=(only,), blocked=(POOR,)))
        await branch.grant(BAKER, 10_000)
        client = HttpClient(branch)
        assert said(await client.pay(90, card=POOR)) == "card_blocked"
        assert said(await client.pay(100, card=LOOKUP)) == ""
        assert said(await client.pay(1, card=LOOKUP)) == "exceeds_amount_limit"
        assert said(await client.pay(500, card=third)) == "", "the limit is on another card alone"
        head = branch._directive_head()
        await branch.say(BlockDirective(**head, of="card", whose=third, reason="stolen", blocked=True))
        refused = await client.pay(1, card=third)
        assert said(refused) == "card_blocked"
        written = b"".join(bodies_of(branch)) + refused.body
        assert LOOKUP.encode() not in written
        assert POOR.encode() not in written
        await client.close()


async def test_a_repeat_is_answered_as_first_also_after_its_card_was_shredded(tmp_path: Path) -> None:
    """A conflict would make the till pay again under another id."""
    async with real.open_branch(tmp_path) as branch, with_vault(branch, tmp_path) as other:
        await branch.grant(BAKER, 10_000)
        client = HttpClient(branch)
        id = payment_id()
        first = await client.pay(100, id=id, card=LOOKUP)
        token = other.find(LOOKUP)
        assert token
        assert other.shred(token, **BECAUSE)
        again = await client.pay(100, id=id, card=LOOKUP)
        assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert said(await client.pay(99, id=id, card=LOOKUP)) == "id_reused"
        assert other.find(LOOKUP) != token
        known = await client.pay(100, card=POOR)
        changed = await client.pay(100, id=known.json["id"], card=LOOKUP)
        assert (said(changed), changed.json["field"]) == ("id_reused", "card")
        await client.close()


async def test_a_terminal_brings_the_number_and_the_record_has_the_token(tmp_path: Path) -> None:
    """The vault is the one place in the branch that can give a number back."""
    async with shop(tmp_path) as (branch, terminal), with_vault(branch, tmp_path) as other:
        await branch.grant(PUPIL, 10_000)
        assert (await terminal.ask(paid(1, 100))).fields[39] == "00"
        token = other.find(LOOKUP)
        assert token
        card = other.card(token)
        assert card is not None
        assert card.number == PAN
        requests = [json.loads(body).get("request", {}) for body in bodies_of(branch)]
        assert [one["card"] for one in requests if one.get("card")] == [token]
        branch.gateway.cards = NoCards("its disk is gone")
        unknown = await terminal.ask(paid(2, 100))
        assert (unknown.fields[39], unknown.fields[44]) == ("96", "vault_unavailable")
