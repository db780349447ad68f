"""One reconciliation from its sides to its breaks, in the order in which one finding explains another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgegw.reconcile.beside import OpenHub, reading_beside
from edgegw.reconcile.breaks import add_evidence, drop_explained
from edgegw.reconcile.centre import Centre
from edgegw.reconcile.journals import open_journals
from edgegw.reconcile.load import Loader, Progress
from edgegw.reconcile.matching_books import match_books
from edgegw.reconcile.matching_core import match_core, match_identities
from edgegw.reconcile.matching_journals import match_records, resolve
from edgegw.reconcile.report import write_summary
from edgegw.reconcile.workspace import Workspace


def reconcile(
    workspace: Workspace,
    open_hub: OpenHub,
    *,
    journals: Sequence[Path],
    core_files: Sequence[Path],
    channel: str,
    postings: str,
    suspense_hours: int,
    now_ns: int,
    progress: Progress,
) -> None:
    """Fill a workspace with the sides and all breaks between them; open_hub opens the hub's database, from a
    second process too. Raises ExportError, CoreFileError and OperatingError for what is no side at all; what
    is wrong within one is a break."""
    with ExitStack() as stack:
        centre = Centre(stack.enter_context(open_hub()))
        epochs = centre.read_state(workspace)
        beside = stack.enter_context(
            reading_beside(workspace.beside, open_hub, epochs, core_files=core_files, channel=channel)
        )
        loader = Loader(workspace, centre, beside, progress=progress)
        if beside is None:
            loader.load_core(core_files, channel=channel)
        loader.load(epochs, open_journals(list(journals), stack))
    match_records(workspace)
    match_identities(workspace)
    resolve(workspace)
    if core_files:
        match_core(workspace, postings=postings)
    match_books(workspace, suspense_hours=suspense_hours, now_ns=now_ns)
    drop_explained(workspace)
    add_evidence(workspace, has_core=bool(core_files))
    write_summary(workspace)
