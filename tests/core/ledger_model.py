"""A ledger that is slow and plain: it keeps a log of what was taken and adds it up anew at every question.

It shares no code, no shape and no order of evaluation with `edgegw.core.ledger`; tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgegw.core.model import AMOUNT_MAX, Account, AccountFlags, Transfer, TransferFlags

NS_PER_S = 1_000_000_000
TRANSIENT = {
    "debit_account_not_found",
    "credit_account_not_found",
    "pending_transfer_not_found",
    "debit_account_already_closed",
    "credit_account_already_closed",
    "exceeds_credits",
    "exceeds_debits",
}


@dataclass
class Taken:
    """One transfer that was taken, and what became of it if it was a hold."""

    request: Transfer
    amount: int
    at_ns: int
    debit: int
    credit: int
    fate: str = "none"


@dataclass
class Model:
    """Accounts, the log, and the ids that are burned."""

    accounts: dict[int, Account]
    log: list[Taken] = field(default_factory=list)
    burned: set[int] = field(default_factory=set)

    def sums(self, account: int) -> tuple[int, int, int, int]:
        """Return debits pending and posted, credits pending and posted, by reading the whole log."""
        totals = [0, 0, 0, 0]
        for taken in self.log:
            if TransferFlags.VOID_PENDING_TRANSFER in TransferFlags(taken.request.flags):
                continue
            if taken.fate in ("posted", "voided", "expired"):
                continue
            phase = 0 if taken.fate == "pending" else 1
            totals[phase] += taken.amount * (taken.debit == account)
            totals[2 + phase] += taken.amount * (taken.credit == account)
        return totals[0], totals[1], totals[2], totals[3]

    def closed(self, account: int) -> bool:
        """Say whether a live closing hold closes the account."""
        return any(
            taken.fate == "pending"
            and (
                (taken.debit == account and taken.request.flags & TransferFlags.CLOSING_DEBIT)
                or (taken.credit == account and taken.request.flags & TransferFlags.CLOSING_CREDIT)
            )
            for taken in self.log
        )

    def taken(self, transfer_id: int) -> Taken | None:
        return next((taken for taken in self.log if taken.request.id == transfer_id), None)

    def decide(self, request: Transfer, at_ns: int) -> str:
        """Decide one well-formed transfer and return the name of its status."""
        if request.id in self.burned:
            return "id_already_failed"
        known = self.taken(request.id)
        if known is not None:
            return "exists" if request == known.request else "exists_with_different"
        flags = TransferFlags(request.flags)
        resolving = TransferFlags.POST_PENDING_TRANSFER | TransferFlags.VOID_PENDING_TRANSFER
        status, taken = (
            self.resolve(request, flags, at_ns) if flags & resolving else self.move(request, flags, at_ns)
        )
        if status in TRANSIENT:
            self.burned.add(request.id)
        if taken is not None:
            self.log.append(taken)
        return status

    def move(self, request: Transfer, flags: TransferFlags, at_ns: int) -> tuple[str, Taken | None]:
        debit, credit, amount = request.debit_account_id, request.credit_account_id, request.amount_minor
        for side, account in (("debit", debit), ("credit", credit)):
            if account not in self.accounts:
                return f"{side}_account_not_found", None
        for side, account in (("debit", debit), ("credit", credit)):
            if self.closed(account):
                return f"{side}_account_already_closed", None
        of_debit, of_credit = self.sums(debit), self.sums(credit)
        if TransferFlags.BALANCING_DEBIT in flags:
            amount = min(amount, max(of_debit[3] - of_debit[0] - of_debit[1], 0))
        if TransferFlags.BALANCING_CREDIT in flags:
            amount = min(amount, max(of_credit[1] - of_credit[2] - of_credit[3], 0))
        limits = self.accounts[debit].flags, self.accounts[credit].flags
        if (
            limits[0] & AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
            and of_debit[0] + of_debit[1] + amount > of_debit[3]
        ):
            return "exceeds_credits", None
        if (
            limits[1] & AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS
            and of_credit[2] + of_credit[3] + amount > of_credit[1]
        ):
            return "exceeds_debits", None
        fate = "pending" if TransferFlags.PENDING in flags else "none"
        return "created", Taken(request, amount, at_ns, debit, credit, fate)

    def resolve(self, request: Transfer, flags: TransferFlags, at_ns: int) -> tuple[str, Taken | None]:
        hold = self.taken(request.pending_id)
        posting = TransferFlags.POST_PENDING_TRANSFER in flags
        if hold is None:
            return "pending_transfer_not_found", None
        if hold.fate == "none":
            return "pending_transfer_not_pending", None
        whole = request.amount_minor == (AMOUNT_MAX if posting else 0)
        amount = hold.amount if whole else request.amount_minor
        if amount > hold.amount:
            return "exceeds_pending_transfer_amount", None
        if amount < hold.amount and not posting:
            return "pending_transfer_has_different_amount", None
        if hold.fate in ("posted", "voided"):
            return f"pending_transfer_already_{hold.fate}", None
        late = hold.request.timeout_s and at_ns >= hold.at_ns + hold.request.timeout_s * NS_PER_S
        if hold.fate == "expired" or late:
            return "pending_transfer_expired", None
        if posting and self.closed(hold.debit):
            return "debit_account_already_closed", None
        if posting and self.closed(hold.credit):
            return "credit_account_already_closed", None
        hold.fate = "posted" if posting else "voided"
        return "created", Taken(request, amount, at_ns, hold.debit, hold.credit)

    def expire(self, at_ns: int) -> list[int]:
        """Expire what is due and return the ids in order of deadline, then of taking."""
        due = [
            (taken.at_ns + taken.request.timeout_s * NS_PER_S, taken.at_ns, taken)
            for taken in self.log
            if taken.fate == "pending" and taken.request.timeout_s
        ]
        expired = [
            taken for deadline, _, taken in sorted(due, key=lambda entry: entry[:2]) if deadline <= at_ns
        ]
        for taken in expired:
            taken.fate = "expired"
        return [taken.request.id for taken in expired]
