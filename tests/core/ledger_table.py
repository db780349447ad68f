"""Runs ledger rules written as tables of lines against the real ledger.

A table is lines of these kinds. Lines of one kind without a blank line between them are one batch:

    account <id> [<field>=<n> | <flag>]... = <status>
    transfer <id> <debit>><credit> <amount> [<field>=<n> | <flag>]... = <status> [moves <amount>]
    set <account> <debits_pending> <debits_posted> <credits_pending> <credits_posted>
    balance <account> <debits_pending> <debits_posted> <credits_pending> <credits_posted> [closed]
    kept <transfer> <amount>        what the ledger keeps as the amount; `kept <transfer> none` for nothing
    after <n>s | after <n>ns        let time pass
    clock max-<n>s                  set the clock near the end of time
    expire [<transfer>]...          expire what is due, and expect these, in this order

Numbers may be `max` or `max-<n>` (of 128 bits). Ledger and code are 1 where nothing else is said,
`u64` and the like are the user data, and `#` starts a comment.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from edgegw.core.ledger import Applied, State, create_accounts, create_transfers, expire
from edgegw.core.model import (
    AMOUNT_MAX,
    AT_NS_MAX,
    Account,
    AccountFlags,
    Balance,
    CreateTransferStatus,
    PendingStatus,
    Transfer,
    TransferFlags,
)

NS_PER_S = 1_000_000_000
WAYS = ("on the base", "on a layer", "on a layer of a layer", "with a history")

TRANSFER_FLAGS = {
    "linked": TransferFlags.LINKED,
    "pending": TransferFlags.PENDING,
    "post": TransferFlags.POST_PENDING_TRANSFER,
    "void": TransferFlags.VOID_PENDING_TRANSFER,
    "balancing_debit": TransferFlags.BALANCING_DEBIT,
    "balancing_credit": TransferFlags.BALANCING_CREDIT,
    "closing_debit": TransferFlags.CLOSING_DEBIT,
    "closing_credit": TransferFlags.CLOSING_CREDIT,
    "imported": TransferFlags.IMPORTED,
}
USER_DATA = {"u128": "user_data_128", "u64": "user_data_64", "u32": "user_data_32"}
ACCOUNT_FLAGS = {
    "linked": AccountFlags.LINKED,
    "debits_limited": AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS,
    "credits_limited": AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS,
    "history": AccountFlags.HISTORY,
    "imported": AccountFlags.IMPORTED,
    "closed": AccountFlags.CLOSED,
}


def number(word: str) -> int:
    """Read `7`, `max` or `max-7`."""
    if word.startswith("max"):
        return AMOUNT_MAX - int(word[4:] or 0)
    return int(word)


def fields(words: list[str], flags: dict[str, TransferFlags] | dict[str, AccountFlags]) -> dict[str, int]:
    """Turn `code=2 pending` into keyword arguments."""
    values = {"ledger": 1, "code": 1, "flags": 0}
    for word in words:
        name, is_field, value = word.partition("=")
        name = USER_DATA.get(name, name)
        if is_field:
            values[name] = values.get(name, 0) | number(value) if name == "flags" else number(value)
        else:
            values["flags"] |= int(flags[name])
    return values


def account_of(line: str) -> Account:
    words = line.partition(" = ")[0].split()
    return Account(id=number(words[1]), **fields(words[2:], ACCOUNT_FLAGS))


def transfer_of(line: str) -> Transfer:
    words = line.partition(" = ")[0].split()
    debit, credit = words[2].split(">")
    return Transfer(
        id=number(words[1]),
        debit_account_id=number(debit),
        credit_account_id=number(credit),
        amount_minor=number(words[3]),
        **fields(words[4:], TRANSFER_FLAGS),
    )


def batches(table: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind and the lines of every batch of a table."""
    told = [line for line in table.strip().splitlines() if not line.strip().startswith("#")]
    lines = [line.split("#")[0].strip() for line in told]
    for kind, group in groupby(lines, key=lambda line: line.split()[0] if line else ""):
        if kind:
            yield kind, list(group)


