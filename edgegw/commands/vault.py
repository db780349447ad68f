"""`edgegw vault`: what a box's card vault holds, a new key version, destroying a card, showing one.

All of it works beside a running box or without one, with open and with sealed keys. What a person does is
kept in the vault with who and why, and a running box logs it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from edgegw.commands import ExitCode, json_option, print_json, progress_bar, settings_argument
from edgegw.commands.ledger import open_reader, read_book
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import BoxSettings, load_box
from edgegw.core.card_numbers import holds_card_number

if TYPE_CHECKING:
    from edgegw.payments.vault_file import Act, VaultFile

PAUSE_S: Final = 0.05
"""Between two portions of a rotation: a box that waits for the file looks again after up to so long, and
would else lose it to the next portion again and again."""
_LOOKUP: Final = re.compile("[0-9a-f]{64}")


class VaultStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgegw vault status --json` prints."""

    cards: int
    with_number: int
    """Those whose number the box was shown; of the others it knows the lookup."""
    shredded: int
    key_versions: tuple[int, ...]
    """In use; more than one while a rotation is under way."""
    behind: int
    """Cards that have still to go to the newest version."""
    lost: tuple[str, ...]
    """Tokens by which the ledger counts and which the vault does not know: no card is taken while there are
    any."""
    acts: tuple[dict[str, str | int], ...]
    """What persons did: number, at_s, what, token, by, reason."""


@click.group("vault")
def vault() -> None:
    """The card vault of a box: its numbers are sealed, and records carry random tokens.

    \b
    edgegw vault status box.toml
    edgegw vault rotate box.toml --by mei --reason "yearly"
    edgegw vault shred box.toml CARD --by mei --reason "the customer asked"
    edgegw vault reveal box.toml TOKEN --by mei --reason "chargeback 17"
    """


