"""`edgegw keys rotate` and `edgegw keys policy`: another key in the place of one, and who signs which sizes.

A key that is stolen is revoked at the hub: `edgegw order revoke-key`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from edgegw.commands import (
    RowNumber,
    SettingsPath,
    hub_settings_option,
    json_option,
    print_json,
    settings_argument,
)
from edgegw.commands.hub import open_books
from edgegw.commands.ledger import directory_of, open_reader
from edgegw.commands.orders import give_order, person_options
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.files import read_toml
from edgegw.config.mirror import load_mirror
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.access.keys import VerifyingKey
    from edgegw.access.operators import Person
    from edgegw.config.box import BoxSettings
    from edgegw.core.key_policy import KeyPolicy
    from edgegw.ledger.store import Store

WAIT_S: Final = 10.0
LOOK_S: Final = 0.1


class Range(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key and the sizes of the checkpoints that it signs."""

    key: str
    first: int
    last: int | None = None
    """None while it is the newest."""
    void_above: int | None = None
    """Revoked by the hub: what it has signed of larger sizes counts for nothing."""


class EpochKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one epoch, and what proves them."""

    epoch: int
    link: str
    """The hub's signed word, which names the first key."""
    keys: tuple[str, ...]
    """The statements, signed by two keys each, by which others took over."""
    ranges: tuple[Range, ...]


class KeyPolicyFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgegw verify --policy` takes; all that counts in it is signed."""

    edgegw_key_policy: int
    bank: str
    box: str
    epochs: tuple[EpochKeys, ...]
    revoked: tuple[str, ...]
    """The hub's signed words by which keys are void above a size."""


@click.command("rotate")
@click.argument("purpose", type=click.Choice(["checkpoint"]))
@settings_argument
def keys_rotate(purpose: str, settings: Path) -> None:
    """Put a new key in the place of one that a box has, journalled with the signatures of both.

    The new key is made sealed where the settings say so. A box that runs takes it up within a second, whether
    its line is up or not, and destroys the old one when the record is on disk; one that stands still does so
    at its next start, and one that clears nothing begins its next epoch with it. What stands before the
    record stays proved by the old key, what follows is signed by the new one. Payments go on meanwhile.

    Example: edgegw keys rotate checkpoint box.toml
    """
    from edgegw.access.checkpoint_keys import CheckpointKeys
    from edgegw.key_places import checkpoint_key_file, keystore_of

    box = load_box(settings, protocol_shapes()).settings
    keys = CheckpointKeys(keystore_of(box), checkpoint_key_file(box))
    text = keys.prepare().public.text()
    if not _runs(Path(box.data_dir)):
        click.echo(f"{text}\nThe box does not run: its next start journals this {purpose} key.")
        return
    place = _taken_up(box, text)
    if not place:
        click.echo(
            f"{text}\nThe box has not taken up this {purpose} key within {WAIT_S:.0f} s; it does as soon as"
            " it may write, or begins its next epoch with it."
        )
        return
    click.echo(f"{text}\nsigns from record {place} on; the old {purpose} key has ended")


def _runs(data_dir: Path) -> bool:
    """Whether the box of this data directory runs; a killed one leaves its word behind."""
    from edgegw.machine import started
    from edgegw.running import RUNNING_NAME, RunningBox

    try:
        told = msgspec.json.decode((data_dir / RUNNING_NAME).read_bytes(), type=RunningBox)
    except (OSError, msgspec.MsgspecError):
        return False
    return bool(told.started) and told.started == started(told.pid)


def _taken_up(box: BoxSettings, text: str) -> str:
    """The record by which a running box has taken up a key, "" where it does not soon."""
    from edgegw.core.key_policy import read_change

    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        with open_reader(Path(box.data_dir)) as store:
            for head in store.heads():
                for one in store.keys.notes(head.epoch):
                    if read_change(one.note).said.new == text:
                        return f"{head.epoch}/{one.seq}"
        time.sleep(LOOK_S)
    return ""


@click.command("policy")
@settings_argument
@click.option("--box", default="", help="At a hub or a mirror: whose keys.")
@click.option("--output", type=SettingsPath, help="Write them to a file for `edgegw verify --policy`.")
@json_option
def keys_policy(settings: Path, box: str, output: Path | None, as_json: bool) -> None:
    """Show which checkpoint key of a box signs which sizes of each epoch, and which ones are revoked.

    SETTINGS is a box's, a mirror's or the hub's TOML file. The hub knows every revoked key; a box knows of
    those that the hub has told it of.

    Example: edgegw keys policy box.toml

    Example: edgegw keys policy hub.toml --box branch-1 --output branch-1.keys
    """
    table = read_toml(settings)
    if isinstance(table.get("mirror"), str) or "box" in table or "hub" in table:
        found = _of_ledger(settings, box)
    else:
        found = _of_hub(settings, box)
    if output is not None:
        output.write_bytes(msgspec.json.encode(found) + b"\n")
        click.echo(f"{output}: the keys of {len(found.epochs)} epochs of {found.box}")
    elif as_json:
        print_json(found)
    else:
        for epoch in found.epochs:
            for one in epoch.ranges:
                last = "" if one.last is None else str(one.last)
                void = "" if one.void_above is None else f"  revoked: void above {one.void_above}"
                click.echo(f"epoch {epoch.epoch:4}  sizes {one.first:>10} to {last:10}  {one.key}{void}")
        if not found.epochs:
            click.echo(f"{found.box} has no epoch yet")


@click.command("revoke-key")
@click.argument("box")
@click.argument("key")
@click.option("--epoch", type=RowNumber, help="Of which epoch; the newest when it is not given.")
@click.option(
    "--above",
    type=click.IntRange(min=0, max=2**63 - 1),
    help="What it signs of larger sizes is void; as much as the hub holds of it when it is not given.",
)
@click.option("--reason", required=True, help="Why; it stands in the hub's signed word.")
@person_options
@hub_settings_option
def order_revoke_key(
    box: str, key: str, epoch: int | None, above: int | None, reason: str, person: Person, hub_settings: Path
) -> None:
    """Revoke a checkpoint key of a box: above a size nothing counts that it has signed, for good.

    KEY is the key's line or its id, as `edgegw keys policy` shows them. The hub refuses such heads from now
    on, the box and its mirror hear of it, and verifiers with `edgegw keys policy --output`. What the box has
    written beyond that size and the hub does not hold is lost with it: bring it first if it is sound. Where
    the key is the one that signs now, the box clears nothing more; let it make another one (`edgegw keys
    rotate checkpoint`), and then `edgegw order new-epoch`.

    Example: edgegw order revoke-key branch-1 1a2b3c4d --reason "stolen from a backup" --hub hub.toml
    """
    from edgegw.hub.order_actions import VoidKey

    size_max = -1 if above is None else above
    action = VoidKey(box=box, epoch=epoch or 0, key=key, size_max=size_max, reason=reason)
    give_order(hub_settings, action, person=person, reason=reason)


def _of_ledger(settings: Path, box: str) -> KeyPolicyFile:
    from edgegw.pinned import hub_key, pinned_key

    if isinstance(read_toml(settings).get("mirror"), str):
        mirror = load_mirror(settings)
        hub = pinned_key("hub_key", text=mirror.hub_key, file=mirror.hub_key_file)
    else:
        hub = hub_key(load_box(settings, protocol_shapes()).settings)
    with open_reader(directory_of(settings, box)) as store:
        return policy_file(store, hub)


def policy_file(store: Store, hub: VerifyingKey) -> KeyPolicyFile:
    """The keys of all epochs of a ledger; raises SettingsError where this hub has not given them."""
    return KeyPolicyFile(
        edgegw_key_policy=1,
        bank=store.meta("bank") or "",
        box=store.meta("box") or "",
        epochs=tuple(_epoch_of(store, head.epoch, hub) for head in store.heads()),
        revoked=tuple(store.keys.revoked()),
    )


def _epoch_of(store: Store, epoch: int, hub: VerifyingKey) -> EpochKeys:
    from edgegw.access.keys import VerifyingKey
    from edgegw.core.messages import ExchangeError
    from edgegw.core.records import Link, decode_record
    from edgegw.ledger.received import policy_of

    try:
        parse = VerifyingKey.parse
        policy = policy_of(store, epoch, None, hub_key=hub, parse=parse, heeds_revoked=True)
    except ExchangeError as problem:
        raise SettingsError(f"epoch {epoch}", [str(problem)]) from None
    first = decode_record(store.records(epoch=epoch, start=0, limit=1, bytes_max=1)[0].body)
    return _keys_of(epoch, first.note if isinstance(first, Link) else "", policy)


def _of_hub(settings: Path, box: str) -> KeyPolicyFile:
    from sqlalchemy import Connection, select

    from edgegw.hub import schema
    from edgegw.hub.identities import known_boxes
    from edgegw.hub.key_policies import policy_of, revoked_notes

    with open_books(settings) as books:
        keyring = books.keyring

        def read(connection: Connection) -> tuple[Sequence[EpochKeys], Sequence[str]]:
            if box not in (known := known_boxes(connection)):
                raise SettingsError("--box", [f"{box!r}: give one of {', '.join(sorted(known))}"])
            table = schema.journal_head
            rows = connection.execute(select(table).where(table.c.box == box).order_by(table.c.epoch)).all()
            hub, bank = keyring.key.public, keyring.bank
            epochs = [
                _keys_of(row.epoch, row.link, policy_of(connection, row, hub_key=hub, bank=bank))
                for row in rows
            ]
            return epochs, revoked_notes(connection, box)

        epochs, revoked = books.database.transact(read)
    return KeyPolicyFile(
        edgegw_key_policy=1, bank=keyring.bank, box=box, epochs=tuple(epochs), revoked=tuple(revoked)
    )


def _keys_of(epoch: int, link: str, policy: KeyPolicy) -> EpochKeys:
    ranges = tuple(
        Range(key=one.key, first=one.first, last=one.last, void_above=one.void_above)
        for one in policy.ranges()
    )
    return EpochKeys(epoch=epoch, link=link, keys=policy.notes, ranges=ranges)
