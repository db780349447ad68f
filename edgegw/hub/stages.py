"""Which version of the site's settings each box is to have, and what the boxes say of it.

A version is the fleet's, or staged: given to boxes that are chosen by name and by a share of the fleet. Which
boxes a share takes is a stable hash of version and box, so that a larger share only adds some. One box that
refuses a staged version, or goes back from it by itself, fails the stage. Leaves out making versions and
moving them on (`hub.site`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, and_, case, func, or_, select, update

from edgegw.core.journal import sm3
from edgegw.core.messages import Coming
from edgegw.core.records import (
    Directive,
    DirectiveApplied,
    Record,
    SiteDirective,
    SiteReturned,
    decode_directive,
)
from edgegw.hub.directives import SITE_TYPE, DirectiveLog
from edgegw.hub.identities import live_boxes
from edgegw.hub.receive import BoxRow
from edgegw.hub.schema import box as box_table
from edgegw.hub.schema import directive, site, site_rendering

FLEET, STAGED, FAILED, HALTED = "fleet", "staged", "failed", "halted"
REASON_CHARS_MAX: Final = 300
APPLIED: Final = "applied"
"""A box's word; other words begin with `refused: ` or `returned: `."""


class Stage(NamedTuple):
    """How far a version is let out."""

    version: int
    digest: str
    stage: str
    stage_ns: int
    """Since when, nanoseconds since 1970."""
    canaries: tuple[str, ...]
    share_percent: int
    bake_seconds: int
    reason: str
    restores: str
    published_ns: int

    def boxes(self, fleet: Collection[str]) -> frozenset[str]:
        """The boxes that are to have it, while it is staged or failed."""
        if self.stage == FLEET:
            return frozenset(fleet)
        return chosen(self.version, canaries=self.canaries, share_percent=self.share_percent, fleet=fleet)


class Given(NamedTuple):
    """What a box is to have: a version, and the bundle of it that its program can read."""

    version: int
    whole: str
    """The digest of the version's own bundle."""
    digest: str
    """Of the one that the box gets."""
    bundle_bytes: int
    note: str
    restores: str


