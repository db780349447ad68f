"""How a finding becomes a row of `break`: what every matching writes with, and the evidence at the end."""

from __future__ import annotations

from typing import Final

from edgegw.reconcile.classes import MEND_OF
from edgegw.reconcile.workspace import SEQ_BITS, Value, Workspace

SEQ_MASK: Final = (1 << SEQ_BITS) - 1
COLUMNS: Final = (
    "amount_minor",
    "currency",
    "box",
    "epoch",
    "seq",
    "client",
    "request_id",
    "account_id",
    "detail",
    "journal",
    "hub",
    "journal_place",
    "hub_place",
    "core_line",
)


def write_breaks(workspace: Workspace, name: str, source: str, *values: Value, **columns: str) -> int:
    """Write a break of this class for each row of `source` (FROM and what follows); columns are SQL."""
    hint = MEND_OF[name].replace("'", "''")
    unknown = columns.keys() - set(COLUMNS)
    if unknown:
        raise ValueError(f"a break has no {', '.join(sorted(unknown))}")
    chosen = {"amount_minor": "0", "currency": "''", **columns}
    return workspace.run(
        f"INSERT INTO break(class, hint, {', '.join(chosen)})"
        f" SELECT '{name}', '{hint}', {', '.join(chosen.values())} {source}",
        *values,
    )


def payment_of(row: str, log: str) -> dict[str, str]:
    """The columns of a break that name the payment in a record's row, and its place."""
    return {
        "amount_minor": f"coalesce({row}.amount_minor, 0)",
        "currency": f"coalesce({row}.currency, '')",
        "box": f"{log}.box",
        "epoch": f"{log}.epoch",
        "seq": f"{row}.seq",
        "client": f"{row}.client",
        "request_id": f"{row}.request_id",
    }


def on_sides(place: str) -> dict[str, str]:
    """The columns of a break for a place that is a journal's or the hub's."""
    return {
        f"{side}_place": f"(SELECT {place} FROM log WHERE log.log = {place} >> {SEQ_BITS}"
        f" AND log.side = '{side}')"
        for side in ("journal", "hub")
    }


def drop_explained(workspace: Workspace) -> None:
    """Where a changed row's money or positions are told, that it was changed stands in the evidence alone."""
    workspace.run(
        """DELETE FROM break WHERE class = 'chain_broken' AND EXISTS (SELECT 1 FROM break AS other
        WHERE other.class IN ('position_differs', 'positions_not_zero')
            AND (other.journal_place = break.journal_place OR other.hub_place = break.hub_place))"""
    )


def add_evidence(workspace: Workspace, *, has_core: bool) -> None:
    """Give every break the row of each side, where that side has one."""
    beside = f"""SELECT pair.{{0}}_log << {SEQ_BITS} | (break.{{1}}_place & {SEQ_MASK}) FROM pair
        WHERE pair.{{1}}_log = break.{{1}}_place >> {SEQ_BITS}
        AND (break.{{1}}_place & {SEQ_MASK}) >= pair.first_seq
        AND (break.{{1}}_place & {SEQ_MASK}) < pair.end_seq"""
    for side, other in (("hub", "journal"), ("journal", "hub")):
        workspace.run(
            f"UPDATE break SET {side}_place = ({beside.format(side, other)})"
            f" WHERE {side}_place IS NULL AND {other}_place IS NOT NULL"
        )
        workspace.run(
            f"""UPDATE break SET {side} = (SELECT json_patch('{{}}', json_object(
                'source', log.source, 'place', log.epoch || '/' || row.seq, 'leaf', lower(hex(row.leaf)),
                'chained', json(iif(row.chained, 'true', 'false')), 'type', row.type, 'client', row.client,
                'request_id', row.request_id, 'kind', row.kind, 'state', row.state,
                'debit_account_id', row.debit_account_id, 'credit_account_id', row.credit_account_id,
                'amount_minor', row.amount_minor, 'currency', row.currency, 'window', row.window,
                'wall_ns', row.wall_ns, 'original', row.original))
                FROM {side} AS row JOIN log ON log.log = row.log WHERE row.place = break.{side}_place)
            WHERE {side} IS NULL AND {side}_place IS NOT NULL"""
        )
    if has_core:
        workspace.run(
            """UPDATE break SET core_line = (SELECT line FROM matched
                WHERE matched.place IN (break.journal_place, break.hub_place))
            WHERE core_line IS NULL AND (journal_place IS NOT NULL OR hub_place IS NOT NULL)"""
        )
        workspace.run(
            """UPDATE break SET core = (SELECT json_object(
                'source', source, 'line', line, 'value_date', value_date, 'core_reference', core_reference,
                'channel', channel, 'client', client, 'request_id', request_id, 'box', box,
                'debit_account_id', debit_account_id, 'credit_account_id', credit_account_id,
                'currency', currency, 'amount_minor', amount_minor, 'status', status)
                FROM core WHERE core.line = break.core_line)
            WHERE core_line IS NOT NULL"""
        )


def set_apart(workspace: Workspace, name: str, source: str, *values: Value, amount: str = "NULL") -> None:
    """Count rows that are no breaks, by currency where they have an amount."""
    currency = "row.currency" if amount != "NULL" else "''"
    workspace.run(
        f"INSERT INTO apart SELECT '{name}', count(*), coalesce({currency}, ''), sum({amount})"
        f" {source} GROUP BY 3 HAVING count(*)",
        *values,
    )
