"""`edgegw keys`: where a machine's own private keys lie, and bringing them elsewhere."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from edgegw.commands import ExitCode, json_option, print_json, settings_argument
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import Box, load_box
from edgegw.config.files import read_toml
from edgegw.config.hub import HubSettings, load_hub
from edgegw.config.keys import PlaceName
from edgegw.config.mirror import MirrorSettings, load_mirror
from edgegw.config.options import SettingsError
from edgegw.core.enrolment import KINDS

if TYPE_CHECKING:
    from edgegw.access.keystore import KeyFile, Keystore

SEALED_PLACES = tuple(name for name in typing.get_args(PlaceName) if name != "files")


class _Machine(NamedTuple):
    """A box, a hub or a mirror, as its keys see it."""

    keystore: Keystore
    own: tuple[KeyFile, ...]
    """The SM2 keys that the machine makes for itself, the one that others pin first."""
    webhook: KeyFile | None
    """A box's Ed25519 key, which it makes for itself, too."""
    others: tuple[KeyFile, ...]
    """What was given to it."""
    tokens: KeyFile | None = None
    """A box's keys for access tokens, which it makes when it opens its way in."""

    @property
    def keys(self) -> tuple[KeyFile, ...]:
        """All of them, but for a webhook key that is not there yet."""
        made = (key for key in (self.webhook, self.tokens) if key is not None and key.path.exists())
        return (*self.own, *made, *self.others)


class KeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """One key as `edgegw keys list` shows it; nothing secret."""

    purpose: str
    name: str
    key_version: int
    file: str
    place: str
    """Where the key lies that opens it; `files` for an open key, "" for one that is not there."""
    kek: str = ""
    public: str = ""
    """Its public line, of a key that has one."""
    problem: str = ""


@click.group("keys")
def keys() -> None:
    """Where the private keys of a box, a hub or a mirror lie, bringing them elsewhere, and new ones in their
    place.

    \b
    edgegw keys list box.toml
    edgegw keys make box.toml
    edgegw keys seal box.toml
    edgegw keys move box.toml --to tpm2
    edgegw keys rotate checkpoint box.toml
    edgegw keys policy box.toml
    """


@keys.command("list")
@settings_argument
@json_option
@click.pass_context
def keys_list(ctx: click.Context, settings: Path, as_json: bool) -> None:
    """Show every private key: what it is for, whose it is, its file and where the key lies that opens it.

    Each is opened, and nothing secret is shown. Exit code 1 when one does not open.

    Example: edgegw keys list box.toml
    """
    machine = _machine(settings)
    lines = [_line(machine.keystore, key) for key in machine.keys]
    if as_json:
        print_json(lines)
    else:
        for line in lines:
            shown = line.problem or line.public or "opens"
            click.echo(f"{line.purpose:11} {line.name:32} {line.place or '-':11} {line.file}\n    {shown}")
    if any(line.problem for line in lines):
        ctx.exit(ExitCode.FOUND)


@keys.command("make")
@settings_argument
def keys_make(settings: Path) -> None:
    """Make the machine's own keys that are not there yet, sealed from their first moment, and print the
    public line that others pin.

    Example: edgegw keys make box.toml
    """
    from edgegw.access.keys import make_signing_key, open_signing_key
    from edgegw.access.webhook_key import load_webhook_key

    machine = _machine(settings)
    for key in machine.own:
        key.path.parent.mkdir(parents=True, exist_ok=True)
        if not key.path.exists():
            make_signing_key(machine.keystore, key)
    if machine.webhook is not None:
        load_webhook_key(machine.keystore, machine.webhook)
    click.echo(open_signing_key(machine.keystore, machine.own[0]).public.text())


@keys.command("seal")
@settings_argument
def keys_seal(settings: Path) -> None:
    """Seal the keys that lie open, in the place that the settings name.

    What lay open may still be read from the disk: better, let a machine make its keys sealed (`keys make`).

    Example: edgegw keys seal box.toml
    """
    machine = _machine(settings)
    if machine.keystore.place not in SEALED_PLACES:
        raise SettingsError(str(settings), [f"keys.place = files: choose {', '.join(SEALED_PLACES)}"])
    sealed = machine.keystore.seal(machine.keys)
    click.echo(f"{len(sealed)} keys sealed in {machine.keystore.place}")


@keys.command("move")
@settings_argument
@click.option("--to", required=True, type=click.Choice(SEALED_PLACES), help="The place.")
def keys_move(settings: Path, to: str) -> None:
    """Seal every key anew, under a new key-encryption key in a place whose options are in the settings.

    The old one is given up at the end. Killed at any moment, the machine starts, and the same command goes
    on. With the place that the keys are in already, only the key-encryption key is a new one.

    Example: edgegw keys move box.toml --to tpm2
    """
    machine = _machine(settings)
    moved = machine.keystore.move(machine.keys, to=to)
    click.echo(f"{len(moved)} keys lie in {to}")
    if machine.keystore.place != to:
        click.echo(f'now set place = "{to}" in [keys] of {settings}', err=True)