def chosen(
    version: int, *, canaries: Iterable[str], share_percent: int, fleet: Collection[str]
) -> frozenset[str]:
    """The named boxes and share_percent of the fleet, rounded up."""
    count = -(-len(fleet) * share_percent // 100)
    ranked = sorted(fleet, key=lambda box: sm3(f"{version}/{box}".encode()))
    return frozenset(canaries) | frozenset(ranked[:count])


def stages(connection: Connection, *, limit: int = 50) -> list[Stage]:
    """The newest versions that the hub has, the newest first."""
    rows = connection.execute(
        select(site).where(site.c.bundle.is_not(None)).order_by(site.c.version.desc()).limit(limit)
    )
    return [_stage(row) for row in rows]


def unfinished(connection: Connection) -> Stage | None:
    """The version that is staged, or has failed and is not halted yet; there is one at most."""
    row = connection.execute(
        select(site)
        .where(site.c.bundle.is_not(None), site.c.stage.in_((STAGED, FAILED)))
        .order_by(site.c.version.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _stage(row)


def _stage(row: Row[tuple[object, ...]]) -> Stage:
    values = row._mapping
    fields = {name: values[name] for name in Stage._fields if name != "canaries"}
    return Stage(**fields, canaries=tuple(msgspec.json.decode(values["canaries"], type=list[str])))


def given_to(connection: Connection, row: BoxRow) -> Given | None:
    """The newest version that this box is to have and that its program can read; None before the first."""
    reads = site.c.format <= row.site_format
    is_own = case((reads, True), else_=False)
    bundle_bytes = case((reads, func.length(site.c.bundle)), else_=func.length(site_rendering.c.bundle))
    rows = connection.execute(
        select(
            site.c.version,
            site.c.digest,
            site.c.stage,
            site.c.canaries,
            site.c.share_percent,
            site.c.note,
            site.c.restores,
            is_own.label("is_own"),
            bundle_bytes.label("bundle_bytes"),
            site_rendering.c.digest.label("other_digest"),
            site_rendering.c.note.label("other_note"),
        )
        .outerjoin(
            site_rendering,
            and_(site_rendering.c.version == site.c.version, site_rendering.c.format == row.site_format),
        )
        .where(
            site.c.bundle.is_not(None),
            site.c.stage.in_((FLEET, STAGED)),
            or_(reads, site_rendering.c.digest.is_not(None)),
        )
        .order_by(site.c.version.desc())
        .limit(2)  # a staged one, and the fleet's below it
    ).all()
    for one in rows:
        if one.stage == FLEET or row.box in _chosen_of(
            connection, one.version, canaries=one.canaries, share_percent=one.share_percent
        ):
            if one.is_own:
                return Given(one.version, one.digest, one.digest, one.bundle_bytes, one.note, one.restores)
            return Given(one.version, one.digest, one.other_digest, one.bundle_bytes, one.other_note, "")
    return None


def _chosen_of(connection: Connection, version: int, *, canaries: str, share_percent: int) -> frozenset[str]:
    named = msgspec.json.decode(canaries, type=list[str])
    return chosen(version, canaries=named, share_percent=share_percent, fleet=live_boxes(connection))


def is_due(given: Given | None, row: BoxRow) -> bool:
    """Whether this box's log of directives does not name yet what it is to have; a lower version is never
    named."""
    return given is not None and given.version >= row.site_version and given.digest != row.site_digest


def to_fetch(given: Given | None, row: BoxRow, *, ready: str | None) -> Coming | None:
    """What is due and still to be fetched by this box, which says what is `ready` there, before a directive
    names it. None too for its first settings, which nothing waits behind."""
    if given is None or not is_due(given, row) or not row.site_digest or ready in (None, given.digest):
        return None
    return Coming(version=given.version, digest=given.digest, note=given.note, restores=given.restores)


def announce(log: DirectiveLog, row: BoxRow, given: Given) -> None:
    """Append the directive that names what the box is to have."""
    log.site(
        version=given.version,
        digest=given.digest,
        bundle_bytes=given.bundle_bytes,
        note=given.note,
        restores=given.restores,
    )
    row.site_version, row.site_digest, row.site_word = given.version, given.digest, ""


def read_announced(connection: Connection, row: BoxRow) -> None:
    """Note afresh what the box's present log names: it was cut off, or came back."""
    body = connection.execute(
        select(directive.c.body)
        .where(
            directive.c.box == row.box,
            directive.c.incarnation == row.incarnation,
            directive.c.type == SITE_TYPE,
        )
        .order_by(directive.c.seq.desc())
        .limit(1)
    ).scalar_one_or_none()
    said = None if body is None else decode_directive(body)
    version, digest = (said.version, said.digest) if isinstance(said, SiteDirective) else (0, "")
    if digest != row.site_digest:
        row.site_version, row.site_digest, row.site_word = version, digest, ""


def note_words(
    connection: Connection,
    row: BoxRow,
    records: Iterable[tuple[Record | None, Directive | None]],
    *,
    now_ns: int,
) -> None:
    """Keep what the box's records, each with the directive that it applies, say of the version that it was
    given; a bad word fails a stage."""
    for record, said in records:
        word = _word(row, record, said)
        if not word:
            continue
        row.site_word, row.site_word_ns = word, now_ns
        if word != APPLIED:
            connection.execute(
                update(site)
                .where(site.c.version == row.site_version, site.c.stage == STAGED)
                .values(stage=FAILED, reason=f"{row.box} {word}"[:REASON_CHARS_MAX])
            )


def _word(row: BoxRow, record: Record | None, said: Directive | None) -> str:
    if isinstance(record, SiteReturned) and record.left_digest == row.site_digest:
        return f"returned: {record.reason}"[:REASON_CHARS_MAX]
    is_about_it = isinstance(said, SiteDirective) and said.digest == row.site_digest
    if isinstance(record, DirectiveApplied) and is_about_it:
        return APPLIED if record.outcome == APPLIED else f"refused: {record.reason}"[:REASON_CHARS_MAX]
    return ""


class BoxSite(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A box and the site's settings."""

    box: str
    version: int
    """That it was told to use last."""
    word: str = ""
    """`applied`, or `refused: ...` or `returned: ...`; "" while it has not said."""
    wanted: int = 0
    """The version that it is to have."""
    format: int = 0
    """The newest format that its program reads, where it cannot read `wanted`."""


def boxes_at(connection: Connection, fleet: Collection[str]) -> list[BoxSite]:
    """Every box with the version that it has and the one that it is to have."""
    columns = box_table.c
    rows = connection.execute(
        select(
            columns.box, columns.site_version, columns.site_word, columns.site_format, columns.beat_at_ns
        ).order_by(columns.box)
    ).all()
    found = []
    newest = [one for one in stages(connection) if one.stage in (FLEET, STAGED)]
    formats = {one.version: one.format for one in connection.execute(select(site.c.version, site.c.format))}
    for row in rows:
        wanted = next((one.version for one in newest if row.box in one.boxes(fleet)), 0)
        lacks = formats.get(wanted, 0) > row.site_format and row.site_version < wanted and row.beat_at_ns
        found.append(
            BoxSite(
                box=row.box,
                version=row.site_version,
                word=row.site_word,
                wanted=wanted,
                format=row.site_format if lacks else 0,
            )
        )
    return found
