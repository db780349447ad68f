"""Journals against the hub, place by place: what is missing, what differs, whose head is not as signed; and
what became of holds and stand-ins, as both tell it.
"""

from __future__ import annotations

from typing import Final

from edgegw.reconcile.breaks import payment_of, set_apart, write_breaks
from edgegw.reconcile.workspace import SEQ_BITS, Workspace

_DIFFERING: Final = f"""CREATE TABLE differing AS
    SELECT journal.place AS journal_place, hub.place AS hub_place, pair.journal_log, pair.hub_log, hub.seq,
        journal.leaf = hub.leaf AS same_leaf, journal.chained AS journal_chained,
        hub.chained AS hub_chained, 0 AS told
    FROM pair
    JOIN hub ON hub.place >= (pair.hub_log << {SEQ_BITS} | pair.first_seq)
        AND hub.place < (pair.hub_log << {SEQ_BITS} | pair.end_seq)
    JOIN journal ON journal.place = (pair.journal_log << {SEQ_BITS} | hub.seq)
    WHERE NOT hub.same OR NOT journal.chained OR journal.leaf <> hub.leaf"""
_BOTH: Final = """FROM differing
    JOIN journal ON journal.place = differing.journal_place JOIN hub ON hub.place = differing.hub_place
    JOIN log ON log.log = differing.journal_log"""
_ITS_JOURNAL: Final = f"""LEFT JOIN pair ON pair.hub_log = row.log AND row.seq >= pair.first_seq
    AND row.seq < pair.end_seq
    LEFT JOIN journal ON journal.place = (pair.journal_log << {SEQ_BITS} | row.seq)"""
_SAME_PAYMENT: Final = "journal.client = hub.client AND journal.request_id = hub.request_id"
_SWAPPED: Final = """journal.debit_account_id = hub.credit_account_id
    AND journal.credit_account_id = hub.debit_account_id
    AND journal.debit_account_id <> hub.debit_account_id"""
_WHOSE: Final = """CASE WHEN differing.journal_chained AND differing.hub_chained
    THEN 'both are chained: one history was written anew'
    WHEN differing.hub_chained THEN 'the journal''s row is not what was chained'
    WHEN differing.journal_chained THEN 'the hub''s row is not what was chained'
    ELSE 'neither row is what was chained' END"""
_MONEY: Final = (
    (
        "currency_differs",
        "journal.currency <> hub.currency",
        "'currency ' || journal.currency || ' in the journal, ' || hub.currency || ' at the hub'",
    ),
    (
        "direction_swapped",
        _SWAPPED,
        "'from ' || journal.debit_account_id || ' in the journal, to it at the hub'",
    ),
    (
        "account_differs",
        (
            "(journal.debit_account_id <> hub.debit_account_id"
            f" OR journal.credit_account_id <> hub.credit_account_id) AND NOT ({_SWAPPED})"
        ),
        (
            "'from ' || journal.debit_account_id || ' to ' || journal.credit_account_id || ' in the journal,'"
            " || ' from ' || hub.debit_account_id || ' to ' || hub.credit_account_id || ' at the hub'"
        ),
    ),
    (
        "amount_differs",
        "journal.amount_minor <> hub.amount_minor",
        "'amount_minor ' || journal.amount_minor || ' in the journal, ' || hub.amount_minor || ' at the hub'",
    ),
    (
        "status_differs",
        "journal.state <> hub.state",
        "journal.state || ' in the journal, ' || hub.state || ' at the hub'",
    ),
)


def match_records(workspace: Workspace) -> None:
    """Every record of the journals beside the hub's at its place."""
    workspace.index("hole", "log")
    workspace.index("pair", "hub_log")
    workspace.index("pair", "journal_log")
    _missing(workspace)
    _gaps(workspace)
    workspace.run(_DIFFERING)
    _differing(workspace)
    _unchained(workspace)
    _misfiled(workspace)
    _heads(workspace)
    _apart(workspace)


