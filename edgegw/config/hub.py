"""The hub's own settings: one TOML file with its database, where it listens, its key and the boxes' keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from edgegw.config.box import LogTable, Name
from edgegw.config.files import read_toml
from edgegw.config.options import SettingsError, read_table, with_paths

ADDRESS_PATTERN = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z"
Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]


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
    listen: Annotated[
        tuple[Address, ...],
        msgspec.Meta(min_length=1, description="Where to listen, host:port each; port 0 takes a free one."),
    ] = ("127.0.0.1:8600", "127.0.0.1:8601")
    database_file: Annotated[
        str, msgspec.Meta(min_length=1, description="The SQLite file of the hub's books.")
    ] = "hub.db"
    key_file: Annotated[
        str, msgspec.Meta(min_length=1, description="The hub's private key; `edgegw keygen hub` makes it.")
    ] = "secrets/hub.pem"
    log: LogTable = LogTable()

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each place to listen."""
        split = (one.rpartition(":") for one in self.listen)
        return tuple((host.strip("[]"), int(port)) for host, _, port in split)


def load_hub(path: Path) -> HubSettings:
    """The hub's settings from a file, paths made absolute; raises SettingsError with every fault."""
    faults: list[str] = []
    settings = read_table(HubSettings, read_toml(path), faults)
    if settings is not None:
        for host, port in settings.addresses():
            if port > 65_535:
                faults.append(f"listen = {host}:{port}: a port is at most 65535")
        faults += [
            f"listen = {one}: it stands there twice; keep one"
            for one in sorted({one for one in settings.listen if settings.listen.count(one) > 1})
            if not one.endswith(":0")
        ]
    if settings is None or faults:
        raise SettingsError(str(path), faults)
    return with_paths(settings, path.parent.absolute())
