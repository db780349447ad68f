"""What a card number (PAN) looks like in a text, so that none is stored, logged or repeated. Pure.

Owns detection and masking of *stray* card numbers; the ones that arrive where they belong go through
`payments.vault`."""

from __future__ import annotations

import re
from typing import Final

DIGITS_MIN: Final = 13
DIGITS_MAX: Final = 19
_RUN: Final = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
"""Digits of any script: what a Chinese keyboard types as full-width ones is a card number, too."""
_FIRST_DIGITS: Final = "23456"
"""Payment cards begin so (ISO/IEC 7812)."""


def holds_card_number(text: str) -> bool:
    """Whether text holds 13 to 19 digits, single blanks and dashes aside, that begin like a payment card's
    and pass Luhn's check."""
    if len(text) < DIGITS_MIN:
        return False
    return any(_is_card_number(run.group()) for run in _RUN.finditer(text))


def is_padded_card_number(id: str) -> bool:
    """Whether an id is a card number that was filled up with 0 or f. Of random ids of 32 hex digits one in
    10**15 is taken for one; runs of digits within them mean nothing."""
    if len(id.strip("0f")) > DIGITS_MAX:
        return False
    body = id.lstrip("0f")
    return any(
        body[:length].isdecimal() and not body[length:].strip("0f") and _is_card_number(body[:length])
        for length in range(DIGITS_MIN, min(DIGITS_MAX, len(body)) + 1)
    )


def _is_card_number(run: str) -> bool:
    digits = [int(character) for character in run if character.isdecimal()]
    if str(digits[0]) not in _FIRST_DIGITS:
        return False
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]  # from 5 on, twice a digit has two
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def mask_card_numbers(text: str) -> str:
    """The text with every run of 13 to 19 digits cut to its last four: a mistyped card number fails Luhn's
    check too."""
    return (
        _RUN.sub(lambda run: "*" * (len(run.group()) - 4) + run.group()[-4:], text)
        if len(text) >= DIGITS_MIN
        else text
    )
