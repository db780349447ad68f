"""What becomes of a terminal's payments: refunds, completions undone, and its batch at the end of the day."""

from pathlib import Path

from edgegw.core.accounts import centre_account
from edgegw.core.apply import own_accounts
from edgegw.core.records import Account, Kind, Leg, Request
from tests.payments.protocols.iso8583_branch import FUNDS_MINOR, PAYMENT, branch, changed

# -- refunds -------------------------------------------------------------------

REFUND = {3: "200000", 11: "000777", 12: "180000", 37: "112118000777"}


async def test_a_refund_names_its_payment_and_never_passes_it(tmp_path: Path) -> None:
    """Processing code 20 with field 90: in parts, repeated safely, refused beyond what was paid, and taken
    back by a reversal of its own."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        named = {90: "0200" + "000123" + "1121173015" + "0" * 22, 37: None}
        payment = changed(PAYMENT, {37: None, 11: "000124"})
        await terminal.ask(payment)
        named[90] = named[90].replace("000123", "000124")
        refund = changed(payment, REFUND | named | {4: "000000012000", 37: None})
        first = await terminal.ask(refund)
        assert (first.mti, first.fields[39], first.fields[44]) == ("0210", "00", "allowance")
        assert await terminal.ask(changed(refund, {}, mti="0201")) == first
        assert here.gateway.available("shop-1") == 2 * 12_345 - 12_000
        beyond = await terminal.ask(changed(refund, {11: "000778", 4: "000000000346"}))
        assert (beyond.fields[39], beyond.fields[44]) == ("21", "exceeds_original")
        undone = await terminal.ask(changed(refund, {90: None}, mti="0400"))
        assert undone.fields[39] == "00"
        assert here.gateway.available("shop-1") == 2 * 12_345


async def test_a_refund_of_a_payment_that_nobody_knows_is_25_and_nothing_is_kept(tmp_path: Path) -> None:
    """A slip in field 90 must not wait for a payment that never comes; an advice of it is booked all the
    same."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        data = "0200" + "000999" + "1121173015" + "0" * 22
        refund = changed(PAYMENT, REFUND | {90: data, 4: "000000000500", 37: None})
        said = await terminal.ask(refund)
        assert (said.fields[39], said.fields[44]) == ("25", "original_not_found")
        assert not dict(here.gateway.book.kept.items())
        advised = await terminal.ask(changed(refund, {11: "000779"}, mti="0220"))
        assert (advised.fields[39], here.gateway.available("shop-1")) == ("00", 12_345 - 500)