def _misfiled(workspace: Workspace) -> None:
    """Where the bytes were changed as well, that is told."""
    write_breaks(
        workspace,
        "identity_misfiled",
        f"""FROM misfiled JOIN hub AS row ON row.place = misfiled.place AND row.chained
        JOIN log ON log.log = row.log {_ITS_JOURNAL} GROUP BY row.place""",
        **{
            **payment_of("row", "log"),
            "amount_minor": "coalesce(row.amount_minor, journal.amount_minor, 0)",
            "currency": "coalesce(row.currency, journal.currency, '')",
            "client": "misfiled.client",
            "request_id": "misfiled.request_id",
        },
        detail="'the hub has it as ' || misfiled.found",
        hub_place="row.place",
    )


def _missing(workspace: Workspace) -> None:
    for name, side, other in (
        ("missing_at_hub", "journal", "hub"),
        ("missing_in_journal", "hub", "journal"),
    ):
        write_breaks(
            workspace,
            name,
            f"""FROM hole JOIN pair ON pair.{other}_log = hole.log JOIN log ON log.log = pair.{side}_log
            JOIN {side} AS row
                ON row.place >= (pair.{side}_log << {SEQ_BITS} | max(hole.first_seq, pair.first_seq))
                AND row.place < (pair.{side}_log << {SEQ_BITS} | min(hole.end_seq, pair.end_seq))""",
            **payment_of("row", "log"),
            detail="'record ' || log.epoch || '/' || row.seq || ' (' || row.type || ')'",
            **{f"{side}_place": "row.place"},
        )
    write_breaks(
        workspace,
        "missing_in_journal",
        _beyond(ends=1),
        **payment_of("row", "log"),
        detail="'the journal ends before record ' || log.epoch || '/' || row.seq || ' (' || row.type || ')'",
        hub_place="row.place",
    )


def _beyond(*, ends: int) -> str:
    """FROM the hub's rows behind a journal's end."""
    return f"""FROM log JOIN pair ON pair.journal_log = log.log
        JOIN hub AS row ON row.place >= (pair.hub_log << {SEQ_BITS} | max(log.size, pair.first_seq))
            AND row.place < (pair.hub_log << {SEQ_BITS} | pair.end_seq)
        WHERE log.side = 'journal' AND log.ends = {ends}"""


def _gaps(workspace: Workspace) -> None:
    """Places that no side has: ranges of one side's holes, less what the other side covers."""
    lost = "'records ' || {0} || ' to ' || ({1} - 1) || ' of epoch ' || log.epoch"
    both = ("max(hole.first_seq, other.first_seq)", "min(hole.end_seq, other.end_seq)")
    write_breaks(
        workspace,
        "sequence_gap",
        f"""FROM hole JOIN log ON log.log = hole.log AND log.side = 'journal'
        JOIN pair ON pair.journal_log = hole.log JOIN hole AS other ON other.log = pair.hub_log
        WHERE {both[0]} < {both[1]}""",
        box="log.box",
        epoch="log.epoch",
        seq=both[0],
        detail=lost.format(*both),
    )
    alone = ("max(hole.first_seq, coalesce(log.hub_size, 0))", "hole.end_seq")
    write_breaks(
        workspace,
        "sequence_gap",
        f"""FROM hole JOIN log ON log.log = hole.log AND log.side = 'journal'
        WHERE {alone[0]} < {alone[1]}""",
        box="log.box",
        epoch="log.epoch",
        seq=alone[0],
        detail=lost.format(*alone),
    )
    covered = """(SELECT {0}(journal_log.{1}) FROM pair JOIN log AS journal_log
        ON journal_log.log = pair.journal_log WHERE pair.hub_log = hole.log)"""
    first, end = covered.format("min", "first_seq"), covered.format("max", "size")
    for start, stop in (
        ("hole.first_seq", f"min(hole.end_seq, coalesce({first}, hole.end_seq))"),
        (f"max(hole.first_seq, coalesce({end}, hole.end_seq))", "hole.end_seq"),
    ):
        write_breaks(
            workspace,
            "sequence_gap",
            f"FROM hole JOIN log ON log.log = hole.log AND log.side = 'hub' WHERE {start} < {stop}",
            box="log.box",
            epoch="log.epoch",
            seq=start,
            detail=lost.format(start, stop),
        )


