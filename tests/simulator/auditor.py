"""The auditor: reads what clients sent and heard, the journals and the centre's books, all as plain data, and
says what is wrong.

Imports nothing of the product: predictions come from `model`, hashes from `hashlib`. A finding is one line of
text. What the world is known to have done (a clone, a poisoned record) comes as facts and excuses no more
than it must.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from tests.simulator.model import FUNDINGS, Model, whole
from tests.simulator.model_batches import FIGURES
from tests.simulator.words import PENDING, POST, VOID, Plain, hold_id, legs_of, place

BRANCH_SEQS = 1 << 48
"""The centre keeps the second history of an epoch behind the first one, so many places further."""
LINKED = "linked_event_failed"
NOT_HERE = {"type": "refusal", "code": "record_pruned"}
ELSEWHERE = "the record is not kept at this box; the centre holds it"
NEAR_NS = 40_000_000_000
"""The line's loss is journalled about so long around the payments that met it."""
TRANSIENT = {
    "original_not_found",
    "stand_in_waits",
    "lease_over",
    "account_closed",
    "account_frozen",
    "exceeds_amount_limit",
    "exceeds_count_limit",
    "exceeds_velocity",
    "net_debit_cap",
    "insufficient_funds",
    "account_barred",
    "stand_in_not_wanted",
    "stand_in_not_offered",
    "stand_in_too_long_offline",
    "stand_in_above_floor",
    "stand_in_account_limit",
    "stand_in_card_limit",
    "stand_in_terminal_limit",
    "stand_in_merchant_limit",
    "stand_in_box_limit",
}


class Facts:
    """All that the auditor is given."""

    def __init__(self) -> None:
        self.sites: dict[str, Plain] = {}
        self.openings: dict[str, int] = {}
        self.sent: list[Plain] = []
        self.heard: list[Plain] = []
        self.journals: dict[str, dict[int, list[bytes]]] = {}
        """Machine: epoch: records in order. A clone is a machine of its own."""
        self.thrown_away: dict[str, list[dict[int, list[bytes]]]] = defaultdict(list)
        """Machine: the journals of the disks that it had before, each as it was at its end."""
        self.box_of: dict[str, str] = {}
        """Machine: the name that it goes by."""
        self.tables: dict[str, list[Plain]] = {}
        """The centre's books."""
        self.poisoned: set[bytes] = set()
        """The bytes of records that no sound pen has written."""
        self.forked: set[tuple[str, int]] = set()
        """Epochs of boxes of which the centre has seen two signed histories."""


# --- one box ------------------------------------------------------------------------------------------------


def audit_box(facts: Facts, machine: str) -> Iterator[str]:
    """Predict every record of one machine's journals from what was on the disk that it was written on."""
    audited: set[tuple[int, bytes]] = set()
    for journals in (*facts.thrown_away.get(machine, ()), facts.journals[machine]):
        for record, finding in _audit_disk(facts, machine, journals):
            if record not in audited:
                yield finding
        audited |= {(epoch, body) for epoch, bodies in journals.items() for body in bodies}


def _audit_disk(
    facts: Facts, machine: str, journals: dict[int, list[bytes]]
) -> Iterator[tuple[tuple[int, bytes], str]]:
    """Predict one disk, epoch after epoch; the epoch and the bytes of what was found wrong, and why."""
    box = facts.box_of[machine]
    model = Model(box, facts.sites, _elsewhere(facts, box))
    asked = _asked(facts, machine)
    for epoch, bodies in sorted(journals.items()):
        records = [_read(body) for body in bodies]
        down = _down(records)
        model.new_epoch(epoch)
        at_ns, skip = 0, 0
        for seq, record in enumerate(records):
            where = f"{machine} {epoch}/{seq}"
            if bodies[seq] in facts.poisoned:
                continue  # the box's own books never had it
            findings: list[str] = []
            if (record["box"], record["epoch"], record["seq"]) != (box, epoch, seq):
                findings.append(f"{where}: says that it is {record['box']} {place(record)}")
            if record["at_ns"] <= at_ns:
                findings.append(f"{where}: the box's own time went back")
            at_ns = record["at_ns"]
            if skip:
                skip -= 1
            elif record["type"] in ("transfer", "refusal"):
                group = _group_at(facts, asked, records, seq)
                skip = len(group) - 1
                findings += _audit_decisions(model, asked, group, down, where)
            else:
                findings += audit_own(model, record, where)
            model.take(record)
            if record["type"] in ("transfer", "refusal"):
                findings += floors(model, record, where)
            yield from (((epoch, bodies[seq]), finding) for finding in findings)


