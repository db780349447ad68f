"""What must hold at the end of the day, computed from the answers file and from both databases.

Each check yields its findings; none is what holds. All sums are plain Python over the answers and the record
bodies: the product's own ledger code is not asked.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from edgegw.demo.answers import Answered
from edgegw.demo.evidence import BoxFile, Day, HubFile, Key, Record
from edgegw.demo.plan import BOX

PENDING, POST, VOID = 2, 4, 8
"""Flags of a leg, as the record format writes them."""
IN_FLIGHT_MIN: Final = 16
SHARE_PERCENT_MIN: Final = 5
ISO_WORD_CHARACTERS: Final = 25
WAYS: Final = ("allowance", "centre", "stand_in")
BANK: Final = "bank"


class Evidence(NamedTuple):
    """Everything that is judged."""

    day: Day
    box: BoxFile
    hub: HubFile


def _by_key(records: Iterable[Record]) -> dict[Key, list[Record]]:
    found: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        key = record.key
        if key is not None:
            found[key].append(record)
    return found


def _name(answer: Answered) -> str:
    return f"{answer.way} {answer.client} {answer.kind} {answer.id} (step {answer.number}, {answer.phase})"


# -- lost and doubled --------------------


def lost(evidence: Evidence) -> Iterator[str]:
    """Answered, yet absent or different in the box's ledger or at the hub; one finding for each answer."""
    at_box, at_hub = _by_key(evidence.box.records), _by_key(evidence.hub.records)
    for key, answer in evidence.day.first.items():
        if answer.outcome == "error":
            continue
        problems = []
        for where, records in (("the box's ledger", at_box.get(key)), ("the hub", at_hub.get(key))):
            if not records:
                problems.append(f"answered {answer.outcome}, absent at {where}")
            elif different := _difference(answer, records[0]):
                problems.append(f"record {records[0].place} at {where} {different}")
        if problems:
            yield f"{_name(answer)}: {'; '.join(problems)}"


def _difference(answer: Answered, record: Record) -> str:
    """How a record differs from its answer, "" when it says the same."""
    said, request = record.said, record.said["request"]
    refused = said["type"] == "refusal"
    if refused != (answer.outcome == "refused"):
        return f"is a {said['type']}, the answer was {answer.outcome}"
    if not record.place.endswith(answer.record):
        return f"is not where the answer said: {answer.record}"
    if answer.kind in ("payment", "hold"):
        parts = (
            request.get("debit_account_id"),
            request.get("credit_account_id"),
            request.get("amount_minor"),
        )
        if parts != (answer.debit, answer.credit, answer.amount_minor):
            return f"moves {parts}, not {(answer.debit, answer.credit, answer.amount_minor)}"
    if refused:
        code = said["code"]
        if code[:ISO_WORD_CHARACTERS] != answer.code[:ISO_WORD_CHARACTERS]:
            return f"says {code}, the answer was {answer.code}"
        return ""
    if answer.outcome == "cleared" and said["cleared_by"] != answer.cleared_by:
        return f"was cleared by {said['cleared_by']}, the answer was {answer.cleared_by}"
    moved = record.legs[0][2] if record.legs else 0
    if answer.outcome == "cleared" and moved != answer.amount_minor:
        return f"moved {moved}, the answer was {answer.amount_minor}"
    return ""


def doubled(evidence: Evidence) -> Iterator[str]:
    """More than one record for one request, or money that moved without one; one finding for each request."""
    found: dict[Key, str] = {}
    for where, records in (("the box's ledger", evidence.box.records), ("the hub", evidence.hub.records)):
        for key, same in _by_key(records).items():
            if len(same) > 1:
                places = ", ".join(record.place for record in same)
                found.setdefault(_reference(same[0]), f"{key}: {len(same)} records at {where}: {places}")
        moved: dict[Key, list[Record]] = defaultdict(list)
        for record in records:
            if record.said["type"] == "transfer":
                moved[_reference(record)].append(record)
        for reference, same in moved.items():
            places = ", ".join(record.place for record in same)
            if len(same) > 1:
                found.setdefault(
                    reference, f"{reference}: moved money {len(same)} times at {where}: {places}"
                )
            elif same[0].key not in evidence.day.first:
                found.setdefault(reference, f"{reference}: moved money unasked at {where}: {places}")
    yield from found.values()