def _differing(workspace: Workspace) -> None:
    places = {"journal_place": "differing.journal_place", "hub_place": "differing.hub_place"}
    for name, condition, detail in _MONEY:
        write_breaks(
            workspace,
            name,
            f"{_BOTH} WHERE {_SAME_PAYMENT} AND {condition}",
            **payment_of("journal", "log"),
            detail=f"{detail} || '; ' || {_WHOSE}",
            **places,
        )
    workspace.run(
        "UPDATE differing SET told = 1 WHERE journal_place IN (SELECT journal_place FROM break"
        " WHERE journal_place IS NOT NULL AND hub_place IS NOT NULL)"
    )
    workspace.run(
        """UPDATE differing SET told = 1 WHERE journal_chained AND hub_chained AND seq > (
            SELECT min(seq) FROM differing AS first WHERE first.journal_log = differing.journal_log
            AND first.journal_chained AND first.hub_chained)"""
    )
    signed = """NOT EXISTS (SELECT 1 FROM log AS one
        WHERE one.log IN (differing.journal_log, differing.hub_log)
        AND (one.root_fault <> '' OR one.note_fault <> ''))"""
    histories = f"differing.journal_chained AND differing.hub_chained AND {signed}"
    neither = "differing.same_leaf AND NOT differing.journal_chained AND NOT differing.hub_chained"
    for name, condition in (
        ("history_forked", histories),
        ("chain_broken", neither),
        ("record_differs", f"NOT ({histories}) AND NOT ({neither})"),
    ):
        write_breaks(
            workspace,
            name,
            f"{_BOTH} WHERE NOT differing.told AND {condition}",
            **payment_of("journal", "log"),
            detail=f"'record ' || log.epoch || '/' || journal.seq || ': ' || {_WHOSE}",
            **places,
        )

    # What the hub has of another history says nothing about when this one is due.
    workspace.run(
        """UPDATE log SET hub_size = (SELECT min(seq) FROM break WHERE class = 'history_forked'
            AND break.journal_place >> 40 = log.log)
        WHERE log IN (SELECT journal_place >> 40 FROM break WHERE class = 'history_forked')"""
    )


def _unchained(workspace: Workspace) -> None:
    """Changed rows that stand alone at their place."""
    for side in ("journal", "hub"):
        write_breaks(
            workspace,
            "chain_broken",
            f"""FROM {side} AS row JOIN log ON log.log = row.log WHERE log.unchained AND NOT row.chained
            AND NOT EXISTS (SELECT 1 FROM differing WHERE differing.{side}_place = row.place)""",
            **payment_of("row", "log"),
            detail="'record ' || log.epoch || '/' || row.seq || ' of ' || log.source",
            **{f"{side}_place": "row.place"},
        )


def _heads(workspace: Workspace) -> None:
    """A head's fault is told where no fault of a record explains it."""
    told = f"""EXISTS (SELECT 1 FROM break
        WHERE log.log IN (break.journal_place >> {SEQ_BITS}, break.hub_place >> {SEQ_BITS}))"""
    unexplained = f"(log.root_fault <> '' AND NOT log.unchained AND NOT log.missing AND NOT {told})"
    write_breaks(
        workspace,
        "head_not_as_signed",
        f"FROM log WHERE log.note_fault <> '' OR {unexplained}",
        box="log.box",
        epoch="log.epoch",
        seq="log.size",
        detail="log.source || ': ' || iif(log.note_fault <> '', log.note_fault, log.root_fault)",
    )


