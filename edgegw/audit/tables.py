"""What an audit export holds: its tables with their keys, and the views that an auditor asks first.

Every column of a table but `record.body` says again, plainly, what the record's bytes say; the verifier
checks each against them. Nothing is here that is not in the journal: no settings, no vault, no card number.
A record carries a card as a token of the box's vault and a mask; they stay in its bytes and get no column.
"""

from __future__ import annotations

from typing import Final, NamedTuple

FORMAT: Final = 1
LEVELS: Final = 41
"""A journal of an epoch has at most 2**40 records."""


class Table(NamedTuple):
    """A table: its columns with their types, the first of which is the primary key."""

    name: str
    columns: dict[str, type]
    references: tuple[tuple[str, str], ...] = ()
    """Of a column the table whose primary key, of the same name, it holds."""
    indexes: tuple[tuple[str, ...], ...] = ()


_IS_RECORD: Final = (("record_id", "record"),)
_REQUEST: Final[dict[str, type]] = {
    "client": str,
    "id": str,
    "kind": str,
    "debit_account_id": str,
    "credit_account_id": str,
    "amount_minor": int,
    "currency": str,
    "timeout_s": int,
    "original_client": str,
    "original_id": str,
    "advice": int,
    "accepts_stand_in": int,
    "terminal": str,
    "merchant": str,
    "reference": str,
}

TABLES: Final = (
    Table("export", {"format": int, "bank": str, "box": str}),
    Table("level", {"level": int}),
    Table(
        "epoch",
        {
            "epoch": int,
            "origin": str,
            "first_seq": int,
            "previous_leaf": bytes,
            "size": int,
            "root": bytes,
            "checkpoint": str,
            "keys": str,
        },
    ),
    Table(
        "cosignature",
        {"epoch": int, "size": int, "at_s": int, "note": str, "proof": str},
        (("epoch", "epoch"),),
    ),
    Table(
        "record",
        {
            "record_id": int,
            "epoch": int,
            "seq": int,
            "type": str,
            "at_ns": int,
            "wall_ns": int,
            "mono_ns": int,
            "leaf": bytes,
            "body": str,
        },
        (("epoch", "epoch"),),
    ),
    Table(
        "link",
        {"record_id": int, "key": str, "old_epoch": int, "old_size": int, "old_root": str, "note": str},
        _IS_RECORD,
    ),
    Table("key", {"record_id": int, "key": str, "note": str}, _IS_RECORD),
    Table(
        "boot",
        {"record_id": int, "boot": str, "version": str, "box_digest": str, "site_digest": str},
        _IS_RECORD,
    ),
    Table(
        "transfer",
        {
            "record_id": int,
            "window": int,
            **_REQUEST,
            "cleared_by": str,
            "reason": str,
            "original_record_id": int,
            "linked": int,
        },
        # The original may be of an epoch or a part of it that was pruned: it is a place, not a reference.
        _IS_RECORD,
        (("id", "client"), ("debit_account_id",), ("credit_account_id",), ("original_record_id",)),
    ),
    Table(
        "refusal", {"record_id": int, **_REQUEST, "code": str, "detail": str}, _IS_RECORD, (("id", "client"),)
    ),
    Table("expiry", {"record_id": int, "window": int, "original_record_id": int}, _IS_RECORD),
    Table(
        "leg",
        {
            "leg_id": int,
            "record_id": int,
            "leg": int,
            "debit_account_id": str,
            "credit_account_id": str,
            "amount_minor": int,
            "action": str,
            "pending_record_id": int,
            "pending_leg": int,
            "timeout_s": int,
        },
        _IS_RECORD,
        (("record_id",), ("debit_account_id",), ("credit_account_id",), ("pending_record_id",)),
    ),
    Table(
        "directive",
        {
            "record_id": int,
            "window": int,
            "outcome": str,
            "reason": str,
            "incarnation": int,
            "number": int,
            "type": str,
            "account_id": str,
            "currency": str,
            "amount_minor": int,
            "request_id": str,
            "stand_in_record_id": int,
            "liable": str,
            "why": str,
            "version": int,
            "digest": str,
            "frozen": int,
        },
        _IS_RECORD,
        (("stand_in_record_id",),),
    ),
    Table(
        "account",
        {
            "account_row": int,
            "record_id": int,
            "id": str,
            "currency": str,
            "home": str,
            "participant": str,
            "has_floor": int,
        },
        _IS_RECORD,
        (("id",),),
    ),
    Table("mode", {"record_id": int, "mode": str, "previous": str, "reason": str}, _IS_RECORD),
    Table("durability", {"record_id": int, "durability": str, "previous": str, "reason": str}, _IS_RECORD),
    Table(
        "clearing_window",
        {"record_id": int, "window": int, "business_date": str, "transfers": int, "closed_by": str},
        _IS_RECORD,
    ),
    Table(
        "position",
        {"position_row": int, "record_id": int, "participant": str, "currency": str, "net_minor": int},
        _IS_RECORD,
        (("record_id",),),
    ),
    Table(
        "batch_total",
        {
            "batch_total_row": int,
            "record_id": int,
            "number": int,
            "currency": str,
            "payments_count": int,
            "payments_minor": int,
            "payment_reversals_count": int,
            "payment_reversals_minor": int,
            "refunds_count": int,
            "refunds_minor": int,
            "refund_reversals_count": int,
            "refund_reversals_minor": int,
        },
        _IS_RECORD,
        (("record_id",),),
    ),
    Table("clock", {"record_id": int, "wall_ahead_ns": int}, _IS_RECORD),
    Table("snapshot", {"record_id": int, "digest": str}, _IS_RECORD),
    Table(
        "health",
        {"record_id": int, "watched": str, "subject": str, "level": str, "previous": str, "reason": str},
        _IS_RECORD,
    ),
    Table("operator", {"record_id": int, "operator": str, "action": str, "detail": str}, _IS_RECORD),
    Table(
        "site_returned",
        {"record_id": int, "version": int, "left_digest": str, "digest": str, "reason": str},
        _IS_RECORD,
    ),
    Table("acknowledgement", {"record_id": int, "client": str, "said_by": str, "up_to": str}, _IS_RECORD),
)