def _reference(record: Record) -> Key:
    """What a request is known by besides its id: its client's own reference."""
    request = record.said["request"]
    return record.said["client"], request["kind"], request.get("reference", "")


def repeats(evidence: Evidence) -> Iterator[str]:
    """A repeat that was answered otherwise than the first time."""
    first = {answer.number: answer for answer in evidence.day.first.values()}
    for again in evidence.day.again:
        if again.body != first[again.number].body:
            yield f"{_name(again)}: first {first[again.number].body}, then {again.body}"


# -- the books --------------------


def _counters(records: Iterable[Record]) -> dict[tuple[int, str], list[int]]:
    """(epoch, account) to debits pending and posted, credits pending and posted, by adding up the legs."""
    counters: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    held: dict[str, int] = {}
    for record in records:
        for index, (debit, credit, amount, flags, pending) in enumerate(record.legs):
            from_, to = counters[record.epoch, debit], counters[record.epoch, credit]
            if flags & PENDING:
                held[f"{record.epoch << 96 | record.seq << 32 | index << 1 | 1:032x}"] = amount
                from_[0] += amount
                to[2] += amount
                continue
            if pending:
                from_[0] -= held.get(pending, 0)
                to[2] -= held.get(pending, 0)
            if not flags & VOID:
                from_[1] += amount
                to[3] += amount
    return counters


def unbalanced(evidence: Evidence) -> Iterator[str]:
    """Debits that are not credits, accounts below their floor, transfers outside their window."""
    currencies = evidence.day.opening.currencies

    def currency_of(account: str) -> str:
        return currencies.get(account) or account.rpartition(":")[2]

    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (_, account), counters in _counters(evidence.box.records).items():
        for index, value in enumerate(counters):
            sums[currency_of(account)][index] += value
        if account in currencies and counters[3] - counters[1] - counters[0] < 0:
            yield f"{account} is below zero in the box's ledger: {counters}"
    for currency, (debits_pending, debits, credits_pending, credits_) in sums.items():
        if (debits_pending, debits) != (credits_pending, credits_):
            yield f"{currency}: debits {debits_pending}+{debits}, credits {credits_pending}+{credits_}"
    yield from _windows(evidence)


def _windows(evidence: Evidence) -> Iterator[str]:
    window, legs, positions = 1, 0, Counter[tuple[str, str]]()
    day = evidence.day.opening
    for record in evidence.box.records:
        if record.said["type"] == "window":
            told = {(who, currency): net for who, currency, net in record.said["positions"]}
            mine = {position: net for position, net in positions.items() if net}
            if told != mine or record.said["transfers"] != legs or record.said["window"] != window:
                said = f"{told} over {record.said['transfers']} transfers"
                yield f"window {window}: the record says {said}, it was {mine} over {legs}"
            if any(sum(net for (_, c), net in told.items() if c == code) for _, code in told):
                yield f"window {window}: its positions do not sum to zero: {told}"
            window, legs, positions = window + 1, 0, Counter()
            continue
        for debit, credit, amount, flags, _ in record.legs:
            legs += 1
            if record.said["window"] != window:
                yield f"record {record.place} names window {record.said['window']}, the open one was {window}"
            if flags & (PENDING | VOID) or "centre" in (debit.partition(":")[0], credit.partition(":")[0]):
                continue
            for account, sign in ((debit, -1), (credit, 1)):
                home = day.homes.get(account, BOX)
                currency = day.currencies.get(account) or account.rpartition(":")[2]
                positions[BANK if home == BOX else "other-bank", currency] += sign * amount


