"""Payments against the bank core's list, by their identity; and identities that were cleared twice."""

from __future__ import annotations

from typing import Final

from edgegw.reconcile.breaks import payment_of, set_apart, write_breaks
from edgegw.reconcile.workspace import SEQ_BITS, Workspace

SIDES: Final = ("journal", "hub")
_CLEARED: Final = "('posted', 'held', 'waiting')"
"""What a request was decided to, where it was neither refused nor moved nothing."""
_ALLOWED: Final = """CASE row.state
    WHEN 'posted' THEN core.status = 'posted' OR (core.status = 'reversed'
        AND coalesce((SELECT amount_minor FROM given_back WHERE given_back.place = row.place), 0)
            = row.amount_minor)
    WHEN 'refused' THEN core.status = 'declined'
    WHEN 'held' THEN core.status = 'held'
    WHEN 'waiting' THEN core.status = 'held'
    WHEN 'under_way' THEN core.status IN ('held', 'posted', 'declined')
    WHEN 'declined' THEN core.status IN ('declined', 'released', 'reversed')
    ELSE core.status IN ('released', 'declined') END"""
_SWAPPED: Final = """row.debit_account_id = core.credit_account_id
    AND row.credit_account_id = core.debit_account_id AND row.debit_account_id <> core.debit_account_id"""
_FIELDS: Final = (
    (
        "currency_differs",
        "row.currency <> core.currency",
        "'currency ' || row.currency || ' here, ' || core.currency || ' in the core'",
    ),
    ("direction_swapped", _SWAPPED, "'from ' || row.debit_account_id || ' here, to it in the core'"),
    (
        "account_differs",
        (
            "(row.debit_account_id <> core.debit_account_id"
            f" OR row.credit_account_id <> core.credit_account_id) AND NOT ({_SWAPPED})"
        ),
        (
            "'from ' || row.debit_account_id || ' to ' || row.credit_account_id || ' here, from '"
            " || core.debit_account_id || ' to ' || core.credit_account_id || ' in the core'"
        ),
    ),
    (
        "amount_differs",
        "row.amount_minor <> core.amount_minor",
        "'amount_minor ' || row.amount_minor || ' here, ' || core.amount_minor || ' in the core'",
    ),
    ("box_differs", "log.box <> core.box", "'box ' || log.box || ' here, ' || core.box || ' in the core'"),
    (
        "business_date_differs",
        "closed.business_date <> core.value_date",
        (
            "'business date ' || closed.business_date || ' of window ' || row.window || ' here, value date '"
            " || core.value_date || ' in the core'"
        ),
    ),
)


def match_identities(workspace: Workspace) -> None:
    """Identities that were cleared at two places; the first one counts from here on."""
    for side in SIDES:
        workspace.index(side, "request_id", "client", where="counted")
    workspace.run(
        """UPDATE hub SET counted = 0 WHERE counted AND EXISTS (
            SELECT 1 FROM journal JOIN log ON log.log = journal.log JOIN log AS own ON own.log = hub.log
            WHERE journal.request_id = hub.request_id AND journal.client = hub.client AND journal.counted
                AND log.box = own.box AND log.epoch = own.epoch)"""
    )
    workspace.run("CREATE TABLE second(place INTEGER PRIMARY KEY, first INTEGER)")
    workspace.run("CREATE TABLE twice(request_id TEXT, client TEXT, PRIMARY KEY(request_id, client))")
    for side in SIDES:
        workspace.run(
            f"""INSERT OR IGNORE INTO twice SELECT request_id, client FROM {side} WHERE counted
            GROUP BY request_id, client HAVING count(*) > 1"""
        )
    workspace.run(
        """INSERT OR IGNORE INTO twice SELECT hub.request_id, hub.client FROM hub JOIN journal
        ON journal.request_id = hub.request_id AND journal.client = hub.client
        WHERE hub.counted AND journal.counted"""
    )
    rows = " UNION ALL ".join(
        f"""SELECT '{side}' AS side, row.place, row.client, row.request_id, row.state, row.wall_ns,
            row.amount_minor, row.currency, row.seq, log.box, log.epoch, {_identified(side)} AS identified
        FROM twice JOIN {side} AS row ON row.request_id = twice.request_id AND row.client = twice.client
            AND row.counted JOIN log ON log.log = row.log"""
        for side in SIDES
    )
    workspace.run(f"CREATE TABLE same_identity AS {rows}")
    workspace.index("same_identity", "request_id", "client")
    workspace.run(
        """INSERT INTO second SELECT place, first FROM (
            SELECT place, box, epoch, seq, first_value(place) OVER one AS first,
                row_number() OVER one AS number FROM same_identity
            WINDOW one AS (PARTITION BY request_id, client ORDER BY identified DESC, wall_ns, place)
        ) WHERE number > 1"""
    )
    # The same record in two histories of a fork is one payment.
    other = """FROM second JOIN same_identity AS row ON row.place = second.place
        JOIN same_identity AS first ON first.place = second.first
        WHERE (row.box <> first.box OR row.epoch <> first.epoch OR row.place >> 40 = first.place >> 40)"""
    about = {
        **payment_of("row", "row"),
        "journal_place": "iif(row.side = 'journal', row.place, NULL)",
        "hub_place": "iif(row.side = 'hub', row.place, NULL)",
    }
    where = (
        "row.state || ' here, ' || first.state || ' before at ' || first.box || ' ' || first.epoch || '/'"
        " || first.seq"
    )
    write_breaks(
        workspace,
        "duplicate_at_fleet",
        f"{other} AND row.state IN {_CLEARED} AND first.state IN {_CLEARED}",
        **about,
        detail=where,
    )
    write_breaks(
        workspace,
        "status_differs",
        f"{other} AND row.state IN {_CLEARED} AND first.state = 'refused'",
        **about,
        detail=where,
    )
    _unidentified(workspace)


