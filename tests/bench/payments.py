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
NUMBER_MAX: Final = 1 << 43


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


def body(number: int) -> bytes:
    """The payment as a till sends it, without spaces; all have one length."""
    return (
        b'{"id":"%b","debit_account_id":"a%05d","credit_account_id":"a%05d","amount_minor":%d,'
        b'"currency":"CNY","terminal":"T0000012","reference":"receipt %09d"}'
    ) % (identity(number).encode(), payer(number), payee(number), amount_minor(number), number % 10**9)