def hub_unsound(evidence: Evidence) -> Iterator[str]:
    """available + outstanding = balance; the replica equals a replay; money neither made nor lost."""
    hub = evidence.hub
    held: Counter[str] = Counter()
    for (_, account), amount in hub.outstanding.items():
        held[account] += amount
    totals: Counter[str] = Counter()
    for account, (currency, balance, available) in hub.accounts.items():
        totals[currency] += balance
        if available + held[account] != balance:
            yield f"{account}: {available} available and {held[account]} outstanding are not {balance}"
        if account in evidence.day.opening.currencies and balance < 0:
            yield f"{account} is below zero: {balance}"
    yield from (f"{currency}: all balances sum to {total}" for currency, total in totals.items() if total)
    replayed = {key: tuple(value) for key, value in _counters(hub.records).items() if any(value)}
    told = {key: value for key, value in hub.counters.items() if any(value)}
    for key in sorted(replayed.keys() | told.keys()):
        if replayed.get(key) != told.get(key):
            yield f"{key}: the replica says {told.get(key)}, a replay of its records {replayed.get(key)}"
    yield from (f"an item in suspense: {item}" for item in hub.suspense)
    newest = max(evidence.box.heads, default=0)
    for account in evidence.day.opening.accounts:
        counters = replayed.get((newest, account), (0, 0, 0, 0))
        if counters[3] - counters[1] != hub.outstanding.get((newest, account), 0):
            outstanding = hub.outstanding.get((newest, account), 0)
            yield f"{account}: {outstanding} outstanding, the box's ledger has {counters[3] - counters[1]}"


def expected_balances(day: Day) -> tuple[dict[str, int], dict[str, int]]:
    """What every account must have at the hub, and what must have moved at the box, by the answers alone."""
    balances, moved = dict(day.opening.accounts), Counter[str]()
    declined = {(told.client, told.id) for told in day.told if told.outcome == "declined"}
    originals = {(one.client, one.id): one for one in day.first.values() if one.kind in ("payment", "hold")}

    def move(at: Any, debit: str, credit: str, amount: int) -> None:
        at[debit] = at.get(debit, 0) - amount
        at[credit] = at.get(credit, 0) + amount

    for answer in day.first.values():
        if answer.outcome != "cleared" or answer.kind in ("hold", "void"):
            continue
        amount, waits = answer.amount_minor, answer.cleared_by == "stand_in"
        if answer.kind == "payment":
            if waits and (answer.client, answer.id) in declined:
                continue
            move(balances, answer.debit, answer.credit, amount)
            move(moved, "risk" if waits else answer.debit, answer.credit, amount)
            continue
        original = originals[answer.client, answer.original]
        payer, payee = original.debit, original.credit
        if answer.kind == "post":
            move(balances, payer, payee, amount)
            move(moved, payer, payee, amount)
        elif waits and original.cleared_by == "stand_in":  # it had not been confirmed: it was voided
            move(balances, payee, payer, amount)
            move(moved, payee, "risk", amount)
        else:
            source = "risk" if waits else payee
            move(balances, source, payer, amount)
            move(moved, source, payer, amount)
    return balances, dict(moved)


def wrong_balances(evidence: Evidence) -> Iterator[str]:
    """Accounts that do not have what the answers say, at the hub or at the box."""
    balances, moved = expected_balances(evidence.day)
    for account in evidence.day.opening.accounts:
        told = evidence.hub.accounts.get(account, ("", 0, 0))[1]
        if told != balances[account]:
            yield f"{account}: the hub has {told}, by the answers it is {balances[account]}"
    at_box: Counter[str] = Counter()
    for record in evidence.box.records:
        for debit, credit, amount, flags, _ in record.legs:
            if not flags & (PENDING | VOID) and "centre:" not in (debit + credit):
                at_box[debit] -= amount
                at_box[credit] += amount
    for account, home in evidence.day.opening.homes.items():
        if home == BOX and at_box[account] != moved.get(account, 0):
            yield f"{account}: {at_box[account]} moved at the box, by the answers {moved.get(account, 0)}"


