"""What a person does about items in suspense and about receivables, at the hub.

The commands open the hub's database themselves, so they work whether the hub runs or not.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
import msgspec

from edgegw.commands import ExitCode, SettingsPath, hub_settings_option, json_option, print_json
from edgegw.commands.hub import HubBooks, open_books
from edgegw.commands.orders import give_order, person_options
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.access.operators import Person
    from edgegw.hub.receivables import Receivable
    from edgegw.hub.suspense import Evidence, Item

Result = TypeVar("Result")

DAY_NS: Final = 86_400 * 1_000_000_000
CSV_COLUMNS: Final = (
    "item",
    "state",
    "owner",
    "reason",
    "detail",
    "currency",
    "amount_minor",
    "at_ns",
    "steps",
    "reference",
    "settle_by",
    "leaf",
    "record",
)

by_option = click.option("--by", required=True, help="Who does it; it is kept with the item.")


@click.group()
def suspense() -> None:
    """Items that the hub's books could not take, until a person is done with them.

    An item is named as `list` does: box/epoch/record. What moves money for it beyond the hub's own booking is
    posted with the id suspense:ITEM (`edgegw post`), which closes it.

    \b
    edgegw suspense list --hub hub.toml
    edgegw suspense retry branch-1/1/42 --by "M. Li" --hub hub.toml
    edgegw suspense park branch-1/1/42 --by "M. Li" --reason "both parties agreed" --hub hub.toml
    edgegw suspense export items.csv --hub hub.toml
    """


def _asked(work: Callable[[], Result]) -> Result:
    """What `work` gives; what cannot be done about an item ends the command with its reason."""
    from edgegw.hub.suspense import SuspenseError

    try:
        return work()
    except SuspenseError as problem:
        raise SettingsError("the item", [str(problem)]) from None


def _items(books: HubBooks, *, states: tuple[str, ...], box: str = "") -> Iterator[Item]:
    from edgegw.hub.suspense import PAGE_ROWS, page_of

    after = ""
    while True:
        page = books.database.transact(partial(page_of, states=states, box=box, after=after))
        yield from page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1].item


def _states(every: bool) -> tuple[str, ...]:
    from edgegw.hub.suspense import OPEN, PARKED, STATES

    return STATES if every else (OPEN, PARKED)


@suspense.command("list")
@click.option("--all", "every", is_flag=True, help="Closed items too.")
@click.option("--box", default="", help="Items of this box alone.")
@json_option
@hub_settings_option
def suspense_list(every: bool, box: str, as_json: bool, hub_settings: Path) -> None:
    """List open and parked items: who must act, why, how much and since when.

    Example: edgegw suspense list --hub hub.toml
    """
    now_ns, is_any = time.time_ns(), False
    with open_books(hub_settings) as books:
        for item in _items(books, states=_states(every), box=box):
            is_any = True
            if as_json:
                print_json(item)
            else:
                click.echo(_line(item, now_ns=now_ns))
    if not is_any and not as_json:
        click.echo("nothing is in suspense")


def _line(item: Item, *, now_ns: int) -> str:
    amount = f", {item.amount_minor} {item.currency} minor units" if item.amount_minor else ""
    ended = f", closed by {item.reference}" if item.reference else ""
    days = (now_ns - item.at_ns) // DAY_NS
    return (
        f"{item.item}: {item.state} for {days} days, {item.owner} must act{amount}: {item.reason}:"
        f" {item.detail}; {item.steps} steps{ended}"
    )


@suspense.command("show")
@click.argument("item")
@json_option
@hub_settings_option
def suspense_show(item: str, as_json: bool, hub_settings: Path) -> None:
    """Show an item with every step that was taken and the record's bytes as its box has signed them.

    Example: edgegw suspense show branch-1/1/42 --hub hub.toml
    """
    evidence = _evidence(hub_settings, item)
    if as_json:
        print_json(evidence)
        return
    click.echo(_line(evidence.item, now_ns=time.time_ns()))
    for step in evidence.steps:
        click.echo(
            f"  {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(step.at_ns // 10**9))} {step.by}:"
            f" {step.action}: {step.detail}"
        )
    click.echo(f"  record, leaf {evidence.leaf}:\n  {evidence.record}")
    click.echo(f"  a posting that closes it has the id {evidence.settle_by}")


def _evidence(hub_settings: Path, item: str) -> Evidence:
    from edgegw.hub.suspense import Place, evidence_of

    with open_books(hub_settings) as books:
        return _asked(lambda: books.database.transact(lambda c: evidence_of(c, Place.parse(item))))


@suspense.command("retry")
@click.argument("item", required=False)
@click.option("--all", "every", is_flag=True, help="Every open item, in the order of the records.")
@by_option
@json_option
@hub_settings_option
def suspense_retry(item: str | None, every: bool, by: str, as_json: bool, hub_settings: Path) -> None:
    """Book an item again: after an account was opened, money came, or the hub learned to read the record.

    What goes through is closed; what does not waits on with the new reason. Both are kept as a step. It ends
    with 1 where something still waits.

    Example: edgegw suspense retry branch-1/1/42 --by "M. Li" --hub hub.toml
    """
    from edgegw.hub.retry import retry
    from edgegw.hub.suspense import OPEN

    if bool(item) == every:
        raise click.UsageError("name one item, or give --all")
    waits = False
    with open_books(hub_settings) as books:
        names = [item] if item else [one.item for one in _items(books, states=(OPEN,))]
        for name in names:
            tried = _asked(partial(retry, books.database, books.keyring, name, by=by, now_ns=time.time_ns()))
            waits = waits or not tried.closed
            if as_json:
                print_json(tried)
            else:
                click.echo(f"{tried.item}: {'closed by' if tried.closed else 'still waits:'} {tried.detail}")
    if waits:
        raise click.exceptions.Exit(ExitCode.FOUND)


@suspense.command("park")
@click.argument("item")
@click.option("--reason", required=True, help="Why nothing more is done about it; it is kept with the item.")
@person_options
@hub_settings_option
def suspense_park(item: str, reason: str, person: Person, hub_settings: Path) -> None:
    """Set an open item aside: it stays listed as parked and is no longer told as aged.

    A later retry or posting still settles it.

    Example: edgegw suspense park branch-1/1/42 --by "M. Li" --reason "nothing moves" --hub hub.toml
    """
    from edgegw.hub.order_actions import Park

    give_order(hub_settings, Park(item=item, reason=reason), person=person, reason=reason, what="the item")


@suspense.command("export")
@click.argument("file", type=SettingsPath)
@click.option("--all", "every", is_flag=True, help="Closed items too.")
@click.option("--box", default="", help="Items of this box alone.")
@hub_settings_option
def suspense_export(file: Path, every: bool, box: str, hub_settings: Path) -> None:
    """Write items with their evidence to a file: CSV, or JSON lines with every step where it ends in .jsonl.

    Example: edgegw suspense export items.csv --hub hub.toml
    """
    from edgegw.hub.suspense import Place, evidence_of

    count = 0
    with open_books(hub_settings) as books, file.open("w", newline="", encoding="utf-8") as output:
        is_csv = file.suffix != ".jsonl"
        if is_csv:
            output.write(_csv(CSV_COLUMNS))
        for item in _items(books, states=_states(every), box=box):
            place = Place.parse(item.item)
            evidence = books.database.transact(partial(evidence_of, place=place))
            output.write(
                _csv(_columns(evidence)) if is_csv else msgspec.json.encode(evidence).decode() + "\n"
            )
            count += 1
    click.echo(f"{count} items are in {file}")


def _csv(values: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue()


def _columns(evidence: Evidence) -> tuple[object, ...]:
    item = msgspec.structs.asdict(evidence.item)
    beside = {"settle_by": evidence.settle_by, "leaf": evidence.leaf, "record": evidence.record}
    return tuple((item | beside)[name] for name in CSV_COLUMNS)


@click.command()
@click.option("--all", "every", is_flag=True, help="Paid ones too.")
@json_option
@hub_settings_option
def receivables(every: bool, as_json: bool, hub_settings: Path) -> None:
    """List what branches paid for others and are owed: who must act, who owes it, how much, since when.

    A late decline that the branch bears is owed by the payer; a reversal that the payee did not cover, by the
    payee. Post what comes in to receivable:BOX:CURRENCY with the id that is shown (and #2, #3 for further
    parts); written off, it is debited to the account that bears it.

    Example: edgegw receivables --hub hub.toml
    """
    from edgegw.hub.receivables import page_of
    from edgegw.hub.suspense import PAGE_ROWS

    now_ns, after, is_any = time.time_ns(), "", False
    with open_books(hub_settings) as books:
        while True:
            page = books.database.transact(partial(page_of, paid_too=every, after=after))
            for one in page:
                is_any = True
                if as_json:
                    print_json(one)
                else:
                    click.echo(_owed(one, now_ns=now_ns))
            if len(page) < PAGE_ROWS:
                break
            after = page[-1].receivable
    if not is_any and not as_json:
        click.echo("nothing is owed to any branch")


def _owed(one: Receivable, *, now_ns: int) -> str:
    left_minor = one.amount_minor - one.paid_minor
    return (
        f"{one.receivable}: {left_minor} of {one.amount_minor} {one.currency} minor units"
        f" owed by {one.debtor} for {(now_ns - one.at_ns) // DAY_NS} days, {one.owner} must act: {one.reason}"
        f" ({one.original})\n  next: edgegw post FILE with the id {one.settle_by}"
    )
