"""`edgegw order block` and `edgegw order limit`: what a person says of who pays, and how much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgegw.commands import hub_settings_option
from edgegw.commands.orders import give_order, person_options
from edgegw.core.card_numbers import holds_card_number

if TYPE_CHECKING:
    from edgegw.access.operators import Person

BLOCKED: Final = ("account", "card", "terminal", "merchant")
"""Who can be kept from paying."""
HEARD: Final = ("client", "token")
"""Who or what can be kept from speaking at the open ways in."""
ID_LENGTH_MAX: Final = 64
CARD_LOOKUP: Final = re.compile("[0-9a-f]{64}")
TOKEN_ID: Final = re.compile("[0-9a-f]{32}")
"""As a box makes them; one in hundreds has digits like a card number's."""
_MINOR = click.IntRange(min=0, max=2**63 - 1)


def id_fault(of: str, whose: str) -> str:
    """Why an id cannot be kept, "" where it can; what looks like a card number is not repeated."""
    if of == "card" and CARD_LOOKUP.fullmatch(whose):
        return ""
    if of == "token" and TOKEN_ID.fullmatch(whose):
        return ""
    if not 1 <= len(whose) <= ID_LENGTH_MAX or not (whose.isascii() and whose.isprintable()):
        return f"an id is 1 to {ID_LENGTH_MAX} printable ASCII characters"
    is_number = of == "card" and whose.isdigit()
    if is_number or (of != "account" and holds_card_number(whose)):
        return "it looks like a card number; write its lookup (`edgegw card-lookup`)"
    return ""


@click.command("block")
@click.argument("of", type=click.Choice((*BLOCKED, *HEARD)))
@click.argument("whose", metavar="ID")
@click.option("--reason", required=True, help="Why; it is journalled at every box.")
@click.option("--off", is_flag=True, help="Let it pay again.")
@person_options
@hub_settings_option
def order_block(of: str, whose: str, reason: str, off: bool, person: Person, hub_settings: Path) -> None:
    """Let an account, card, terminal or merchant pay nothing, at each box when it hears of it; or let a
    client not be heard at all, or a token (its jti, or its family's id) be good no more.

    A card is named by its lookup (`edgegw card-lookup`). The order holds until it is taken back with --off.

    Example: edgegw order block terminal T0000017 --reason "stolen" --hub hub.toml
    """
    from edgegw.hub.order_actions import Block

    fault = id_fault(of, whose)
    if not fault and of == "card" and not CARD_LOOKUP.fullmatch(whose):
        fault = "it is no card's lookup, 64 hex digits in lower case; write that (`edgegw card-lookup`)"
    if fault:
        raise click.BadParameter(fault, param_hint="ID")
    action = Block(of=of, whose=whose, blocked=not off, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)


@click.command("limit")
@click.argument("name")
@click.option("--for", "whose", default="", metavar="ID", help="For this id alone; without it for all.")
@click.option("--payment-minor", type=_MINOR, help="One payment, at most.")
@click.option("--amount-minor", type=_MINOR, help="All payments of the period, summed, at most.")
@click.option("--count", type=_MINOR, help="All payments of the period, counted, at most.")
@click.option("--reason", required=True, help="Why; it is journalled at every box.")
@click.option("--off", is_flag=True, help="Go back to what the site's settings say.")
@person_options
@hub_settings_option
def order_limit(
    name: str,
    whose: str,
    payment_minor: int | None,
    amount_minor: int | None,
    count: int | None,
    reason: str,
    off: bool,
    person: Person,
    hub_settings: Path,
) -> None:
    """Give a limit of the site's settings other values, at each box when it hears of it.

    NAME is limits[].name; its period stays. What is not given is as the settings say. The order holds, also
    over later versions of the settings, until it is taken back with --off. Values for one id go before those
    for all.

    Example: edgegw order limit card-day --for "$CARD" --amount-minor 20000 --reason "travels" --hub hub.toml
    """
    from edgegw.core.counts import LimitChange
    from edgegw.hub.order_actions import ChangeLimit

    change = LimitChange(payment_minor, amount_minor, count)
    if off and change != LimitChange():
        raise click.UsageError("--off takes no values: it goes back to those of the settings")
    action = ChangeLimit(name=name, whose=whose, change=None if off else change, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)