def _unidentified(workspace: Workspace) -> None:
    """What the hub holds as the box has it, and would not find when it is asked for again elsewhere."""
    write_breaks(
        workspace,
        "identity_misfiled",
        f"""FROM hub JOIN pair ON pair.hub_log = hub.log AND hub.seq >= pair.first_seq
            AND hub.seq < pair.end_seq
        JOIN log ON log.log = pair.journal_log JOIN hub_epoch USING (box, epoch)
        JOIN journal AS row ON row.place = (pair.journal_log << {SEQ_BITS} | hub.seq)
        WHERE hub.same AND NOT hub.identified AND hub.type IN ('transfer', 'refusal') AND NOT hub_epoch.forked
            AND NOT EXISTS (SELECT 1 FROM same_identity AS one
                WHERE one.request_id = row.request_id AND one.client = row.client)
        GROUP BY hub.place""",
        **payment_of("row", "log"),
        detail="'the hub has it under no identity'",
        hub_place="hub.place",
    )


def _identified(side: str) -> str:
    if side == "hub":
        return "row.identified"
    return f"""coalesce((SELECT hub.identified FROM pair JOIN hub
        ON hub.place = (pair.hub_log << {SEQ_BITS} | row.seq)
        WHERE pair.journal_log = row.log AND row.seq >= pair.first_seq AND row.seq < pair.end_seq), 0)"""


def match_core(workspace: Workspace, *, postings: str) -> None:
    """Every line of our channel beside the payment of its identity, and every payment beside its line; where
    `postings` names a channel, its lines beside what the hub has booked by the core's word."""
    workspace.run("CREATE TABLE matched(line INTEGER PRIMARY KEY, place INTEGER)")
    for side in SIDES:
        workspace.run(
            f"""INSERT OR IGNORE INTO matched SELECT core.line, row.place FROM core
            JOIN {side} AS row ON row.request_id = core.request_id AND row.client = core.client
                AND row.counted
            WHERE core.ours AND core.line NOT IN (SELECT line FROM extra)
                AND row.place NOT IN (SELECT place FROM second)"""
        )
    workspace.index("matched", "place")
    _duplicates(workspace)
    workspace.index("window_closed", "box", "window")
    _only_in_core(workspace)
    for side in SIDES:
        _compared(workspace, side)
        _missing(workspace, side)
    if postings:
        _postings(workspace, postings)
    others = "FROM core AS row WHERE NOT ours AND channel <> ?"
    set_apart(workspace, "other_channel", others, postings, amount="row.amount_minor")


def _postings(workspace: Workspace, channel: str) -> None:
    """What the core has told the hub of, by the core's own reference."""
    workspace.run("CREATE TABLE posting AS SELECT * FROM core WHERE channel = ?", channel)
    workspace.index("posting", "core_reference")
    hub = """json_object('core_reference', ours.core_reference, 'debit_account_id', ours.debit_account_id,
        'credit_account_id', ours.credit_account_id, 'amount_minor', ours.amount_minor)"""
    currency = "(SELECT currency FROM hub_account WHERE account_id = ours.credit_account_id)"
    both = """FROM hub_posting AS ours {} JOIN posting AS core ON core.core_reference = ours.core_reference"""
    write_breaks(
        workspace,
        "posting_not_in_core",
        f"{both.format('LEFT')} WHERE core.line IS NULL",
        amount_minor="ours.amount_minor",
        currency=f"coalesce({currency}, '')",
        account_id="ours.credit_account_id",
        detail="'posting ' || ours.core_reference || ' is not in the list'",
        hub=hub,
    )
    write_breaks(
        workspace,
        "posting_not_at_hub",
        """FROM posting AS core WHERE core.status IN ('posted', 'reversed') AND NOT EXISTS (
            SELECT 1 FROM hub_posting AS ours WHERE ours.core_reference = core.core_reference)""",
        amount_minor="core.amount_minor",
        currency="core.currency",
        account_id="core.credit_account_id",
        core_line="core.line",
        detail="'posting ' || core.core_reference || ' is unknown at the hub'",
    )
    write_breaks(
        workspace,
        "posting_differs",
        f"""{both.format("")} WHERE (ours.debit_account_id, ours.credit_account_id, ours.amount_minor,
            {currency}) IS NOT (core.debit_account_id, core.credit_account_id, core.amount_minor,
            core.currency) OR core.status <> 'posted'""",
        amount_minor="iif(ours.amount_minor = core.amount_minor, core.amount_minor,"
        " abs(ours.amount_minor - core.amount_minor))",
        currency="core.currency",
        account_id="core.credit_account_id",
        core_line="core.line",
        detail="'posting ' || core.core_reference || ': ' || ours.amount_minor || ' from '"
        " || ours.debit_account_id || ' to ' || ours.credit_account_id || ' at the hub, '"
        " || core.amount_minor || ' from ' || core.debit_account_id || ' to ' || core.credit_account_id"
        " || ', ' || core.status || ' in the core'",
        hub=hub,
    )


