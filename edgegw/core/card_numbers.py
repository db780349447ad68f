"""What a card number (PAN) looks like in a text, so that none is stored, logged or repeated. Pure.

Owns detection and masking of *stray* card numbers; the ones that arrive where they belong go through
`payments.vault`."""

from __future__ import annotations

import re
from typing import Final

DIGITS_MIN: Final = 13
_RUN: Final = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){12,18}(?![0-9])")
_FIRST_DIGITS: Final = "23456"
"""Payment cards begin so (ISO/IEC 7812)."""


def holds_card_number(text: str) -> bool:
    """Whether text holds 13 to 19 digits, single blanks and dashes aside, that begin like a payment card's
    and pass Luhn's check."""
    if len(text) < DIGITS_MIN:
        return False
    return any(run.group()[0] in _FIRST_DIGITS and _passes_luhn(run.group()) for run in _RUN.finditer(text))


def _passes_luhn(run: str) -> bool:
    digits = [int(character) for character in run if character.isdigit()]
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
