"""A box back to where enrolment begins: nothing of it is lost that only it has, and nothing stays that is
secret.

First what the centre lacks is found; then keys and key-encryption keys go, so that a cut in the middle
leaves data that nobody can sign for, never a box that could go on; then ledger, anchor and certificates.
Settings stay, but for those that a first boot wrote. Leaves out proving an export (`edgegw.verifier`),
telling the hub (`edgegw.enrolment`) and copies elsewhere: a replica's target, the mirror, the hub.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgegw.access.key_files import remove_key_file
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.places import PlaceAway, PlaceRefuses
from edgegw.access.places.tpm2 import Tpm2
from edgegw.config.box import BoxSettings
from edgegw.core.records import (
    Boot,
    ClockStep,
    DurabilityChanged,
    HealthChanged,
    ModeChanged,
    Snapshot,
    decode_record,
)
from edgegw.enrolment import HUB_TIME_NAME, certificate_files, crl_file, enrolled_table
from edgegw.ledger.anchor import FILE_NAME as ANCHOR_NAME
from edgegw.ledger.boot import LEDGER_NAME, LOCK_NAME
from edgegw.ledger.store import Head, Store

RECORD_NAME: Final = "first-boot.json"
"""What a first boot leaves beside the settings that it wrote."""
_SUFFIXES: Final = ("", "-wal", "-shm")
_OF_THE_MACHINE: Final = (Boot, ModeChanged, ClockStep, Snapshot, DurabilityChanged, HealthChanged)
"""Records that tell of the machine alone: a stop writes one that the centre never hears of."""
_TAIL_MAX: Final = 64
_TAIL_BYTES_MAX: Final = 1 << 20


class Lacking(NamedTuple):
    """Of one epoch: what would be lost with this box."""

    head: Head
    uncosigned: int
    """Records of which the hub has not said that it holds them."""
    stand_ins: int
    """Payments at the branch's risk that wait for the hub's word."""

    def __str__(self) -> str:
        said = f"epoch {self.head.epoch}: {self.uncosigned} records that the centre has not cosigned"
        return said + (f", {self.stand_ins} payments that wait for its word" if self.stand_ins else "")


def lacking(store: Store, *, stand_ins: int) -> list[Lacking]:
    """What of a ledger the hub is not known to have and would miss, by epoch; stand_ins: in the newest."""
    heads = store.heads()
    found = []
    for head in heads:
        held = store.cosignature(head.epoch)
        waiting = stand_ins if head.epoch == heads[-1].epoch else 0
        one = Lacking(head, head.size - (0 if held is None else held[0]), waiting)
        if one.stand_ins or (one.uncosigned and not _is_of_the_machine(store, one)):
            found.append(one)
    return found


def is_appliance(settings: Path) -> bool:
    """Whether the settings of this file were written by a first boot, and none of them by a person."""
    return settings.with_name(RECORD_NAME).exists()


def clear_tpm(settings: BoxSettings) -> str:
    """Have the TPM forget what it has sealed, so that no copy of it opens any more; what is to be said of
    that."""
    if settings.keys.place != "tpm2":
        return ""
    try:
        Tpm2(tcti=settings.keys.tpm2.tcti, pcrs=()).clear()
    except (PlaceAway, PlaceRefuses) as problem:
        return f"The TPM was not cleared ({problem}): clear it in the firmware's setup."
    return "The TPM is cleared: no copy of a sealed key opens any more."


def forget_settings(settings: BoxSettings, path: Path) -> None:
    """Take away what `forget` has left of an appliance, its settings last; raises OSError."""
    for folder in {Path(settings.data_dir), Path(settings.anchor_dir), path.with_name("secrets")}:
        shutil.rmtree(folder, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.with_name(RECORD_NAME).unlink(missing_ok=True)


def _is_of_the_machine(store: Store, one: Lacking) -> bool:
    """Whether what the centre lacks tells of this machine alone."""
    if one.uncosigned > _TAIL_MAX:
        return False
    epoch, size = one.head.epoch, one.head.size
    tail = store.records(
        epoch=epoch, start=size - one.uncosigned, limit=one.uncosigned, bytes_max=_TAIL_BYTES_MAX
    )
    return len(tail) == one.uncosigned and all(
        isinstance(decode_record(entry.body), _OF_THE_MACHINE) for entry in tail
    )


def destroy_keys(settings: BoxSettings, keystore: Keystore, keys: Iterable[KeyFile]) -> list[Path]:
    """Take away every key that the settings name, and what opens them; what was there. Raises
    KeyFileError."""
    own = list(keys)
    if settings.enrolment is not msgspec.UNSET:
        own += certificate_files(settings).keys
    there = keystore.destroy(own)
    for key in own:
        remove_key_file(key.path.with_suffix(".pub"))
    return there


def forget(settings: BoxSettings) -> None:
    """Take ledger, anchor and certificates away, all but the settings; the ledger's lock is held. Raises
    OSError and KeyFileError."""
    data = Path(settings.data_dir)
    for suffix in _SUFFIXES:
        (data / f"{LEDGER_NAME}{suffix}").unlink(missing_ok=True)
    for path in data.iterdir() if data.is_dir() else ():
        if path.name == LOCK_NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in Path(settings.anchor_dir).glob(f"*{ANCHOR_NAME}*"):
        path.unlink()
    if settings.enrolment is not msgspec.UNSET:
        files, tls = certificate_files(settings), enrolled_table(settings)
        files.remove()
        for path in (files.certificate.with_name(HUB_TIME_NAME), crl_file(settings), Path(tls.ca_file)):
            remove_key_file(path)
