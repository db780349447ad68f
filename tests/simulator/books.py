"""The auditor's view of the whole fleet: money is conserved, every answered payment is in the centre's books
exactly once, and every account has what its clients were told.

Imports nothing of the product. The documented exceptions are counted by the centre's own words: a late
decline, an identity cleared at two boxes, an item in suspense, a named loss.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

from tests.simulator.auditor import BRANCH_SEQS, Facts
from tests.simulator.words import PENDING, VOID, Plain, legs_of

BRANCHES_MAX = 4
"""Histories of one epoch; a run makes two."""
OWN = (
    *("centre:", "risk:", "suspense:", "receivable:", "recourse:", "core:", "capital:"),
    *("settlement:", "cap:", "uncapped:"),
)


def audit_invariants(tables: dict[str, list[Plain]]) -> Iterator[str]:
    """What holds at the centre at every COMMIT."""
    held: dict[str, int] = defaultdict(int)
    sums: dict[str, int] = defaultdict(int)
    for row in tables["outstanding"]:
        held[row["account_id"]] += row["amount_minor"]
    for row in tables["account"]:
        name = row["account_id"]
        sums[row["currency"]] += row["balance_minor"]
        if row["available_minor"] + held[name] != row["balance_minor"]:
            words = f"{row['available_minor']} available and {held[name]} outstanding"
            yield f"hub: {name} has {words}, not {row['balance_minor']}"
        if row["floor"] and min(row["balance_minor"], row["available_minor"]) < 0:
            words = f"{row['balance_minor']}, of which {row['available_minor']} available"
            yield f"hub: {name} is below its floor: {words}"
    for currency, total in sums.items():
        if total:
            yield f"hub: the balances in {currency} sum to {total}"


def audit_fleet(facts: Facts) -> Iterator[str]:
    """The centre's books against all that was sent, answered and directed."""
    yield from audit_invariants(facts.tables)
    records = {
        (row["box"], row["epoch"], row["seq"]): row
        for row in facts.tables["record"]
        if row["type"] != "unknown"
    }
    yield from _audit_identities(facts, records)
    yield from _audit_answers_held(facts, records)
    yield from _audit_stand_ins(facts)
    yield from audit_balances(facts, records)


def _audit_identities(facts: Facts, records: dict[tuple[str, int, int], Plain]) -> Iterator[str]:
    """Nobody's payment is there twice, but where an item says so or where two histories of an epoch decided
    it alike; nothing is there that nobody sent."""
    named = {(row["box"], row["epoch"], row["seq"]) for row in facts.tables["suspense_item"]}
    sent = {(one["client"], one["request"]["id"]) for one in facts.sent}
    first: dict[tuple[str, str], tuple[str, int, int]] = {}
    counted = _decided(records)
    for where, row in sorted(records.items()):
        if row["type"] not in ("transfer", "refusal") or row["body"] in facts.poisoned:
            continue
        record = json.loads(row["body"])
        identity = (record["client"], record["request"]["id"])
        if identity not in sent:
            yield f"hub {where}: nobody sent {identity}"
        if row["request_id"] is None:
            moves = row["type"] == "transfer" and legs_of(record) and where not in named
            if moves and not _alike(where, record, *counted.get(identity, (where, record))):
                yield f"hub {where}: a second {identity} that nobody owns"
        elif identity in first:
            yield f"hub {where}: {identity} is at {first[identity]} as well"
        else:
            first[identity] = where


def _decided(
    records: dict[tuple[str, int, int], Plain],
) -> dict[tuple[str, str], tuple[tuple[str, int, int], Plain]]:
    """The record that counts for each identity, and where it is kept."""
    decided = {}
    for where, row in records.items():
        if row["request_id"] is not None:
            record = json.loads(row["body"])
            decided[record["client"], record["request"]["id"]] = where, record
    return decided


def _alike(
    where: tuple[str, int, int], record: Plain, counts_at: tuple[str, int, int], counts: Plain
) -> bool:
    """Whether a record says what another history of its epoch says: one payment, whose client asked both
    machines."""
    two_histories = where[:2] == counts_at[:2] and where[2] // BRANCH_SEQS != counts_at[2] // BRANCH_SEQS
    moved, counted = ([one[:3] for one in legs_of(said)] for said in (record, counts))
    return two_histories and record["request"] == counts["request"] and moved == counted