def _apart(workspace: Workspace) -> None:
    set_apart(
        workspace,
        "in_flight",
        "FROM log JOIN journal AS row ON row.log = log.log WHERE log.side = 'journal'"
        f" AND log.size > log.hub_size AND row.place >= (log.log << {SEQ_BITS} | log.hub_size)"
        f" AND row.place < (log.log + 1 << {SEQ_BITS})",
        amount="iif(row.state = 'posted', row.amount_minor, 0)",
    )
    set_apart(workspace, "journal_older", _beyond(ends=0))
    for name, branch in (("journal_not_given", "log.branch = 0"), ("known_fork", "log.branch > 0")):
        set_apart(
            workspace,
            name,
            f"""FROM log JOIN hub AS row ON row.log = log.log WHERE log.side = 'hub' AND {branch}
            AND NOT EXISTS (SELECT 1 FROM pair WHERE pair.hub_log = log.log)""",
        )


# --- what became of holds and stand-ins ---------------------------------------------------------------------


def resolve(workspace: Workspace) -> None:
    """Follow holds and stand-ins to their end, as far as the hub has heard; tell where it says otherwise.

    Changes `state` (and who bears a stand-in) of the rows that stand for payments.
    """
    workspace.run("CREATE TABLE resolved(place INTEGER PRIMARY KEY, effect TEXT, resolver INTEGER)")
    workspace.run("CREATE TABLE given_back(place INTEGER PRIMARY KEY, amount_minor INTEGER)")
    workspace.index("log", "box", "epoch")
    heard = """FROM resolution AS one
        JOIN hub_epoch ON hub_epoch.box = one.box AND hub_epoch.epoch = one.epoch
        JOIN log ON log.box = one.box AND log.epoch = one.at_epoch
        WHERE (one.seq < hub_epoch.size OR hub_epoch.forked) AND one.effect {} 'reversed'"""
    target = f"log.log << {SEQ_BITS} | one.at_seq"
    workspace.run(
        f"INSERT OR IGNORE INTO resolved SELECT {target}, one.effect, one.place {heard.format('<>')}"
    )
    workspace.run(
        f"INSERT INTO given_back SELECT {target}, sum(one.amount_minor) {heard.format('=')} GROUP BY 1"
    )
    for side in ("journal", "hub"):
        _stand_ins(workspace, side)
    for side in ("journal", "hub"):
        _settle(workspace, side)
    for side in ("journal", "hub"):
        _hear_the_hub(workspace, side)
        workspace.run(
            f"""UPDATE {side} SET currency = coalesce((SELECT currency FROM hub_account
                WHERE account_id = {side}.debit_account_id), (SELECT currency FROM hub_account
                WHERE account_id = {side}.credit_account_id), '')
            WHERE counted AND currency = ''"""
        )
    _open_apart(workspace)


_BORNE: Final = "'receivable:' || log.box || ':' || {0}.currency"
_SOUND: Final = """hub_epoch.box = log.box AND hub_epoch.epoch = log.epoch AND NOT hub_epoch.forked"""


def _stand_ins(workspace: Workspace, side: str) -> None:
    """The hub's word on each stand-in beside what the box's records say of it."""
    known = f"""FROM {side} AS row JOIN log ON log.log = row.log JOIN hub_epoch ON {_SOUND}
        LEFT JOIN hub_stand_in AS word ON word.box = log.box AND word.epoch = log.epoch AND word.seq = row.seq
        LEFT JOIN resolved ON resolved.place = row.place
        WHERE row.counted AND row.state = 'waiting' AND row.seq < hub_epoch.size AND NOT hub_epoch.sealed"""
    said = "coalesce(word.state, 'unknown') || iif(word.settled, ', settled', '')"
    about = {**payment_of("row", "log"), f"{side}_place": "row.place"}
    write_breaks(
        workspace,
        "late_decline_not_told",
        f"{known} AND resolved.effect IS NULL AND word.state = 'declined' AND word.settled",
        **about,
        detail="'declined late, borne by the ' || word.liable || ', and not in the box''s journal'",
    )
    write_breaks(
        workspace,
        "amount_differs",
        f"{known} AND (word.amount_minor <> row.amount_minor OR word.currency <> row.currency)",
        **about,
        detail="'a stand-in over ' || row.amount_minor || ' ' || row.currency || ', ' || word.amount_minor"
        " || ' ' || word.currency || ' in the hub''s list of stand-ins'",
    )
    write_breaks(
        workspace,
        "status_differs",
        f"""{known} AND CASE coalesce(resolved.effect, '')
            WHEN '' THEN word.state IS NULL OR (word.settled AND word.state <> 'declined')
            WHEN 'confirmed' THEN coalesce(word.state, '') <> 'confirmed' OR NOT word.settled
            WHEN 'released' THEN coalesce(word.state, 'waiting') = 'waiting'
                OR (word.state <> 'voided' AND word.settled)
            ELSE coalesce(word.state, '') <> 'declined' OR NOT word.settled END""",
        **about,
        detail=f"'the stand-in is ' || coalesce(resolved.effect, 'waiting') || ' in the journal, ' || {said}"
        " || ' at the hub'",
    )


