"""The hub's books, grants and suspense, and the boxes' windows, against the sums of the records."""

from __future__ import annotations

from typing import Final

from edgegw.reconcile.breaks import on_sides, payment_of, set_apart, write_breaks
from edgegw.reconcile.matching_windows import match_windows
from edgegw.reconcile.workspace import SEQ_BITS, Workspace

HOUR_NS: Final = 3_600 * 1_000_000_000
_ACCOUNT: Final = {"box": "one.box", "epoch": "one.epoch", "account_id": "one.account_id"}


def match_books(workspace: Workspace, *, suspense_hours: int, now_ns: int) -> None:
    """All that is not one payment's."""
    _prepare(workspace)
    _grants(workspace)
    _directives(workspace)
    _balances(workspace)
    _outstanding(workspace)
    _torn(workspace)
    match_windows(workspace)
    _suspense(workspace, born_before_ns=now_ns - suspense_hours * HOUR_NS)


def _prepare(workspace: Workspace) -> None:
    """Sums by account and window; and the epochs of which all records are known, in one history."""
    workspace.run(
        """CREATE TABLE total AS SELECT box, epoch, account_id, sum(debits_posted) AS debits_posted,
            sum(credits_posted) AS credits_posted, sum(returned_minor) AS returned_minor
        FROM account_total GROUP BY box, epoch, account_id"""
    )
    workspace.index("total", "box", "epoch", "account_id")
    workspace.run(
        """CREATE TABLE whole_epoch AS SELECT box, epoch FROM hub_epoch WHERE NOT forked
        AND NOT EXISTS (SELECT 1 FROM break WHERE break.class IN ('sequence_gap', 'history_forked')
            AND break.box = hub_epoch.box AND break.epoch = hub_epoch.epoch)"""
    )


def _grants(workspace: Workspace) -> None:
    write_breaks(
        workspace,
        "grant_not_from_hub",
        """FROM applied_directive AS one LEFT JOIN hub_directive AS said ON said.box = one.box
            AND said.incarnation = one.incarnation AND said.number = one.number
        WHERE one.type = 'grant' AND one.outcome <> 'refused' AND (said.number IS NULL
            OR said.account_id <> one.account_id OR said.amount_minor <> one.amount_minor)""",
        amount_minor="abs(one.amount_minor - iif(said.account_id = one.account_id, said.amount_minor, 0))",
        currency="one.currency",
        box="one.box",
        epoch="one.epoch",
        seq="one.seq",
        account_id="one.account_id",
        detail="'directive ' || one.incarnation || '/' || one.number || iif(said.number IS NULL,"
        " ' is unknown at the hub', ' grants ' || said.amount_minor || ' of ' || said.account_id"
        " || ' at the hub, ' || one.amount_minor || ' of ' || one.account_id || ' at the box')",
        **on_sides("one.place"),
    )


def _directives(workspace: Workspace) -> None:
    write_breaks(
        workspace,
        "directive_not_from_hub",
        """FROM applied_directive AS one LEFT JOIN hub_directive AS said ON said.box = one.box
            AND said.incarnation = one.incarnation AND said.number = one.number
        WHERE one.type <> 'grant' AND (said.type, said.account_id, said.currency, said.amount_minor)
            IS NOT (one.type, one.account_id, one.currency, one.amount_minor)""",
        amount_minor="coalesce(one.amount_minor, 0)",
        currency="one.currency",
        **_ACCOUNT,
        seq="one.seq",
        detail="'directive ' || one.incarnation || '/' || one.number || ' is a ' || one.type"
        " || ' at the box, ' || coalesce('a ' || said.type, 'unknown') || ' at the hub'",
        **on_sides("one.place"),
    )


def _balances(workspace: Workspace) -> None:
    write_breaks(
        workspace,
        "balance_differs",
        """FROM (
            SELECT box, epoch, account_id, sum(debits) AS debits, sum(credits) AS credits,
                sum(hub_debits) AS hub_debits, sum(hub_credits) AS hub_credits FROM (
                SELECT box, epoch, account_id, debits_posted AS debits, credits_posted AS credits,
                    0 AS hub_debits, 0 AS hub_credits FROM total
                UNION ALL SELECT box, epoch, account_id, 0, 0, debits_posted, credits_posted FROM hub_balance)
            GROUP BY box, epoch, account_id
            HAVING sum(debits) <> sum(hub_debits) OR sum(credits) <> sum(hub_credits)
        ) AS one JOIN whole_epoch USING (box, epoch)
        LEFT JOIN hub_account ON hub_account.account_id = one.account_id""",
        amount_minor="max(abs(debits - hub_debits), abs(credits - hub_credits))",
        currency="coalesce(hub_account.currency, substr(one.account_id, -3))",
        **_ACCOUNT,
        detail="'debits ' || debits || ', credits ' || credits || ' by the records; ' || hub_debits || ', '"
        " || hub_credits || ' at the hub'",
        journal="json_object('debits_posted', debits, 'credits_posted', credits)",
        hub="json_object('debits_posted', hub_debits, 'credits_posted', hub_credits)",
    )


