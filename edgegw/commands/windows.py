"""Clearing windows, at a box and at the hub, and their settlement at the hub.

Each works whether the box or the hub runs or not: a box's ledger is read, the hub's database is opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
import msgspec

from edgegw.commands import (
    LongNumber,
    RowNumber,
    SettingsPath,
    hub_settings_option,
    json_option,
    print_json,
)
from edgegw.commands.hub import HubBooks, open_books
from edgegw.commands.ledger import open_reader, read_book
from edgegw.commands.orders import give_order, person_options
from edgegw.commands.settings import protocol_shapes
from edgegw.config.files import read_toml
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgegw.access.operators import Person
    from edgegw.core.book import Book
    from edgegw.core.records import WindowClosed
    from edgegw.hub.settlement import Run, WindowView
    from edgegw.hub.statement import Report
    from edgegw.ledger.store import Store

Result = TypeVar("Result")
READ_WINDOWS: Final = 1_000


class BoxPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A participant's net amount, minor units."""

    participant: str
    currency: str
    net_minor: int


class BoxWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window as its box has it."""

    window: int
    state: str
    """open or closed."""
    business_date: str
    """Of the open one by the site's calendar, "" where a person closes windows."""
    transfers: int
    positions: list[BoxPosition]
    closed_by: str = ""
    cut_off: str = ""
    """The calendar's cut-off that ended it, or that the open one waits for; "" where there is none."""
    record: str = ""
    """epoch/seq of the closing record."""
    at_centre: bool = False
    """Whether the hub holds that record."""


class BoxWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of a box, the oldest first."""

    bank: str
    box: str
    windows: list[BoxWindow]


class HubWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of all boxes."""

    bank: str
    windows: list[WindowView]


@click.command()
@click.argument("settings", default="box.toml", type=SettingsPath)
@click.option("--box", default="", help="At the hub: the windows of this box alone.")
@json_option
def windows(settings: Path, box: str, as_json: bool) -> None:
    """List the clearing windows: at a box its own, at the hub every box's with what became of them.

    SETTINGS is a box's or the hub's TOML file. At the hub a window is open, then compared (the box's record
    and the hub's own count of its records agree) or differs (a person looks: `edgegw settlement accept`),
    then in a cycle, then settled. Amounts are minor units; what a participant is owed is above zero.

    Example: edgegw windows box.toml --json

    Example: edgegw windows hub.toml --json
    """
    table = read_toml(settings)
    if "box" in table or "hub" in table:
        found = _at_box(settings)
        if as_json:
            print_json(found)
        else:
            _show_box(found)
        return
    with open_books(settings) as books:
        from edgegw.hub.settlement import list_windows

        listed = _transact(books, lambda connection: list_windows(connection, box=box))
        bank = books.keyring.bank
    if as_json:
        print_json(HubWindows(bank=bank, windows=listed))
    else:
        _show_hub(listed)


def _transact(books: HubBooks, work: Callable[[Connection], Result]) -> Result:
    return books.database.transact(work)


# -- at a box ------------------------------------------------------------------------------------------------


def _at_box(settings: Path) -> BoxWindows:
    from edgegw.config.box import load_box

    box = load_box(settings, protocol_shapes()).settings
    with open_reader(Path(box.data_dir)) as store:
        book, _ = read_book(store, bank=box.bank, box=box.box)
        closed = [_closed(record, store) for record in _records(store)]
    return BoxWindows(bank=box.bank, box=box.box, windows=[*closed, *([_open(book)] if book.epoch else [])])


def _records(store: Store) -> list[WindowClosed]:
    from edgegw.core.records import WindowClosed, decode_record

    found: list[WindowClosed] = []
    position = -1
    while rows := store.of_type("window", after=position, limit=READ_WINDOWS):
        position = rows[-1][0]
        records = (decode_record(body) for _, body in rows)
        found += [record for record in records if isinstance(record, WindowClosed)]
    return found


def _closed(record: WindowClosed, store: Store) -> BoxWindow:
    from edgegw.core.records import place_text

    held = store.cosignature(record.epoch)
    return BoxWindow(
        window=record.window,
        state="closed",
        business_date=record.business_date,
        transfers=record.transfers,
        positions=_positions(record.positions),
        closed_by=record.closed_by,
        cut_off=_moment(record.cut_off_ns),
        record=place_text(epoch=record.epoch, seq=record.seq),
        at_centre=held is not None and record.seq < held[0],
    )


