"""The hub's commands: run it, post to its books, give orders about a box or an account.

Posting and orders open the hub's database themselves, so they work whether the hub runs or not.
"""

from __future__ import annotations

import asyncio
import csv
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from edgegw.commands import RowNumber, SettingsPath, hub_settings_option, progress_bar, serve_until_end
from edgegw.commands.orders import give_order, person_options
from edgegw.config.hub import EnrolmentTable, HubSettings, load_hub
from edgegw.config.listen import addresses
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from aiohttp import web
    from sqlalchemy import Connection

    from edgegw.access.operators import Person
    from edgegw.hub.database import Database
    from edgegw.hub.findings import Finding
    from edgegw.hub.identity_keep import IdentityKeep
    from edgegw.hub.keyring import Keyring
    from edgegw.hub.take_journal import TakenJournal

_ACCOUNT: Final = ("[A-Za-z0-9._:-]{1,64}", "an account's id")
POSTING_FORMS: Final = {
    "id": ("[!-~]{1,128}", "1 to 128 printable characters without blanks"),
    "debit_account_id": _ACCOUNT,
    "credit_account_id": _ACCOUNT,
    "amount_minor": ("[0-9]{1,19}", "a whole number of minor units"),
}
"""Of each column: what it must look like, and that in words."""
POSTINGS_EACH: Final = 500
"""Postings of one SQL transaction; a file that stops half-way is simply sent again."""


class HubBooks(NamedTuple):
    """The hub's database and keys, open."""

    database: Database
    keyring: Keyring


def load_keyring(settings: HubSettings) -> Keyring:
    """The hub's key and the boxes' pinned ones; raises KeyFileError and SettingsError."""
    from edgegw.access.keys import open_signing_key
    from edgegw.hub.keyring import Keyring
    from edgegw.key_places import hub_key_file, keystore_of
    from edgegw.pinned import listed_operators, pinned_boxes

    key = open_signing_key(keystore_of(settings), hub_key_file(settings))
    boxes = pinned_boxes(settings.bank, settings.boxes)
    return Keyring(settings.bank, key, boxes, listed_operators(settings.operators))


@contextmanager
def open_books(path: Path) -> Iterator[HubBooks]:
    """The hub's books for one command; raises SettingsError, KeyFileError and OperatingError."""
    settings = load_hub(path)
    with open_database(settings, serves=False) as database:
        from edgegw.hub.identities import register_boxes

        keyring = load_keyring(settings)
        keep = identity_keep(settings, keyring)
        if keep is not None:
            keep.check(database)
        database.transact(lambda c: register_boxes(c, keyring, now_ns=time.time_ns()))
        try:
            yield HubBooks(database, keyring)
        finally:
            if keep is not None:
                keep.follow(database)


def identity_keep(settings: HubSettings, keyring: Keyring) -> IdentityKeep | None:
    """What keeps the identities beside the database; None where the settings want none."""
    from edgegw.hub.identity_keep import IdentityKeep

    return IdentityKeep(Path(settings.identities_file), keyring.key) if settings.identities_file else None


