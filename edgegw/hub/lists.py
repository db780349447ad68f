"""Lists of ids at the hub: kept by digest, named by the site's settings, fetched by boxes.

A list that no settings name lies idle; none is deleted, so that older settings can be published again.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from edgegw.core.journal import sm3
from edgegw.core.lists import ENTRY_BYTES
from edgegw.core.site import Site
from edgegw.hub import schema


def keep_list(connection: Connection, block: bytes, *, now_ns: int) -> str:
    """Keep a list (`core.lists.block_of`) for boxes to fetch; its digest (SM3, hex)."""
    digest = sm3(block).hex()
    table = schema.id_list
    if connection.execute(select(table.c.digest).where(table.c.digest == digest)).first() is None:
        connection.execute(
            insert(table).values(
                digest=digest, entries=len(block) // ENTRY_BYTES, block=block, kept_ns=now_ns
            )
        )
    return digest


def list_block(connection: Connection, digest: str) -> bytes | None:
    """The list with this digest, or None."""
    table = schema.id_list.c
    block: bytes | None = connection.execute(
        select(table.block).where(table.digest == digest)
    ).scalar_one_or_none()
    return block


def lists_not_here(connection: Connection, site: Site) -> list[str]:
    """What is wrong with the lists that these settings name, one line each: field, value and mend."""
    table = schema.id_list.c
    faults = []
    for rule in site.lists or ():
        found = connection.execute(
            select(table.entries).where(table.digest == rule.digest)
        ).scalar_one_or_none()
        if found is None:
            faults.append(
                f"lists[{rule.name}].digest = {rule.digest}: the hub has no such list;"
                " make it with `edgegw site list`"
            )
        elif found != rule.entries:
            faults.append(f"lists[{rule.name}].entries = {rule.entries}: it has {found}; write that")
    return faults