def _outstanding(workspace: Workspace) -> None:
    """Only of the epoch that a box is in: what was outstanding in older ones is settled by seals."""
    workspace.run(
        """CREATE TABLE held AS SELECT box, epoch, account_id, sum(held) AS held_minor,
            sum(returned) AS returned_minor, sum(counted) AS counted_minor FROM (
            SELECT box, epoch, account_id, credits_posted - debits_posted AS held, returned_minor AS returned,
                0 AS counted FROM total WHERE account_id NOT LIKE 'centre:%'
            UNION ALL SELECT box, epoch, account_id, amount_minor, 0, 0 FROM hub_directive
                WHERE type = 'grant' AND outcome = ''
            UNION ALL SELECT box, epoch, account_id, amount_minor, 0, 0 FROM hub_loss
            UNION ALL SELECT box, epoch, account_id, 0, 0, amount_minor FROM hub_outstanding)
        GROUP BY box, epoch, account_id HAVING held_minor <> counted_minor"""
    )
    source = """FROM held AS one JOIN whole_epoch USING (box, epoch) JOIN hub_box ON hub_box.box = one.box
            AND hub_box.epoch = one.epoch AND hub_box.state = 'active'
        LEFT JOIN hub_account ON hub_account.account_id = one.account_id
        WHERE {} (one.counted_minor > one.held_minor
            AND one.returned_minor >= one.counted_minor - one.held_minor)"""
    for name, sense in (("returned_not_at_hub", ""), ("outstanding_differs", "NOT")):
        write_breaks(
            workspace,
            name,
            source.format(sense),
            amount_minor="abs(one.counted_minor - one.held_minor)",
            currency="coalesce(hub_account.currency, '')",
            **_ACCOUNT,
            detail="one.held_minor || ' by the records and grants under way, ' || one.counted_minor"
            " || ' outstanding at the hub'",
            journal="json_object('held_minor', one.held_minor, 'returned_minor', one.returned_minor)",
            hub="json_object('outstanding_minor', one.counted_minor)",
        )


def _torn(workspace: Workspace) -> None:
    """An account whose row of `outstanding` is the fault is told there."""
    write_breaks(
        workspace,
        "books_torn",
        """FROM hub_account AS one LEFT JOIN (
            SELECT account_id, sum(amount_minor) AS out_minor FROM hub_outstanding GROUP BY account_id
        ) AS away USING (account_id)
        WHERE one.balance_minor <> one.available_minor + coalesce(away.out_minor, 0)
            AND NOT EXISTS (SELECT 1 FROM break WHERE break.account_id = one.account_id
                AND break.class IN ('outstanding_differs', 'returned_not_at_hub'))""",
        amount_minor="abs(one.balance_minor - one.available_minor - coalesce(away.out_minor, 0))",
        currency="one.currency",
        account_id="one.account_id",
        detail="'balance ' || one.balance_minor || ', available ' || one.available_minor || ', outstanding '"
        " || coalesce(away.out_minor, 0)",
        hub="json_object('balance_minor', one.balance_minor, 'available_minor', one.available_minor,"
        " 'outstanding_minor', coalesce(away.out_minor, 0))",
    )
    write_breaks(
        workspace,
        "books_torn",
        """FROM (SELECT currency, sum(balance_minor) AS sum_minor FROM hub_account GROUP BY currency
            HAVING sum_minor <> 0) AS one
        WHERE NOT EXISTS (SELECT 1 FROM break WHERE break.class = 'books_torn'
            AND break.currency = one.currency)""",
        amount_minor="abs(one.sum_minor)",
        currency="one.currency",
        detail="'the balances of ' || one.currency || ' sum to ' || one.sum_minor || ', not 0'",
        hub="json_object('sum_minor', one.sum_minor)",
    )


def _suspense(workspace: Workspace, *, born_before_ns: int) -> None:
    places = {
        side: f"""(SELECT row.place FROM log
            JOIN {side} AS row ON row.place = (log.log << {SEQ_BITS} | item.seq)
            WHERE log.box = item.box AND log.epoch = item.epoch AND log.side = '{side}'
            {"AND log.branch = item.branch" if side == "hub" else ""} LIMIT 1)"""
        for side in ("journal", "hub")
    }
    workspace.run(
        f"""CREATE TABLE waiting_item AS SELECT item.*, {places["journal"]} AS journal_place,
            {places["hub"]} AS hub_place FROM hub_suspense AS item"""
    )
    known = """FROM waiting_item AS item LEFT JOIN journal ON journal.place = item.journal_place
        LEFT JOIN hub ON hub.place = item.hub_place"""
    age = "coalesce(journal.wall_ns, hub.wall_ns, 0)"
    either = {
        name: f"coalesce(journal.{name}, hub.{name})"
        for name in payment_of("journal", "item")
        if name not in ("box", "epoch", "seq")
    }
    write_breaks(
        workspace,
        "suspense_aged",
        f"{known} WHERE {age} <= ?",
        born_before_ns,
        **{**either, "amount_minor": "coalesce(journal.amount_minor, hub.amount_minor, 0)"},
        box="item.box",
        epoch="item.epoch",
        seq="item.seq",
        detail="item.owner || ': ' || item.reason || ': ' || item.detail",
        journal_place="item.journal_place",
        hub_place="item.hub_place",
    )
    set_apart(
        workspace,
        "suspense_waiting",
        f"{known.replace('AS item', 'AS row', 1).replace('item.', 'row.')} WHERE {age} > ?",
        born_before_ns,
    )
