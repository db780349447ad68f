"""What a finished workspace tells: the summary, and the breaks one by one, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from edgegw.reconcile.workspace import Workspace

FORMAT: Final = "edgegw-reconcile-v1"
_BREAK: Final = """SELECT class, amount_minor, currency, coalesce(box, ''),
    iif(seq IS NULL, '', epoch || '/' || seq), coalesce(client, ''), coalesce(request_id, ''),
    coalesce(account_id, ''), detail, journal, hub, core, hint FROM break ORDER BY break_id"""


class Break(msgspec.Struct, frozen=True):
    """One break as it is told: what, how much, where, and each side's own row of it."""

    class_: str = msgspec.field(name="class")
    amount_minor: int
    currency: str
    box: str
    place: str
    """EPOCH/SEQ of the box's journal; "" where it is no record's."""
    client: str
    request_id: str
    account_id: str
    detail: str
    journal: msgspec.Raw
    hub: msgspec.Raw
    core: msgspec.Raw
    hint: str


class Count(msgspec.Struct, frozen=True):
    """So many of something, and their money in one currency where they have any."""

    what: str
    records: int
    currency: str
    amount_minor: int | None


class Summary(msgspec.Struct, frozen=True):
    """A reconciliation in figures."""

    edgegw: str
    well: bool
    workspace: str
    sides: list[Count]
    classes: list[Count]
    apart: list[Count]


def write_summary(workspace: Workspace) -> None:
    """Fill the workspace's own `summary`."""
    for side in ("journal", "hub", "core"):
        workspace.run(f"INSERT INTO summary SELECT '{side}', count(*), '', NULL FROM {side}")
    workspace.run(
        """INSERT INTO summary SELECT 'break: ' || class, count(*), currency, sum(amount_minor) FROM break
        GROUP BY class, currency"""
    )
    workspace.run(
        """INSERT INTO summary SELECT 'apart: ' || class, sum(records), currency, sum(amount_minor) FROM apart
        GROUP BY class, currency"""
    )


def summary_of(workspace: Workspace, path: str) -> Summary:
    """The figures of a finished workspace."""
    counts = [Count(*row) for row in workspace.rows("SELECT * FROM summary ORDER BY rowid")]

    def of(word: str) -> list[Count]:
        return [
            msgspec.structs.replace(count, what=count.what.removeprefix(word))
            for count in counts
            if count.what.startswith(word)
        ]

    classes = of("break: ")
    sides = [count for count in counts if ": " not in count.what]
    return Summary(FORMAT, not classes, path, sides, classes, of("apart: "))


def breaks_of(workspace: Workspace) -> Iterator[Break]:
    """Every break, one after the other."""
    for *plain, journal, hub, core, hint in workspace.rows(_BREAK):
        sides = [msgspec.Raw((text or "null").encode()) for text in (journal, hub, core)]
        columns = dict(zip(Break.__struct_fields__, (*plain, *sides, hint), strict=True))
        yield Break(**columns)