@contextmanager
def open_database(settings: HubSettings, *, serves: bool) -> Iterator[Database]:
    """The database that the settings name; raises OperatingError. A process that serves a SQLite file serves
    it alone."""
    with ExitStack() as stack:
        database: Database
        if settings.database_url:
            from edgegw.hub.postgresql import PostgresDatabase, Target

            password_file = settings.database_password_file
            target = Target(settings.database_url, Path(password_file) if password_file else None)
            database = PostgresDatabase(target)
        else:
            from edgegw.hub.sqlite import SqliteDatabase, sole_process

            path = Path(settings.database_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if serves:
                stack.enter_context(sole_process(path))
            database = SqliteDatabase(path)
        stack.callback(database.close)
        yield database


class _HubGroup(click.Group):
    """`edgegw hub hub.toml` runs the hub; only a command's name behind it is something else."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let a settings file, or nothing, mean `run`."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; for any other word, which is a file, the one that runs the hub."""
        return super().get_command(ctx, cmd_name) or self.commands["run"]


@click.group(cls=_HubGroup)
def hub() -> None:
    """The hub, the centre that boxes speak to: run it, and its certificate authority.

    `edgegw hub hub.toml` is short for `edgegw hub run hub.toml`.

    \b
    edgegw hub hub.toml
    edgegw hub ca --help
    """


@hub.command("run")
@click.argument("settings", default="hub.toml", type=SettingsPath)
def hub_run(settings: Path) -> None:
    """Run the hub until SIGTERM or Ctrl-C.

    SETTINGS is the hub's TOML file (hub.toml here when it is not given). Its log is JSON lines
    on standard error.

    Example: edgegw hub hub.toml
    """
    from edgegw.observe.logs import set_up_logs
    from edgegw.sm import known_answers

    known_answers.self_test()
    loaded = load_hub(settings)
    set_up_logs(level=loaded.log.level)
    serve_until_end(lambda: asyncio.run(serve_hub(loaded)))


async def serve_hub(settings: HubSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises OperatingError, KeyFileError and SettingsError."""
    from edgegw.commands.enrolling import enrolling
    from edgegw.commands.serving import serve
    from edgegw.encryption import listener_of
    from edgegw.hub.app import Hub, make_app
    from edgegw.key_places import keystore_of, open_sealed_tls_keys

    keyring = load_keyring(settings)
    open_sealed_tls_keys(settings, keystore_of(settings))
    tls = listener_of(settings.tls)
    with open_database(settings, serves=True) as database:
        keep = identity_keep(settings, keyring)
        if keep is not None:
            keep.check(database)
        center = Hub(database, keyring)
        if keep is not None:
            keep.follow(database)
            center.identities_kept = partial(keep.follow, database)
        application = make_app(
            center,
            settlement_times=settings.settlement_times,
            aged_days=settings.suspense_aged_days,
        )
        _serve_updates(application, settings)
        if isinstance(settings.enrolment, EnrolmentTable):
            application.cleanup_ctx.append(enrolling(center, settings, settings.enrolment))
        await serve(
            application,
            addresses(settings.listen),
            name="hub",
            bank=settings.bank,
            tls=tls,
            turn=center.turn,
        )


def _serve_updates(application: web.Application, settings: HubSettings) -> None:
    """Hand releases to the boxes, and keep their timestamp fresh where the online key is here; raises
    KeyFileError."""
    from edgegw.hub.updates import refreshing, serve_updates

    table = settings.updates
    if not table.directory:
        return
    serve_updates(application, Path(table.directory), downloads_max=table.downloads_max)
    if table.online_key_file:
        from edgegw.commands.release import refresh_of

        key_file, directory = Path(table.online_key_file), Path(table.directory)
        application.cleanup_ctx.append(refreshing(refresh_of(directory, key_file)))


@click.command()
@click.argument("file", type=SettingsPath)
@hub_settings_option
def post(file: Path, hub_settings: Path) -> None:
    """Post to the hub's books from a CSV file, for opening balances and the bank core's own movements.

    Columns: id, debit_account_id, credit_account_id, amount_minor. core:CNY is the world outside, for each
    currency. An id is posted once, so that a file can be sent again. The id suspense:ITEM closes that item of
    `edgegw suspense list`, receivable:NAME pays that one of `edgegw receivables`, loss:NAME makes that one of
    `edgegw findings` good.

    \b
    id,debit_account_id,credit_account_id,amount_minor
    opening-1,core:CNY,alice,250000

    Example: edgegw post balances.csv --hub hub.toml
    """
    rows = _postings(file)
    fresh = 0
    with open_books(hub_settings) as books, progress_bar("posting") as progress:
        for start in range(0, len(rows), POSTINGS_EACH):
            part = rows[start : start + POSTINGS_EACH]
            fresh += books.database.transact(partial(_post, file=file, rows=part))
            progress(min(start + POSTINGS_EACH, len(rows)), len(rows))
    click.echo(f"{fresh} posted, {len(rows) - fresh} were there already")


def _post(connection: Connection, *, file: Path, rows: list[tuple[int, dict[str, str]]]) -> int:
    """Post (line, row) pairs of a file; how many were not there before."""
    from edgegw.hub.books import BooksError, lock_accounts, post_core
    from edgegw.hub.suspense import SuspenseError

    fresh = 0
    lock_accounts(
        connection, (row[side] for _, row in rows for side in ("debit_account_id", "credit_account_id"))
    )
    for line, row in rows:
        try:
            is_fresh = post_core(
                connection,
                id=row["id"],
                debit_account_id=row["debit_account_id"],
                credit_account_id=row["credit_account_id"],
                amount_minor=int(row["amount_minor"]),
            )
            fresh += is_fresh
            if is_fresh:
                _settle(connection, row["id"], row["credit_account_id"], int(row["amount_minor"]))
        except (BooksError, SuspenseError) as problem:
            raise SettingsError(f"{file} line {line}", [str(problem)]) from None
    return fresh


def _settle(connection: Connection, id: str, credit_account_id: str, amount_minor: int) -> None:
    """Let a fresh posting close what its id names; raises SuspenseError where it does not fit."""
    from edgegw.hub import losses, receivables, suspense

    if id.startswith(suspense.POSTING_PREFIX):
        suspense.close_by_posting(connection, id, now_ns=time.time_ns())
    elif id.startswith(receivables.POSTING_PREFIX):
        receivables.pay(connection, id, credit_account_id=credit_account_id, amount_minor=amount_minor)
    elif id.startswith(losses.POSTING_PREFIX):
        losses.make_good(connection, id, credit_account_id=credit_account_id, amount_minor=amount_minor)


def _postings(file: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file of postings; raises SettingsError with every fault of form."""
    try:
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text)
            if tuple(reader.fieldnames or ()) != tuple(POSTING_FORMS):
                raise SettingsError(str(file), [f"its first line must be {','.join(POSTING_FORMS)}"])
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise SettingsError(str(file), [f"it cannot be read: {problem}; give a CSV file in UTF-8"]) from None
    faults = [
        f"line {line}: {column} is {row[column]!r}; write {words}"
        for line, row in rows
        for column, (pattern, words) in POSTING_FORMS.items()
        if not re.fullmatch(pattern, row[column] or "")
    ]
    faults += [f"line {line}: it has not {len(POSTING_FORMS)} fields" for line, row in rows if None in row]
    if faults:
        raise SettingsError(str(file), faults)
    return rows


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, one object each, for programs.")
@hub_settings_option
def findings(as_json: bool, hub_settings: Path) -> None:
    """List what waits for a person at the hub, each with the next command.

    Boxes that are out of service or keep older settings than the fleet, both signed heads of each fork, old
    epochs that are not sealed and the money in doubt there, named losses, receivables, and what was put in
    suspense. It changes nothing.

    Example: edgegw findings --hub hub.toml
    """
    import msgspec

    from edgegw.hub.findings import findings as all_findings

    is_any = False
    with open_books(hub_settings) as books:
        for finding in all_findings(books.database):
            is_any = True
            click.echo(msgspec.json.encode(finding) if as_json else _told(finding))
    if not is_any and not as_json:
        click.echo("nothing waits for a person")


def _told(finding: Finding) -> str:
    place = f"{finding.box} epoch {finding.epoch} " if finding.box else ""
    place = place.rstrip() if finding.seq is None else f"{place}{finding.log} {finding.seq}"
    amount = f", {finding.amount_minor} {finding.currency} minor units" if finding.amount_minor else ""
    whose = f", {finding.account_id}" if finding.account_id else ""
    owner = f", {finding.owner} must act" if finding.owner else ""
    text = f"{finding.kind}: {place}{whose}{amount}{owner}: {finding.reason}"
    for what, note in (("held", finding.held_checkpoint), ("other", finding.other_checkpoint)):
        if note:
            origin, size, root = [*note.splitlines(), "", "", ""][:3]
            text += f"\n  {what} signed head: {origin}, {size} records, root {root}"
    return f"{text}\n  next: {finding.next}"


@click.group()
def order() -> None:
    """What a person decides at the hub about a box or an account.

    \b
    edgegw order new-epoch branch-1
    edgegw order take-journal branch-1.journal
    edgegw order seal branch-1 3
    edgegw order lost branch-1 --reason "burnt down"
    edgegw order freeze alice --reason "court order"
    edgegw order block terminal T0000017 --reason "stolen"
    edgegw order limit card-day --amount-minor 20000 --reason "travels"
    edgegw order close alice --reason "moved away"
    """


@order.command("new-epoch")
@click.argument("box")
@person_options
@hub_settings_option
def order_new_epoch(box: str, person: Person, hub_settings: Path) -> None:
    """Give a box a new epoch, after a restore, a fork, a quarantine or a lost disk.

    Nothing is emptied at the box: leave its data directory as it is, or give it an empty one where the disk
    is lost. Let it run: it first takes back from the hub (and its mirror) what it lacks of its past, then
    begins the epoch by itself and clears payments again, with new allowances. What was outstanding in the
    old epoch stays in doubt until that is sealed.

    A box that has forked: take its other history in first (take-journal). A fork that is found after the
    order ends the order. The box learns what the history decided that the hub has before the epoch begins.

    Example: edgegw order new-epoch branch-1 --hub hub.toml
    """
    from edgegw.hub.order_actions import NewEpoch

    give_order(hub_settings, NewEpoch(box=box), person=person)


@order.command("take-journal")
@click.argument("file", type=SettingsPath)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@hub_settings_option
def order_take_journal(file: Path, as_json: bool, hub_settings: Path) -> None:
    """Take in a journal that `edgegw journal export` wrote, from anyone: the box, its disk, a mirror.

    Records that continue what the hub holds are taken as if the box had sent them. Where the box has signed
    other records than the hub holds, both histories are kept and booked: a payment that is in both counts
    once, one with other content waits for a person, and what was spent beyond the box's allowance is the
    loss of its risk account. The same file again changes nothing. A sealed epoch takes nothing more.

    Example: edgegw order take-journal branch-1.journal --hub hub.toml
    """
    import msgspec

    from edgegw.hub.exported import ExportError
    from edgegw.hub.operate import OrderError
    from edgegw.hub.take_journal import take_journal

    with open_books(hub_settings) as books, progress_bar("taking") as progress:
        try:
            taken = take_journal(books.database, books.keyring, file, now_ns=time.time_ns, progress=progress)
        except (OrderError, ExportError) as problem:
            raise SettingsError(str(file), [str(problem)]) from None
    if as_json:
        click.echo(msgspec.json.encode(taken._asdict()))
        return
    click.echo(_story(taken))


def _story(taken: TakenJournal) -> str:
    """What came of a journal that was taken in, for a person."""
    text = f"epoch {taken.epoch} of {taken.box}: {taken.records} records, {taken.fresh} of them new"
    if not taken.branch:
        return text
    return (
        f"{text}\nthey are history {taken.branch + 1} of this epoch, other from record {taken.fork_size} on:"
        f" {taken.decided} new decisions, {taken.suspense} for a person to look at, {taken.losses} losses"
        f" ({taken.losses_minor} minor units, borne by the risk account)"
    )


@order.command("seal")
@click.argument("box")
@click.argument("epoch", type=RowNumber)
@click.option(
    "--lost",
    type=click.IntRange(min=0),
    default=0,
    help="So many of its records are gone for good.",
)
@person_options
@hub_settings_option
def order_seal(box: str, epoch: int, lost: int, person: Person, hub_settings: Path) -> None:
    """Settle an old epoch for good: nothing more of it is taken, and what was in doubt returns.

    Refused while records are missing that the box has said or signed to have; --lost declares them gone,
    which takes two people where the hub's settings list operators.

    Example: edgegw order seal branch-1 3 --hub hub.toml
    """
    from edgegw.hub.order_actions import DeclareLoss, Seal

    action = DeclareLoss(box=box, epoch=epoch, lost=lost) if lost else Seal(box=box, epoch=epoch)
    give_order(hub_settings, action, person=person)


@order.command("lost")
@click.argument("box")
@click.option(
    "--records",
    type=click.IntRange(min=0),
    default=0,
    help="So many of its records are known to be missing.",
)
@click.option("--reason", required=True, help="Why; it is kept with the order.")
@person_options
@hub_settings_option
def order_lost(box: str, records: int, reason: str, person: Person, hub_settings: Path) -> None:
    """Declare that a box is lost for ever: what was outstanding there returns, and it stays out of service.

    What it paid out and did not deliver is not in the books; `edgegw post` makes good what turns up on
    paper. Refused while the box speaks, and while records are missing that it has said or signed to have,
    unless --records says how many. With a lease in the site's settings, wait for its end: until then the
    box may still spend somewhere (`edgegw allowances` tells). Where the hub's settings list operators, it
    takes two people.

    Example: edgegw order lost branch-1 --reason "burnt down" --hub hub.toml
    """
    from edgegw.hub.order_actions import DeclareBoxLost

    action = DeclareBoxLost(box=box, lost=records, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)


@order.command("freeze")
@click.argument("account_id")
@click.option("--reason", required=True, help="Why; it is journalled at every box.")
@click.option("--off", is_flag=True, help="Let the account pay out again.")
@person_options
@hub_settings_option
def order_freeze(account_id: str, reason: str, off: bool, person: Person, hub_settings: Path) -> None:
    """Bar an account from paying out, at the centre at once and at each box when it hears of it.

    Where the hub's settings list operators, it waits for another person (`edgegw orders approve`).

    Example: edgegw order freeze alice --reason "court order" --hub hub.toml
    """
    from edgegw.hub.order_actions import Freeze

    action = Freeze(account_id=account_id, frozen=not off, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)


@order.command("close")
@click.argument("account_id")
@click.option("--reason", required=True, help="Why; it is journalled at every box.")
@click.option("--reopen", is_flag=True, help="Let the account take and pay again.")
@person_options
@hub_settings_option
def order_close(account_id: str, reason: str, reopen: bool, person: Person, hub_settings: Path) -> None:
    """Let an account take and pay nothing new, at the centre at once and at each box when it hears of it.

    What boxes hold of it returns to the centre. Live holds keep their cover until they are posted, voided or
    expired.

    Example: edgegw order close alice --reason "moved away" --hub hub.toml
    """
    from edgegw.hub.order_actions import CloseAccount

    action = CloseAccount(account_id=account_id, closed=not reopen, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)