@keys.command("rotate-kek")
@settings_argument
def keys_rotate_kek(settings: Path) -> None:
    """Seal every key anew, under a new key-encryption key in the place that the keys are in.

    The keys themselves stay: nobody who has pinned one must be told. Killed at any moment, the machine
    starts, and the same command goes on.

    Example: edgegw keys rotate-kek box.toml
    """
    machine = _machine(settings)
    place = machine.keystore.place
    if place not in SEALED_PLACES:
        raise SettingsError(str(settings), [f"keys.place = files: choose {', '.join(SEALED_PLACES)}"])
    moved = machine.keystore.move(machine.keys, to=place)
    click.echo(f"{len(moved)} keys are sealed under a new key-encryption key in {place}")


def _line(keystore: Keystore, key: KeyFile) -> KeyLine:
    from edgegw.access.key_files import KeyFileError
    from edgegw.access.places import PlaceAway

    head, public, problem = None, "", ""
    try:
        head = keystore.head(key.path)
        public = _public(keystore, key)
    except (KeyFileError, PlaceAway) as wrong:
        problem = f"{wrong}; {wrong.hint}"
    return KeyLine(
        purpose=key.purpose,
        name=key.name,
        key_version=head.key_version if head else 1,
        file=str(key.path),
        place=head.place if head else "files" if key.path.exists() else "",
        kek=head.kek if head else "",
        public=public,
        problem=problem,
    )


def _public(keystore: Keystore, key: KeyFile) -> str:
    """The public line of a key that opens, "" for one that has none; raises KeyFileError and PlaceAway."""
    from edgegw.access.keys import open_signing_key
    from edgegw.access.webhook_key import load_webhook_key

    if key.purpose in ("tls", "vault", "vault-version", "terminal", "tokens", "ca"):
        keystore.read(key)
        return ""
    if key.purpose == "webhook":
        return load_webhook_key(keystore, key).text
    return open_signing_key(keystore, key).public.text()


def _machine(path: Path) -> _Machine:
    """The keys of the box, the hub or the mirror whose settings these are; raises SettingsError."""
    from edgegw import card_vault, key_places
    from edgegw.access.checkpoint_keys import next_file

    loaded = _loaded(path)
    if isinstance(loaded, Box):
        settings = loaded.settings
        of_checkpoints = key_places.checkpoint_key_file(settings)
        waits = next_file(of_checkpoints)
        own = (
            key_places.device_key_file(settings),
            of_checkpoints,
            *((waits,) if waits.path.exists() else ()),
        )
        webhook, tokens = key_places.webhook_key_file(settings), key_places.token_key_file(settings)
        keystore = key_places.keystore_of(settings)
        others = (*_keys_of_ways(loaded), *card_vault.vault_keys(settings, keystore).files())
        others += tuple(_tls_keys(loaded))
        return _Machine(keystore, own, webhook, others, tokens)
    if isinstance(loaded, HubSettings):
        authorities = (key_places.ca_key_file(loaded, kind) for kind in KINDS)
        there = (key for key in authorities if key.path.exists())
        others = (*there, *key_places.tls_key_files(loaded))
        return _Machine(key_places.keystore_of(loaded), (key_places.hub_key_file(loaded),), None, others)
    others = tuple(key_places.tls_key_files(loaded))
    return _Machine(key_places.keystore_of(loaded), (key_places.mirror_key_file(loaded),), None, others)


def _loaded(path: Path) -> Box | HubSettings | MirrorSettings:
    table: dict[str, Any] = read_toml(path)
    if isinstance(table.get("mirror"), str):
        return load_mirror(path)
    return load_box(path, protocol_shapes()) if "box" in table or "hub" in table else load_hub(path)


def _tls_keys(box: Box) -> Iterator[KeyFile]:
    """Those of all TLS tables; of a certificate that enrolment gives, those that are there: the one in force,
    and the next."""
    from edgegw import key_places
    from edgegw.enrolment import certificate_files

    enrolled: tuple[KeyFile, ...] = ()
    if box.settings.enrolment is not msgspec.UNSET:
        enrolled = certificate_files(box.settings).keys
    known = {key.path for key in enrolled}
    yield from (key for key in enrolled if key.path.exists())
    yield from (key for key in key_places.tls_key_files(box) if key.path not in known)


def _keys_of_ways(box: Box) -> Iterator[KeyFile]:
    from edgegw.payments import protocols
    from edgegw.payments.vault import SecretFileError

    known = protocols.discover()
    for name, options in box.protocols.items():
        try:
            yield from known[name].key_files(options)
        except SecretFileError as problem:
            raise SettingsError(f"[{name}]", [str(problem)]) from None
