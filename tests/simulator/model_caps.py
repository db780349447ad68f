"""The model's part for net debit caps: which moves of a participant's share go with a move of money,
written from DESIGN §10.

Imports nothing of the product, and is the model's alone: `model.Model` is one of these.
"""

from __future__ import annotations

from typing import Any

from tests.simulator.words import PENDING, POST, Leg, Plain, hold_id, leg, legs_of


def caps_of(site: Plain) -> dict[tuple[str, str], int]:
    """What each box keeps of each participant's cap: half of it is spread over the boxes with accounts."""
    boxes = {one["home"] for one in site.get("accounts", ()) if one.get("home")}
    return {
        (one["participant"], one["currency"]): one["cap_minor"] // (2 * max(1, len(boxes)))
        for one in site.get("net_debit_caps", ())
    }


class Caps:
    """What a box's state says about caps."""

    state: Any

    def _side(self, account_id: str) -> tuple[str, str]:
        account = self.state.accounts.get(account_id, {})
        return account.get("participant") or "bank", account.get("currency") or account_id[-3:]

    def cap_of(self, payer: str, payee: str) -> str:
        """The account whose balance limits what this payer may pay that payee, "" where none does."""
        accounts = self.state.accounts
        if payer not in accounts or payee not in accounts:
            return ""
        ends = self._cap_ends(payer, payee)
        return ends[0] if ends and ends[0].startswith("cap:") else ""

    def _cap_ends(self, payer: str, payee: str) -> tuple[str, str] | None:
        sides = self._side(payer), self._side(payee)
        if sides[0] == sides[1] or not set(sides) & set(self.state.caps):
            return None
        names = [
            f"cap:{who}:{code}" if (who, code) in self.state.caps else f"uncapped:{code}"
            for who, code in sides
        ]
        return names[0], names[1]

    def _moved_caps(
        self, debit: str, credit: str, amount: int, flags: int = 0, timeout_s: int = 0
    ) -> list[Leg]:
        """What goes with money from one account to another."""
        ends = self._cap_ends(debit, credit)
        if ends is None:
            return []
        moved = leg(*ends, amount, flags, "", timeout_s)
        return [moved] if flags & PENDING else [moved, *self._earned(ends[1], amount)]

    def _earned(self, name: str, amount: int) -> list[Leg]:
        """A box keeps no more than its part of a cap."""
        if not name.startswith("cap:"):
            return []
        above = min(amount, self.state.free[name] + amount - self._kept(name))
        return [leg(name, f"centre:{name[-3:]}", above)] if above > 0 else []

    def _kept(self, name: str) -> int:
        return self.state.caps.get((name.split(":")[1], name[-3:]), 0)

    def _resolved_caps(self, hold: Plain, flag: int, amount: int) -> list[Leg]:
        """What a hold has reserved of a cap is used or freed with it."""
        found = []
        for index, (debit, credit, held, flags, *_) in enumerate(legs_of(hold)):
            if index and flags & PENDING:
                moved = amount if flag == POST else held
                found.append(leg(debit, credit, moved, flag, hold_id(hold, index)))
                found += self._earned(credit, amount) if flag == POST else []
        return found

    def _trimmed_caps(self, site: Plain) -> list[Leg]:
        """What a site that comes into force lets the box keep no longer."""
        found = []
        kept = caps_of(site)
        for name in sorted(self.state.accounts):
            if name.startswith("cap:"):
                above = self.state.free[name] - kept.get((name.split(":")[1], name[-3:]), 0)
                found += [leg(name, f"centre:{name[-3:]}", above)] if above > 0 else []
        return found

    def _over_cap(self, request: Plain, funding: tuple[str, str]) -> str:
        """What the cap says: `ask`, a reason to refuse, or nothing."""
        cap = self.cap_of(request["debit_account_id"], request["credit_account_id"])
        if not cap or self.state.free[cap] >= request["amount_minor"]:
            return ""
        return "ask" if funding[0] in ("up", "granted") else "net_debit_cap"