NODE: Final = """CREATE TABLE node(
    epoch INTEGER REFERENCES epoch(epoch), level INTEGER, number INTEGER, hash BLOB,
    PRIMARY KEY(epoch, level, number)
) WITHOUT ROWID"""
"""The tree above the leaves, each hash once: `number` counts from the left, a proof takes one of a level."""

VIEWS: Final = {
    # RFC 6962's path: at each level the neighbour of the node above this leaf, where there is one.
    "inclusion": """SELECT record.record_id AS record_id, (
        SELECT json_group_array(lower(hex(hash))) FROM (
            SELECT 0 AS level, beside.leaf AS hash FROM record AS beside
            WHERE beside.record_id = (record.record_id | 1) - (record.record_id & 1)
            UNION ALL
            SELECT level.level, node.hash FROM level JOIN node ON node.epoch = record.epoch
                AND node.level = level.level
                AND node.number = ((record.seq >> level.level) | 1) - ((record.seq >> level.level) & 1)
            ORDER BY 1)
        ) AS proof FROM record""",
    "receipt": """SELECT record.record_id AS record_id, record.epoch AS epoch, record.seq AS seq, json_object(
        'type', 'edgegw-receipt-v1', 'record', record.body,
        'previous_leaf', lower(hex(coalesce(before.leaf, epoch.previous_leaf))),
        'index', record.seq, 'size', epoch.size, 'proof', json(inclusion.proof),
        'checkpoint', epoch.checkpoint, 'cosignature', coalesce(cosignature.note, ''),
        'cosignature_proof', json(coalesce(cosignature.proof, '[]')), 'keys', json(epoch.keys)) AS receipt
        FROM record JOIN epoch ON epoch.epoch = record.epoch
        JOIN inclusion ON inclusion.record_id = record.record_id
        LEFT JOIN record AS before ON before.record_id = record.record_id - 1 AND before.epoch = record.epoch
        LEFT JOIN cosignature ON cosignature.epoch = record.epoch AND cosignature.size > record.seq""",
    "hold": """SELECT held.record_id AS record_id, held.leg AS leg, record.epoch AS epoch,
        transfer.kind AS kind, transfer.client AS client, transfer.id AS id,
        transfer.cleared_by AS cleared_by,
        held.debit_account_id AS debit_account_id, held.credit_account_id AS credit_account_id,
        held.amount_minor AS amount_minor, transfer.currency AS currency, record.wall_ns AS wall_ns,
        done.record_id AS resolved_by, done.action AS resolution, done.amount_minor AS resolved_minor
        FROM leg AS held JOIN record ON record.record_id = held.record_id
        LEFT JOIN transfer ON transfer.record_id = held.record_id
        LEFT JOIN leg AS done ON done.pending_record_id = held.record_id AND done.pending_leg = held.leg
        WHERE held.action = 'hold'""",
    "unresolved_hold": "SELECT * FROM hold WHERE resolved_by IS NULL AND kind = 'hold'",
    "waiting_stand_in": "SELECT * FROM hold WHERE resolved_by IS NULL AND cleared_by = 'stand_in'",
    # An epoch begins with an empty book, so each has balances of its own.
    "balance": """SELECT epoch, account_id, sum(debits_posted) AS debits_posted,
        sum(credits_posted) AS credits_posted, sum(debits_pending) AS debits_pending,
        sum(credits_pending) AS credits_pending, sum(credits_posted) - sum(debits_posted) AS balance_minor
        FROM (
            SELECT record.epoch AS epoch, leg.debit_account_id AS account_id,
                leg.amount_minor AS debits_posted, 0 AS credits_posted,
                0 AS debits_pending, 0 AS credits_pending
            FROM leg JOIN record ON record.record_id = leg.record_id WHERE leg.action IN ('move', 'post')
            UNION ALL
            SELECT record.epoch, leg.credit_account_id, 0, leg.amount_minor, 0, 0
            FROM leg JOIN record ON record.record_id = leg.record_id WHERE leg.action IN ('move', 'post')
            UNION ALL
            SELECT epoch, debit_account_id, 0, 0, amount_minor, 0 FROM hold WHERE resolved_by IS NULL
            UNION ALL
            SELECT epoch, credit_account_id, 0, 0, 0, amount_minor FROM hold WHERE resolved_by IS NULL)
        GROUP BY epoch, account_id""",
    "payments_by_day": """SELECT transfer.client AS client,
        date(record.wall_ns / 1000000000, 'unixepoch') AS day,
        transfer.kind AS kind, transfer.currency AS currency, transfer.cleared_by AS cleared_by,
        count(*) AS payments, sum(transfer.amount_minor) AS amount_minor
        FROM transfer JOIN record ON record.record_id = transfer.record_id
        GROUP BY 1, 2, 3, 4, 5""",
    "refusals_by_day": """SELECT refusal.client AS client,
        date(record.wall_ns / 1000000000, 'unixepoch') AS day,
        refusal.code AS code, count(*) AS refusals, sum(refusal.amount_minor) AS amount_minor
        FROM refusal JOIN record ON record.record_id = refusal.record_id
        GROUP BY 1, 2, 3""",
}
