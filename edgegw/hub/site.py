"""Versions of the site's settings: checked as a whole, kept for ever with the hub's signature, let out to the
fleet at once or in stages, moved on, halted, and published again.

A bundle that is published opens the accounts that it lists and the books' own ones; boxes are told with their
next message (`hub.stages`, `hub.beats`). Leaves out opening balances (`books.post_core`) and what the boxes
make of a bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from edgegw.config.site import site_faults
from edgegw.core.accounts import BANK
from edgegw.core.caps import cap_accounts
from edgegw.core.journal import sm3
from edgegw.core.messages import SITE_BYTES_MAX
from edgegw.core.records import SiteDirective
from edgegw.core.settlement import caps_of
from edgegw.core.site import Site, decode_site
from edgegw.core.site_file import restored, sign_site
from edgegw.core.site_format import FIRST_FORMAT, NeedsNewer, format_of, rendered
from edgegw.hub import schema
from edgegw.hub.books import (
    BooksError,
    Opening,
    box_accounts,
    capital_account,
    core_account,
    known_openings,
    open_accounts,
    settlement_account,
)
from edgegw.hub.caps import set_headroom
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.identities import known_boxes, live_boxes
from edgegw.hub.keyring import Keyring
from edgegw.hub.lists import lists_not_here
from edgegw.hub.receive import BoxRow
from edgegw.hub.stages import (
    APPLIED,
    FAILED,
    FLEET,
    HALTED,
    REASON_CHARS_MAX,
    STAGED,
    Given,
    Stage,
    chosen,
    stages,
    unfinished,
)
from edgegw.hub.windows import note_participants

DECODED_MAX: Final = 4
"""The fleet's version, a staged one, and what boxes had before them."""
PERCENT: Final = 100
SILENT_S_MAX: Final = 60
"""A box that was not heard for so long is not healthy: its program may die of its settings."""


class SiteError(ValueError):
    """A bundle that cannot be published; each line of the text names a field, its value and the mend."""


class Sites:
    """The versions that boxes and the fleet have lately, decoded once."""

    def __init__(self) -> None:
        self._known: dict[str, Site] = {}

    def newest(self, connection: Connection) -> Site | None:
        """The newest site of the whole fleet; None before the first."""
        newest = connection.execute(
            select(schema.site.c.version, schema.site.c.digest)
            .where(schema.site.c.bundle.is_not(None), schema.site.c.stage == FLEET)
            .order_by(schema.site.c.version.desc())
            .limit(1)
        ).one_or_none()
        return None if newest is None else self._decoded(connection, newest.digest)

    def of_box(self, connection: Connection, row: BoxRow, given: Given | None) -> Site | None:
        """The site that the hub counts by for this box: the one that it is given now, else that it has."""
        if given is None:
            return None
        if given.version >= row.site_version:
            return self._decoded(connection, given.whole)
        table = schema.site.c
        digest = connection.execute(
            select(table.digest).where(table.version == row.site_version, table.bundle.is_not(None))
        ).scalar_one_or_none()
        return self._decoded(connection, digest or given.whole)

    def _decoded(self, connection: Connection, digest: str) -> Site:
        found = self._known.get(digest)
        if found is None:
            body = connection.execute(
                select(schema.site.c.bundle).where(schema.site.c.digest == digest)
            ).scalar_one()
            found = decode_site(body)
            known = {**self._known, digest: found}
            # Replaced, not changed: the hub's threads share it.
            self._known = dict(list(known.items())[-DECODED_MAX:])
        return found


def _newest(connection: Connection) -> Row[int, str, bytes | None] | None:
    """The newest version, kept or lost, whoever has it."""
    table = schema.site.c
    return connection.execute(
        select(table.version, table.digest, table.bundle).order_by(table.version.desc()).limit(1)
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
                **_row(FLEET, directive.wall_ns, note=directive.note, reads=FIRST_FORMAT),
            )
        )


def bundle_is_lost(connection: Connection, digest: str) -> bool:
    """Whether the hub has lost this bundle, which it has once published."""
    table = schema.site.c
    lost = select(table.version).where(table.digest == digest, table.bundle.is_(None))
    return connection.execute(lost).first() is not None


def bundle_of(connection: Connection, digest: str) -> bytes | None:
    """The bytes of the bundle with this digest (hex), or None."""
    for table in (schema.site, schema.site_rendering):
        body: bytes | None = connection.execute(
            select(table.c.bundle).where(table.c.digest == digest)
        ).scalar_one_or_none()
        if body is not None:
            return body
    return None