def _open(book: Book) -> BoxWindow:
    from edgegw.ledger.windows import calendar_says

    said = calendar_says(book, wall_ns=time.time_ns())
    awaited = None if said is None else said.cut_offs[0] if said.cut_offs else said.next
    return BoxWindow(
        window=book.window,
        state="open",
        business_date="" if awaited is None else awaited.business_date.isoformat(),
        transfers=book.window_transfers,
        positions=_positions(book.net_positions()),
        cut_off="" if awaited is None else _moment(awaited.at_ns),
    )


def _positions(rows: Sequence[object]) -> list[BoxPosition]:
    return [msgspec.convert(row, BoxPosition, from_attributes=True) for row in rows]


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ns else ""


def _show_box(found: BoxWindows) -> None:
    for one in found.windows:
        until = f", until {one.cut_off}" if one.state == "open" and one.cut_off else ""
        by = f" by {one.closed_by}" if one.closed_by else ""
        date = f" of {one.business_date}" if one.business_date else ""
        click.echo(f"window {one.window}{date}: {one.state}{by}{until}, {one.transfers} transfers")
        for position in one.positions:
            click.echo(f"  {position.participant:20} {position.currency} {position.net_minor:>20}")


# -- at the hub ----------------------------------------------------------------------------------------------


def _show_hub(listed: Sequence[WindowView]) -> None:
    for one in listed:
        branch = f", history {one.branch + 1}" if one.branch else ""
        cycle = f" in cycle {one.cycle}" if one.cycle else ""
        date = f" of {one.business_date}" if one.business_date else ""
        state = "waits for cover" if one.state == "in_cycle" else one.state
        click.echo(f"{one.box} window {one.window}{branch}{date}: {state}{cycle}, {one.transfers} transfers")
        if one.difference:
            click.echo(f"  {one.difference}")
        for position in one.positions:
            said = (
                "" if position.said_minor in (None, position.net_minor) else f", said {position.said_minor}"
            )
            centre = f", centre {position.centre_minor}" if position.centre_minor else ""
            net = f"{position.net_minor:>20}{said}{centre}"
            click.echo(f"  {position.participant:20} {position.currency} {net}")


@click.group()
def settlement() -> None:
    """Settling closed windows between participants, at the hub.

    \b
    edgegw settlement run --hub hub.toml
    edgegw settlement report 1 --csv cycle.csv --camt cycle.xml --hub hub.toml
    """


@settlement.command("run")
@json_option
@hub_settings_option
def settlement_run(as_json: bool, hub_settings: Path) -> None:
    """Gather all windows that are closed and compared into the next cycle, and post its transfers.

    What a participant would pay beyond its net debit cap (`net_debit_caps` of the site) waits in a queue,
    oldest first, and is posted by a later run once cover has come: `edgegw post` to
    settlement:PARTICIPANT:CURRENCY, money from others, or a higher cap. A run with nothing to do changes
    nothing, so a timer may give it as often as it likes, and again after a crash.

    Example: edgegw settlement run --hub hub.toml
    """
    from edgegw.hub.settlement import date_of, run
    from edgegw.hub.site import Sites

    def settle(connection: Connection) -> Run | None:
        now_ns, site = time.time_ns(), Sites().newest(connection)
        return run(connection, site, settlement_date=date_of(site, now_ns=now_ns), now_ns=now_ns)

    done = _settled(hub_settings, settle)
    if as_json:
        print_json({} if done is None else done._asdict())
    elif done is None:
        click.echo("nothing to settle: no window is closed and compared, and no cover has come")
    else:
        click.echo(
            f"cycle {done.cycle}: {done.windows} windows, {done.transfers} transfers;"
            f" {done.posted} posted, {done.queued} wait for cover"
        )


def _settled(hub_settings: Path, work: Callable[[Connection], Result]) -> Result:
    """What `work` gives; an order that cannot be carried out ends the command with its reason."""
    from edgegw.hub.books import BooksError
    from edgegw.hub.settlement import SettlementError

    with open_books(hub_settings) as books:
        try:
            return _transact(books, work)
        except (SettlementError, BooksError) as problem:
            raise SettingsError("the settlement", [str(problem)]) from None


