"""The hub's own settings: one TOML file with its database, where it listens, its key and the boxes' keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from edgegw.config.box import LogTable, Name
from edgegw.config.files import read_toml
from edgegw.config.listen import Listen, faults_of
from edgegw.config.options import SettingsError, read_table, with_paths


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    bank: Annotated[
        Name, msgspec.Meta(description="The bank's name; boxes and site settings must have the same.")
    ]
    boxes: Annotated[
        dict[Name, str],
        msgspec.Meta(
            description="`[boxes]`: each box's name and its pinned public key, the one line of its .pub file."
        ),
    ] = {}
    listen: Listen = ("127.0.0.1:8600", "127.0.0.1:8601")
    database_file: Annotated[
        str, msgspec.Meta(min_length=1, description="The SQLite file of the hub's books.")
    ] = "hub.db"
    key_file: Annotated[
        str, msgspec.Meta(min_length=1, description="The hub's private key; `edgegw keygen hub` makes it.")
    ] = "secrets/hub.pem"
    log: LogTable = LogTable()


def load_hub(path: Path) -> HubSettings:
    """The hub's settings from a file, paths made absolute; raises SettingsError with every fault."""
    faults: list[str] = []
    settings = read_table(HubSettings, read_toml(path), faults)
    if settings is not None:
        faults += faults_of(settings.listen)
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    return with_paths(settings, path.parent.absolute())
