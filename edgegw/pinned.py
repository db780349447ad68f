"""Keys that settings pin: read from the text or the file that an option names, or refused by its name.

Box, hub and mirror all pin each other's public keys. `edgegw config check` opens all that a file names, one's
own private keys too. Leaves out how those are kept (`access.keys`) and a replica's (`replica.key_files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from edgegw.access.key_files import KeyFileError
from edgegw.access.keys import VerifyingKey, load_verifying_key, open_signing_key
from edgegw.access.keystore import KeyFile, Keystore
from edgegw.access.operators import Operator, Operators
from edgegw.access.places import PlaceAway
from edgegw.access.webhook_key import load_webhook_key
from edgegw.config.box import BoxSettings, has_mirror
from edgegw.config.hub import HubSettings, OperatorTable
from edgegw.config.mirror import MirrorSettings
from edgegw.config.options import SettingsError
from edgegw.key_places import (
    checkpoint_key_file,
    device_key_file,
    hub_key_file,
    keystore_of,
    mirror_key_file,
    webhook_key_file,
)

_SHOWN_CHARACTERS_MAX: Final = 80


def pinned_key(option: str, *, text: str, file: str) -> VerifyingKey:
    """The key in the file, or else of the option's one-line text; raises KeyFileError or SettingsError."""
    if file:
        return load_verifying_key(Path(file))
    try:
        return VerifyingKey.parse(text)
    except ValueError as problem:
        raise SettingsError(option, [str(problem)]) from None


def hub_key(settings: BoxSettings) -> VerifyingKey:
    """The key of the hub that a box's settings pin; raises KeyFileError or SettingsError."""
    return pinned_key("hub.key", text=settings.hub.key, file=settings.hub.key_file)


def pinned_boxes(bank: str, boxes: Mapping[str, str]) -> dict[str, VerifyingKey]:
    """The keys of a bank's boxes, from `[boxes]`; raises SettingsError with every fault."""
    keys, faults = {}, []
    for box, text in boxes.items():
        try:
            keys[box] = VerifyingKey.parse(text)
        except ValueError as problem:
            faults.append(f"boxes.{box}: {problem}")
            continue
        if keys[box].name != f"{bank}/{box}":
            faults.append(
                f"boxes.{box}: the key is {keys[box].name}'s, not {bank}/{box}'s;"
                " copy the line that `edgegw keygen box` printed"
            )
    if faults:
        raise SettingsError("boxes", faults)
    return keys


def listed_operators(listed: Iterable[OperatorTable]) -> Operators:
    """The people of `[[operators]]`; raises SettingsError."""
    try:
        return Operators(
            Operator(one.name, one.public_key, frozenset(one.roles), frozenset(one.actions), one.revoked)
            for one in listed
        )
    except ValueError as problem:
        raise SettingsError("operators", [str(problem)]) from None


# --- before anything runs -----------------------------------------------------------------------------------


def box_key_faults(settings: BoxSettings) -> Iterator[str]:
    """What is wrong with the keys that a box's settings name, a line each."""
    hub, mirror = settings.hub, settings.mirror
    yield from _pinned_faults("hub.key", text=hub.key, file=hub.key_file)
    if has_mirror(settings):
        yield from _pinned_faults("mirror.key", text=mirror.key, file=mirror.key_file)
    keystore, webhook = keystore_of(settings), webhook_key_file(settings)
    yield from _own_faults(keystore, device_key_file(settings))
    if Path(settings.checkpoint_key_file).exists():
        yield from _own_faults(keystore, checkpoint_key_file(settings))
    if webhook.path.exists():
        try:
            load_webhook_key(keystore, webhook)
        except (KeyFileError, PlaceAway) as problem:
            yield f"webhook_key_file = {problem}; {problem.hint}"


def hub_key_faults(settings: HubSettings) -> Iterator[str]:
    """What is wrong with the keys that a hub's settings name, a line each."""
    yield from _own_faults(keystore_of(settings), hub_key_file(settings))
    yield from _boxes_faults(settings.bank, settings.boxes)
    try:
        listed_operators(settings.operators)
    except SettingsError as problem:
        yield f"operators: {problem.faults[0]}"


def mirror_key_faults(settings: MirrorSettings) -> Iterator[str]:
    """What is wrong with the keys that a mirror's settings name, a line each."""
    yield from _own_faults(keystore_of(settings), mirror_key_file(settings))
    yield from _pinned_faults("hub_key", text=settings.hub_key, file=settings.hub_key_file)
    yield from _boxes_faults(settings.bank, settings.boxes)


def _pinned_faults(option: str, *, text: str, file: str) -> Iterator[str]:
    try:
        pinned_key(option, text=text, file=file)
    except KeyFileError as problem:
        yield f"{option}_file = {problem}; {problem.hint}"
    except SettingsError as problem:
        shown, mend = text[:_SHOWN_CHARACTERS_MAX], "copy the key's one line again from where it was made"
        yield f"{option} = {shown}: {problem.faults[0]}; {mend}"


def _own_faults(keystore: Keystore, key: KeyFile) -> Iterator[str]:
    try:
        open_signing_key(keystore, key)
    except (KeyFileError, PlaceAway) as problem:
        yield f"{key.option} = {problem}; {problem.hint}"


def _boxes_faults(bank: str, boxes: Mapping[str, str]) -> Iterator[str]:
    try:
        pinned_boxes(bank, boxes)
    except SettingsError as problem:
        yield from problem.faults