async def test_a_completion_is_reversed_by_what_it_took(tmp_path: Path) -> None:
    """A 0400 that names the completion gives back what the completion posted, not what was held."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        hold = changed(PAYMENT, {37: None}, mti="0100")
        await terminal.ask(hold)
        taken = {11: "000200", 4: "000000010000", 90: "0100" + "000123" + "1121173015" + "0" * 22}
        completion = changed(hold, taken, mti="0220")
        assert (await terminal.ask(completion)).fields[39] == "00"
        assert here.gateway.available("shop-1") == 10_000
        undone = await terminal.ask(changed(completion, {90: None}, mti="0400"))
        assert undone.fields[39] == "00"
        assert (here.gateway.available("shop-1"), here.gateway.available("card-a")) == (0, FUNDS_MINOR)


# -- reconciliation ------------------------------------------------------------

CLOSE = {2: None, 3: None, 4: None, 11: "000900", 12: "230000", 37: "112123000900", 49: None}


def totals(*, debits: tuple[int, int], credits_: tuple[int, int] = (0, 0)) -> dict[int, str | None]:
    """The fields of totals: counts and sums of payments and refunds."""
    zero, zeros = "0" * 10, "0" * 16
    return {
        74: f"{credits_[0]:010}", 75: zero, 76: f"{debits[0]:010}", 77: zero,
        86: f"{credits_[1]:016}", 87: zeros, 88: f"{debits[1]:016}", 89: zeros,
    }  # fmt: skip


async def test_a_terminal_closes_its_batch_in_balance(tmp_path: Path) -> None:
    """Payments and refunds since the last close, and none of another terminal's; a repeat is the same, and
    the next batch begins at zero."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        await terminal.ask(changed(PAYMENT, {11: "000124", 4: "000000001000"}))
        await terminal.ask(changed(PAYMENT, REFUND | {4: "000000000345"}))
        close = changed(PAYMENT, CLOSE | totals(debits=(2, 13_345), credits_=(1, 345)), mti="0500")
        first = await terminal.ask(close)
        assert (first.mti, first.fields[39], first.fields[66], first.fields[44]) == (
            "0510",
            "00",
            "1",
            "batch 1",
        )
        assert first.fields[97] == "D" + f"{13_000:016}"
        assert {number: first.fields[number] for number in (74, 76, 86, 88)} == {
            number: value
            for number, value in totals(debits=(2, 13_345), credits_=(1, 345)).items()
            if number in (74, 76, 86, 88)
        }
        assert await terminal.ask(changed(close, {}, mti="0501")) == first
        advice = await terminal.ask(changed(close, {}, mti="0520"))
        assert (advice.mti, advice.fields[39], advice.fields[88]) == ("0530", "00", first.fields[88])
        other = await terminal.ask(changed(close, {76: "0000000003"}))
        assert other.fields[39] == "94"
        empty = await terminal.ask(changed(close, {11: "000901"} | dict.fromkeys(totals(debits=(0, 0)))))
        assert (empty.fields[39], empty.fields[66], empty.fields[88]) == ("00", "1", "0" * 16)


async def test_what_others_paid_in_another_currency_is_not_in_a_terminals_figures(tmp_path: Path) -> None:
    """A client may name the terminal too; the fields of totals have one currency."""
    async with branch(tmp_path) as here:
        usd = tuple(Account(id=name, currency="USD", home="box-1") for name in ("a", "b"))
        here.gateway.book.open_accounts((*own_accounts("box-1", "USD"), *usd))
        here.gateway.book.post((Leg(centre_account("USD"), "a", 9),), epoch=1, seq=2, at_ns=3)
        terminal = await here.signed_on()
        await terminal.ask(PAYMENT)
        named = {"terminal": "T0000001", "merchant": "M00000000000001", "amount_minor": 9, "currency": "USD"}
        paid = Request(kind=Kind.PAYMENT, id="0" * 32, debit_account_id="a", credit_account_id="b", **named)
        assert (await here.gateway.decide("till", paid)).answer.outcome == "cleared"
        said = await terminal.ask(changed(PAYMENT, CLOSE, mti="0500"))
        assert (said.fields[39], said.fields[88]) == ("00", f"{12_345:016}")


async def test_a_terminal_that_counts_otherwise_hears_95_and_the_boxes_own_figures(tmp_path: Path) -> None:
    """The batch is closed all the same: what differs is on record, and tomorrow's payments do not hide it."""
    async with branch(tmp_path) as here:
        terminal = await here.signed_on()
        await terminal.ask(changed(PAYMENT, {3: "200000", 11: "000555"}))
        close = changed(PAYMENT, CLOSE | totals(debits=(1, 12_345)), mti="0500")
        said = await terminal.ask(close)
        assert (said.fields[39], said.fields[66], said.fields[97][0]) == ("95", "2", "D")
        await terminal.ask(PAYMENT)
        await terminal.ask(changed(PAYMENT, {}, mti="0400"))
        undone = {77: f"{1:010}", 89: f"{12_345:016}"}
        again = await terminal.ask(changed(close, {11: "000901"} | undone))
        assert (again.fields[39], again.fields[44], again.fields[97]) == ("00", "batch 2", "D" + "0" * 16)
