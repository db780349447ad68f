"""A plain model of limits, written from the rules' own words: every payment is kept in a list, and each
limit is added up from the beginning for each decision.

Imports nothing of the product. A sum begins with the site directive that first names it, and ends with the
second one in a row that does not.
"""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]
NS = 1_000_000_000
STEPS = ((24, 100), (72, 50), (120, 25), (168, 0))
SUSPECT_NS = NS
RANKS = (
    "exceeds_payment_limit",
    "below_payment_minimum",
    "exceeds_amount_limit",
    "exceeds_count_limit",
    "exceeds_velocity",
)


def whose(of: str, request: Plain, box: str) -> str:
    """Whose payment it is."""
    merchant = request.get("merchant") or request["credit_account_id"]
    return {
        "account": request["debit_account_id"],
        "card": request.get("card", ""),
        "terminal": request.get("terminal", ""),
        "merchant": merchant,
        "branch": box,
        "split": f"{request['debit_account_id']} at {merchant}",
    }[of]


def sums_of(site: Plain) -> set[tuple[str, str, str, str]]:
    """What a site's limits add up: of, currency, when, period."""
    found = {
        (one.get("of", "account"), one.get("currency", ""), one.get("when", "always"), period(one))
        for one in site.get("limits", ())
        if one.get("amount_minor") is not None or one.get("count") is not None
    }
    found |= {("split", one["currency"], "stand_in", str(one["split_seconds"])) for one in site["stand_in"]}
    return {one for one in found if one[3] not in ("unconfirmed", "0")}


def period(limit: Plain) -> str:
    """A limit's period: a word, or seconds."""
    return limit.get("per") or str(limit.get("seconds", 0))


class Paid:
    """A payment or hold that was cleared."""

    def __init__(self, record: Plain, *, offline: bool) -> None:
        self.request = record["request"]
        self.at_ns, self.window = record["at_ns"], record["window"]
        self.stand_in = record["cleared_by"] == "stand_in"
        self.offline = offline or self.stand_in
        self.back, self.back_count = 0, 0
        self.offline_back, self.offline_back_count = 0, 0
        """What of it was given back in the outage in which it was paid."""


