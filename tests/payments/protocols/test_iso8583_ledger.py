"""A terminal in front of the real gateway, pen and ledger file: what it hears, and what is on the disk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgegw.core.site import TerminalRule
from edgegw.payments.protocols.iso8583 import Options, start
from tests.payments import branch as real
from tests.payments.protocols.iso8583_branch import (
    PAN,
    PAYMENT,
    SIGN_ON,
    VAULT_KEY,
    Terminal,
    changed,
    hmac_sm3,
    write_keys,
)

PAID_MINOR = 12_345
"""What PAYMENT asks for; above the floor of the branch's stand-in."""


@asynccontextmanager
async def shop(directory: Path) -> AsyncIterator[tuple[real.Branch, Terminal]]:
    """A branch whose terminal T0000001 fills the baker's account and has signed on; PAN is the pupil's."""
    async with real.open_branch(directory) as branch:
        terminal = TerminalRule(
            id="T0000001", merchant="M00000000000001", credit_account_id=real.BAKER, currency="CNY"
        )
        cards = {hmac_sm3(VAULT_KEY, PAN.encode()).hex(): real.PUPIL}
        await branch.use_site(branch.site(2, terminals=(terminal,), cards=cards))
        server = await start(branch.gateway, Options(port=0, **write_keys(directory)))
        host, _, port = server.addresses[0].rpartition(":")
        peer = Terminal(*await asyncio.open_connection(host, int(port)))
        try:
            assert (await peer.ask(SIGN_ON)).fields[39] == "00"
            yield branch, peer
        finally:
            await server.stop()
            peer.writer.close()


def paid(number: int, amount_minor: int, *, mti: str = "0200") -> bytes:
    """A message with a trace and an amount of its own."""
    return changed(PAYMENT, {11: f"{number:06d}", 4: f"{amount_minor:012d}"}, mti=mti)


async def test_field_44_says_what_funded_each_payment(tmp_path: Path) -> None:
    """A merchant who is not told that the branch stood in does not know that a decline may still come."""
    async with shop(tmp_path) as (branch, terminal):
        await branch.grant(real.PUPIL, PAID_MINOR)
        await branch.grant(f"risk:{real.BOX}:CNY", 50_000)
        said = [(await terminal.ask(PAYMENT)).fields]
        branch.centre.money[real.PUPIL] = 700
        said.append((await terminal.ask(paid(1, 700))).fields)
        said.append((await terminal.ask(paid(2, 700))).fields)
        branch.centre.up = False
        said.append((await terminal.ask(paid(3, 600))).fields)
        said.append((await terminal.ask(paid(4, 10_000))).fields)
        assert [(fields[39], fields[44]) for fields in said] == [
            ("00", "allowance"),
            ("00", "centre"),
            ("51", "insufficient_funds"),
            ("00", "stand_in"),
            ("91", "stand_in_above_floor"),
        ]
        assert branch.book.available(real.BAKER) == PAID_MINOR + 700


async def test_repeats_and_reversals_hold_over_the_ledger_file(tmp_path: Path) -> None:
    """Identities must be found on the disk, not only in the memory of a test."""
    async with shop(tmp_path) as (branch, terminal):
        await branch.grant(real.PUPIL, PAID_MINOR)
        first = await terminal.ask(PAYMENT)
        assert (await terminal.ask(changed(PAYMENT, {}, mti="0201"))) == first
        back = await terminal.ask(changed(PAYMENT, {}, mti="0400"))
        assert back.fields[39] == "00"
        assert (await terminal.ask(changed(PAYMENT, {}, mti="0401"))) == back
        assert branch.book.available(real.PUPIL) == PAID_MINOR
        kept = await terminal.ask(paid(9, 100, mti="0420"))
        assert (kept.fields[39], kept.fields[44]) == ("00", "kept")
        assert (await terminal.ask(paid(9, 100))).fields[44] == "already_reversed"


async def test_a_full_disk_is_96_and_the_same_message_is_decided_when_there_is_room(tmp_path: Path) -> None:
    """A decline would be remembered by nobody, and an approval would be a lie."""
    async with shop(tmp_path) as (branch, terminal):
        await branch.grant(real.PUPIL, PAID_MINOR)
        branch.room = False
        full = await terminal.ask(PAYMENT)
        assert (full.fields[39], full.fields[44]) == ("96", "storage_full")
        branch.room = True
        assert (await terminal.ask(PAYMENT)).fields[39] == "00"


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("ledger*")))


async def test_no_file_of_the_ledger_holds_the_card_number(tmp_path: Path) -> None:
    """Whoever takes the disk must not take the cards."""
    async with shop(tmp_path) as (branch, terminal):
        await branch.grant(real.PUPIL, PAID_MINOR)
        pin_block = "A1B2C3D4E5F60718"
        track = changed(PAYMENT, {35: f"{PAN}=26121010000000000000", 52: pin_block})
        assert (await terminal.ask(track)).fields[39] == "00"
        written = _files(tmp_path)
        assert b"622202******7890" in written
        for secret in (PAN, pin_block, PAN[:12]):
            assert secret.encode() not in written
