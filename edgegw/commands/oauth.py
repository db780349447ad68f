"""`edgegw oauth`: what a person at the branch revokes, with the line down and while the box runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgegw.commands import json_option, print_json, settings_argument
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.access.token_store import TokenStore

_REASON = click.option("--reason", required=True, help="Why; whoever shows the token is told.")


class FamilyLine(msgspec.Struct, frozen=True, kw_only=True):
    """One family of refresh tokens as `edgegw oauth list` shows it; nothing secret."""

    id: str
    client: str
    scopes: tuple[str, ...]
    made_s: int
    expires_s: int
    refreshed: int
    """How often."""
    ended: str


class RevocationLine(msgspec.Struct, frozen=True, kw_only=True):
    """One revocation as `edgegw oauth list` shows it."""

    of: str
    whose: str
    until_s: int
    expires_s: int
    reason: str


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """All that a box keeps of tokens."""

    families: list[FamilyLine]
    revocations: list[RevocationLine]


@click.group("oauth")
def oauth() -> None:
    """The tokens that a box has given, and revoking them: it takes effect within a second, needs no line, and
    holds over restarts. At all boxes: `edgegw order block client NAME` at the centre.

    \b
    edgegw oauth list box.toml
    edgegw oauth revoke box.toml --client till --reason "till lost"
    edgegw oauth block till box.toml --reason "key stolen"
    """


@oauth.command("list")
@settings_argument
@json_option
def oauth_list(settings: Path, as_json: bool) -> None:
    """Show the families of refresh tokens and what was revoked at this box.

    Example: edgegw oauth list box.toml
    """
    store = _store(settings)
    families = [
        FamilyLine(
            id=one.id,
            client=one.client,
            scopes=one.scopes,
            made_s=one.made_s,
            expires_s=one.expires_s,
            refreshed=one.generation - 1,
            ended=one.ended,
        )
        for one in store.families()
    ]
    revocations = [RevocationLine(**one._asdict()) for one in store.revocations()]
    store.close()
    if as_json:
        print_json(Listed(families=families, revocations=revocations))
        return
    for family in families:
        state = family.ended or f"until {_day(family.expires_s)}, refreshed {family.refreshed} times"
        click.echo(f"{family.id}  {family.client:16} {' '.join(family.scopes)}\n    {state}")
    for entry in revocations:
        until = f" of what was issued until {_day(entry.until_s)}" if entry.until_s else ""
        click.echo(f"revoked: {entry.of} {entry.whose}{until}: {entry.reason}")


@oauth.command("revoke")
@settings_argument
@click.option("--token", "token_id", help="The id (jti) of a token, or of a family (`edgegw oauth list`).")
@click.option("--client", help="All that this client has been given until now.")
@click.option("--all", "everybody", is_flag=True, help="All that anybody has been given until now.")
@_REASON
def oauth_revoke(
    settings: Path, token_id: str | None, client: str | None, everybody: bool, reason: str
) -> None:
    """Revoke tokens at this box; clients get new ones with their keys (`edgegw oauth block` bars one).

    Example: edgegw oauth revoke box.toml --client till --reason "till lost"
    """
    from edgegw.access.token_store import ALL, CLIENT, TOKEN

    named = [(TOKEN, token_id), (CLIENT, client), (ALL, "" if everybody else None)]
    chosen = [(of, whose) for of, whose in named if whose is not None]
    if len(chosen) != 1:
        raise click.UsageError("give one of --token, --client and --all")
    [(of, whose)] = chosen
    _revoke(settings, of=of, whose=whose, reason=reason)
    click.echo(f"revoked: {of} {whose}".rstrip())


@oauth.command("block")
@click.argument("client")
@settings_argument
@click.option("--reason", default="", help="Why; the client is told.")
@click.option("--off", is_flag=True, help="Let it speak again.")
def oauth_block(client: str, settings: Path, reason: str, off: bool) -> None:
    """Let a client not speak at this box at all, whatever it shows, until it is taken back with --off.

    Example: edgegw oauth block till box.toml --reason "key stolen"
    """
    from edgegw.access.token_store import BLOCKED

    if off:
        store = _store(settings)
        was = store.allow(client, now_s=store.latest_s())
        store.close()
        click.echo(f"{client} speaks again" if was else f"{client} was not blocked at this box")
        return
    if not reason:
        raise click.UsageError("give --reason")
    _revoke(settings, of=BLOCKED, whose=client, reason=reason)
    click.echo(f"{client} is not heard at this box any more")


@oauth.command("reset-clock")
@settings_argument
def oauth_reset_clock(settings: Path) -> None:
    """Take the machine's time for the box's, also where that is earlier, after a clock that was wrong has
    been mended; all tokens that the box has given are void then.

    Example: edgegw oauth reset-clock box.toml
    """
    store = _store(settings)
    before_s, now_s = store.latest_s(), int(time.time())
    store.set_time(now_s)
    store.close()
    click.echo(f"the time is {_day(now_s)}; it was {_day(before_s)}. Clients ask for new tokens.")


def _store(settings: Path) -> TokenStore:
    """The file of the box with these settings; raises SettingsError."""
    from edgegw.access.token_store import STORE_NAME, StoreFails, TokenStore

    path = Path(load_box(settings, protocol_shapes()).settings.data_dir) / STORE_NAME
    if not path.exists():
        raise SettingsError(str(path), ["no box has kept tokens here yet: start it once with its [http]"])
    try:
        return TokenStore(path)
    except StoreFails as problem:
        raise SettingsError(str(path), [f"{problem}. {problem.hint}"]) from None


def _revoke(settings: Path, *, of: str, whose: str, reason: str) -> None:
    from edgegw.access.oauth import LONGEST_TOKEN_S
    from edgegw.access.token_store import BLOCKED, Revocation

    store = _store(settings)
    latest_s = store.latest_s()
    until_s = max(latest_s, int(time.time()))
    expires_s = 0 if of == BLOCKED else until_s + LONGEST_TOKEN_S
    store.revoke(Revocation(of, whose, until_s, expires_s, reason), now_s=latest_s)
    store.close()


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
