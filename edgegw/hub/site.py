"""Site bundles: checked as a whole, kept for ever, announced to every box by a directive that names their
digest.

A bundle that is published opens the accounts that it lists and the books' own ones. Leaves out opening
balances (`books.post_core`) and what the boxes make of a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from edgegw.config.site import site_faults
from edgegw.core.book import BANK
from edgegw.core.caps import cap_accounts
from edgegw.core.journal import sm3
from edgegw.core.messages import SITE_BYTES_MAX
from edgegw.core.records import SiteDirective
from edgegw.core.site import Site, decode_site
from edgegw.hub import schema
from edgegw.hub.books import (
    BooksError,
    Opening,
    box_accounts,
    capital_account,
    core_account,
    open_accounts,
    settlement_account,
)
from edgegw.hub.caps import set_headroom
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.keyring import Keyring
from edgegw.hub.windows import note_participants


class SiteError(ValueError):
    """A bundle that cannot be published; each line of the text names a field, its value and the mend."""


class Sites:
    """The newest site, decoded once."""

    def __init__(self) -> None:
        self._digest = ""
        self._site: Site | None = None

    def newest(self, connection: Connection) -> Site | None:
        """The newest site that was published; None before the first."""
        newest = _newest(connection)
        if newest is None:
            return None
        if newest.digest != self._digest:
            body = connection.execute(
                select(schema.site.c.bundle).where(schema.site.c.digest == newest.digest)
            ).scalar_one()
            self._site, self._digest = decode_site(body), newest.digest
        return self._site


def _newest(connection: Connection) -> Row[int, str] | None:
    return connection.execute(
        select(schema.site.c.version, schema.site.c.digest)
        .where(schema.site.c.bundle.is_not(None))
        .order_by(schema.site.c.version.desc())
        .limit(1)
    ).one_or_none()


def lost_site(connection: Connection) -> Row[int, str] | None:
    """Version and digest of the newest bundle that boxes have by the hub's own word and the hub has lost;
    None where what it has is newer."""
    newest = connection.execute(
        select(schema.site.c.version, schema.site.c.digest, schema.site.c.bundle.is_(None).label("is_lost"))
        .order_by(schema.site.c.version.desc())
        .limit(1)
    ).one_or_none()
    return newest if newest is not None and newest.is_lost else None


def note_lost(connection: Connection, directive: SiteDirective) -> None:
    """Remember a bundle that a directive of the hub's own names and the hub has not: the next one must be
    newer, or be these very bytes."""
    table = schema.site
    known = connection.execute(
        select(table.c.version).where(
            (table.c.version == directive.version) | (table.c.digest == directive.digest)
        )
    ).first()
    if known is None:
        connection.execute(
            insert(table).values(
                version=directive.version,
                digest=directive.digest,
                bundle=None,
                published_ns=directive.wall_ns,
            )
        )


def bundle_is_lost(connection: Connection, digest: str) -> bool:
    """Whether the hub has lost this bundle, which it has once published."""
    table = schema.site.c
    lost = select(table.version).where(table.digest == digest, table.bundle.is_(None))
    return connection.execute(lost).first() is not None


def bundle_of(connection: Connection, digest: str) -> bytes | None:
    """The bytes of the bundle with this digest (hex), or None."""
    body: bytes | None = connection.execute(
        select(schema.site.c.bundle).where(schema.site.c.digest == digest)
    ).scalar_one_or_none()
    return body


def announce(connection: Connection, log: DirectiveLog) -> None:
    """Append the directive that names the newest bundle, where there is one."""
    newest = _newest(connection)
    if newest is not None:
        body = bundle_of(connection, newest.digest) or b""
        log.site(version=newest.version, digest=newest.digest, bundle_bytes=len(body))


def announce_freezes(connection: Connection, log: DirectiveLog) -> None:
    """Append a freeze or close for every account that is frozen or closed: a new log's box has heard of
    none."""
    table = schema.account.c
    barred = connection.execute(
        select(table.account_id, table.currency, table.frozen, table.closed)
        .where(table.frozen | table.closed)
        .order_by(table.account_id)
    )
    for row in barred:
        if row.frozen:
            log.freeze(account_id=row.account_id, frozen=True, reason="frozen at the centre")
        if row.closed:
            log.close(
                account_id=row.account_id, currency=row.currency, closed=True, reason="closed at the centre"
            )


def publish(connection: Connection, keyring: Keyring, bundle: bytes, *, now_ns: int) -> str:
    """Keep the bundle, open its accounts and tell every box that has an epoch; its digest (SM3, hex).

    The same bytes again change nothing; other bytes need a higher version. Raises SiteError.
    """
    digest = sm3(bundle).hex()
    # All boxes first: nobody publishes meanwhile, and no beat sees one half of it.
    boxes = connection.execute(
        select(schema.box.c.box, schema.box.c.epoch, schema.box.c.incarnation)
        .order_by(schema.box.c.box)
        .with_for_update()
    ).all()
    newest = _newest(connection)
    if newest is not None and newest.digest == digest:
        return digest
    site = _checked(bundle, keyring)
    lost = lost_site(connection)
    is_found = lost is not None and (lost.version, lost.digest) == (site.version, digest)
    known = max((row.version for row in (newest, lost) if row is not None), default=0)
    if site.version <= known and not is_found:
        raise SiteError(f"version: {site.version} has other content than {known}; raise it")
    try:
        open_accounts(connection, _openings(site, keyring.boxes))
    except BooksError as problem:
        raise SiteError(f"accounts: {problem}") from None
    if is_found:
        connection.execute(update(schema.site).where(schema.site.c.digest == digest).values(bundle=bundle))
    else:
        connection.execute(
            insert(schema.site).values(
                version=site.version, digest=digest, bundle=bundle, published_ns=now_ns
            )
        )
    note_participants(connection, site.accounts, version=site.version)
    set_headroom(connection, site)
    for row in boxes:
        if row.incarnation:
            log = DirectiveLog(
                connection,
                keyring,
                box=row.box,
                incarnation=row.incarnation,
                epoch=row.epoch,
                wall_ns=now_ns,
            )
            announce(connection, log)
            log.write()
    connection.execute(update(schema.box).values(allot_due=True))
    return digest


def _openings(site: Site, boxes: Iterable[str]) -> Iterator[Opening]:
    for account in site.accounts:
        yield Opening(account.id, account.currency, account.home, account.participant, account.floor)
    for one in cap_accounts(site):
        yield Opening(one.id, one.currency, "", "", one.floor)
    for participant, currency in sorted(participants_of(site)):
        yield Opening(settlement_account(participant, currency), currency, "", "", False)
    names = sorted(boxes)
    for rule in site.currencies:
        for account_id in (core_account(rule.code), capital_account(rule.code)):
            yield Opening(account_id, rule.code, "", "", False)
        for box in names:
            for account_id in box_accounts(box, rule.code):
                yield Opening(account_id, rule.code, box, "", False)


def participants_of(site: Site) -> set[tuple[str, str]]:
    """Who can owe another in which currency: the participants that accounts name, and with them the bank."""
    named = {(account.participant, account.currency) for account in site.accounts if account.participant}
    return named | {(BANK, currency) for _, currency in named}


def _checked(bundle: bytes, keyring: Keyring) -> Site:
    if len(bundle) > SITE_BYTES_MAX:
        raise SiteError(f"the bundle has {len(bundle)} bytes; {SITE_BYTES_MAX} at most")
    try:
        site = decode_site(bundle)
    except msgspec.MsgspecError as problem:
        raise SiteError(str(problem)) from None
    faults = site_faults(site, bank=keyring.bank, boxes=keyring.boxes)
    if faults:
        raise SiteError("\n".join(faults))
    return site