def _person(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of what a person answers for."""
    for name, text in (("--reason", "Why; it is kept."), ("--by", "Who does it; it is kept.")):
        command = click.option(name, required=True, callback=_checked, help=text)(command)
    return command


def _checked(_ctx: click.Context, option: click.Parameter, value: str) -> str:
    if not value.strip() or len(value) > 200 or not value.isprintable() or holds_card_number(value):
        raise click.BadParameter("1 to 200 printable characters and no card number", param=option)
    return value


@vault.command("status")
@settings_argument
@json_option
@click.pass_context
def vault_status(ctx: click.Context, settings: Path, as_json: bool) -> None:
    """Show how many cards are held, under which key versions, what was lost, and what persons did.

    Exit code 1 when the ledger counts by cards that the vault does not know: it was lost, or is older than
    the ledger.

    Example: edgegw vault status box.toml
    """
    with _opened(settings) as (box, opened):
        counts = opened.counts()
        status = VaultStatus(
            cards=counts.cards,
            with_number=counts.with_number,
            shredded=counts.shredded,
            key_versions=counts.versions,
            behind=counts.behind,
            lost=tuple(_lost(box, opened)),
            acts=tuple(_shown(act) for act in opened.acts()),
        )
    if as_json:
        print_json(status)
    else:
        click.echo(f"{status.cards} cards ({status.with_number} with number), {status.shredded} shredded")
        versions = ", ".join(map(str, status.key_versions))
        click.echo(f"key version {versions}" + (f"; {status.behind} cards to go" if status.behind else ""))
        for act in status.acts:
            click.echo("{at_s} {what} {token} by {by}: {reason}".format(**act))
        if status.lost:
            click.echo(f"LOST: {len(status.lost)} cards that the ledger counts by; no card is taken now")
    if status.lost:
        ctx.exit(ExitCode.FOUND)


def _shown(act: Act) -> dict[str, str | int]:
    return act._asdict()


@vault.command("rotate")
@settings_argument
@_person
def vault_rotate(settings: Path, by: str, reason: str) -> None:
    """Bring every card to a new key version, beside the payments, and destroy the older versions.

    From then on no older copy of the vault opens anything. Killed at any moment, the same command goes on.

    Example: edgegw vault rotate box.toml --by mei --reason "yearly"
    """
    with _opened(settings) as (_, opened):
        click.echo(f"{_rotated(opened, by=by, reason=reason)} cards lie under the new key version")


def _rotated(opened: VaultFile, *, by: str, reason: str) -> int:
    """A whole rotation. One that was interrupted is ended first: a copy may have been taken in its middle,
    which the version that it began still opens."""
    if len(opened.counts().versions) > 1:
        _rotate_once(opened, by=by, reason=reason)
    opened.begin_rotation()
    return _rotate_once(opened, by=by, reason=reason)


def _rotate_once(opened: VaultFile, *, by: str, reason: str) -> int:
    """To the newest version, which is there; returns how many cards went."""
    done, behind, after = 0, opened.counts().behind, ""
    with progress_bar("rotating") as show:
        while portion := opened.rotate_portion(after):
            done, after = done + portion.moved, portion.last
            show(done, behind)
            time.sleep(PAUSE_S)
    opened.end_rotation(by=by, reason=reason)
    return done


@vault.command("shred")
@settings_argument
@click.argument("cards", nargs=-1, required=True)
@_person
@click.pass_context
def vault_shred(ctx: click.Context, settings: Path, cards: tuple[str, ...], by: str, reason: str) -> None:
    """Destroy what the vault knows of cards, each given by its token or its lookup, and then all older key
    versions.

    No record changes: its token leads nowhere from then on, and an older copy of the vault opens nothing. A
    card that comes again gets a new token, and what limits have counted of it is not held against it any
    more. Killed at any moment, the same command goes on. Exit code 1 when one of them is not in the vault,
    any more or at all.

    Example: edgegw vault shred box.toml "$CARD" --by mei --reason "the customer asked"
    """
    missing = 0
    with _opened(settings) as (_, opened):
        for number, card in enumerate(cards, 1):
            token = _token(opened, card)
            if token and opened.shred(token, by=by, reason=reason):
                click.echo(f"{token} is shredded")
            else:
                missing += 1
                click.echo(f"edgegw: card {number} is not in this vault", err=True)
        if opened.counts().shredded:  # the rotation after an earlier shredding may have been killed
            _rotated(opened, by=by, reason=f"after shredding: {reason}"[:200])
            click.echo("older copies of the vault open nothing any more")
    if missing:
        ctx.exit(ExitCode.FOUND)


@vault.command("reveal")
@settings_argument
@click.argument("token")
@click.option("--full", is_flag=True, help="Print the whole number, not its mask.")
@_person
@click.pass_context
def vault_reveal(ctx: click.Context, settings: Path, token: str, full: bool, by: str, reason: str) -> None:
    """Print the number of the card behind a token or a lookup, masked unless --full is given; who and why is
    on disk before it is shown.

    Exit code 1 when the vault has no number for it.

    Example: edgegw vault reveal box.toml "$TOKEN" --by mei --reason "chargeback 17"
    """
    from edgegw.payments.vault import mask

    with _opened(settings) as (_, opened):
        token = _token(opened, token)  # what is kept of it must not name the card once it is shredded
        card = opened.card(token)
        if card is None or not card.number:
            click.echo("edgegw: the vault has no number for this token", err=True)
            ctx.exit(ExitCode.FOUND)
        opened.note("reveal-full" if full else "reveal", token, by=by, reason=reason)
        click.echo(card.number if full else mask(card.number))


@vault.command("accept-loss")
@settings_argument
@_person
def vault_accept_loss(settings: Path, by: str, reason: str) -> None:
    """Take cards again although the vault is lost or older than the ledger: those that it does not know get
    new tokens, and what limits have counted of them in the running periods is not held against them any more.

    Example: edgegw vault accept-loss box.toml --by mei --reason "the disk is gone"
    """
    with _opened(settings) as (box, opened):
        lost = _lost(box, opened)
        if lost:
            opened.give_up(lost, by=by, reason=reason)
    click.echo(f"{len(lost)} cards are given up")


def _token(opened: VaultFile, card: str) -> str:
    """The token of a card that is named by it or by its lookup, "" for an unknown lookup."""
    return (opened.find(card) or "") if _LOOKUP.fullmatch(card) else card


def _lost(box: BoxSettings, opened: VaultFile) -> list[str]:
    from edgegw.ledger.boot import LEDGER_NAME
    from edgegw.payments.cards import counted_cards

    if not (Path(box.data_dir) / LEDGER_NAME).exists():
        return []
    with open_reader(Path(box.data_dir)) as store:
        book, _ = read_book(store, bank=box.bank, box=box.box)
        return opened.unknown(counted_cards(book))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BoxSettings, VaultFile]]:
    """A box's settings and its vault; raises SettingsError and VaultFailed."""
    from edgegw import card_vault, key_places
    from edgegw.access.keystore import stay_out_of_core_dumps
    from edgegw.payments.vault_file import VaultFile

    stay_out_of_core_dumps()
    box = load_box(path, protocol_shapes()).settings
    keys = card_vault.vault_keys(box, key_places.keystore_of(box))
    opened = VaultFile.open(card_vault.vault_path(box), keys)
    try:
        yield box, opened
    finally:
        opened.close()