def _settle(workspace: Workspace, side: str) -> None:
    workspace.run(
        f"""UPDATE {side} SET state = CASE
                WHEN {side}.state = 'held' THEN iif(resolved.effect = 'released', 'released', 'settled')
                WHEN resolved.effect IN ('confirmed', 'posted', 'borne') THEN 'posted'
                ELSE resolved.effect END,
            debit_account_id = iif(resolved.effect = 'borne', {_BORNE.format(side)}, {side}.debit_account_id)
        FROM resolved, log WHERE resolved.place = {side}.place AND log.log = {side}.log
            AND {side}.state IN ('held', 'waiting')"""
    )
    live = f"""FROM {side} AS row JOIN log ON log.log = row.log JOIN hub_epoch ON {_SOUND}
        WHERE row.counted AND row.state IN ('held', 'waiting') AND row.seq < hub_epoch.size
        AND NOT EXISTS (SELECT 1 FROM hub_hold WHERE hub_hold.box = log.box AND hub_hold.epoch = log.epoch
            AND hub_hold.seq = row.seq)"""
    about = {**payment_of("row", "log"), f"{side}_place": "row.place"}
    write_breaks(
        workspace,
        "status_differs",
        live,
        **about,
        detail="'open in the box''s records, not open in the hub''s books'",
    )
    write_breaks(
        workspace,
        "status_differs",
        f"""FROM hub_hold JOIN log ON log.box = hub_hold.box AND log.epoch = hub_hold.epoch
        JOIN hub_epoch ON {_SOUND} JOIN {side} AS row ON row.place = (log.log << {SEQ_BITS} | hub_hold.seq)
        WHERE row.counted AND row.state NOT IN ('held', 'waiting')""",
        **about,
        detail="row.state || ' in the box''s records, still open in the hub''s books'",
    )


def _hear_the_hub(workspace: Workspace, side: str) -> None:
    """Stand-ins of which the word is not in the box's journal yet, or that a seal has settled."""
    workspace.run(
        f"""UPDATE {side} SET
            state = CASE WHEN NOT hub_epoch.sealed AND word.state <> 'waiting' THEN 'under_way'
                WHEN word.state = 'confirmed' OR word.liable = 'branch' THEN 'posted'
                WHEN word.state = 'voided' THEN 'released' ELSE word.state END,
            debit_account_id = iif(word.state = 'declined' AND word.liable = 'branch',
                {_BORNE.format(side)}, {side}.debit_account_id)
        FROM hub_stand_in AS word, log, hub_epoch
        WHERE log.log = {side}.log AND hub_epoch.box = log.box AND hub_epoch.epoch = log.epoch
            AND word.box = log.box AND word.epoch = log.epoch AND word.seq = {side}.seq
            AND {side}.state = 'waiting'"""
    )


def _open_apart(workspace: Workspace) -> None:
    words = "settled = 0 AND state IN ('confirmed', 'declined')"
    set_apart(
        workspace, "word_under_way", f"FROM hub_stand_in AS row WHERE {words}", amount="row.amount_minor"
    )
    for name, state in (("stand_in_waiting", "waiting"), ("hold_open", "held")):
        for side in ("journal", "hub"):
            set_apart(
                workspace,
                name,
                f"FROM {side} AS row WHERE row.counted AND row.state = '{state}'",
                amount="row.amount_minor",
            )
