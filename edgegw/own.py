"""Who a box is when it starts: its keys, and whether the ledger that it finds is its own to continue.

Leaves out the ledger's own word about that (`ledger.boot`) and the hub's (`core.exchange`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from edgegw import __version__
from edgegw.access.checkpoint_keys import CheckpointKeys
from edgegw.access.keys import SigningKey, VerifyingKey, open_signing_key
from edgegw.access.keystore import FILES, OPEN_FILES, Keystore
from edgegw.access.oauth import TokenFiles
from edgegw.access.tls import TransportContext
from edgegw.access.token_store import STORE_NAME
from edgegw.access.webhook_key import WebhookKey, load_webhook_key
from edgegw.config.box import Box, BoxSettings
from edgegw.core import journal
from edgegw.core.journal import Checkpoint
from edgegw.core.key_policy import KeyPolicy
from edgegw.core.messages import ExchangeError
from edgegw.encryption import line_of
from edgegw.enrolment import Holder, certificate_files, hub_time_of
from edgegw.errors import Behind, LedgerCorrupt
from edgegw.key_places import (
    checkpoint_key_file,
    device_key_file,
    keystore_of,
    open_sealed_tls_keys,
    token_key_file,
    webhook_key_file,
)
from edgegw.ledger.batch import Sign
from edgegw.ledger.received import policy_of
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
    checkpoint: CheckpointKeys
    hub: VerifyingKey
    mirror: MirrorPeer | None
    webhook: WebhookKey
    tls: TransportContext | None
    keystore: Keystore = OPEN_FILES
    """What opens the keys of the ways in."""
    enrolled: Holder | None = None
    """None for a box that renews no certificate."""
    tokens: TokenFiles = TokenFiles()


def load_keys(settings: BoxSettings) -> Keys:
    """The keys that the settings name; those for checkpoints and webhooks are made if there are none. Raises
    KeyFileError, PlaceAway and SettingsError."""
    keystore = keystore_of(settings)
    device = open_signing_key(keystore, device_key_file(settings))
    checkpoint = CheckpointKeys(keystore, checkpoint_key_file(settings))
    webhook = load_webhook_key(keystore, webhook_key_file(settings))
    hub, time = hub_key(settings), None
    open_sealed_tls_keys(settings, keystore)
    if settings.enrolment is not msgspec.UNSET:
        certificate_files(settings).finish()
        time = hub_time_of(settings, MachineClock())
    now_s = None if time is None else time.now_s
    tls = line_of(settings.hub.tls, "hub.tls", now_s=now_s)
    enrolled = None if time is None else Holder(settings, keystore, hub, time)
    mirror = mirror_peer(settings, now_s=now_s)
    tokens = TokenFiles(keystore, token_key_file(settings), Path(settings.data_dir) / STORE_NAME)
    return Keys(device, checkpoint, hub, mirror, webhook, tls, keystore, enrolled, tokens)


def tell_of_places(keystore: Keystore) -> None:
    """Log what an operator should know of where the keys were found."""
    if FILES in keystore.found:
        _log.warning("keys_lie_open", hint="For the lab only: choose keys.place, then `edgegw keys seal`.")
    for place in sorted(keystore.found - {FILES, keystore.place}):
        hint = f"Set keys.place = {place} in the settings, or bring them back with `edgegw keys move`."
        _log.warning("keys_elsewhere", place=place, settings=keystore.place, hint=hint)


def own_of(box: Box, held: Keys, store: Store, *, boot: str, key: SigningKey | None = None) -> Own:
    """Who a start is: names, keys and the digest of the settings. key: signs the checkpoints of an epoch that
    is to begin; else the one that signs the newest epoch's. Raises KeyFileError."""
    bank, name = box.settings.bank, box.settings.box
    if key is None:
        held.checkpoint.settle(_newest_key(store, held.hub))
        key = held.checkpoint.current

    def open_note(epoch: int, note: str) -> Checkpoint:
        checkpoint = _policy(store, epoch, held.hub).open(note)
        if checkpoint.origin != journal.journal_origin(bank=bank, box=name, epoch=epoch):
            raise ValueError(f"it is signed for {checkpoint.origin}")
        return checkpoint

    return Own(
        bank=bank,
        box=name,
        boot=boot,
        sign=signer(key, bank=bank, box=name),
        open_note=open_note,
        key_text=key.public.text(),
        version=__version__,
        box_digest=box.digest,
    )


def signer(key: SigningKey, *, bank: str, box: str) -> Sign:
    """Signs the checkpoints of a box with this key."""

    def sign(epoch: int, size: int, root: bytes) -> str:
        origin = journal.journal_origin(bank=bank, box=box, epoch=epoch)
        return key.seal(Checkpoint(origin, size, root).body())

    return sign


def replaced(own: Own, held: Keys, store: Store) -> Behind | None:
    """Whether other hardware wrote this ledger: then its newest epoch is not this box's to continue."""
    heads = store.heads()
    if not heads or _policy(store, heads[-1].epoch, held.hub).newest == own.key_text:
        return None
    return Behind(f"epoch {heads[-1].epoch} was given to another checkpoint key than this box has")


def _newest_key(store: Store, hub: VerifyingKey) -> str:
    """The key that signs the newest epoch's checkpoints by the journal, "" where it does not say."""
    heads = store.heads()
    with suppress(LedgerCorrupt):
        return _policy(store, heads[-1].epoch, hub).newest if heads else ""
    return ""


def _policy(store: Store, epoch: int, hub: VerifyingKey) -> KeyPolicy:
    """The keys of an epoch's checkpoints, by its hub-signed link and its records."""
    try:
        return policy_of(store, epoch, None, hub_key=hub, parse=VerifyingKey.parse)
    except ExchangeError as problem:
        raise LedgerCorrupt(str(problem)) from None