def signed_bundle(connection: Connection, version: int) -> tuple[str, bytes]:
    """The hub's note over a version, and its bytes. Raises SiteError."""
    table = schema.site.c
    row = connection.execute(
        select(table.note, table.bundle).where(table.version == version, table.bundle.is_not(None))
    ).one_or_none()
    if row is None:
        raise SiteError(f"version: the hub has no version {version}; `edgegw site versions` tells them")
    return row.note, row.bundle


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


class Staging(NamedTuple):
    """To whom a version goes first."""

    canaries: tuple[str, ...] = ()
    share_percent: int = 0
    """Of the fleet, rounded up."""
    bake_seconds: int = 0
    """All of them healthy for so long, it goes to the whole fleet; 0: a person says."""


AT_ONCE: Final = Staging()


def publish(
    connection: Connection, keyring: Keyring, bundle: bytes, *, now_ns: int, staging: Staging | None = None
) -> str:
    """Keep the bundle, open its accounts and let every box have it, or those of `staging` first; its digest
    (SM3, hex). Each is told with its next message.

    The same bytes again change nothing; other bytes need a higher version. Raises SiteError.
    """
    digest = sm3(bundle).hex()
    _lock_boxes(connection)
    newest = _newest(connection)
    if newest is not None and newest.digest == digest and newest.bundle is not None:
        _check_said_before(connection, newest.version, staging)
        return digest
    site = _checked(connection, bundle, keyring)
    _refuse_while_unfinished(connection)
    is_found = newest is not None and (newest.version, newest.digest) == (site.version, digest)
    _check_number(site, newest, is_found=is_found)
    _keep(connection, keyring, site, bundle, staging=staging, now_ns=now_ns, is_found=is_found)
    return digest


def try_out(connection: Connection, keyring: Keyring, bundle: bytes) -> None:
    """Whether `publish` would take the bundle, as the books are: raises SiteError. The caller rolls back."""
    site = _checked(connection, bundle, keyring)
    newest = _newest(connection)
    _check_number(site, newest, is_found=newest is not None and newest.digest == sm3(bundle).hex())
    _open(connection, site, None)


def _check_number(site: Site, newest: Row[int, str, bytes | None] | None, *, is_found: bool) -> None:
    if newest is not None and site.version <= newest.version and not is_found:
        raise SiteError(f"version: {site.version} has other content than {newest.version}; raise it")


def rollback(
    connection: Connection, keyring: Keyring, version: int, *, now_ns: int, staging: Staging | None = None
) -> int:
    """Publish the content of an older version again under the next number, which is given back: a log only
    grows. Raises SiteError."""
    _lock_boxes(connection)
    _refuse_while_unfinished(connection)
    return _restore(connection, keyring, version, now_ns=now_ns, staging=staging)


def promote(
    connection: Connection, *, share_percent: int, canaries: Sequence[str] = (), now_ns: int
) -> Stage:
    """Let more boxes have the version that is staged, 100 for all of them; how it is staged then. Raises
    SiteError."""
    _lock_boxes(connection)
    stage = _unfinished(connection)
    if stage.stage == FAILED:
        raise SiteError(
            f"version {stage.version} has failed ({stage.reason}); halt it, mend it, publish anew"
        )
    if share_percent < stage.share_percent:
        raise SiteError(
            f"share: {share_percent} is less than the {stage.share_percent} that have it; halt it instead"
        )
    named = tuple(sorted({*stage.canaries, *canaries}))
    _check_canaries(connection, named)
    after = stage._replace(
        stage=FLEET if share_percent == PERCENT else STAGED,
        stage_ns=now_ns,
        share_percent=share_percent,
        canaries=named,
    )
    site = decode_site(bundle_of(connection, stage.digest) or b"")
    _open(connection, site, None if after.stage == FLEET else after.boxes(live_boxes(connection)))
    if after.stage == FLEET:
        set_headroom(connection, caps_of(site))
    _write_stage(connection, after)
    return after


def halt(connection: Connection, keyring: Keyring, *, reason: str, now_ns: int) -> int:
    """Stop the version that is staged: the boxes that have it get the content of the fleet's version again,
    under a new number, which is given back (0: no box has it, or that content names what is no more, as the
    reason says then). Raises SiteError."""
    _lock_boxes(connection)
    stage = _unfinished(connection)
    said = (stage.reason or reason)[:REASON_CHARS_MAX]
    _write_stage(connection, stage._replace(stage=HALTED, stage_ns=now_ns, reason=said))
    before = next((one for one in stages(connection) if one.stage == FLEET), None)
    has_it = connection.execute(
        select(schema.box.c.box).where(schema.box.c.site_version == stage.version).limit(1)
    ).first()
    if before is None or has_it is None:
        return 0
    try:
        with connection.begin_nested():
            return _restore(connection, keyring, before.version, now_ns=now_ns, staging=None)
    except SiteError as problem:
        # Halted all the same: until it is, nothing newer can be published either.
        kept = f"{said}; version {before.version} cannot be given back: {problem}"[:REASON_CHARS_MAX]
        _write_stage(connection, stage._replace(stage=HALTED, stage_ns=now_ns, reason=kept))
        return 0


