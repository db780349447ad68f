"""Settling a cycle: from the windows' positions to transfers between participants, which transfers of the
queue their cover allows, and each box's part of a net debit cap. Pure, integers only.

A position is what a participant is owed (above zero) or owes (below); positions of a currency sum to zero. A
transfer is paid by one debtor to one creditor. Leaves out the books and the cycles (`hub.settlement`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from edgegw.core.site import NetDebitCap, Site

Side = tuple[str, str]
"""A participant and a currency."""


class Obligation(msgspec.Struct, frozen=True):
    """What one participant pays another to settle a cycle; amount_minor is above zero."""

    currency: str
    debtor: str
    creditor: str
    amount_minor: int


def caps_of(site: Site | None) -> tuple[NetDebitCap, ...]:
    """The net debit caps that the site sets."""
    return () if site is None or site.net_debit_caps is msgspec.UNSET else site.net_debit_caps


def cap_shares(site: Site) -> dict[Side, int]:
    """What each box holds of each cap unasked, and keeps of what it earns: one half of the cap is spread
    evenly over the boxes where accounts are at home, the other is for whoever asks."""
    caps = caps_of(site)
    if not caps:
        return {}
    boxes = {account.home for account in site.accounts if account.home}
    parts = 2 * max(1, len(boxes))
    return {(cap.participant, cap.currency): cap.cap_minor // parts for cap in caps}


def obligations_of(positions: Mapping[Side, int]) -> list[Obligation]:
    """Transfers that bring all positions to zero, at most one fewer than there are participants for each
    currency; the same positions give the same transfers. Raises ValueError where they do not sum to zero."""
    found: list[Obligation] = []
    for currency in sorted({currency for _, currency in positions}):
        nets = sorted((who, net) for (who, code), net in positions.items() if code == currency and net)
        if sum(net for _, net in nets):
            raise ValueError(f"positions in {currency} sum to {sum(net for _, net in nets)}, not 0")
        found += _paired(
            currency, [(who, -net) for who, net in nets if net < 0], [one for one in nets if one[1] > 0]
        )
    return found


def _paired(
    currency: str, debtors: list[tuple[str, int]], creditors: list[tuple[str, int]]
) -> list[Obligation]:
    found: list[Obligation] = []
    owing, waiting = iter(debtors), iter(creditors)
    debtor, owes_minor = next(owing, ("", 0))
    creditor, gets_minor = next(waiting, ("", 0))
    while owes_minor:
        amount_minor = min(owes_minor, gets_minor)
        found.append(Obligation(currency, debtor, creditor, amount_minor))
        owes_minor, gets_minor = owes_minor - amount_minor, gets_minor - amount_minor
        if not owes_minor:
            debtor, owes_minor = next(owing, ("", 0))
        if not gets_minor:
            creditor, gets_minor = next(waiting, ("", 0))
    return found


def releasable(queue: Sequence[Obligation], cover: Mapping[Side, int]) -> list[int]:
    """Which transfers of the queue can be posted together, by their places in it: as many as possible.

    cover is what a participant can still pay, its balance and its net debit cap; one that is not in it can
    pay anything. Nobody's cover goes below zero, counting what the same posting brings; and a participant's
    transfers in one currency go in their order: none overtakes another.
    """
    taken = [True] * len(queue)
    owed: defaultdict[Side, list[int]] = defaultdict(list)
    left_minor = dict(cover)
    for place, one in enumerate(queue):
        owed[one.debtor, one.currency].append(place)
        _move(left_minor, one, one.amount_minor)
    short = [side for side in owed if left_minor.get(side, 0) < 0]
    while short:
        side = short.pop()
        while owed[side] and left_minor.get(side, 0) < 0:
            place = owed[side].pop()  # the newest waits first
            taken[place] = False
            one = queue[place]
            _move(left_minor, one, -one.amount_minor)
            creditor = (one.creditor, one.currency)
            if left_minor.get(creditor, 0) < 0:
                short.append(creditor)
    return [place for place, is_taken in enumerate(taken) if is_taken]


def _move(left_minor: dict[Side, int], one: Obligation, amount_minor: int) -> None:
    for who, signed_minor in ((one.debtor, -amount_minor), (one.creditor, amount_minor)):
        side = (who, one.currency)
        if side in left_minor:
            left_minor[side] += signed_minor
