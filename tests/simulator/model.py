"""A plain model of one box, written from DESIGN §2 and nothing else: it is fed with the records of a journal
in their order, takes requests, directives and times in them as facts, and says itself what each decision and
each effect must be.

Imports nothing of the product; the words in quotes are the wire's. What it cannot know (how the gateway found
the centre at that moment, whether somebody still waited for a grant) it tries, and holds against what the
journal says about the line.
"""

from __future__ import annotations

import copy
from collections import defaultdict

from tests.simulator.model_batches import Batches
from tests.simulator.model_caps import Caps, caps_of
from tests.simulator.model_limits import RANKS, Limits, whose
from tests.simulator.words import (
    PENDING,
    POST,
    VOID,
    Leg,
    Plain,
    first_leg,
    hold_id,
    leg,
    legs_of,
    original_place,
    place,
)

Identity = tuple[str, str]
NS = 1_000_000_000
OWN = (
    *("centre:", "risk:", "suspense:", "receivable:", "recourse:", "core:", "capital:"),
    *("settlement:", "cap:", "uncapped:"),
)
WINDOWS_PER_EPOCH = 1_000_000
FUNDINGS: tuple[tuple[str, str], ...] = (
    ("up", ""),
    ("granted", ""),
    ("refused", ""),
    ("timeout", "centre_timeout"),
    ("down", "line_down"),
)
"""How the centre was found, and what a stand-in then gives as its reason."""
REQUEST = {
    "debit_account_id": "",
    "credit_account_id": "",
    "amount_minor": 0,
    "currency": "",
    "timeout_s": 0,
    "original_client": "",
    "original_id": "",
    "advice": False,
    "stand_in": True,
    "card": "",
    "terminal": "",
    "merchant": "",
    "reference": "",
    "merchant_pays": False,
    "totals": [],
}

Decision = Plain


def whole(request: Plain) -> Plain:
    """A request with every field that its bytes leave out."""
    return {**REQUEST, **request}


class State:
    """What a box's own records add up to within one epoch."""

    def __init__(self, epoch: int, box: str) -> None:
        self.accounts: dict[str, Plain] = {}
        self.free: dict[str, int] = defaultdict(int)
        """What an account may spend here."""
        self.held: dict[str, tuple[str, int]] = {}
        """Live holds by id: payer, amount."""
        self.closed: dict[str, str] = {}
        self.frozen: dict[str, str] = {}
        self.barred: dict[str, str] = {}
        self.kept: dict[tuple[str, str], str] = {}
        self.stood: dict[str, Plain] = {}
        """The requests of the stand-ins that wait, by the id of their hold."""
        self.positions: dict[tuple[str, str], int] = defaultdict(int)
        self.window, self.moved = (epoch - 1) * WINDOWS_PER_EPOCH + 1, 0
        self.mode = "offline"
        self.limits = Limits(box, self.window)
        self.batches = Batches(epoch)
        self.site: Plain | None = None
        self.caps: dict[tuple[str, str], int] = {}
        """By participant and currency: what this box keeps of its net debit cap."""
        self.asked: dict[str, int] = defaultdict(int)
        """Grants that were asked for and applied, less those that a payment was cleared by."""
        self.refused: set[str] = set()
        """Accounts for which the centre has refused a grant."""