def advance(connection: Connection, keyring: Keyring, *, now_ns: int) -> str:
    """Move the version that is staged on by itself: halt one that has failed, let the fleet have one whose
    boxes were healthy for as long as was asked. What was done, or ""."""
    if unfinished(connection) is None:
        return ""
    _lock_boxes(connection)
    stage = unfinished(connection)  # as it is under the lock: another hub may have moved it on
    if stage is None:
        return ""
    if stage.stage == FAILED:
        restored_as = halt(connection, keyring, reason=stage.reason, now_ns=now_ns)
        what = f"get {restored_as}" if restored_as else "keep what they have"
        return f"version {stage.version} is halted ({stage.reason}); its boxes {what}"
    if not stage.bake_seconds or not _are_healthy(connection, stage, now_ns):
        return ""
    promote(connection, share_percent=PERCENT, now_ns=now_ns)
    return f"version {stage.version} goes to the whole fleet"


def _are_healthy(connection: Connection, stage: Stage, now_ns: int) -> bool:
    """Whether every chosen box has had it for the time that was asked, and still speaks: one that is silent
    may have died of it."""
    columns = schema.box.c
    said = connection.execute(
        select(columns.box).where(
            columns.site_version == stage.version,
            columns.site_word == APPLIED,
            columns.site_word_ns <= now_ns - stage.bake_seconds * 1_000_000_000,
            columns.beat_at_ns > now_ns - SILENT_S_MAX * 1_000_000_000,
        )
    ).scalars()
    boxes = stage.boxes(live_boxes(connection))
    return bool(boxes) and boxes <= set(said)


def _unfinished(connection: Connection) -> Stage:
    stage = unfinished(connection)
    if stage is None:
        raise SiteError("no version is staged; `edgegw site versions` tells them")
    return stage


def _lock_boxes(connection: Connection) -> None:
    """All boxes first: nobody publishes meanwhile, and no beat sees one half of it."""
    connection.execute(select(schema.box.c.box).order_by(schema.box.c.box).with_for_update()).all()


def _refuse_while_unfinished(connection: Connection) -> None:
    stage = unfinished(connection)
    if stage is not None:
        raise SiteError(
            f"version: {stage.version} is {stage.stage}; `edgegw site promote --share 100` or `edgegw site"
            " halt` first"
        )


def _check_said_before(connection: Connection, version: int, staging: Staging | None) -> None:
    """Whether a bundle that is here already is where it is wanted; raises SiteError."""
    if staging is None:
        _refuse_while_unfinished(connection)
    stage = next(one for one in stages(connection) if one.version == version)
    if stage.stage == HALTED:
        raise SiteError(f"version: {version} is halted ({stage.reason}); publish it with a higher number")


def _check_canaries(connection: Connection, canaries: Iterable[str]) -> None:
    boxes = known_boxes(connection)
    unknown = sorted(set(canaries) - set(boxes))
    if unknown:
        raise SiteError(f"canary: {unknown[0]} is no box of this hub; there are {', '.join(boxes)}")


def _restore(
    connection: Connection, keyring: Keyring, version: int, *, now_ns: int, staging: Staging | None
) -> int:
    _, old = signed_bundle(connection, version)
    number: int = connection.execute(select(func.max(schema.site.c.version))).scalar_one() + 1
    bundle = restored(old, version=number)
    site = _checked(connection, bundle, keyring)
    _keep(connection, keyring, site, bundle, staging=staging, now_ns=now_ns, restores=sm3(old).hex())
    return number


def _keep(
    connection: Connection,
    keyring: Keyring,
    site: Site,
    bundle: bytes,
    *,
    staging: Staging | None,
    now_ns: int,
    restores: str = "",
    is_found: bool = False,
) -> None:
    """Write a version down with what boxes need of it, and let its boxes be told."""
    digest = sm3(bundle).hex()
    _open(connection, site, None if staging is None else _reached(connection, site.version, staging))
    values = _row(
        FLEET if staging is None else STAGED,
        now_ns,
        note=sign_site(bundle, keyring.key, bank=keyring.bank, version=site.version),
        reads=format_of(bundle),
        restores=restores,
        staging=staging or AT_ONCE,
    )
    if is_found:
        known = update(schema.site).where(schema.site.c.digest == digest)
        connection.execute(known.values(bundle=bundle, **values))
    else:
        connection.execute(
            insert(schema.site).values(
                version=site.version, digest=digest, bundle=bundle, published_ns=now_ns, **values
            )
        )
        _keep_renderings(connection, keyring, site.version, bundle)
    note_participants(connection, site.accounts, version=site.version)
    fleet = None if staging is None else Sites().newest(connection)
    in_force = {(cap.participant, cap.currency) for cap in caps_of(fleet)}
    # A cap that the fleet has already stays as it is until all boxes have the other one.
    fresh = [cap for cap in caps_of(site) if (cap.participant, cap.currency) not in in_force]
    set_headroom(connection, fresh)
    connection.execute(update(schema.box).values(allot_due=True))


