"""`edgegw ledger prune`: what retention may take away, and doing it on a ledger at rest."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegw.commands import json_option, print_json, progress_bar, settings_argument
from edgegw.commands.ledger import open_reader
from edgegw.errors import LedgerInUse, NotEnrolled

if TYPE_CHECKING:
    from edgegw.config.box import Box
    from edgegw.retention import Report


@click.command("prune")
@settings_argument
@click.option("--dry-run", is_flag=True, help="Say what may go and what keeps the rest; write nothing.")
@click.option(
    "--vacuum",
    is_flag=True,
    help="Write the file anew without its free pages: once for a ledger of an earlier version.",
)
@json_option
def ledger_prune(settings: Path, dry_run: bool, vacuum: bool, as_json: bool) -> None:
    """Take away the records that the centre has and that `[retention]` does not keep any longer.

    A running box does so by itself each day; while it runs this only reports. One row for each identity stays
    for ever: repeats are answered as they were decided, and the journal proves what is left as before.

    Example: edgegw ledger prune box.toml --dry-run
    """
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box

    box = load_box(settings, protocol_shapes())
    try:
        report = _report(box) if dry_run else _prune(box, vacuum=vacuum)
    except LedgerInUse as problem:
        report = _report(box)
        click.echo(f"nothing was written: {problem}; a running box prunes by itself", err=True)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _report(box: Box) -> Report:
    from edgegw.pinned import hub_key
    from edgegw.retention import dry_run

    settings = box.settings
    with open_reader(Path(settings.data_dir)) as store, progress_bar("replaying") as progress:
        days = settings.retention.records_days
        return dry_run(store, records_days=days, hub=hub_key(settings), progress=progress)


def _prune(box: Box, *, vacuum: bool) -> Report:
    """Prune with a pen of its own; raises LedgerInUse while the box runs, and what a start raises."""
    from edgegw.ledger.boot import open_ledger
    from edgegw.ledger.outcomes import Budget
    from edgegw.ledger.start import Ways, start
    from edgegw.ledger.writer import take_snapshot
    from edgegw.machine import MachineClock
    from edgegw.own import load_keys, own_of
    from edgegw.retention import prune_now

    settings, boot = box.settings, secrets.token_hex(8)
    opened = open_ledger(
        Path(settings.data_dir),
        anchor_directory=Path(settings.anchor_dir),
        bank=settings.bank,
        box=settings.box,
        boot=boot,
        create=False,
    )
    try:
        if opened.trouble is not None:
            raise opened.trouble
        held = load_keys(settings)
        ways = Ways(
            clock=MachineClock(),
            rules=(),
            budget=Budget(burst=1, per_second=1),
            room_for_payments=lambda: False,
            make_room=lambda: None,
        )
        pen = start(opened.store, own_of(box, held, opened.store, boot=boot), ways)
        if not pen.desk.tip.epoch:
            raise NotEnrolled("the ledger has no records yet")
        with progress_bar("pruning") as progress:
            report = prune_now(
                opened.store,
                records_days=settings.retention.records_days,
                hub=held.hub,
                write=pen.commit_now,
                vacuum=vacuum,
                progress=progress,
            )
        pen.commit_now(take_snapshot)
        tip = pen.desk.tip
        opened.anchor.note(epoch=tip.epoch, size=tip.size, root=tip.frontier.root())
        return report
    finally:
        opened.close()


def _show(report: Report) -> None:
    may = "may go" if report.dry_run else "were pruned"
    for epoch in report.epochs:
        click.echo(
            f"epoch {epoch.epoch}: {epoch.records} records {may} ({epoch.start} to {epoch.end}),"
            f" {epoch.record_bytes:,} bytes of them; {epoch.identities} identities stay"
        )
        held = epoch.held_by
        click.echo(f"  the rest, from {epoch.epoch}/{epoch.end} on, stays by rule {held.rule}: {held.why}")
    if not report.records_days:
        click.echo("retention.records_days is 0: all records are kept for ever")
    size = f"{report.file_bytes_before:,} bytes before, {report.file_bytes:,} now"
    click.echo(f"file: {size}, {report.free_bytes:,} of them free")
    if not report.shrinks:
        click.echo("this file was made by an earlier version: it shrinks after one prune with --vacuum")