class Limits:
    """What a box's records add up to for its limits."""

    def __init__(self, box: str, window: int) -> None:
        self.box = box
        self.paid: dict[str, Paid] = {}
        """By the place of the record."""
        self.since: dict[tuple[str, str, str, str], int] = {}
        self.site: Plain | None = None
        self.window = self.day_window = self.month_window = window
        self.date = ""
        self.blocked: set[tuple[str, str]] = set()
        self.changed: dict[tuple[str, str], Plain] = {}
        self.offline_since_ns, self.outage_ns, self.suspect = 0, 0, False
        self.at_ns = self.wall_ns = 0

    # --- what a record does -----------------------------------------------------------------------------

    def take(self, record: Plain, *, active: bool) -> None:
        """Time, windows and the line; before anything else of the record."""
        if record["type"] == "link":
            self.offline_since_ns = self.outage_ns = record["at_ns"]
        elif record["type"] == "boot":
            self.offline_since_ns = self.offline_since_ns or self.at_ns
            self.outage_ns = self.outage_ns or record["at_ns"]
            self.suspect |= record["wall_ns"] + SUSPECT_NS < self.wall_ns
        elif record["type"] == "mode" and record["mode"] == "offline":
            self.offline_since_ns = self.offline_since_ns or record["at_ns"]
            self.outage_ns = self.outage_ns or record["at_ns"]
        elif record["type"] == "mode" and record["mode"] == "active":
            self.offline_since_ns, self.outage_ns, self.suspect = 0, 0, False
        elif record["type"] == "clock" and self.offline_since_ns:
            self.offline_since_ns = max(1, self.offline_since_ns - record.get("doubted_ns", 0))
        elif record["type"] == "window":
            self.window = self.day_window = record["window"] + 1
            if record["business_date"][:7] != self.date[:7]:
                self.month_window = self.window
            self.date = record["business_date"]
        elif record["type"] == "transfer" and record["request"]["kind"] in ("payment", "hold"):
            self.paid[f"{record['epoch']}/{record['seq']}"] = Paid(record, offline=not active)
        self.at_ns, self.wall_ns = record["at_ns"], record["wall_ns"]

    def use(self, site: Plain, at_ns: int) -> None:
        """Add up from here on what this site names, and go on with what the last one named: it may come
        again."""
        if site is not self.site:
            named = sums_of(site) | (sums_of(self.site) if self.site is not None else set())
            self.since = {one: self.since.get(one, at_ns) for one in named}
            self.site = site

    def obey(self, said: Plain) -> None:
        """An order of the centre: a block, or other values of a limit."""
        if said["type"] == "block":
            self.blocked.discard((said["of"], said["whose"]))
            if said["blocked"]:
                self.blocked.add((said["of"], said["whose"]))
            return
        key = said["name"], said.get("whose", "")
        self.changed.pop(key, None)
        if not said.get("lifted"):
            values = ("payment_minor", "amount_minor", "count")
            self.changed[key] = {name: said[name] for name in values if said.get(name) is not None}

    def blocks(self, request: Plain) -> str:
        """The code of a refusal by the centre's order, "" for none."""
        subjects = ("account", "card", "terminal", "merchant")
        found = (of for of in subjects if (of, whose(of, request, self.box)) in self.blocked)
        return next((f"{of}_blocked" for of in found), "")

    def give_back(self, place: str, amount: int, count: int) -> None:
        """Money that a payment did not take, or that came back; of what came back before, only the rest."""
        paid = self.paid.get(place)
        if paid is not None:
            amount = min(amount, paid.request["amount_minor"] - paid.back)
            paid.back, paid.back_count = paid.back + amount, paid.back_count + count
            if paid.stand_in or 0 < self.outage_ns <= paid.at_ns:
                paid.offline_back += amount
                paid.offline_back_count += count

    # --- what may be ------------------------------------------------------------------------------------

    def percent(self, site: Plain, at_ns: int) -> int:
        """What is left of the limits for the time offline."""
        offline_ns = at_ns - self.offline_since_ns if self.offline_since_ns else 0
        steps = [(one["until_hours"], one["percent"]) for one in site.get("tightening", ())] or list(STEPS)
        left = [percent for hours, percent in steps if offline_ns <= hours * 3600 * NS]
        return [*left, 0, 0][1 if self.suspect else 0]

    def used(self, one: tuple[str, str, str, str], request: Plain, at_ns: int) -> tuple[int, int]:
        """Amount and count of a sum for this request's subject."""
        of, currency, when, span = one
        starts = {"window": self.window, "day": self.day_window, "month": self.month_window}
        amount = count = 0
        for paid in self.paid.values():
            if paid.at_ns <= self.since.get(one, at_ns) or currency not in ("", paid.request["currency"]):
                continue
            if (when == "stand_in" and not paid.stand_in) or (when == "offline" and not paid.offline):
                continue
            if whose(of, paid.request, self.box) != whose(of, request, self.box):
                continue
            if span in starts:
                counts = paid.window >= starts[span]
            elif span == "outage":
                counts = 0 < self.outage_ns <= paid.at_ns
            else:
                counts = at_ns - paid.at_ns < int(span) * NS
            if counts:
                online = when == "always"
                amount += paid.request["amount_minor"] - (paid.back if online else paid.offline_back)
                count += 1 - min(1, paid.back_count if online else paid.offline_back_count)
        return amount, count

    def refuses(self, limit: Plain, request: Plain, at_ns: int, *, percent: int, waiting: list[int]) -> str:
        """The code of a refusal, "" for none."""
        of, amount = limit.get("of", "account"), request["amount_minor"]
        if not whose(of, request, self.box):
            return ""
        if limit.get("only") and whose(of, request, self.box) not in limit["only"]:
            return ""
        changes = self.changed.get((limit.get("name", ""), whose(of, request, self.box)))
        limit = limit | (
            changes if changes is not None else self.changed.get((limit.get("name", ""), ""), {})
        )
        codes = {name: name for name in RANKS}
        if limit.get("when") == "stand_in":
            name = {"branch": "box"}.get(of, of)
            codes = dict.fromkeys(RANKS, f"stand_in_{name}_limit") | {RANKS[1]: RANKS[1]}
        most = limit.get("payment_minor")
        if most is not None and amount * 100 > most * percent:
            return codes["exceeds_payment_limit"]
        if amount < limit.get("payment_minor_min", 0):
            return codes["below_payment_minimum"]
        if limit.get("per") == "unconfirmed":
            used, count = sum(waiting), len(waiting)
        else:
            key = (of, limit.get("currency", ""), limit.get("when", "always"), period(limit))
            used, count = self.used(key, request, at_ns)
        sliding = bool(limit.get("seconds"))
        if limit.get("amount_minor") is not None and used + amount > limit["amount_minor"] * percent // 100:
            return codes["exceeds_velocity" if sliding else "exceeds_amount_limit"]
        if limit.get("count") is not None and count + 1 > limit["count"] * percent // 100:
            return codes["exceeds_velocity" if sliding else "exceeds_count_limit"]
        return ""
