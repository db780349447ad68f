"""The two names of a card. Pure.

Its *lookup* is the same at every box of a bank: the site's settings, lists, limits and orders name a card by
it. Its *token* is this box's own and random: records carry it, and what limits have counted is kept under it.
Leaves out where one becomes the other (`payments.cards`).
"""

from __future__ import annotations

from typing import Final, Protocol


class CardNames(Protocol):
    """What tells a card's lookup by its token."""

    def lookup(self, token: str, /) -> str | None:
        """The lookup; None where nobody can tell it any more, because the card was shredded."""


class _OneName:
    def lookup(self, token: str, /) -> str:
        return token


ONE_NAME: Final = _OneName()
"""Where there is no vault: the name that came in stands for both."""


def settings_name(cards: CardNames, *, of: str, whose: str) -> str | None:
    """How the site's settings and orders name what a request names: a card by its lookup, None for one that
    was shredded; all else as it is."""
    return cards.lookup(whose) if of == "card" and whose else whose