@settlement.command("list")
@json_option
@hub_settings_option
def settlement_list(as_json: bool, hub_settings: Path) -> None:
    """List the cycles, the newest last, with what of each still waits for cover.

    Example: edgegw settlement list --hub hub.toml
    """
    from edgegw.hub.settlement import list_cycles

    cycles = _settled(hub_settings, list_cycles)
    if as_json:
        print_json({"cycles": cycles})
        return
    for one in cycles:
        click.echo(
            f"cycle {one.cycle} of {one.settlement_date}: {one.windows} windows, {one.transfers} transfers,"
            f" {one.queued} wait for cover"
        )


@settlement.command("accounts")
@json_option
@hub_settings_option
def settlement_accounts(as_json: bool, hub_settings: Path) -> None:
    """Show each participant's settlement account: balance, net debit cap, and what it owes in the queue.

    Example: edgegw settlement accounts --hub hub.toml
    """
    from edgegw.hub.settlement import list_accounts
    from edgegw.hub.site import Sites

    found = _settled(hub_settings, lambda connection: list_accounts(connection, Sites().newest(connection)))
    if as_json:
        print_json({"accounts": found})
        return
    for one in found:
        cap = (
            "no cap"
            if one.cap_minor is None
            else f"cap {one.cap_minor} ({one.cap_free_minor} free, {one.cap_at_boxes_minor} at boxes)"
        )
        queued = f", {one.queued_minor} queued" if one.queued_minor else ""
        click.echo(f"{one.participant:20} {one.currency} {one.balance_minor:>20}, {cap}{queued}")


@settlement.command("report")
@click.argument("cycle", type=RowNumber)
@click.option("--csv", "csv_file", type=SettingsPath, help="Write the report as CSV to this file.")
@click.option("--camt", "camt_file", type=SettingsPath, help="Write it as ISO 20022 camt.053.001.08.")
@json_option
@hub_settings_option
def settlement_report(
    cycle: int, csv_file: Path | None, camt_file: Path | None, as_json: bool, hub_settings: Path
) -> None:
    """Report a cycle: its windows, its transfers, and a statement of each settlement account.

    Without a file the CSV goes to standard output. The same cycle gives the same bytes each time. A transfer
    that leaves the queue later stands in the report of the cycle that posted it.

    Example: edgegw settlement report 1 --csv cycle-1.csv --camt cycle-1.xml --hub hub.toml
    """
    from edgegw.hub.statement import camt_of, csv_of, report_of

    def make(connection: Connection) -> tuple[Report, bytes, bytes]:
        report = report_of(connection, cycle)
        return report, csv_of(report), camt_of(report) if camt_file is not None else b""

    report, as_csv, as_camt = _settled(hub_settings, make)
    if csv_file is not None:
        csv_file.write_bytes(as_csv)
    if camt_file is not None:
        camt_file.write_bytes(as_camt)
    if as_json:
        print_json(_plain(report))
    elif csv_file is None and camt_file is None:
        click.echo(as_csv.decode(), nl=False)
    else:
        written = " and ".join(str(path) for path in (csv_file, camt_file) if path is not None)
        click.echo(f"cycle {cycle} is in {written}")


def _plain(report: Report) -> dict[str, object]:
    """A report with the names of its fields."""
    return {
        "cycle": report.cycle,
        "settlement_date": report.settlement_date,
        "windows": [row._asdict() for row in report.windows],
        "transfers": [row._asdict() for row in report.transfers],
        "released": [row._asdict() for row in report.released],
        "statements": [
            {
                "participant": one.participant,
                "currency": one.currency,
                "opening_minor": one.opening_minor,
                "entries": [line._asdict() for line in one.lines],
                "closing_minor": one.closing_minor,
            }
            for one in report.statements
        ],
    }


@settlement.command("accept")
@click.argument("box")
@click.argument("window", type=LongNumber)
@click.option("--history", type=RowNumber, default=1, show_default=True, help="Of a forked epoch.")
@person_options
@hub_settings_option
def settlement_accept(box: str, window: int, history: int, person: Person, hub_settings: Path) -> None:
    """Let a window that differs from its box's own word be settled by the hub's figures.

    These are what the box's records give, and what the hub's books have moved. Look first why they differ:
    `edgegw windows hub.toml` shows both. Its item in suspense is closed with it. The box stays quarantined
    until it gets a new epoch.

    Example: edgegw settlement accept branch-1 3 --hub hub.toml
    """
    from edgegw.hub.order_actions import AcceptWindow

    action = AcceptWindow(box=box, window=window, history=history)
    give_order(hub_settings, action, person=person)
