"""Who gives an order, and what becomes of it: the options of a person, `edgegw orders` for a second one.

An order itself is a command of its own (`edgegw order`, `edgegw site`, `edgegw suspense park`); all of them
end in `give_order`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from edgegw.commands import ExitCode, RowNumber, hub_settings_option, json_option, print_json
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgegw.access.operators import Person
    from edgegw.hub.keyring import Keyring
    from edgegw.hub.order_actions import Action
    from edgegw.hub.orders import Given, Order

Result = TypeVar("Result")
KeyPath: Final = click.Path(dir_okay=False, path_type=Path)
NS: Final = 1_000_000_000
RECALL_LOOK_S: Final = 0.05
ALONE: Final = (
    "note: one person was enough: the hub's settings list no operators ([[operators]]; see `edgegw keygen"
    " operator`)"
)


def person_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--by and --key, which the command gets as one `person`."""

    @click.option("--by", default="", help="Who orders it: a name in [[operators]] of the hub's settings.")
    @click.option(
        "--key", "key_file", type=KeyPath, help="That person's private key (`edgegw keygen operator`)."
    )
    @wraps(command)
    def with_person(*arguments: Any, by: str, key_file: Path | None, **named: Any) -> Any:
        return command(*arguments, person=person_of(by, key_file), **named)

    return with_person


def person_of(name: str, key_file: Path | None) -> Person:
    """Somebody with their key, if they gave one; raises SettingsError."""
    from edgegw.access.operators import Person
    from edgegw.commands.keys import ed25519_key

    return Person(name, None if key_file is None else ed25519_key(key_file).sign)


def carry_out(
    hub_settings: Path,
    work: Callable[[Connection, Keyring], Result],
    *,
    what: str = "the order",
    action: Callable[[Connection], Action | None] = lambda _: None,
) -> Result:
    """One step of an order in one SQL transaction; raises SettingsError with why it cannot be done. What has
    expired meanwhile is written down first, and boxes give back what the action would decline for lack
    of."""
    from edgegw.access.operators import OperatorError
    from edgegw.commands.hub import open_books
    from edgegw.hub.order_actions import REFUSED
    from edgegw.hub.orders import expire_due, recall_first

    with open_books(hub_settings) as books:
        books.database.transact(lambda c: expire_due(c, books.keyring, now_ns=time.time_ns()))
        due = books.database.transact(action)
        if due is not None:
            recall_first(books.database, due, now_ns=time.time_ns, pause=lambda: time.sleep(RECALL_LOOK_S))
        try:
            return books.database.transact(lambda c: work(c, books.keyring))
        except (*REFUSED, OperatorError) as problem:
            raise SettingsError(what, str(problem).splitlines()) from None


def give_order(
    hub_settings: Path,
    action: Action,
    *,
    person: Person,
    reason: str = "",
    attachment: bytes = b"",
    what: str = "the order",
) -> Given:
    """Order something and tell what came of it: it is done, or it waits for another person."""
    from edgegw.hub.orders import give

    alone = False

    def work(connection: Connection, keyring: Keyring) -> Given:
        nonlocal alone
        alone = action.takes_two and not keyring.operators
        return give(
            connection,
            keyring,
            action,
            by=person,
            reason=reason,
            now_ns=time.time_ns(),
            attachment=attachment,
        )

    given = carry_out(hub_settings, work, what=what, action=lambda _: action)
    click.echo(given.outcome)
    if alone:
        click.echo(ALONE, err=True)
    return given


@click.group()
def orders() -> None:
    """Orders that take two people: what waits, a second person's word, and the signed log of all of them.

    \b
    edgegw orders list --hub hub.toml
    edgegw orders approve 7 --by li --key li.pem --hub hub.toml
    edgegw orders check --hub hub.toml
    """


@orders.command("list")
@click.option("--all", "every", is_flag=True, help="Those that are over, too.")
@json_option
@hub_settings_option
def orders_list(every: bool, as_json: bool, hub_settings: Path) -> None:
    """List what waits for a second person, the oldest first.

    Example: edgegw orders list --hub hub.toml
    """
    from edgegw.hub.orders import WAITING, orders_of

    found, operators = carry_out(hub_settings, lambda c, keyring: (orders_of(c), bool(keyring.operators)))
    shown = [one for one in found if every or one.state == WAITING]
    if as_json:
        print_json([one._asdict() for one in shown])
        return
    for one in shown:
        click.echo(_told(one))
    if not shown:
        click.echo("nothing waits for a second person")
    if not operators:
        click.echo("every order acts at once: the hub's settings list no operators", err=True)