def _elsewhere(facts: Facts, box: str) -> frozenset[tuple[str, str]]:
    """What the centre's own history of a box's forked epochs decided: the box hears of its outcomes."""
    found = set()
    for row in facts.tables["record"]:
        if row["box"] == box and (box, row["epoch"]) in facts.forked and row["seq"] < BRANCH_SEQS:
            record = _read(row["body"])
            if record["type"] in ("transfer", "refusal"):
                found.add((record["client"], record["request"]["id"]))
    return frozenset(found)


def _read(body: bytes) -> Plain:
    try:
        record: Plain = json.loads(body)
    except ValueError:
        record = {"type": "unreadable"}
    return record


def _asked(facts: Facts, machine: str) -> dict[tuple[str, str], list[Plain]]:
    """What was sent to a machine under each identity."""
    asked: dict[tuple[str, str], list[Plain]] = defaultdict(list)
    for one in facts.sent:
        if facts.box_of[one["box"]] == facts.box_of[machine]:
            asked[one["client"], one["request"]["id"]].append(one)
    return asked


def _down(records: list[Plain]) -> list[tuple[int, int]]:
    """When the line counted as down, by the journal, with some room on either side."""
    spans: list[tuple[int, int]] = []
    since: int | None = 0
    for record in records:
        if record["type"] != "mode":
            continue
        up = record["mode"] in ("active", "syncing") and "hub_behind" not in record["reason"]
        if up and since is not None:
            spans.append((since - NEAR_NS, record["at_ns"] + NEAR_NS))
            since = None
        elif not up and since is None:
            since = record["at_ns"]
    if since is not None:
        spans.append((since - NEAR_NS, 1 << 100))
    return spans


def _group_at(
    facts: Facts, asked: dict[tuple[str, str], list[Plain]], records: list[Plain], seq: int
) -> list[Plain]:
    """The records of the linked group that begins here, or this one alone."""
    group = _group_of(asked, records[seq])
    if not group:
        return [records[seq]]
    found = []
    for record in records[seq:]:
        if record["type"] not in ("transfer", "refusal") or _group_of(asked, record) != group:
            break
        found.append(record)
    return found


def _group_of(asked: dict[tuple[str, str], list[Plain]], record: Plain) -> str:
    sent = asked.get((record["client"], record["request"]["id"]), ())
    return next((one["group"] for one in sent if one["group"]), "")


def _audit_decisions(
    model: Model,
    asked: dict[tuple[str, str], list[Plain]],
    group: list[Plain],
    down: list[tuple[int, int]],
    where: str,
) -> Iterator[str]:
    for record in group:
        identity = (record["client"], record["request"]["id"])
        if identity in model.by_identity:
            yield f"{where}: {identity} was decided before, at {place(model.by_identity[identity])}"
        if not any(_same(record, one) for one in asked.get(identity, ())):
            yield f"{where}: nobody sent {record['request']} as {identity}"
    if len(group) > 1 and len({record["type"] for record in group}) > 1:
        yield f"{where}: a linked group was decided in part"
    if len(group) > 1:
        yield from _audit_group(model, group, down, where)
        return
    [record] = group
    wanted, said = decision(record), list[Any]()
    if wanted == NOT_HERE and model.is_elsewhere(record["client"], record["request"]):
        return
    for funding in FUNDINGS:
        predicted = model.decide(record["client"], record["request"], record["at_ns"], funding)
        if predicted is not None and predicted == wanted:
            if _plausible(model, record, funding[0], down):
                if funding[0] == "granted" and wanted.get("cleared_by") == "centre":
                    model.state.asked[_payer(model, record)] -= 1
                return
            said.append(f"{funding[0]}, but the journal says otherwise of the line")
        elif predicted is not None and predicted not in said:
            said.append(predicted)
    yield f"{where}: decided {wanted}, the model says {said}"