# -- the hour of the outage --------------------


def shares(day: Day) -> dict[str, int]:
    """Cleared payments by what funded them."""
    counted = Counter(
        answer.cleared_by
        for answer in day.first.values()
        if answer.kind == "payment" and answer.outcome == "cleared"
    )
    return {way: counted[way] for way in WAYS}


def too_few(evidence: Evidence) -> Iterator[str]:
    """A way to fund that was hardly used, or the centre's word while nobody could hear it."""
    counted = shares(evidence.day)
    total = sum(counted.values()) or 1
    for way, count in counted.items():
        if 100 * count < SHARE_PERCENT_MIN * total:
            yield f"{count} of {total} payments were cleared by {way}: less than {SHARE_PERCENT_MIN} %"
    began, ended = evidence.day.event("silent"), evidence.day.event("carries")
    if began is None or ended is None:
        yield "the line was not cut and mended"
        return
    mode = ""
    for record in evidence.box.records:
        if record.said["type"] == "mode":
            mode = record.said["mode"]
        if record.said["type"] != "transfer" or record.said["cleared_by"] != "centre":
            continue
        if mode == "offline" or began.at_ns <= record.said["wall_ns"] < ended.at_ns:
            yield f"record {record.place} was cleared by the centre while the line was down"


def modes_untold(evidence: Evidence) -> Iterator[str]:
    """Changes of mode that are missing or have no reason."""
    modes = [record.said for record in evidence.box.records if record.said["type"] == "mode"]
    names = [mode["mode"] for mode in modes]
    yield from (f"mode {mode['mode']} has no reason" for mode in modes if not mode["reason"])
    if "offline" not in names:
        yield f"no record says that the line was lost: {names}"
    elif "active" not in names[names.index("offline") :]:
        yield f"no record says that the line was back: {names}"


def badly_killed(evidence: Evidence) -> Iterator[str]:
    """Too few requests in flight at the kill, or one that was not answered the same afterwards."""
    killed = evidence.day.event("killed")
    if killed is None:
        yield "the box was not killed"
        return
    if len(killed.numbers) < IN_FLIGHT_MIN:
        yield f"{len(killed.numbers)} requests were in flight at the kill, not {IN_FLIGHT_MIN}"
    starts = [event for event in evidence.day.events if event.what == "box started"]
    before = [start.detail for start in starts if start.at_ns < killed.at_ns]
    if before != [killed.detail]:
        yield f"the box was started {len(before)} times before the kill of process {killed.detail}"
    answered = {answer.number for answer in evidence.day.first.values() if answer.outcome != "error"}
    again = {answer.number for answer in evidence.day.again if answer.answered_ns > killed.at_ns}
    for number in killed.numbers:
        if number not in answered:
            yield f"step {number} was in flight at the kill and has no answer"
        elif number not in again:
            yield f"step {number} was in flight at the kill and was not asked again"


def late_word_untold(evidence: Evidence) -> Iterator[str]:
    """A late decline that was not posted, or that its merchant was not told."""
    declined = {place for place, (state, _, _) in evidence.hub.stand_ins.items() if state == "declined"}
    if not declined:
        yield "the hub declined no stand-in"
    for place, (state, _, settled) in evidence.hub.stand_ins.items():
        if not settled:
            yield f"the stand-in {place} is {state}, and the box has not journalled the centre's word"
    told = {(one.client, one.id) for one in evidence.day.told if one.outcome == "declined"}
    for record in evidence.box.records:
        if record.place in declined and record.key not in told:
            yield f"the decline of {record.key} ({record.place}) was not told to its client"


