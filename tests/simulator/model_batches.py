"""A plain model of merchants' batches, written from what a terminal's clerk would count: fed with the cleared
records of a journal.

Imports nothing of the product; the words in quotes are the wire's.
"""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]
VOID = 8
PER_EPOCH = 1_000_000
SIDES = ("payments", "payment_reversals", "refunds", "refund_reversals")
FIGURES = tuple(f"{side}_{what}" for side in SIDES for what in ("count", "minor"))


class Batches:
    """The open batches of one epoch, by merchant and terminal ("" is the merchant's own)."""

    def __init__(self, epoch: int) -> None:
        self.first = (epoch - 1) * PER_EPOCH + 1
        self.closed: dict[tuple[str, str], tuple[int, str]] = {}
        """The number of the last close, and where it stands."""
        self.counted: dict[tuple[str, str], dict[str, dict[str, int]]] = {}

    def close(self, request: Plain) -> Plain:
        """What a close must say."""
        key = request["merchant"], request["terminal"]
        last, place = self.closed.get(key, (self.first - 1, ""))
        said: Plain = {"number": last + 1}
        if place:
            said["previous"] = place
        counted = self.counted.get(key, {})
        if counted:
            said["totals"] = [
                {"currency": currency, **{name: value for name, value in figures.items() if value}}
                for currency, figures in sorted(counted.items())
            ]
        difference = self._difference(counted, request["totals"]) if request["totals"] else ""
        return said | ({"difference": difference} if difference else {})

    def _difference(self, counted: dict[str, dict[str, int]], totals: list[Plain]) -> str:
        theirs = {one["currency"]: one for one in totals}
        for currency in sorted({*counted, *theirs}):
            for name in FIGURES:
                mine = counted.get(currency, {}).get(name, 0)
                other = theirs.get(currency, {}).get(name, 0)
                if mine != other:
                    return f"{name} in {currency} is {mine} here and {other} there"
        return ""

    def end(self, request: Plain, number: int, place: str) -> None:
        """It is closed."""
        key = request["merchant"], request["terminal"]
        self.closed[key] = number, place
        self.counted.pop(key, None)

    def take(
        self, request: Plain, legs: list[Any], original: Plain | None, paid: Plain, currency: str
    ) -> None:
        """Count a cleared request with its legs; original: what it is about, paid: the payment behind that,
        or the request itself."""
        kind = request["kind"]
        if not legs or kind in ("hold", "void"):
            return
        if original is not None and original["kind"] == "hold" and legs[0][3] & VOID:
            return
        side = "refunds" if paid.get("merchant_pays") or kind == "refund" else "payments"
        if kind == "reversal":
            undoes_refund = original is not None and original["kind"] == "refund"
            side = "refund_reversals" if undoes_refund or side == "refunds" else "payment_reversals"
        elif kind == "post":
            side = "payments"
        merchant = request.get("merchant") or paid.get("merchant", "")
        terminal = request.get("terminal") or paid.get("terminal", "")
        for key in {(merchant, ""), (merchant, terminal)} if merchant else ():
            figures = self.counted.setdefault(key, {}).setdefault(currency, dict.fromkeys(FIGURES, 0))
            figures[f"{side}_count"] += 1
            figures[f"{side}_minor"] += legs[0][2]