class Model(Caps):
    """One box through its epochs."""

    def __init__(
        self, box: str, sites: dict[str, Plain], elsewhere: frozenset[Identity] = frozenset()
    ) -> None:
        """elsewhere: decided in a history that forked from this one, and so known without its record."""
        self.box = box
        self.sites = sites
        self.elsewhere = elsewhere
        self.state = State(0, box)
        self.epoch = 0
        self.ended: dict[str, str] = {}
        """What became of the holds that are not live: posted, voided, expired."""
        self.by_identity: dict[tuple[str, str], Plain] = {}
        self.at: dict[str, Plain] = {}
        self.about: dict[str, list[Plain]] = defaultdict(list)

    def new_epoch(self, epoch: int) -> None:
        """Everything but what was decided, and what was kept for what may still come, is zero again."""
        kept = self.state.kept
        self.state, self.epoch = State(epoch, self.box), epoch
        self.state.kept = kept

    # --- what a record does -----------------------------------------------------------------------------

    def take(self, record: Plain) -> None:
        """Change the state as a record says, whatever it says."""
        state, kind = self.state, record["type"]
        legs = legs_of(record)
        state.limits.take(record, active=state.mode == "active")
        for account in record.get("accounts", ()):
            state.accounts[account["id"]] = {"home": "", "participant": "", **account}
        for index, one in enumerate(legs):
            self._book(record, index, one, expires=kind == "expiry")
        self.at[place(record)] = record
        if kind in ("transfer", "refusal"):
            self.by_identity[record["client"], record["request"]["id"]] = record
        if kind == "transfer":
            self._take_transfer(record, legs)
        elif kind == "refusal" and record["code"] == "already_reversed":
            state.kept.pop((record["client"], record["request"]["id"]), None)
        elif kind == "directive":
            self._take_directive(record)
        elif kind == "mode":
            self._take_mode(record)
        elif kind == "window":
            state.window, state.moved = record["window"] + 1, 0
            state.positions.clear()
        for original in self._originals(record, legs):
            self.about[original].append(record)

    def _originals(self, record: Plain, legs: list[Leg]) -> set[str]:
        named = {record.get("original", "")}
        for one in legs:
            if one[4]:
                named.add(original_place(one[4]))
        return named - {""}

    def _book(self, record: Plain, index: int, one: Leg, *, expires: bool) -> None:
        state = self.state
        debit, credit, amount, flags, pending, _ = one
        state.moved += 1
        if flags & PENDING:
            state.free[debit] -= amount
            state.held[hold_id(record, index)] = (debit, amount)
            return
        if flags & (POST | VOID):
            payer, held = state.held.pop(pending, (debit, amount))
            self.ended[pending] = "posted" if flags & POST else "expired" if expires else "voided"
            state.free[payer] += held
            back, count = (held - amount, 0) if flags & POST else (held, 1)
            if pending == first_leg(pending):  # the others reserve its part of a cap
                state.limits.give_back(original_place(pending), back, count)
            state.stood.pop(pending, None)
        if flags & VOID:
            return
        state.free[debit] -= amount
        state.free[credit] += amount
        sides = [self._side(debit), self._side(credit)]
        if sides[0] != sides[1] and not any(name.startswith("centre:") for name in (debit, credit)):
            state.positions[sides[0]] -= amount
            state.positions[sides[1]] += amount

    def _take_transfer(self, record: Plain, legs: list[Leg]) -> None:
        state, request = self.state, whole(record["request"])
        self._count(record, request, legs)
        if request["kind"] in ("payment", "hold"):
            if record["cleared_by"] == "stand_in" and legs and legs[0][3] & PENDING:
                state.stood[hold_id(record)] = request
        elif request["kind"] == "reversal" and legs and not legs[0][3] & VOID:
            state.limits.give_back(record["original"], legs[0][2], 0)
        elif record.get("reason") == "kept":
            state.kept[request["original_client"], request["original_id"]] = place(record)

    def _count(self, record: Plain, request: Plain, legs: list[Leg]) -> None:
        """In whose batch it counts: each post, reversal and refund in its original's."""
        if request["kind"] == "close_batch":
            self.state.batches.end(request, record["batch"]["number"], place(record))
            return
        original = self.at.get(record.get("original", ""))
        paid, currency = request, request["currency"]
        if original is not None and legs:
            currency = self.state.accounts[legs[0][0]]["currency"]
            paid = whole(original["request"])
            if paid["kind"] == "refund":
                paid = whole(self.at[original["original"]]["request"])
        about = None if original is None else original["request"]
        self.state.batches.take(request, legs, about, paid, currency)

    def _take_directive(self, record: Plain) -> None:
        state, said = self.state, record["directive"]
        if record["outcome"] == "refused" or not isinstance(said, dict):
            return
        account = said.get("account_id", "")
        if said["type"] == "site":
            state.site = self.sites.get(said["digest"])
            state.caps = caps_of(state.site or {})
            state.limits.use(state.site or {"stand_in": ()}, record["at_ns"])
        elif said["type"] == "decline":
            state.limits.give_back(f"{said['epoch']}/{said['at_seq']}", said["amount_minor"], 1)
        elif said["type"] in ("block", "limit"):
            state.limits.obey(said)
        elif said["type"] == "close":
            state.closed.pop(account, None)
            if said["closed"]:
                state.closed[account] = said["reason"]
        elif said["type"] == "freeze":
            state.frozen.pop(account, None)
            if said["frozen"]:
                state.frozen[account] = said["reason"]
        elif said["type"] == "refuse":
            state.barred[account] = said["reason"]
            state.refused.add(account)
        elif said["type"] == "grant":
            state.barred.pop(account, None)
            if said.get("request_id") and record["outcome"] == "applied":
                state.asked[account] += 1

    def _take_mode(self, record: Plain) -> None:
        state = self.state
        state.mode = record["mode"]
        if record["mode"] == "active":
            state.barred.clear()

    # --- deciding ---------------------------------------------------------------------------------------

    def is_elsewhere(self, client: str, request: Plain) -> bool:
        """Whether it is about a record of another history, of which the box may have heard."""
        original = (whole(request)["original_client"] or client, request["original_id"])
        return original in self.elsewhere and original not in self.by_identity

    def imagined(self) -> Model:
        """A copy that may be changed: for a group that was refused."""
        other = Model(self.box, self.sites, self.elsewhere)
        other.state, other.epoch, other.ended = copy.deepcopy(self.state), self.epoch, dict(self.ended)
        other.by_identity, other.at = dict(self.by_identity), dict(self.at)
        other.about = defaultdict(list, {name: list(found) for name, found in self.about.items()})
        return other

    def decide(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        """What must be decided; None while the centre is to be asked first."""
        request = whole(request)
        is_reversible = request["kind"] in ("payment", "hold", "post", "refund")
        if is_reversible and (client, request["id"]) in self.state.kept:
            return no("already_reversed")
        decide = {
            "payment": self._payment,
            "hold": self._hold,
            "post": self._post,
            "void": self._void,
            "reversal": self._reversal,
            "refund": self._refund,
            "close_batch": self._close_batch,
        }[request["kind"]]
        return decide(client, request, at_ns, funding)

    def _misshapen(self, request: Plain) -> str:
        state = self.state
        if request["currency"] not in [one["code"] for one in (state.site or {}).get("currencies", ())]:
            return "currency_unknown"
        for side in ("debit", "credit"):
            if request[f"{side}_account_id"] not in state.accounts:
                return f"{side}_account_not_found"
        names = (request["debit_account_id"], request["credit_account_id"])
        if any(name.startswith(OWN) for name in names):
            return "account_not_for_clients"
        if names[0] == names[1]:
            return "accounts_must_be_different"
        if {state.accounts[name]["currency"] for name in names} != {request["currency"]}:
            return "currency_mismatch"
        return ""

    def _lease_is_over(self, currency: str, at_ns: int) -> bool:
        rules = (self.state.site or {}).get("allowances", ())
        rule = next((one for one in rules if one["currency"] == currency), {})
        lease_s, since_ns = rule.get("lease_seconds", 0), self.state.limits.offline_since_ns
        if not lease_s or not since_ns:
            return False
        return at_ns - since_ns >= max(1, lease_s - rule.get("lease_margin_seconds", 0)) * NS

    def _ruled(self, request: Plain, at_ns: int, funding: tuple[str, str]) -> str:
        state, payer = self.state, request["debit_account_id"]
        site = state.site or {}
        if funding[0] == "down" and self._lease_is_over(request["currency"], at_ns):
            return "lease_over"
        if payer in state.closed or request["credit_account_id"] in state.closed:
            return "account_closed"
        if payer in state.frozen:
            return "account_frozen"
        if payer in site.get("blocked", ()):
            return "account_blocked"
        if request["card"] in site.get("blocked", ()):
            return "card_blocked"
        if state.limits.blocks(request):
            return state.limits.blocks(request)
        found = []
        for limit in site.get("limits", ()):
            when = limit.get("when", "always")
            if limit.get("currency", "") not in ("", request["currency"]) or when == "stand_in":
                continue
            if when == "always" or state.mode != "active":
                percent = 100 if when == "always" else state.limits.percent(site, at_ns)
                found.append(state.limits.refuses(limit, request, at_ns, percent=percent, waiting=[]))
        return min((code for code in found if code), key=RANKS.index, default="")

    def _home(self, account_id: str, amount: int) -> list[Leg]:
        account = self.state.accounts[account_id]
        if account["home"] == self.box and account_id not in self.state.closed:
            return []
        return [leg(account_id, f"centre:{account['currency']}", amount)]

    # --- payments and holds -----------------------------------------------------------------------------

    def _payment(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        state, advice = self.state, request["advice"]
        refused = self._misshapen(request) or ("" if advice else self._ruled(request, at_ns, funding))
        refused = refused or ("" if advice else self._over_cap(request, funding))
        if refused:
            return None if refused == "ask" else no(refused)
        payer, payee, amount = (
            request[name] for name in ("debit_account_id", "credit_account_id", "amount_minor")
        )
        barred = payer in state.frozen or payer in state.closed
        if state.free[payer] >= amount and not (advice and barred):
            legs = [
                leg(payer, payee, amount),
                *self._home(payee, amount),
                *self._moved_caps(payer, payee, amount),
            ]
            return yes("centre" if funding[0] == "granted" else "allowance", legs)
        if funding[0] in ("up", "granted"):
            return None
        risk, suspense = (f"{name}:{self.box}:{request['currency']}" for name in ("risk", "suspense"))
        stood = [leg(risk, payee, amount, PENDING), *self._moved_caps(payer, payee, amount, PENDING)]
        if advice:
            if state.free[risk] >= amount:
                return yes("stand_in", stood, reason=funding[1])
            parked = [leg(suspense, payee, amount), *self._home(payee, amount)]
            return yes("stand_in", [*parked, *self._moved_caps(suspense, payee, amount)], reason="suspense")
        refused = "insufficient_funds" if funding[0] == "refused" else self._no_stand_in(request, at_ns)
        if refused:
            return no(refused)
        if state.free[risk] < amount:
            return no("stand_in_box_limit")
        return yes("stand_in", stood, reason=funding[1])

    def _no_stand_in(self, request: Plain, at_ns: int) -> str:
        state, payer, amount = self.state, request["debit_account_id"], request["amount_minor"]
        rules = (state.site or {}).get("stand_in", ())
        rule = next((one for one in rules if one["currency"] == request["currency"]), None)
        if not request["stand_in"]:
            return "stand_in_not_wanted"
        if rule is None or not rule["floor_minor"]:
            return "stand_in_not_offered"
        if payer in state.barred:
            return "account_barred"
        site = state.site or {}
        since_ns = state.limits.offline_since_ns
        percent = state.limits.percent(site, at_ns)
        if not percent or (since_ns and at_ns - since_ns > rule["offline_seconds_max"] * NS):
            return "stand_in_too_long_offline"
        split = ("split", request["currency"], "stand_in", str(rule["split_seconds"]))
        before = state.limits.used(split, request, at_ns)[0] if rule["split_seconds"] else 0
        if (before + amount) * 100 >= rule["floor_minor"] * percent:
            return "stand_in_above_floor"
        own = {"when": "stand_in", "per": "unconfirmed", "currency": request["currency"]}
        own |= {"amount_minor": rule["account_minor"], "count": rule["account_count"]}
        for limit in (own, *site.get("limits", ())):
            if limit.get("when") != "stand_in" or limit.get("currency", "") not in ("", request["currency"]):
                continue
            waiting = self._waiting(limit, request)
            refused = state.limits.refuses(limit, request, at_ns, percent=percent, waiting=waiting)
            if refused:
                return refused
        return ""

    def _waiting(self, limit: Plain, request: Plain) -> list[int]:
        """The unconfirmed stand-ins of the limit's subject."""
        of = limit.get("of", "account")
        return [
            one["amount_minor"]
            for one in self.state.stood.values()
            if whose(of, one, self.box) == whose(of, request, self.box)
            and limit.get("currency", "") in ("", one["currency"])
        ]

    def _hold(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        refused = self._misshapen(request) or self._ruled(request, at_ns, funding)
        refused = refused or self._over_cap(request, funding)
        if refused:
            return None if refused == "ask" else no(refused)
        payer, payee, amount = (
            request[name] for name in ("debit_account_id", "credit_account_id", "amount_minor")
        )
        if self.state.free[payer] < amount:
            if funding[0] in ("up", "granted"):
                return None
            return no("insufficient_funds" if funding[0] == "refused" else "stand_in_not_offered")
        held = leg(payer, payee, amount, PENDING, "", request["timeout_s"])
        reserved = self._moved_caps(payer, payee, amount, PENDING, request["timeout_s"])
        return yes("centre" if funding[0] == "granted" else "allowance", [held, *reserved])

    def _live_hold(self, client: str, request: Plain, at_ns: int) -> tuple[Plain, str]:
        original = self.by_identity.get((request["original_client"] or client, request["original_id"]))
        if original is None:
            return {}, "original_not_found"
        if original["type"] != "transfer":
            return {}, "original_was_refused"
        if original["request"]["kind"] != "hold":
            return {}, "original_not_a_hold"
        ended = self.ended.get(hold_id(original))
        if ended is not None:
            words = {
                "posted": "hold_already_posted",
                "voided": "hold_already_voided",
                "expired": "hold_expired",
            }
            return {}, words[ended]
        if original["epoch"] != self.epoch:
            return {}, "hold_epoch_over"
        timeout_ns = legs_of(original)[0][5] * NS
        if timeout_ns and original["at_ns"] + timeout_ns <= at_ns:
            return {}, "hold_expired"
        return original, ""

    def _post(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        hold, refused = self._live_hold(client, request, at_ns)
        if refused:
            return no(refused)
        debit, credit, held, *_ = legs_of(hold)[0]
        amount = request["amount_minor"] or held
        if amount > held:
            return no("exceeds_hold")
        posted = leg(debit, credit, amount, POST, hold_id(hold))
        legs = [posted, *self._home(credit, amount), *self._resolved_caps(hold, POST, amount)]
        return yes(hold["cleared_by"], legs, original=place(hold))

    def _void(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        hold, refused = self._live_hold(client, request, at_ns)
        return no(refused) if refused else self._voided(hold)

    def _voided(self, hold: Plain) -> Decision:
        debit, credit, amount, *_ = legs_of(hold)[0]
        legs = [leg(debit, credit, amount, VOID, hold_id(hold)), *self._resolved_caps(hold, VOID, amount)]
        return yes(hold["cleared_by"], legs, original=place(hold))

    def _close_batch(
        self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]
    ) -> Decision | None:
        return yes("allowance", []) | {"batch": self.state.batches.close(request)}

    def _reversal(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        original = self.by_identity.get((request["original_client"] or client, request["original_id"]))
        if original is None:
            return yes("allowance", [], reason="kept")
        return self._undone(original, request, at_ns, funding)

    def _refund(self, client: str, request: Plain, at_ns: int, funding: tuple[str, str]) -> Decision | None:
        original = self.by_identity.get((request["original_client"] or client, request["original_id"]))
        if original is None:
            return no("original_not_found")
        is_live = original["type"] == "transfer" and hold_id(original) in self.state.held
        if is_live and original["request"]["kind"] == "hold":
            return no("original_not_reversible")
        return self._undone(original, request, at_ns, funding)

    def _undone(
        self, original: Plain, request: Plain, at_ns: int, funding: tuple[str, str]
    ) -> Decision | None:
        if original["type"] != "transfer":
            return no("original_was_refused")
        if original["request"]["kind"] == "post":
            original = self.at[original["original"]]
        kind, first = original["request"]["kind"], legs_of(original)[0] if legs_of(original) else None
        if kind not in ("payment", "hold") and (kind, request["kind"]) != ("refund", "reversal"):
            return no("original_not_reversible")
        parties = (original["request"].get("credit_account_id"), self._who_paid(original))
        if kind == "refund" and first is not None:
            parties = (first[1], first[0])
        if any(name not in self.state.accounts for name in parties):
            return no("original_not_reversible")
        if self._waited_when_its_epoch_ended(original):
            return no("hold_epoch_over" if original["request"]["kind"] == "hold" else "stand_in_epoch_over")
        before, moved = self._given_back(original), self._still_stands(original)
        amount = request["amount_minor"] or moved - before
        if amount <= 0 or before + amount > moved:
            return no("exceeds_original")
        if kind == "refund" and first is not None:
            if first[3] & VOID or original["cleared_by"] == "stand_in" or amount != moved:
                return no("original_not_reversible")
            return self._give_back(original, request, amount, funding, *parties)
        waits = hold_id(original) in self.state.held
        timeout_ns = legs_of(original)[0][5] * NS
        if waits and timeout_ns and original["at_ns"] + timeout_ns <= at_ns:
            return no("hold_expired")
        if waits and amount == moved and not before:
            return self._voided(original)
        if waits and original["request"]["kind"] == "hold":
            return no("original_not_reversible")
        if waits and not request["advice"]:
            return no("stand_in_waits")
        return self._give_back(original, request, amount, funding, *parties)

    def _who_paid(self, original: Plain) -> str:
        if original["request"]["kind"] == "refund":
            return ""
        suspense = f"suspense:{self.box}:{original['request']['currency']}"
        return (
            suspense if legs_of(original)[0][0] == suspense else str(original["request"]["debit_account_id"])
        )

    def _waited_when_its_epoch_ended(self, original: Plain) -> bool:
        waits = legs_of(original)[0][3] & PENDING and hold_id(original) not in self.ended
        return bool(waits) and original["epoch"] != self.epoch

    def _given_back(self, original: Plain) -> int:
        given = 0
        for one in self.about[place(original)]:
            if one["type"] == "transfer" and one["request"]["kind"] in ("reversal", "void", "refund"):
                given += legs_of(one)[0][2]
                given -= self._given_back(one) if one["request"]["kind"] == "refund" else 0
        return given

    def _still_stands(self, original: Plain) -> int:
        if original["request"]["kind"] == "refund":
            return legs_of(original)[0][2]
        for later in self.about[place(original)]:
            if later["type"] == "transfer" and later["request"]["kind"] == "post":
                return legs_of(later)[0][2]
            if later["type"] == "directive" and later["directive"]["type"] == "decline":
                return 0
        if original["request"]["kind"] == "hold" and hold_id(original) not in self.state.held:
            return 0
        return int(original["request"]["amount_minor"])

    def _give_back(
        self,
        original: Plain,
        request: Plain,
        amount: int,
        funding: tuple[str, str],
        payee: str,
        payer: str,
    ) -> Decision | None:
        state, where = self.state, place(original)
        currency = state.accounts[payee]["currency"]
        own = {
            name: f"{name}:{self.box}:{currency}" for name in ("risk", "suspense", "receivable", "recourse")
        }
        home = [] if payer == own["suspense"] else self._home(payer, amount)
        for barred, code in ((state.closed, "account_closed"), (state.frozen, "account_frozen")):
            if payee in barred and not request["advice"]:
                return no(code)
        if payee not in state.closed and payee not in state.frozen and state.free[payee] >= amount:
            by = "centre" if funding[0] == "granted" else "allowance"
            legs = [leg(payee, payer, amount), *home, *self._moved_caps(payee, payer, amount)]
            return yes(by, legs, original=where)
        if funding[0] in ("up", "granted"):
            return None
        if funding[0] == "refused" and not request["advice"]:
            return no("insufficient_funds")
        owed = leg(own["receivable"], own["recourse"], amount)
        if payer == own["suspense"]:
            return yes("stand_in", [owed], reason=funding[1], original=where)
        source, reason = own["risk"], funding[1]
        if state.free[source] < amount:
            if not request["advice"]:
                return no("stand_in_box_limit")
            source, reason = own["suspense"], "suspense"
        legs = [leg(source, payer, amount), *home, owed, *self._moved_caps(source, payer, amount)]
        return yes("stand_in", legs, reason=reason, original=where)

    # --- applying ---------------------------------------------------------------------------------------

    def effects(self, said: Plain) -> list[tuple[str, list[Leg]]]:
        """What applying a directive may do: outcome and legs, the possible ones."""
        state, kind = self.state, said["type"]
        account = state.accounts.get(said.get("account_id", ""))
        if kind == "grant":
            if account is None or account["currency"] != said["currency"]:
                return [("refused", [])]
            centre, name, amount = f"centre:{said['currency']}", said["account_id"], said["amount_minor"]
            granted = leg(centre, name, amount)
            handed_back = ("returned", [granted, leg(name, centre, amount)])
            return [("applied", [granted]), *([handed_back] if said.get("request_id") else [])]
        if kind in ("confirm", "decline"):
            return [self._late_word(said)]
        if kind in ("block", "limit"):
            return [("applied", [])]
        if kind == "site":
            site = self.sites.get(said["digest"], {})
            return [("applied", self._trimmed_caps(site)), ("refused", [])]
        if kind in ("recall", "close"):
            return [self._back_to_centre(said, account)]
        return [("refused" if account is None else "applied", [])]

    def _back_to_centre(self, said: Plain, account: Plain | None) -> tuple[str, list[Leg]]:
        if account is None or account["currency"] != said["currency"]:
            return "refused", []
        free = max(0, self.state.free[account["id"]])
        wanted = said["amount_minor"] if said["type"] == "recall" else free if said["closed"] else 0
        amount = min(free, wanted)
        return "applied", [leg(account["id"], f"centre:{said['currency']}", amount)] if amount else []

    def _late_word(self, said: Plain) -> tuple[str, list[Leg]]:
        original = self.at.get(f"{said['epoch']}/{said['at_seq']}")
        if original is None or not legs_of(original) or hold_id(original) not in self.state.held:
            return "refused", []
        debit, credit, amount, *_ = legs_of(original)[0]
        post = leg(debit, credit, amount, POST, hold_id(original))
        if said["type"] == "decline" and said["liable"] == "merchant":
            back = leg(credit, f"risk:{self.box}:{said['currency']}", amount)
            return "applied", [post, back, *self._resolved_caps(original, VOID, amount)]
        legs = [post, *self._home(credit, amount)]
        if said["type"] == "confirm":
            return "applied", [*legs, *self._resolved_caps(original, POST, amount)]
        freed = self._resolved_caps(original, VOID, amount)
        return "applied", [*legs, *freed, *self._moved_caps(debit, credit, amount)]


def yes(cleared_by: str, legs: list[Leg], *, reason: str = "", original: str = "") -> Decision:
    """Cleared."""
    return {
        "type": "transfer",
        "cleared_by": cleared_by,
        "legs": legs,
        "reason": reason,
        "original": original,
    }


def no(code: str) -> Decision:
    """Refused."""
    return {"type": "refusal", "code": code}
