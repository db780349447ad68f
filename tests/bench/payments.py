"""The payments of the bench: one numbered row of them, the same for the product and for every peer.

Knows the standard library alone, because the load client runs in an environment of its own.
"""

from __future__ import annotations

from typing import Final

ACCOUNTS: Final = 2_000
"""Enough that of 64 clients of a database few wait for one row."""
OPENING_MINOR: Final = 10**9
BASE_MS: Final = 0x0193_0000_0000
EACH_MS: Final = 8
"""So many ids share a millisecond, as at a busy branch."""
_SCRAMBLE: Final = 0x9E37_79B9_7F4A_7C15
_LOW_60: Final = (1 << 60) - 1
CARDS: Final = 1_000
"""Each of an account of its own; the terminals' accounts come behind them."""
TERMINALS: Final = 64
ISO_EACH_SECOND: Final = 4_000
"""The terminals' clocks go on by a second after so many messages of all: their identities begin with it."""


def identity(number: int) -> str:
    """The id of payment `number` as 32 hex digits: a UUIDv7, time-ordered, random within its millisecond."""
    tail = (number * _SCRAMBLE) & _LOW_60
    random, low = f"{tail >> 48:03x}8{tail & 0xFFFF_FFFF_FFFF:012x}", f"{number % EACH_MS:03x}"
    return f"{BASE_MS + number // EACH_MS:012x}7{random}{low}"


def payer(number: int) -> int:
    """The number of the account that pays."""
    return (number * 7_919) % ACCOUNTS


def payee(number: int) -> int:
    """The number of the account that is paid: never the payer."""
    return (payer(number) + 1 + (number * 104_729) % (ACCOUNTS - 1)) % ACCOUNTS


def amount_minor(number: int) -> int:
    """10 to 99, so that all bodies have one length."""
    return 10 + number % 90


def account_id(number: int) -> str:
    """The name of an account at the product."""
    return f"a{number:05d}"


def card(number: int) -> str:
    """The number of a card that nobody has."""
    return f"62220200{number:08d}"


def terminal(number: int) -> str:
    """An ISO 8583 terminal."""
    return f"T{number:07d}"


def merchant(number: int) -> str:
    """Where it stands."""
    return f"M{number:014d}"


def iso_payment(number: int, month_day: str) -> bytes:
    """The payment as a 0200 with fields 2 3 4 7 11 12 13 32 37 41 42 49, its length in front; field 37 is the
    number."""
    at, second = number % TERMINALS, number // ISO_EACH_SECOND % 86_400
    time = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"
    message = (
        f"02007238000108C0800016{card(number * 7_919 % CARDS)}000000{amount_minor(number):012d}"
        f"{month_day}{time}{number % 10**6:06d}{time}{month_day}06123456{number:012d}"
        f"{terminal(at)}{merchant(at)}156"
    )
    return len(message).to_bytes(2, "big") + message.encode()


def body(number: int) -> bytes:
    """The payment as a till sends it, without spaces; all have one length."""
    return (
        b'{"id":"%b","debit_account_id":"a%05d","credit_account_id":"a%05d","amount_minor":%d,'
        b'"currency":"CNY","terminal":"T0000012","reference":"receipt %09d"}'
    ) % (identity(number).encode(), payer(number), payee(number), amount_minor(number), number % 10**9)
