"""Who a box is when it starts: its keys, and whether the ledger that it finds is its own to continue.

Leaves out the ledger's own word about that (`ledger.boot`) and the hub's (`core.exchange`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import structlog

from edgegw import __version__
from edgegw.access.keys import SigningKey, VerifyingKey, make_signing_key, open_signing_key
from edgegw.access.keystore import FILES, OPEN_FILES, Keystore
from edgegw.access.tls import TransportContext
from edgegw.access.webhook_key import WebhookKey, load_webhook_key
from edgegw.config.box import Box, BoxSettings
from edgegw.core import journal
from edgegw.core.journal import Checkpoint
from edgegw.core.messages import ExchangeError
from edgegw.encryption import line_of
from edgegw.enrolment import Holder, certificate_files, hub_time_of
from edgegw.errors import Behind, LedgerCorrupt
from edgegw.key_places import checkpoint_key_file, device_key_file, keystore_of, webhook_key_file
from edgegw.ledger.received import link_of
from edgegw.ledger.start import Own
from edgegw.ledger.store import Store
from edgegw.machine import MachineClock
from edgegw.mirrored import MirrorPeer, mirror_peer
from edgegw.pinned import hub_key

_log: Final = structlog.get_logger("edgegw")


class Keys(NamedTuple):
    """The box's own keys, the hub's pinned one, the mirror's where there is one, and how the line to the hub
    is encrypted."""

    device: SigningKey
    checkpoint: SigningKey
    hub: VerifyingKey
    mirror: MirrorPeer | None
    webhook: WebhookKey
    tls: TransportContext | None
    keystore: Keystore = OPEN_FILES
    """What opens the keys of the ways in."""
    enrolled: Holder | None = None
    """None for a box that renews no certificate."""


def load_keys(settings: BoxSettings) -> Keys:
    """The keys that the settings name; those for checkpoints and webhooks are made if there are none. Raises
    KeyFileError, PlaceAway and SettingsError."""
    keystore = keystore_of(settings)
    device = open_signing_key(keystore, device_key_file(settings))
    of_checkpoints = checkpoint_key_file(settings)
    if not of_checkpoints.path.exists():
        make_signing_key(keystore, of_checkpoints)
    checkpoint = open_signing_key(keystore, of_checkpoints)
    webhook = load_webhook_key(keystore, webhook_key_file(settings))
    hub, time = hub_key(settings), None
    if settings.enrolment is not msgspec.UNSET:
        certificate_files(settings).finish()
        time = hub_time_of(settings, MachineClock())
    now_s = None if time is None else time.now_s
    tls = line_of(settings.hub.tls, "hub.tls", now_s=now_s)
    enrolled = None if time is None else Holder(settings, keystore, hub, time)
    mirror = mirror_peer(settings, now_s=now_s)
    return Keys(device, checkpoint, hub, mirror, webhook, tls, keystore, enrolled)


def tell_of_places(keystore: Keystore) -> None:
    """Log what an operator should know of where the keys were found."""
    if FILES in keystore.found:
        _log.warning("keys_lie_open", hint="For the lab only: choose keys.place, then `edgegw keys seal`.")
    for place in sorted(keystore.found - {FILES, keystore.place}):
        hint = f"Set keys.place = {place} in the settings, or bring them back with `edgegw keys move`."
        _log.warning("keys_elsewhere", place=place, settings=keystore.place, hint=hint)


def own_of(box: Box, held: Keys, store: Store, *, boot: str) -> Own:
    """Who a start is: names, keys and the digest of the settings."""
    bank, name, key = box.settings.bank, box.settings.box, held.checkpoint

    def sign(epoch: int, size: int, root: bytes) -> str:
        origin = journal.journal_origin(bank=bank, box=name, epoch=epoch)
        return key.seal(Checkpoint(origin, size, root).body())

    def open_note(epoch: int, note: str) -> Checkpoint:
        checkpoint = VerifyingKey.parse(_epoch_key(store, epoch, held.hub)).open(note)
        if checkpoint.origin != journal.journal_origin(bank=bank, box=name, epoch=epoch):
            raise ValueError(f"it is signed for {checkpoint.origin}")
        return checkpoint

    return Own(
        bank=bank,
        box=name,
        boot=boot,
        sign=sign,
        open_note=open_note,
        key_text=key.public.text(),
        version=__version__,
        box_digest=box.digest,
    )


def replaced(own: Own, held: Keys, store: Store) -> Behind | None:
    """Whether other hardware wrote this ledger: then its newest epoch is not this box's to continue."""
    heads = store.heads()
    if not heads or _epoch_key(store, heads[-1].epoch, held.hub) == own.key_text:
        return None
    return Behind(f"epoch {heads[-1].epoch} was given to another checkpoint key than this box has")


def _epoch_key(store: Store, epoch: int, hub: VerifyingKey) -> str:
    """The checkpoint key of an epoch by its hub-signed link, as its one-line text."""
    try:
        return link_of(store, epoch, None, hub_key=hub).key
    except ExchangeError as problem:
        raise LedgerCorrupt(str(problem)) from None