def _audit_answers_held(facts: Facts, records: dict[tuple[str, int, int], Plain]) -> Iterator[str]:
    """What was answered is at the centre."""
    for one in facts.heard:
        if not one["answer"]:
            continue
        answer = json.loads(one["answer"])
        epoch, seq = map(int, answer["record"].split("/"))
        rows = [
            records.get((answer["box"], epoch, branch * BRANCH_SEQS + seq)) for branch in range(BRANCHES_MAX)
        ]
        found = [json.loads(row["body"]) for row in rows if row is not None]
        if (answer["client"], answer["id"]) not in [
            (one.get("client"), one.get("request", {}).get("id")) for one in found
        ]:
            who = f"{answer['client']}/{answer['id']}"
            yield f"lost: {who} was answered with {answer['box']} {answer['record']}"


def _audit_stand_ins(facts: Facts) -> Iterator[str]:
    for row in facts.tables["stand_in"]:
        if not row["settled"]:
            yield f"hub {row['box']} {row['epoch']}/{row['seq']}: a stand-in is {row['state']} for ever"


# --- balances -----------------------------------------------------------------------------------------------


def audit_balances(facts: Facts, records: dict[tuple[str, int, int], Plain]) -> Iterator[str]:
    """Every customer has the opening balance and what the answers and the centre's later words say."""
    expected: dict[str, int] = defaultdict(int, facts.openings)
    once = _done_in_another_history(records)
    for where, row in sorted(records.items()):
        record = json.loads(row["body"])
        if where in once or _not_posted(facts, where):
            continue
        for debit, credit, amount, flags, *_ in legs_of(record):
            if flags & (PENDING | VOID) or debit.startswith("centre:") or credit.startswith("centre:"):
                continue
            expected[debit] -= amount
            expected[credit] += amount
    resolved = _resolved(facts, records)
    for row in facts.tables["stand_in"]:
        if row["state"] == "confirmed":
            expected[row["payer"]] -= row["amount_minor"]
        hold = f"{row['epoch'] << 96 | row['seq'] % BRANCH_SEQS << 32 | 1:032x}"
        by_centre = row["settled"] and (row["box"], row["seq"] // BRANCH_SEQS, hold) not in resolved
        at_branch = row["state"] == "declined" and row["liable"] == "branch"
        if by_centre and (row["state"] == "confirmed" or at_branch):
            expected[row["payee"]] += row["amount_minor"]
    for row in facts.tables["loss"]:
        expected[row["account_id"]] += row["amount_minor"]
    for name, amount in _taken_back(facts, records):
        expected[name] += amount
    for row in facts.tables["account"]:
        name = row["account_id"]
        if not name.startswith(OWN) and row["balance_minor"] != expected[name]:
            yield f"hub: {name} has {row['balance_minor']}, its clients were told {expected[name]}"


def _done_in_another_history(records: dict[tuple[str, int, int], Plain]) -> set[tuple[str, int, int]]:
    """Records of an epoch's later histories that say what an earlier one has said already."""
    found, done = set(), set()
    for where, row in sorted(records.items()):
        record = json.loads(row["body"])
        if record["type"] == "transfer":
            word = (where[:2], record["client"], json.dumps(record["request"], sort_keys=True))
        elif record["type"] == "directive":
            said = record["directive"]
            word = (where[:2], "", f"{said.get('incarnation')}/{said.get('seq')}")
        else:
            continue
        if word in done and where[2] >= BRANCH_SEQS:
            found.add(where)
        done.add(word)
    return found


def _resolved(facts: Facts, records: dict[tuple[str, int, int], Plain]) -> set[tuple[str, int, str]]:
    """The holds that a box's own journal has posted or voided, by the history that the hold is in; the centre
    finished the others."""
    shared = {(row["box"], row["epoch"], row["number"]): row["fork_size"] for row in facts.tables["branch"]}
    found = set()
    for (box, epoch, seq), row in records.items():
        for leg in legs_of(json.loads(row["body"])):
            if leg[4]:
                branch = seq // BRANCH_SEQS
                is_shared = (int(leg[4], 16) >> 32 & (2**64 - 1)) < shared.get((box, epoch, branch), 0)
                found.add((box, 0 if is_shared else branch, leg[4]))
    return found


def _not_posted(facts: Facts, where: tuple[str, int, int]) -> bool:
    return any(
        (row["box"], row["epoch"], row["seq"]) == where
        and row["reason"] in ("cannot_be_posted", "undecodable")
        for row in facts.tables["suspense_item"]
    )


def _taken_back(facts: Facts, records: dict[tuple[str, int, int], Plain]) -> Iterator[tuple[str, int]]:
    """A payment that two boxes cleared: the payer got the second one back at once."""
    for item in facts.tables["suspense_item"]:
        if item["reason"] != "duplicate_identity":
            continue
        record = json.loads(records[item["box"], item["epoch"], item["seq"]]["body"])
        debit, _, amount, flags, *_ = legs_of(record)[0]
        if record["request"]["kind"] == "payment" and not flags & PENDING and not debit.startswith(OWN):
            yield debit, amount
