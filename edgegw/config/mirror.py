"""The mirror's own settings: one TOML file with the keys that it knows, where it listens, where it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from edgegw.config.box import LogTable, Name
from edgegw.config.discovery import OptionalDiscovery
from edgegw.config.discovery import faults_of as discovery_faults
from edgegw.config.files import read_toml
from edgegw.config.keys import KeysTable
from edgegw.config.listen import Listen, faults_of
from edgegw.config.options import SettingsError, read_table, with_paths
from edgegw.tls_tables import OptionalServerTls


class MirrorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    bank: Annotated[Name, msgspec.Meta(description="The bank's name, as its boxes and the hub have it.")]
    mirror: Annotated[
        Name, msgspec.Meta(description="This mirror's name, unique within the bank; no box has it.")
    ]
    hub_key: Annotated[
        str, msgspec.Meta(description="The hub's pinned public key, its one line; or give hub_key_file.")
    ] = ""
    hub_key_file: Annotated[
        str, msgspec.Meta(description="File with the hub's pinned public key, one line; or give hub_key.")
    ] = ""
    boxes: Annotated[
        dict[Name, str],
        msgspec.Meta(
            description="`[boxes]`: each box's name and its pinned public key, the one line of its .pub file."
        ),
    ] = {}
    listen: Listen = ("127.0.0.1:8610",)
    data_dir: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Directory of the journals, one directory for each box."),
    ] = "mirror"
    key_file: Annotated[
        str,
        msgspec.Meta(min_length=1, description="The mirror's private key; `edgegw keygen mirror` makes it."),
    ] = "secrets/mirror.pem"
    tls: OptionalServerTls = msgspec.UNSET
    keys: KeysTable = KeysTable()
    discovery: OptionalDiscovery = msgspec.UNSET
    log: LogTable = LogTable()


def load_mirror(path: Path) -> MirrorSettings:
    """The mirror's settings from a file, paths made absolute; raises SettingsError with every fault."""
    faults: list[str] = []
    settings = read_table(MirrorSettings, read_toml(path), faults)
    if settings is not None:
        faults += faults_of(settings.listen, settings.tls)
        faults += discovery_faults(settings.discovery)
        if bool(settings.hub_key) == bool(settings.hub_key_file):
            faults.append("hub_key, hub_key_file: give one of them, the hub's public key or its file")
        if not settings.boxes:
            faults.append("boxes: none; give [boxes] with each box's name and its public key")
        if settings.mirror in settings.boxes:
            faults.append(f"mirror = {settings.mirror}: a box has this name; give the mirror its own")
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    return with_paths(settings, path.parent.absolute())