def _reached(connection: Connection, version: int, staging: Staging) -> frozenset[str]:
    _check_canaries(connection, staging.canaries)
    fleet = live_boxes(connection)
    boxes = chosen(version, canaries=staging.canaries, share_percent=staging.share_percent, fleet=fleet)
    if not boxes:
        raise SiteError("no box is chosen: name canaries or give a share")
    return boxes


def _keep_renderings(connection: Connection, keyring: Keyring, version: int, bundle: bytes) -> None:
    """What boxes of older releases are given; none where they keep what they have."""
    for reads in range(FIRST_FORMAT, format_of(bundle)):
        with suppress(NeedsNewer):
            body = rendered(bundle, reads=reads)
            connection.execute(
                insert(schema.site_rendering).values(
                    digest=sm3(body).hex(),
                    version=version,
                    format=reads,
                    bundle=body,
                    note=sign_site(body, keyring.key, bank=keyring.bank, version=version),
                )
            )


def _row(
    stage: str,
    stage_ns: int,
    *,
    note: str,
    reads: int,
    restores: str = "",
    staging: Staging = AT_ONCE,
) -> dict[str, str | int]:
    return {
        "note": note,
        "format": reads,
        "restores": restores,
        "stage": stage,
        "stage_ns": stage_ns,
        "canaries": msgspec.json.encode(staging.canaries).decode(),
        "share_percent": staging.share_percent,
        "bake_seconds": staging.bake_seconds,
        "reason": "",
    }


def _write_stage(connection: Connection, stage: Stage) -> None:
    connection.execute(
        update(schema.site)
        .where(schema.site.c.version == stage.version)
        .values(
            stage=stage.stage,
            stage_ns=stage.stage_ns,
            canaries=msgspec.json.encode(stage.canaries).decode(),
            share_percent=stage.share_percent,
            reason=stage.reason,
        )
    )
    connection.execute(update(schema.box).values(allot_due=True))


def _open(connection: Connection, site: Site, reached: Collection[str] | None) -> None:
    """Open the accounts of a version. What is known of an account that is homed at none of the boxes which
    the version has reached (None: all) stays: another box still counts by it."""
    known: dict[str, Opening] = {}
    if reached is not None:
        known = known_openings(connection, [account.id for account in site.accounts])
    try:
        open_accounts(connection, _openings(site, known_boxes(connection), reached, known))
    except BooksError as problem:
        raise SiteError(f"accounts: {problem}") from None


def open_box(connection: Connection, box: str) -> None:
    """Open the books' own accounts of a box that the newest versions were published without."""
    for stage in stages(connection):
        if stage.stage in (FLEET, STAGED):
            site = decode_site(bundle_of(connection, stage.digest) or b"")
            own = [(name, rule.code) for rule in site.currencies for name in box_accounts(box, rule.code)]
            open_accounts(connection, (Opening(name, code, box, "", False) for name, code in own))
        if stage.stage == FLEET:
            return


def _openings(
    site: Site, boxes: Iterable[str], reached: Collection[str] | None, known: Mapping[str, Opening]
) -> Iterator[Opening]:
    for account in site.accounts:
        wanted = Opening(account.id, account.currency, account.home, account.participant, account.floor)
        if reached is not None and account.home not in reached:
            before = known.get(account.id) or wanted._replace(home="")
            wanted = wanted._replace(home=before.home, participant=before.participant)
        yield wanted
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


def _checked(connection: Connection, bundle: bytes, keyring: Keyring) -> Site:
    if len(bundle) > SITE_BYTES_MAX:
        raise SiteError(f"the bundle has {len(bundle)} bytes; {SITE_BYTES_MAX} at most")
    try:
        site = decode_site(bundle)
    except msgspec.MsgspecError as problem:
        raise SiteError(str(problem)) from None
    faults = site_faults(site, bank=keyring.bank, boxes=known_boxes(connection))
    faults += lists_not_here(connection, site)
    if faults:
        raise SiteError("\n".join(faults))
    return site
