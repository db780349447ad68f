"""What a reconciliation can find: the classes of breaks, and what is told apart because it is none.

Definitions, the hints of who mends a break, `--help` and REFERENCE.md all come from these two tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class BreakClass(NamedTuple):
    """One kind of difference: its name, what it means, and who mends it how."""

    name: str
    definition: str
    mend: str


BREAKS: Final = (
    # --- journal and hub, record by record
    BreakClass(
        "missing_at_hub",
        "The hub's head covers this record of the box's journal, and the hub has no row of it.",
        "Centre operations: the hub's database lost rows; restore it, or bring it the journal's file again.",
    ),
    BreakClass(
        "missing_in_journal",
        "The hub has this record of the box, and the journal, which reaches as far, has not.",
        "Branch: keep the disk, run `edgegw ledger check`; a new epoch takes it back from the hub.",
    ),
    BreakClass(
        "sequence_gap",
        "A signed head covers this place of a journal, and no given side has the record.",
        "Branch and centre: look for it in a mirror, a backup or an older export; until then it is unknown.",
    ),
    BreakClass(
        "record_differs",
        "Journal and hub have other bytes or another leaf at one place, and not both are what was chained.",
        "Whoever keeps the side that the detail names: its row was changed; the other side has the original.",
    ),
    BreakClass(
        "identity_misfiled",
        "The hub keeps a record under another client or request id than its bytes say, or none.",
        "Centre operations: a repeat of it elsewhere would not be found; correct the columns by the bytes.",
    ),
    BreakClass(
        "history_forked",
        "Journal and hub hold two unbroken histories of one epoch that part here, and the hub knows of one.",
        "Centre operations: take the other history in with `edgegw order take-journal`; it counts once.",
    ),
    BreakClass(
        "chain_broken",
        "A record's bytes do not give its leaf, and no other side has the original.",
        "Branch and centre: the row was changed; look for the original in a mirror, a backup or a receipt.",
    ),
    BreakClass(
        "head_not_as_signed",
        "The records of a side are whole and chained, and its head is not theirs or not signed by the box.",
        "Whoever keeps that side: export it again; if it stays so, head or log was rewritten.",
    ),
    # --- what two sides say of one payment
    BreakClass(
        "amount_differs",
        "Two sides book one payment with different amounts.",
        "The bank core where it is the odd one out (correct its posting); else as for record_differs.",
    ),
    BreakClass(
        "currency_differs",
        "Two sides book one payment in different currencies.",
        "The bank core where it is the odd one out (cancel and post again); else as for record_differs.",
    ),
    BreakClass(
        "account_differs",
        "Two sides debit or credit another account for one payment.",
        "The bank core where it is the odd one out (move it to that account); else as for record_differs.",
    ),
    BreakClass(
        "direction_swapped",
        "Two sides move one payment between the same accounts in opposite directions.",
        "The bank core where it is the odd one out (post it twice back); else as for record_differs.",
    ),
    BreakClass(
        "status_differs",
        "Two sides tell another fate of one payment: refused, held, waiting, released or declined at one,"
        " posted or still held at the other.",
        "The side that is wrong by the detail: the core cancels or posts, the centre asks its operators.",
    ),
    BreakClass(
        "box_differs",
        "The core books a payment under another box than the one that cleared it.",
        "The bank core: correct the branch of its posting; its branch totals are wrong by it.",
    ),
    BreakClass(
        "business_date_differs",
        "The core's value date is not the business date of the closed window that the payment is in.",
        "The bank core and settlement: agree the day; the window's record has the last word.",
    ),
    BreakClass(
        "missing_in_core",
        "A payment that moved money, and that the hub holds, is not in the core's list.",
        "The bank core: post it; the journal's record and its receipt are the voucher.",
    ),
    BreakClass(
        "only_in_core",
        "The core has booked a payment of this channel that neither a journal nor the hub knows.",
        "The bank core: find where it came from; cancel it if it was never ours.",
    ),
    BreakClass(
        "duplicate_in_core",
        "The core lists one payment, or one reference of its own, more than once.",
        "The bank core: cancel the later posting.",
    ),
    BreakClass(
        "duplicate_at_fleet",
        "One identity was cleared at two places of the fleet.",
        "Centre operations: the hub's item for it names the owner; the second payment is collected back.",
    ),
    BreakClass(
        "reversed_only_here",
        "A reversal gave money back here, and the core's list does not have it.",
        "The bank core: post the reversal; its customer still misses the money there.",
    ),
    BreakClass(
        "reversed_only_in_core",
        "The core says that a payment is reversed, and no reversal of all of it is known here.",
        "The bank core: undo its reversal, or let the branch reverse the payment too.",
    ),
    # --- the centre's word, books, windows
    BreakClass(
        "late_decline_not_told",
        "The hub has settled a stand-in as declined, and the box's journal has no such word.",
        "Centre operations: the merchant does not know; tell it by hand and look for the lost directive.",
    ),
    BreakClass(
        "grant_not_from_hub",
        "A box has booked a grant that the hub did not issue, or of another account or amount.",
        "Centre operations: quarantine the box; the difference is money that nobody handed out.",
    ),
    BreakClass(
        "directive_not_from_hub",
        "A box has applied a directive, other than a grant, that the hub's log lacks or has otherwise.",
        "Centre operations: quarantine the box or restore the hub's log; find out whose word it was.",
    ),
    BreakClass(
        "returned_not_at_hub",
        "A box's records give money back to the centre that the hub still counts as outstanding there.",
        "Centre operations: the account misses it; find the return's record and correct the hub's row.",
    ),
    BreakClass(
        "outstanding_differs",
        "What the hub counts as outstanding of an account at a box is not what the records leave there.",
        "Centre operations: correct the hub's row by the records; nothing may be granted from it meanwhile.",
    ),
    BreakClass(
        "balance_differs",
        "The hub's counters of an account at a box are not the sums of the box's records.",
        "Centre operations: the hub's row was changed, or a record was booked wrongly; the records decide.",
    ),
    BreakClass(
        "books_torn",
        "At the hub a balance is not available plus outstanding, or a currency does not sum to zero.",
        "Centre operations: stop granting from it; a row of the hub's books was changed by hand.",
    ),
    BreakClass(
        "position_differs",
        "A closed window's positions or its number of transfers are not those of the records in it.",
        "Settlement: hold the window back from its cycle; the records decide.",
    ),
    BreakClass(
        "positions_not_zero",
        "A closed window's positions do not sum to zero in a currency.",
        "Settlement: hold the window back from its cycle; it would create or destroy money.",
    ),
    BreakClass(
        "window_missing_at_hub",
        "A box's record closes a window that the hub holds, and the hub has no such closed window.",
        "Settlement: the hub's row is gone or still open, so no cycle takes this window; restore it.",
    ),
    BreakClass(
        "window_only_at_hub",
        "The hub has a window as closed by its box, and no record of the box closes it.",
        "Settlement: hold the window back from its cycle; the hub's row was made or closed by hand.",
    ),
    BreakClass(
        "window_differs",
        "The hub's day, number of transfers or positions of a closed window are not those of the records.",
        "Settlement: hold the window back from its cycle; the hub's row was changed, the records decide.",
    ),
    BreakClass(
        "posting_not_in_core",
        "The hub has booked a posting of the core, and the core's list of --postings has no such reference.",
        "The bank core: find who told the hub of it; its books have money that the core never sent.",
    ),
    BreakClass(
        "posting_not_at_hub",
        "The core lists a posting of --postings that the hub has not booked.",
        "Centre operations: post it at the hub with `edgegw post`; customers lack it there.",
    ),
    BreakClass(
        "posting_differs",
        "The core and the hub book one posting of --postings with other accounts, amount or currency.",
        "The bank core and centre operations: one of them is wrong; post the difference by a new reference.",
    ),
    BreakClass(
        "suspense_aged",
        "An item waits in the hub's suspense for longer than --suspense-hours.",
        "The item's owner, whom the hub's row names.",
    ),
)
"""In the order of REFERENCE.md; a break has one class."""

APART: Final = (
    BreakClass("in_flight", "Records that the hub has not got yet, because the line is or was down.", ""),
    BreakClass(
        "word_under_way", "Stand-ins whose confirmation or decline is not in the box's journal yet.", ""
    ),
    BreakClass("stand_in_waiting", "Stand-ins that wait for the centre's word; not due at the core.", ""),
    BreakClass("hold_open", "Holds that are neither posted nor released; not due at the core.", ""),
    BreakClass("suspense_waiting", "Items in the hub's suspense, younger than --suspense-hours.", ""),
    BreakClass("other_channel", "Lines of the core of other channels than --channel.", ""),
    BreakClass("journal_not_given", "Records at the hub of epochs whose journal was not given.", ""),
    BreakClass("journal_older", "Records at the hub from after a journal was exported.", ""),
    BreakClass(
        "known_fork", "Records at the hub of another history of an epoch that it knows as forked.", ""
    ),
)
"""Counted, and no breaks: they mend themselves, or they are known."""

MEND_OF: Final = {one.name: one.mend for one in BREAKS}


def definitions() -> str:
    """All classes as text for `--help`, one paragraph each."""
    lines = [f"{one.name}: {one.definition}" for one in BREAKS]
    lines += [f"{one.name} (no break): {one.definition}" for one in APART]
    return "\n\n".join(lines)