def _audit_group(model: Model, group: list[Plain], down: list[tuple[int, int]], where: str) -> Iterator[str]:
    """Each member by itself, after those before it; what the centre says of a payer holds for the whole
    group. Of a refused group those before the culprit would have been cleared."""
    imagined, found = model.imagined(), defaultdict[str, set[str]](lambda: {name for name, _ in FUNDINGS})
    culprit = next((at for at, one in enumerate(group) if one.get("code") != LINKED), len(group))
    if culprit == len(group):
        yield f"{where}: a linked group is refused, and no member for a reason of its own"
    for index, record in enumerate(group):
        refused, wanted = record["type"] == "refusal", decision(record)
        payer, at_ns = _payer(imagined, record), record["at_ns"]
        if wanted.get("code") == "net_debit_cap":
            payer = _cap(imagined, record)  # asked for by itself
        if refused and index != culprit and wanted["code"] != LINKED:
            yield f"{where}: member {index} of the group says {wanted}, after member {culprit}"
        if refused and index > culprit:
            continue
        predicted = {
            name: decided
            for name, reason in FUNDINGS
            if (decided := imagined.decide(record["client"], record["request"], at_ns, (name, reason)))
        }
        fits = {
            name: decided
            for name, decided in predicted.items()
            if (decided["type"] == "transfer" if refused and index != culprit else decided == wanted)
            and _plausible(model, record, name, down)
        }
        if wanted == NOT_HERE and imagined.is_elsewhere(record["client"], record["request"]):
            fits = {name: wanted for name, _ in FUNDINGS}
        found[payer] &= set(fits)
        if not found[payer]:
            yield f"{where}: member {index} of the group: decided {wanted}, the model says {predicted}"
            return
        decided = fits[min(found[payer])]
        imagined.take({**record, "detail": "", "window": imagined.state.window, **decided})
    for payer in {_payer(imagined, one) for one in group if one.get("cleared_by") == "centre"}:
        model.state.asked[payer] -= 1


def _same(record: Plain, sent: Plain) -> bool:
    request, said = whole(sent["request"]), whole(record["request"])
    if request["original_id"] and not request["original_client"]:
        request["original_client"] = sent["client"]
    return request == said


def decision(record: Plain) -> Plain:
    if record["type"] == "refusal":
        return {"type": "refusal", "code": record["code"]}
    return {
        "type": "transfer",
        "cleared_by": record["cleared_by"],
        "legs": legs_of(record),
        "reason": record.get("reason", ""),
        "original": record.get("original", ""),
        **({"batch": record["batch"]} if "batch" in record else {}),
    }


def _plausible(model: Model, record: Plain, funding: str, down: list[tuple[int, int]]) -> bool:
    """Whether the journal allows that the centre was found like this."""
    if funding == "down":
        return any(since <= record["at_ns"] <= until for since, until in down)
    if funding == "refused":
        of_cap = record["type"] == "refusal" and record["code"] == "net_debit_cap"
        return (_cap(model, record) if of_cap else _payer(model, record)) in model.state.refused
    return funding != "granted" or model.state.asked[_payer(model, record)] > 0


def _cap(model: Model, record: Plain) -> str:
    """The cap that a payment or hold takes from, for which the centre is asked by itself."""
    request = whole(record["request"])
    if request["kind"] not in ("payment", "hold"):
        return ""
    return model.cap_of(request["debit_account_id"], request["credit_account_id"])


def _payer(model: Model, record: Plain) -> str:
    request = whole(record["request"])
    if request["kind"] not in ("reversal", "refund"):
        return str(request["debit_account_id"])
    original = model.by_identity.get((request["original_client"], request["original_id"]), {})
    if original.get("request", {}).get("kind") == "post":
        original = model.at.get(original.get("original", ""), {})
    if original.get("request", {}).get("kind") == "refund" and legs_of(original):
        return str(legs_of(original)[0][1])
    return str(original.get("request", {}).get("credit_account_id", ""))


def audit_own(model: Model, record: Plain, where: str) -> Iterator[str]:
    """What the box wrote by itself, or because the centre said so."""
    state, legs = model.state, legs_of(record)
    if record["type"] == "expiry":
        original = model.at.get(record["original"])
        if original is None or hold_id(original) not in state.held:
            yield f"{where}: expires {record['original']}, which is no live hold"
            return
        timeout_s = legs_of(original)[0][5]
        if legs != [
            (debit, credit, amount, VOID, hold_id(original, index), 0)
            for index, (debit, credit, amount, *_) in enumerate(legs_of(original))
        ]:
            yield f"{where}: expires {record['original']} with {legs}"
        if not timeout_s or original["at_ns"] + timeout_s * 1_000_000_000 > record["at_ns"]:
            yield f"{where}: {record['original']} expired early"
    elif record["type"] == "directive":
        if (record["outcome"], legs) not in model.effects(record["directive"]):
            effects = model.effects(record["directive"])
            yield f"{where}: {record['directive']['type']} did {record['outcome']} {legs}, not {effects}"
    elif record["type"] == "window":
        yield from _audit_window(model, record, where)
    elif legs:
        yield f"{where}: a {record['type']} moves money"


