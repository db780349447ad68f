"""The auditor's own eyes: what it excuses, and that it excuses no more."""

import json

import pytest

from tests.simulator.auditor import BRANCH_SEQS, Facts
from tests.simulator.books import audit_fleet
from tests.simulator.words import Plain

REQUEST = {"kind": "payment", "id": "ab" * 16, "debit_account_id": "A", "credit_account_id": "B"}


def a_row(seq: int, amount_minor: int, *, counts: bool) -> Plain:
    """A payment as the centre keeps it; `counts` says whether its identity is this record's."""
    record = {"type": "transfer", "client": "till", "request": REQUEST, "legs": [["A", "B", amount_minor]]}
    return {
        "box": "box-1",
        "epoch": 1,
        "seq": seq,
        "type": "transfer",
        "request_id": REQUEST["id"] if counts else None,
        "body": json.dumps(record).encode(),
    }


@pytest.mark.parametrize(
    ("seq", "amount_minor", "found"), [(BRANCH_SEQS + 4, 5, 0), (BRANCH_SEQS + 4, 6, 1), (4, 5, 1)]
)
def test_a_second_record_is_excused_by_a_second_history_that_says_the_same(
    seq: int, amount_minor: int, found: int
) -> None:
    """A client asked the box and its copy: one payment. Two of one history, or other legs, are not."""
    facts = Facts()
    names = ("account", "outstanding", "suspense_item", "stand_in", "loss", "branch")
    facts.tables = {name: [] for name in names}
    facts.tables["record"] = [a_row(3, 5, counts=True), a_row(seq, amount_minor, counts=False)]
    facts.sent = [{"client": "till", "request": REQUEST}]
    assert sum("nobody owns" in finding for finding in audit_fleet(facts)) == found