@orders.command("show")
@click.argument("number", type=RowNumber)
@json_option
@hub_settings_option
def orders_show(number: int, as_json: bool, hub_settings: Path) -> None:
    """Show one order with its arguments, to read before approving it.

    Example: edgegw orders show 7 --hub hub.toml
    """
    from edgegw.hub.orders import orders_of

    found = carry_out(hub_settings, lambda c, _: {one.number: one for one in orders_of(c)})
    if number not in found:
        raise SettingsError("the order", [f"there is no order {number}"])
    if as_json:
        print_json(found[number]._asdict())
        return
    click.echo(_told(found[number]))
    for name, value in found[number].arguments.items():
        click.echo(f"  {name} = {msgspec.json.encode(value).decode()}")


def _told(one: Order) -> str:
    who = one.by or "nobody named"
    what = " ".join((one.action, *_about(one)))
    text = f"{one.number} {one.state}: {what} by {who}, {_moment(one.wall_ns)}: {one.reason}"
    if one.state == "waiting":
        return f"{text}; until {_moment(one.expires_ns)}\n  next: edgegw orders approve {one.number}"
    if one.checked_ns:
        text += f"; {one.state} by {one.checked_by or 'the hub'}, {_moment(one.checked_ns)}"
    return f"{text}\n  {one.outcome}" if one.outcome else text


def _about(one: Order) -> Iterator[str]:
    """What tells it from others of its kind: whose account is frozen, and whether it is not freed."""
    for name, value in one.arguments.items():
        if name not in ("action", "reason") and value is not None:
            yield f"{name}={msgspec.json.encode(value).decode()}"


def _moment(at_ns: int) -> str:
    return datetime.datetime.fromtimestamp(at_ns // NS, datetime.UTC).isoformat()


@orders.command("approve")
@click.argument("number", type=RowNumber)
@person_options
@hub_settings_option
@click.pass_context
def orders_approve(ctx: click.Context, number: int, person: Person, hub_settings: Path) -> None:
    """Carry out what another person has ordered; the approval and what it does are one.

    Example: edgegw orders approve 7 --by li --key li.pem --hub hub.toml
    """
    from edgegw.hub.orders import approve, proposed_action

    given = carry_out(
        hub_settings,
        lambda c, keyring: approve(c, keyring, number, by=person, now_ns=time.time_ns()),
        action=lambda c: proposed_action(c, number),
    )
    click.echo(given.outcome)
    if not given.is_done:
        ctx.exit(ExitCode.FOUND)


@orders.command("reject")
@click.argument("number", type=RowNumber)
@click.option("--reason", required=True, help="Why; it is kept.")
@person_options
@hub_settings_option
def orders_reject(number: int, reason: str, person: Person, hub_settings: Path) -> None:
    """Say no to an order that waits, as its checker, or take one's own back.

    Example: edgegw orders reject 7 --reason "wrong account" --by li --key li.pem --hub hub.toml
    """
    from edgegw.hub.orders import reject

    given = carry_out(
        hub_settings,
        lambda c, keyring: reject(c, keyring, number, by=person, reason=reason, now_ns=time.time_ns()),
    )
    click.echo(given.outcome)


@orders.command("export")
@click.argument("file", type=KeyPath)
@hub_settings_option
def orders_export(file: Path, hub_settings: Path) -> None:
    """Write the log of orders to a file that `edgegw verify --hub-key KEY journal FILE` proves.

    Example: edgegw orders export orders.journal --hub hub.toml
    """
    from edgegw.hub.order_log import checkpoint_of, export_lines

    lines = carry_out(
        hub_settings, lambda c, keyring: list(export_lines(c, keyring)) if checkpoint_of(c) else []
    )
    if not lines:
        raise SettingsError("the log of orders", ["it is empty: nobody has ordered anything yet"])
    file.write_bytes(b"".join(lines))
    click.echo(f"the log of orders is in {file}")


@orders.command("check")
@json_option
@hub_settings_option
@click.pass_context
def orders_check(ctx: click.Context, as_json: bool, hub_settings: Path) -> None:
    """Check the whole log of orders: its chain, the hub's signature, and every person's.

    Whoever can write in the hub's database can cut off the newest records unseen, and change nothing else.
    Keep the checkpoint that is printed elsewhere: the next one must continue it.

    Example: edgegw orders check --hub hub.toml
    """
    from edgegw.hub.order_log import checkpoint_of, problems_of

    problems, note = carry_out(
        hub_settings, lambda c, keyring: (list(problems_of(c, keyring)), checkpoint_of(c))
    )
    if as_json:
        print_json({"problems": problems, "checkpoint": note})
    else:
        for problem in problems:
            click.echo(problem)
        if not problems:
            click.echo("the log of orders is whole, and everybody's word in it is their own")
        click.echo(note.partition("\n\n")[0])
    if problems:
        ctx.exit(ExitCode.FOUND)