class Bench:
    """A ledger that plays tables in one of `WAYS`; the way must not matter for any answer."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.archive: dict[int, tuple[Transfer, PendingStatus]] = {}
        self.state = State(history=self.archive.get if way == "with a history" else None)
        self.at_ns = 0

    def play(self, table: str) -> None:
        """Play every line of the table and compare every answer."""
        for kind, lines in batches(table):
            getattr(self, f"play_{kind}")(lines)

    def layers(self) -> list[State]:
        if self.way == "on the base":
            return [self.state]
        first = self.state.overlay()
        return (
            [self.state, first, first.overlay()]
            if self.way == "on a layer of a layer"
            else [self.state, first]
        )

    def merge(self, layers: list[State]) -> None:
        top = layers[-1]
        if self.way == "with a history":
            for transfer_id, transfer in top.transfers.items():
                self.archive[transfer_id] = (transfer, top.pending_status(transfer_id))
        for layer in reversed(layers[1:]):
            layer.merge()

    def play_account(self, lines: list[str]) -> None:
        self.at_ns += len(lines)
        layers = self.layers()
        given = create_accounts(layers[-1], [account_of(line) for line in lines], at_ns=self.at_ns)
        self.merge(layers)
        for line, status in zip(lines, given, strict=True):
            assert status.name == line.split(" = ")[1], line

    def play_transfer(self, lines: list[str]) -> None:
        self.at_ns += len(lines)
        layers = self.layers()
        given = create_transfers(layers[-1], [transfer_of(line) for line in lines], at_ns=self.at_ns)
        self.merge(layers)
        for line, applied in zip(lines, given, strict=True):
            expected, _, moved = line.split(" = ")[1].partition(" moves ")
            assert applied.status.name == expected, line
            assert not moved or applied.amount_minor == number(moved), line
            self.check_amount(line, applied)

    def check_amount(self, line: str, applied: Applied) -> None:
        if applied.status in (CreateTransferStatus.created, CreateTransferStatus.exists):
            kept = self.state.find(transfer_of(line).id)
            # Within a chain that was undone, `exists` speaks of a transfer that is gone again.
            assert kept is None or kept.amount_minor == applied.amount_minor, line
        else:
            assert applied.amount_minor == 0, line

    def play_set(self, lines: list[str]) -> None:
        for line in lines:
            account, debits_pending, debits_posted, credits_pending, credits_posted = map(
                number, line.split()[1:]
            )
            self.state.balances[account] = Balance(
                debits_pending=debits_pending,
                debits_posted=debits_posted,
                credits_pending=credits_pending,
                credits_posted=credits_posted,
            )

    def play_balance(self, lines: list[str]) -> None:
        for line in lines:
            words = line.split()
            balance = self.state.balances[number(words[1])]
            counters = (
                balance.debits_pending,
                balance.debits_posted,
                balance.credits_pending,
                balance.credits_posted,
            )
            assert counters == tuple(number(word) for word in words[2:6]), line
            closed = bool(self.state.accounts[number(words[1])].flags & AccountFlags.CLOSED)
            assert closed == (words[-1] == "closed"), line

    def play_kept(self, lines: list[str]) -> None:
        for line in lines:
            _, transfer_id, amount = line.split()
            kept = self.state.find(number(transfer_id))
            assert (kept is None) if amount == "none" else (kept is not None), line
            assert kept is None or kept.amount_minor == number(amount), line

    def play_after(self, lines: list[str]) -> None:
        for line in lines:
            word = line.split()[1]
            self.at_ns += int(word[:-2]) if word.endswith("ns") else int(word[:-1]) * NS_PER_S

    def play_clock(self, lines: list[str]) -> None:
        for line in lines:
            self.at_ns = AT_NS_MAX - int(line.split("-")[1].rstrip("s")) * NS_PER_S

    def play_expire(self, lines: list[str]) -> None:
        for line in lines:
            layers = self.layers()
            given = expire(layers[-1], at_ns=self.at_ns)
            self.merge(layers)
            assert given == [int(word) for word in line.split()[1:]], line


def statuses(table: str, kind: str) -> set[str]:
    """Return the names of the statuses that the table's lines of this kind expect."""
    return {
        line.split(" = ")[1].split(" moves ")[0]
        for batch_kind, lines in batches(table)
        if batch_kind == kind
        for line in lines
    }