def mistakes_taken(evidence: Evidence) -> Iterator[str]:
    """Wrong messages that got no clear error, or that left a trace."""
    ids = {record.said["request"]["id"] for record in evidence.box.records if record.key is not None}
    references = {
        record.said["request"].get("reference") for record in evidence.box.records if record.key is not None
    }
    for mistake in evidence.day.mistakes:
        if mistake.got not in mistake.expect or not mistake.clear:
            got = f"expected {mistake.expect}, got {mistake.got}: {mistake.body}"
            yield f"{mistake.way}, {mistake.what}: {got}"
        if mistake.id and (mistake.id in ids or mistake.id in references):
            yield f"{mistake.way}, {mistake.what}: its id {mistake.id} is in the ledger"
    if not evidence.day.mistakes:
        yield "no wrong message was sent"


def unplanned(evidence: Evidence) -> Iterator[str]:
    """Answers that are not what the plan expects, and answers that decide nothing."""
    for answer in evidence.day.first.values():
        got = answer.code if answer.outcome == "refused" else answer.outcome
        if answer.outcome == "error" or (answer.expect and got != answer.expect):
            yield f"{_name(answer)}: expected {answer.expect or 'a decision'}, got {got}: {answer.body}"


def expired_never(evidence: Evidence) -> Iterator[str]:
    """A hold with a timeout that did not expire."""
    if not any(record.said["type"] == "expiry" for record in evidence.box.records):
        yield "the hold that nobody posted did not expire"


# -- the logs --------------------


def heads_apart(evidence: Evidence) -> Iterator[str]:
    """Box and hub whose logs differ, a head that its records do not give, or a chain that does not hold."""
    box, hub = evidence.box, evidence.hub
    at_hub = {record.place: record for record in hub.records}
    for epoch, (size, root) in hub.heads.items():
        mine = [record for record in box.records if record.epoch == epoch]
        if _root([record.leaf for record in mine[:size]]) != root or len(mine) < size:
            yield f"epoch {epoch}: the box's first {size} records do not give the hub's root {root.hex()}"
        # A clean stop writes a snapshot after the line has ended; nothing else may be missing at the hub.
        late = [f"{record.place} ({record.said['type']})" for record in mine[size:]]
        if [record.said["type"] for record in mine[size:]] not in ([], ["snapshot"]):
            yield f"epoch {epoch}: the hub lacks {len(late)} records: {', '.join(late[:5])}"
        if box.cosigned.get(epoch) != size:
            covered = box.cosigned.get(epoch)
            yield f"epoch {epoch}: the hub has {size} records, the box's cosignature covers {covered}"
    if box.heads.keys() != hub.heads.keys():
        yield f"the box has the epochs {sorted(box.heads)}, the hub {sorted(hub.heads)}"
    for record in box.records:
        other = at_hub.get(record.place)
        if other is not None and other.body != record.body:
            yield f"record {record.place} differs: the hub has {other.body.decode()}"
    for where, records in (("the box", box.records), ("the hub", hub.records)):
        bad = _first_unchained(records)
        if bad:
            yield f"the chain of {where} breaks at record {bad}"


def _root(leaves: list[bytes]) -> bytes:
    """The Merkle root over leaf hashes, in the shape of RFC 6962 with SM3."""
    level = leaves
    while len(level) > 1:
        paired = [_sm3(b"\1" + one + other) for one, other in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0] if level else b""


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def _first_unchained(records: Iterable[Record]) -> str:
    """The place of the first record that its leaf does not fit, or "" when the chain holds."""
    epoch, seq, leaf = 0, 0, b""
    for record in records:
        if record.epoch != epoch:
            epoch, seq, leaf = record.epoch, 0, bytes(32)
        if record.seq != seq:
            return f"{epoch}/{seq} (missing)"
        leaf = _sm3(b"\0" + leaf + record.body)
        if leaf != record.leaf:
            return record.place
        seq += 1
    return ""