def _audit_window(model: Model, record: Plain, where: str) -> Iterator[str]:
    state = model.state
    said = {(participant, currency): net for participant, currency, net in record["positions"]}
    found = {side: net for side, net in state.positions.items() if net}
    if said != found:
        yield f"{where}: window {record['window']} has positions {said}, the model {found}"
    for currency in sorted({currency for _, currency in said}):
        if sum(net for (_, code), net in said.items() if code == currency):
            yield f"{where}: the positions of window {record['window']} do not sum to zero in {currency}"
    if (record["window"], record["transfers"]) != (state.window, state.moved):
        yield (
            f"{where}: window {record['window']} with {record['transfers']} transfers,"
            f" the model has {state.window} with {state.moved}"
        )


def floors(model: Model, record: Plain, where: str) -> Iterator[str]:
    state = model.state
    for debit, *_ in legs_of(record):
        if state.free[debit] < 0 and (state.accounts.get(debit, {}).get("floor", True)):
            yield f"{where}: {debit} is below zero, {state.free[debit]}"


# --- what clients heard -------------------------------------------------------------------------------------


def audit_answers(facts: Facts) -> Iterator[str]:
    """Every answer is the record's, every repeat the first answer, byte for byte; every conflict is one."""
    records = _by_place(facts)
    forked = {box for box, _ in facts.forked}
    first: dict[tuple[str, str, str], bytes] = {}
    for one in facts.heard:
        sent = facts.sent[one["sent"]]
        machine, client, id = sent["box"], sent["client"], sent["request"]["id"]
        who = f"{client}/{id} at {machine}"
        if one["answer"]:
            known = first.setdefault((facts.box_of[machine], client, id), one["answer"])
            if known != one["answer"] and facts.box_of[machine] not in forked:
                yield f"{who}: answered {one['answer']!r} after {known!r}"
            answer = json.loads(one["answer"])
            found = [
                record
                for record in map(_read, records.get((facts.box_of[machine], answer["record"]), ()))
                if (record.get("client"), record.get("request", {}).get("id")) == (client, id)
            ]
            if not found:
                yield f"{who}: answered with record {answer['record']}, which is not in the journal"
            elif answer != answer_of(found[0]) and not _is_outcome(facts, answer, found[0]):
                yield f"{who}: answered {answer}, the record says {answer_of(found[0])}"
            elif not _same(found[0], sent):
                yield f"{who}: answered for other content than was sent"
        elif one["code"] == "id_reused" and not _others(facts, machine, client, sent["request"]):
            yield f"{who}: called a reused id, but it never had other content there"
        elif one["code"] in ("internal_error", ""):
            yield f"{who}: heard {one['code']!r}"


def _is_outcome(facts: Facts, answer: Plain, record: Plain) -> bool:
    """Whether it is what a box answers of a record that only another history of it has: all but the legs."""
    is_forked = (record["box"], record["epoch"]) in facts.forked
    return is_forked and answer == answer_of(record) | {"legs": [], "detail": ELSEWHERE}


def _by_place(facts: Facts) -> dict[tuple[str, str], list[bytes]]:
    """The records of all machines by box and place; those of a forked epoch also as the centre has them."""
    found: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for machine, journals in facts.journals.items():
        for epoch, bodies in journals.items():
            for seq, body in enumerate(bodies):
                found[facts.box_of[machine], f"{epoch}/{seq}"].append(body)
    for row in facts.tables["record"]:
        if (row["box"], row["epoch"]) in facts.forked:
            found[row["box"], f"{row['epoch']}/{row['seq'] % BRANCH_SEQS}"].append(row["body"])
    return found


def _others(facts: Facts, machine: str, client: str, request: Plain) -> bool:
    box = facts.box_of[machine]
    return any(
        one["client"] == client
        and one["request"]["id"] == request["id"]
        and whole(one["request"]) != whole(request)
        and facts.box_of[one["box"]] == box
        for one in facts.sent
    )


