"""Orders about who pays and how much: blocks, and other values for limits of the site. Kept here, told to
every box by its directives, and told again to whoever begins a new log.

Leaves out what a box makes of them (`core.tally`, `core.limits`) and lists (`hub.lists`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, insert, select

from edgegw.core.counts import LimitChange
from edgegw.core.records import BlockDirective, Directive, LimitDirective, decode_directive
from edgegw.core.site import LimitRule, Site
from edgegw.hub import schema
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.keyring import Keyring
from edgegw.hub.operate import OrderError, logs_of_all

ID_LENGTH_MAX: Final = 64
"""A card's lookup, the longest."""


def block(
    connection: Connection,
    keyring: Keyring,
    *,
    of: str,
    whose: str,
    blocked: bool,
    reason: str,
    now_ns: int,
) -> bool:
    """Let an account, card (its lookup), terminal or merchant pay nothing at any box; or let it again.
    Whether it was blocked before. Raises OrderError for an account that nobody has."""
    if blocked and of == "account":
        account = schema.account.c.account_id
        if connection.execute(select(account).where(account == whose)).first() is None:
            raise OrderError(f"account_id {whose} is unknown; check it with the site's")
    for log in logs_of_all(connection, keyring, now_ns=now_ns):
        log.block(of=of, whose=whose, blocked=blocked, reason=reason)
        log.write()
    return _keep_block(connection, of=of, whose=whose, blocked=blocked, reason=reason)


def change_limit(
    connection: Connection,
    keyring: Keyring,
    site: Site | None,
    *,
    name: str,
    whose: str,
    change: LimitChange | None,
    reason: str,
    now_ns: int,
) -> bool:
    """Give the site's limit of this name other values for one id ("" for all), or (None) its own again.

    They hold over later versions of the site, until they are taken back. Whether it had others before.
    Raises OrderError.
    """
    if change is not None:
        _check(site, name, change, whose=whose)
    for log in logs_of_all(connection, keyring, now_ns=now_ns):
        log.limit(name=name, whose=whose, change=change, reason=reason)
        log.write()
    return _keep_change(connection, name=name, whose=whose, change=change, reason=reason)


def keep_again(connection: Connection, said: Directive) -> None:
    """Keep what an order says that the hub has given before and lost."""
    if isinstance(said, BlockDirective):
        _keep_block(connection, of=said.of, whose=said.whose, blocked=said.blocked, reason=said.reason)
    elif isinstance(said, LimitDirective):
        change = LimitChange(said.payment_minor, said.amount_minor, said.count)
        _keep_change(
            connection,
            name=said.name,
            whose=said.whose,
            change=None if said.lifted else change,
            reason=said.reason,
        )


def _keep_block(connection: Connection, *, of: str, whose: str, blocked: bool, reason: str) -> bool:
    table = schema.block
    before = connection.execute(delete(table).where(table.c.of == of, table.c.whose == whose)).rowcount
    if blocked:
        connection.execute(insert(table).values(of=of, whose=whose, reason=reason))
    return before > 0


def _keep_change(
    connection: Connection, *, name: str, whose: str, change: LimitChange | None, reason: str
) -> bool:
    table = schema.limit_change
    before = connection.execute(delete(table).where(table.c.name == name, table.c.whose == whose)).rowcount
    if change is not None:
        values = {"payment_minor": change.payment_minor, "amount_minor": change.amount_minor}
        row = insert(table).values(name=name, whose=whose, count=change.count, reason=reason, **values)
        connection.execute(row)
    return before > 0


def _check(site: Site | None, name: str, change: LimitChange, *, whose: str) -> None:
    rules: dict[str, LimitRule] = {} if site is None else {rule.name: rule for rule in site.limits}
    rule = rules.get(name)
    if rule is None:
        known = ", ".join(sorted(rules)) or "none"
        raise OrderError(f"name {name} is no limit of the site's settings; there are {known}")
    if change == LimitChange():
        raise OrderError(f"limit {name}: no value is given; give payment_minor, amount_minor or count")
    if not rule.currency and (change.payment_minor is not None or change.amount_minor is not None):
        raise OrderError(f"limit {name} counts all currencies and takes a count alone")
    has_period = bool(rule.per or rule.seconds)
    if not has_period and (change.amount_minor is not None or change.count is not None):
        raise OrderError(f"limit {name} is on single payments and takes payment_minor alone")
    if len(whose) > ID_LENGTH_MAX:
        raise OrderError(f"id {whose[:16]}… has {len(whose)} characters; {ID_LENGTH_MAX} are the most")
    if rule.of == "card" and whose.isdigit() and len(whose) < ID_LENGTH_MAX:
        raise OrderError(f"limit {name} is on cards and the id is a number; give the card's lookup")


def announce_limits(connection: Connection, log: DirectiveLog) -> None:
    """Append every block and limit change that is in force: a new log's box has heard of none."""
    blocks, changes = schema.block.c, schema.limit_change.c
    for row in connection.execute(select(schema.block).order_by(blocks.of, blocks.whose)):
        log.block(of=row.of, whose=row.whose, blocked=True, reason=row.reason)
    for row in connection.execute(select(schema.limit_change).order_by(changes.name, changes.whose)):
        change = LimitChange(row.payment_minor, row.amount_minor, row._mapping["count"])
        log.limit(name=row.name, whose=row.whose, change=change, reason=row.reason)


def announce_lifted(connection: Connection, log: DirectiveLog, *, box: str, incarnation: int) -> None:
    """Take back at a box what its last log ordered and the centre does not know any more."""
    table = schema.directive.c
    bodies = connection.execute(
        select(table.body)
        .where(table.box == box, table.incarnation == incarnation, table.type.in_(("block", "limit")))
        .order_by(table.seq)
    ).scalars()
    blocked: dict[tuple[str, str], bool] = {}
    changed: dict[tuple[str, str], bool] = {}
    for said in map(decode_directive, bodies):
        if isinstance(said, BlockDirective):
            blocked[said.of, said.whose] = said.blocked
        elif isinstance(said, LimitDirective):
            changed[said.name, said.whose] = not said.lifted
    blocks, changes = schema.block.c, schema.limit_change.c
    for row in connection.execute(select(blocks.of, blocks.whose)):
        blocked.pop((row.of, row.whose), None)
    for row in connection.execute(select(changes.name, changes.whose)):
        changed.pop((row.name, row.whose), None)
    for of, whose in sorted(key for key, is_so in blocked.items() if is_so):
        log.block(of=of, whose=whose, blocked=False, reason="not blocked at the centre")
    for name, whose in sorted(key for key, is_so in changed.items() if is_so):
        log.limit(name=name, whose=whose, change=None, reason="not changed at the centre")
