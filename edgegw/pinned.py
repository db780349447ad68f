"""Keys that settings pin: read from the text or the file that an option names, or refused by its name.

Box, hub and mirror all pin each other's public keys. Leaves out keys of one's own (`access.keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgegw.access.keys import VerifyingKey, load_verifying_key
from edgegw.config.box import BoxSettings
from edgegw.config.options import SettingsError


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
