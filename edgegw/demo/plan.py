"""What a day's plan is made of: steps, wrong messages, batches, chains, phases, and the settings they need.

Owns the words that the author of a day, its clients and the report share; leaves out who writes a plan
(`day`) and who carries it out (`client`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

BANK: Final = "demobank"
BOX: Final = "branch-1"
OTHER_BOX: Final = "branch-2"
"""Pinned at the hub and never started: some accounts are at home there."""
CURRENCY: Final = "CNY"
FOREIGN: Final = "USD"
NUMERIC: Final = {CURRENCY: "156", FOREIGN: "840"}

TILLS, PAYROLL, DESK, ONLINE, OPERATOR = "tills", "payroll", "cash-desk", "web-shop", "operator"
CLIENTS: Final = {
    TILLS: ("pay", "read"),
    PAYROLL: ("pay", "read"),
    DESK: ("pay", "read"),
    ONLINE: ("pay", "read"),
    OPERATOR: ("read", "operate"),
}

FLOOR_MINOR: Final = 20_000
STAND_IN_COUNT: Final = 5
PAYMENT_MINOR_MAX: Final = 100_000_000
KEYED_TERMINAL: Final = "T0000001"
"""This one authenticates every message with a MAC."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client, and what the plan knows about it."""

    number: int
    story: str
    way: Literal["http", "iso8583"]
    client: str
    """The HTTP client's name, or the terminal's id."""
    kind: Literal["payment", "hold", "post", "void", "reversal"]
    id: str
    """What identifies it: 32 hex digits over HTTP, the retrieval reference over ISO 8583."""
    debit: str = ""
    credit: str = ""
    amount_minor: int = 0
    """What is to move; 0 on posts and reversals means all that is left."""
    currency: str = CURRENCY
    original: str = ""
    timeout_s: int = 0
    stand_in: bool = True
    pan: str = ""
    mti: str = ""
    stan: str = ""
    local: str = ""
    """MMDDhhmmss at the terminal."""
    original_stan: str = ""
    original_mti: str = ""
    field_4_minor: int = 0
    """ISO 8583 reversals name the original's whole amount here and what was really spent in field 95."""
    repeats: int = 0
    """How often it is sent again after its answer."""
    expect: str = ""
    """`cleared`, `kept`, a refusal's code, or "" where it depends on the hour."""


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """A message that nobody should send; it must get a clear error and change nothing."""

    number: int
    what: str
    way: Literal["http", "iso8583"]
    client: str
    expect: tuple[str, ...]
    """Codes of problems, or of field 39; `dropped` for no answer, `closed` for a connection that ends."""
    field: str = ""
    """The field that an error must name, where there is one."""
    path: str = "/v1/payments"
    method: str = "POST"
    headers: dict[str, str] = {}
    body: bytes = b""
    sent_bytes_max: int = 1 << 16
    """Of a body that is announced as longer, only so many arrive."""
    step: Step | None = None
    """ISO 8583: the message before the changes."""
    changes: dict[int, str] = {}
    frame: bytes = b""
    """ISO 8583: bytes as they go to the wire, length included."""
    id: str = ""
    """The id that must stay unused."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Payments of one client in one HTTP request."""

    steps: tuple[Step, ...]


Item = Step | Wrong | Batch
Chain = tuple[Item, ...]
"""Items that one client sends in this order, each after the answer to the one before."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the day; the next begins when its last answer is there."""

    name: str
    concurrency: int
    chains: tuple[Chain, ...]

    def steps(self) -> Iterator[Step]:
        """All requests of this phase, batches taken apart."""
        for chain in self.chains:
            for item in chain:
                if isinstance(item, Step):
                    yield item
                elif isinstance(item, Batch):
                    yield from item.steps


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The whole plan."""

    seed: int
    payments: int
    date: datetime.date
    accounts: tuple[dict[str, str], ...]
    """id, currency, home, participant."""
    opening: dict[str, int]
    """Account to its money at the centre when the day begins, minor units."""
    terminals: tuple[dict[str, str], ...]
    cards: dict[str, str]
    """PAN to account."""
    phases: tuple[Phase, ...]
    kill_after: int
    """So many answers of the outage are there when the box is killed, or a few more."""

    def phase(self, name: str) -> Phase:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)

    def settings(self, public_keys: dict[str, str], tokens: dict[str, str]) -> dict[str, object]:
        """The site's settings as the hub publishes them; tokens: PAN to its lookup."""
        return {
            "bank": BANK,
            "version": 1,
            "currencies": [{"code": code, "numeric": int(NUMERIC[code])} for code in NUMERIC],
            "accounts": list(self.accounts),
            "clients": [
                {"name": name, "public_key": public_keys[name], "scopes": list(scopes)}
                for name, scopes in CLIENTS.items()
            ],
            "terminals": list(self.terminals),
            "cards": {tokens[pan]: account for pan, account in self.cards.items()},
            "blocked": ["blocked-1"],
            "limits": [
                {
                    "name": f"account-{code.lower()}",
                    "currency": code,
                    "payment_minor": PAYMENT_MINOR_MAX,
                    "amount_minor": 100 * PAYMENT_MINOR_MAX,
                    "per": "window",
                }
                for code in NUMERIC
            ]
            + [{"name": "account-often", "count": 5_000, "seconds": 60}],
            "stand_in": [
                {
                    "currency": code,
                    "floor_minor": FLOOR_MINOR,
                    "account_minor": 100_000,
                    "account_count": STAND_IN_COUNT,
                    "box_minor": max(10_000_000, 5_000 * self.payments),
                    "offline_seconds_max": 7 * 86_400,
                    # The hours of this day are seconds: a visitor's next purchase is not part of the last.
                    "split_seconds": 0,
                }
                for code in NUMERIC
            ],
            "allowances": [
                {"currency": code, "share_percent": 50, "account_minor": 500_000} for code in NUMERIC
            ],
            "late_decline_liable": "merchant",
        }