def answer_of(record: Plain) -> Plain:
    """The answer that a record stands for."""
    request = whole(record["request"])
    refused = record["type"] == "refusal"
    legs = [] if refused else legs_of(record)
    return {
        "client": record["client"],
        "id": request["id"],
        "kind": request["kind"],
        "outcome": "refused" if refused else "kept" if record.get("reason") == "kept" else "cleared",
        "cleared_by": None if refused else record["cleared_by"],
        "reason": record["code"] if refused else record.get("reason", ""),
        "detail": record["detail"] if refused else "",
        "transient": refused and record["code"] in TRANSIENT,
        "amount_minor": request["amount_minor"] or (legs[0][2] if legs else 0),
        "currency": request["currency"],
        "original_id": request["original_id"],
        "window": 0 if refused else record["window"],
        "box": record["box"],
        "record": place(record),
        "at_ns": record["at_ns"],
        "wall_ns": record["wall_ns"],
        "legs": [
            {
                "action": _action(flags),
                "debit_account_id": debit,
                "credit_account_id": credit,
                "amount_minor": amount,
            }
            for debit, credit, amount, flags, *_ in legs
        ],
        **({"batch": _shown_batch(request, record["batch"])} if "batch" in record else {}),
    }


def _shown_batch(request: Plain, batch: Plain) -> Plain:
    difference = batch.get("difference", "")
    return {
        "merchant": request["merchant"],
        "terminal": request["terminal"],
        "number": batch["number"],
        "previous": batch.get("previous", ""),
        "totals": [{**dict.fromkeys(FIGURES, 0), **total} for total in batch.get("totals", ())],
        "balanced": not difference if request["totals"] else None,
        "difference": difference,
    }


def _action(flags: int) -> str:
    if flags & PENDING:
        return "held"
    return "posted" if flags & POST else "voided" if flags & VOID else "moved"


def audit_answered(facts: Facts, out_of_service: set[str]) -> Iterator[str]:
    """At the end everybody has an answer; who asked a box that is out of service is excused."""
    answered = {one["sent"] for one in facts.heard if one["answer"] or one["code"] == "id_reused"}
    content: dict[str, bool] = {}
    for number, one in enumerate(facts.sent):
        words = json.dumps([one["client"], one["request"]], sort_keys=True)
        content[words] = content.get(words, False) or number in answered or one["box"] in out_of_service
    for words, done in content.items():
        if not done:
            yield f"never answered: {words}"


# --- hashes -------------------------------------------------------------------------------------------------


def audit_chain(facts: Facts) -> Iterator[str]:
    """The centre's records chain, and give the root that it holds and that the box has signed."""
    bodies: dict[tuple[str, int], list[tuple[int, bytes, bytes]]] = defaultdict(list)
    for row in facts.tables["record"]:
        if row["seq"] < BRANCH_SEQS:
            bodies[row["box"], row["epoch"]].append((row["seq"], row["leaf"], row["body"]))
    for head in facts.tables["journal_head"]:
        where = f"hub {head['box']}/{head['epoch']}"
        rows = sorted(bodies.get((head["box"], head["epoch"]), ()))
        if [seq for seq, _, _ in rows] != list(range(head["size"])):
            yield f"{where}: {len(rows)} records, the head says {head['size']}"
            continue
        leaves, previous = [], bytes(32)
        for seq, leaf, body in rows:
            previous = _sm3(b"\x00" + previous + body)
            leaves.append(previous)
            if previous != leaf:
                yield f"{where}/{seq}: the leaf is not the bytes'"
        if leaves and root_of(leaves) != head["root"]:
            yield f"{where}: the records do not give the root that is held"
        if leaves and not _signed(head, leaves):
            yield f"{where}: the signed checkpoint is of another history"
        for machine, journals in facts.journals.items():
            if facts.box_of[machine] == head["box"] and (head["box"], head["epoch"]) not in facts.forked:
                own = journals.get(head["epoch"], [])
                if own[: len(rows)] != [body for _, _, body in rows][: len(own)]:
                    yield f"{where}: the records are not those of {machine}"


def _signed(head: Plain, leaves: list[bytes]) -> bool:
    _, size, root = head["checkpoint"].split("\n")[:3]
    if int(size) > len(leaves):
        return True
    return base64.b64decode(root) == root_of(leaves[: int(size)])


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """The root of RFC 6962's tree over these leaf hashes."""
    peaks: list[tuple[int, bytes]] = []
    for one in leaves:
        level, node = 0, one
        while peaks and peaks[-1][0] == level:
            node = _sm3(b"\x01" + peaks.pop()[1] + node)
            level += 1
        peaks.append((level, node))
    root = peaks.pop()[1]
    while peaks:
        root = _sm3(b"\x01" + peaks.pop()[1] + root)
    return root


def counts(facts: Facts) -> Counter[str]:
    """How much happened, for the table."""
    found: Counter[str] = Counter()
    for row in facts.tables["record"]:
        found[row["type"]] += 1
    found["answers"] = sum(1 for one in facts.heard if one["answer"])
    return found
