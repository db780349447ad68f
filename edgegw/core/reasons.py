"""Why a request was refused: ordered values. The first that holds, in this order, is the answer (DESIGN
§2.2).

A protocol owns only its table from these to its own codes. `transient` says whether the same request under
a *new* id may succeed later; a refused id itself stays refused for ever.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """A refusal's code, in order of precedence."""

    def __new__(cls, code: str, transient: bool, mend: str) -> Reason:
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.transient = transient
        reason.mend = mend
        return reason

    transient: bool
    mend: str

    LINKED_EVENT_FAILED = (
        "linked_event_failed",
        False,
        "Mend the member of the group that was refused for a reason of its own.",
    )
    ALREADY_REVERSED = (
        "already_reversed",
        False,
        "Its reversal arrived first and wins; pay again under a new id if it is wanted.",
    )
    CURRENCY_UNKNOWN = ("currency_unknown", False, "Use a currency of the site's settings.")
    DEBIT_ACCOUNT_NOT_FOUND = (
        "debit_account_not_found",
        False,
        "Check debit_account_id; the site's settings list the accounts.",
    )
    CREDIT_ACCOUNT_NOT_FOUND = (
        "credit_account_not_found",
        False,
        "Check credit_account_id; the site's settings list the accounts.",
    )
    ACCOUNT_NOT_FOR_CLIENTS = (
        "account_not_for_clients",
        False,
        "The books' own accounts cannot be named in a request.",
    )
    ACCOUNTS_MUST_BE_DIFFERENT = ("accounts_must_be_different", False, "Name two different accounts.")
    CURRENCY_MISMATCH = ("currency_mismatch", False, "Both accounts and the request must be in one currency.")
    ORIGINAL_NOT_FOUND = (
        "original_not_found",
        True,
        "Check original_id, and ask at the box that cleared it; only the client that paid may ask.",
    )
    RECORD_PRUNED = (
        "record_pruned",
        False,
        "The original is older than what the box keeps; the centre has its record and can give money back.",
    )
    ORIGINAL_WAS_REFUSED = (
        "original_was_refused",
        False,
        "Nothing moved, so there is nothing to resolve or reverse.",
    )
    ORIGINAL_NOT_A_HOLD = (
        "original_not_a_hold",
        False,
        "Only a hold is posted or voided; reverse a payment instead.",
    )
    ORIGINAL_NOT_REVERSIBLE = (
        "original_not_reversible",
        False,
        "Payments, posted holds and refunds are reversed; a live hold is voided, or posted in part.",
    )
    HOLD_ALREADY_POSTED = (
        "hold_already_posted",
        False,
        "The hold was posted; reverse it to give money back.",
    )
    HOLD_ALREADY_VOIDED = ("hold_already_voided", False, "The hold was voided; place a new one.")
    HOLD_EXPIRED = ("hold_expired", False, "The hold's time was up; place a new one.")
    HOLD_EPOCH_OVER = (
        "hold_epoch_over",
        False,
        "The box has begun a new epoch and holds nothing of the one before; pay, or place a new hold.",
    )
    EXCEEDS_HOLD = ("exceeds_hold", False, "Post at most the amount that was held.")
    EXCEEDS_ORIGINAL = ("exceeds_original", False, "Give back at most what is left of the original amount.")
    STAND_IN_WAITS = (
        "stand_in_waits",
        True,
        "Reverse the whole amount now, or a part once the line is back and it is confirmed.",
    )
    STAND_IN_EPOCH_OVER = (
        "stand_in_epoch_over",
        False,
        "The centre decides it when it seals the box's old epoch; if it stands then, pay the money back.",
    )
    LEASE_OVER = (
        "lease_over",
        True,
        "The box has not heard the centre for as long as its allowances last; wait until the line is up.",
    )
    ACCOUNT_CLOSED = (
        "account_closed",
        True,
        "The centre closed the account at the boxes; use another account, or ask the bank.",
    )
    BATCH_NOT_COUNTED = (
        "batch_not_counted",
        False,
        "The box counts so many merchants and terminals and no more; name fewer different ones in payments.",
    )
    ACCOUNT_FROZEN = ("account_frozen", True, "The centre froze the account; ask the bank.")
    ACCOUNT_BLOCKED = (
        "account_blocked",
        False,
        "The account is blocked; ask the bank.",
    )
    CARD_BLOCKED = ("card_blocked", False, "The card is blocked; ask the bank.")
    TERMINAL_BLOCKED = ("terminal_blocked", False, "The terminal is blocked; ask the bank.")
    MERCHANT_BLOCKED = ("merchant_blocked", False, "The merchant is blocked; ask the bank.")
    NOT_ON_LIST = (
        "not_on_list",
        False,
        "The site lets only those pay who are on the list that the detail names; ask the bank.",
    )
    EXCEEDS_PAYMENT_LIMIT = (
        "exceeds_payment_limit",
        False,
        "Pay a smaller amount; the site's settings give the limit.",
    )
    BELOW_PAYMENT_MINIMUM = (
        "below_payment_minimum",
        False,
        "Pay a larger amount; the site's settings give the limit.",
    )
    EXCEEDS_AMOUNT_LIMIT = (
        "exceeds_amount_limit",
        True,
        "Pay less, or wait until the limit's period is over; the detail names it.",
    )
    EXCEEDS_COUNT_LIMIT = (
        "exceeds_count_limit",
        True,
        "Wait until the limit's period is over; the detail names it.",
    )
    EXCEEDS_VELOCITY = (
        "exceeds_velocity",
        True,
        "Too much or too often in the sliding period that the detail names; wait.",
    )
    REFUSED_BY_RULE = ("refused_by_rule", False, "A rule of the site refused it; its detail says which.")
    NET_DEBIT_CAP = (
        "net_debit_cap",
        True,
        (
            "The payer's bank has used up its net debit cap, here or everywhere; wait until others have paid"
            " it, until it is settled, or until the line is up."
        ),
    )
    INSUFFICIENT_FUNDS = (
        "insufficient_funds",
        True,
        (
            "The centre does not cover it either; pay a smaller amount. Money that an old epoch of a box left"
            " in doubt is covered again after `edgegw order seal`; `edgegw findings` at the centre lists it."
        ),
    )
    ACCOUNT_BARRED = (
        "account_barred",
        True,
        "The centre refused money for this account; wait until the line is up.",
    )
    STAND_IN_NOT_WANTED = (
        "stand_in_not_wanted",
        True,
        "The line is down and the client excluded stand-in; wait for the line.",
    )
    STAND_IN_NOT_OFFERED = (
        "stand_in_not_offered",
        True,
        "The site does not stand in for this kind of request; wait for the line.",
    )
    STAND_IN_TOO_LONG_OFFLINE = (
        "stand_in_too_long_offline",
        True,
        "The line has been down for too long; wait for the line.",
    )
    STAND_IN_ABOVE_FLOOR = (
        "stand_in_above_floor",
        True,
        "The amount is too large without the line; wait, or pay less.",
    )
    STAND_IN_ACCOUNT_LIMIT = (
        "stand_in_account_limit",
        True,
        "This account has used up its stand-in; wait for the line.",
    )
    STAND_IN_CARD_LIMIT = (
        "stand_in_card_limit",
        True,
        "This card has used up its stand-in; wait for the line.",
    )
    STAND_IN_TERMINAL_LIMIT = (
        "stand_in_terminal_limit",
        True,
        "This terminal has used up its stand-in; wait for the line.",
    )
    STAND_IN_MERCHANT_LIMIT = (
        "stand_in_merchant_limit",
        True,
        "This merchant has used up its stand-in; wait for the line.",
    )
    STAND_IN_BOX_LIMIT = (
        "stand_in_box_limit",
        True,
        "The branch has used up its stand-in; wait for the line.",
    )
    LEDGER_REFUSED = ("ledger_refused", False, "The ledger's own check failed; its status is in the detail.")


REASONS = {reason.value: reason for reason in Reason}
"""Code to reason."""