def _duplicates(workspace: Workspace) -> None:
    write_breaks(
        workspace,
        "duplicate_in_core",
        f"""FROM extra JOIN core ON core.line = extra.line JOIN core AS first ON first.line = extra.first
        LEFT JOIN matched ON matched.line = extra.first
        LEFT JOIN log ON log.log = matched.place >> {SEQ_BITS}""",
        **_of_core(),
        **{f"{side}_place": f"iif(log.side = '{side}', matched.place, NULL)" for side in SIDES},
        detail="'as line ' || first.line || ', reference ' || first.core_reference",
    )


def _of_core() -> dict[str, str]:
    return {
        "amount_minor": "core.amount_minor",
        "currency": "core.currency",
        "box": "core.box",
        "client": "core.client",
        "request_id": "core.request_id",
        "core_line": "core.line",
    }


def _only_in_core(workspace: Workspace) -> None:
    write_breaks(
        workspace,
        "only_in_core",
        """FROM core LEFT JOIN matched ON matched.line = core.line
        WHERE core.ours AND matched.line IS NULL AND core.status IN ('posted', 'held', 'reversed')
            AND core.line NOT IN (SELECT line FROM extra)""",
        **_of_core(),
        detail="core.status || ' in the core, unknown here'",
    )


def _compared(workspace: Workspace, side: str) -> None:
    both = f"""FROM matched JOIN core ON core.line = matched.line
        JOIN {side} AS row ON row.place = matched.place JOIN log ON log.log = row.log"""
    about = {**payment_of("row", "log"), f"{side}_place": "row.place", "core_line": "core.line"}
    reversed_there = "row.state = 'posted' AND core.status = 'reversed'"
    for name, condition in (
        ("reversed_only_in_core", reversed_there),
        ("status_differs", f"NOT ({reversed_there})"),
    ):
        write_breaks(
            workspace,
            name,
            f"{both} WHERE NOT ({_ALLOWED}) AND {condition}",
            **about,
            detail="row.state || ' here, ' || core.status || ' in the core'",
        )
    fields = f"""{both}
        LEFT JOIN window_closed AS closed ON closed.box = log.box AND closed.window = row.window
        WHERE core.status IN ('posted', 'held', 'reversed') AND row.state IN ('posted', 'held', 'waiting')"""
    # One pass finds the few that differ at all; the classes are told of those.
    workspace.run(
        f"""CREATE TABLE {side}_unlike AS SELECT matched.line, matched.place {fields}
        AND (row.currency <> core.currency OR row.debit_account_id <> core.debit_account_id
            OR row.credit_account_id <> core.credit_account_id OR row.amount_minor <> core.amount_minor
            OR log.box <> core.box OR closed.business_date <> core.value_date)"""
    )
    few = fields.replace("FROM matched", f"FROM {side}_unlike AS matched", 1)
    for name, condition, detail in _FIELDS:
        write_breaks(workspace, name, f"{few} AND {_ALLOWED} AND {condition}", **about, detail=detail)


def _missing(workspace: Workspace, side: str) -> None:
    due = f"""FROM {side} AS row JOIN log ON log.log = row.log
        LEFT JOIN matched ON matched.place = row.place
        WHERE row.counted AND row.state = 'posted' AND matched.place IS NULL AND row.seq < log.hub_size
            AND row.place NOT IN (SELECT place FROM second)"""
    about = {**payment_of("row", "log"), f"{side}_place": "row.place"}
    slash = "instr(row.original, '/')"
    told_at_the_original = f"""EXISTS (SELECT 1 FROM log AS its JOIN matched AS known
        ON known.place = (its.log << {SEQ_BITS} | CAST(substr(row.original, {slash} + 1) AS INTEGER))
        JOIN core ON core.line = known.line
        WHERE its.box = log.box AND its.epoch = CAST(substr(row.original, 1, {slash} - 1) AS INTEGER)
            AND core.status = 'reversed')"""
    write_breaks(
        workspace,
        "reversed_only_here",
        f"{due} AND row.kind = 'reversal' AND NOT {told_at_the_original}",
        **about,
        detail="'reverses ' || row.original",
    )
    write_breaks(
        workspace,
        "missing_in_core",
        f"{due} AND row.kind <> 'reversal'",
        **about,
        detail="row.kind || ' ' || log.epoch || '/' || row.seq",
    )
