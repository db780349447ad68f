"""What operators have declared about epochs of boxes, kept for ever: only by such a word, or by a journal
record, does outstanding money come back (DESIGN §4, "leases").

Leaves out the orders themselves (`hub.operate`) and the postings by which the bank makes a loss good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, insert

from edgegw.hub import schema


class Declaration(NamedTuple):
    """An operator's word that ends an epoch."""

    box: str
    epoch: int
    declared_ns: int
    """By the hub's clock; 0 where the order came without it."""
    records_lost: int
    """Known to have been written, and gone for good."""
    box_lost: bool
    """The box itself is: what it wrote last is not known."""
    reason: str


def keep_declaration(connection: Connection, said: Declaration, returned: Mapping[str, int]) -> None:
    """Write it down with what was outstanding there of each account, minor units."""
    connection.execute(insert(schema.declaration).values(**said._asdict()))
    place = {"box": said.box, "epoch": said.epoch}
    rows = [
        {**place, "account_id": account_id, "amount_minor": amount_minor}
        for account_id, amount_minor in sorted(returned.items())
        if amount_minor
    ]
    if rows:
        connection.execute(insert(schema.declared_return), rows)
