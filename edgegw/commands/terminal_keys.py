"""`edgegw keys terminal`: the MAC keys of ISO 8583 terminals, made, changed, shown and revoked.

They work beside a running box, which takes up what they leave in its directory within seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from edgegw.commands import json_option, print_json, settings_argument
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.access.keystore import Keystore
    from edgegw.payments.iso8583.terminal_keys import TerminalKeyFile

MASTER_NAME = "master"
_CHECK_VALUE = b"edgegw check value"
_terminal_argument = click.argument("terminal")


class _Way(NamedTuple):
    """Where a box's terminals have their keys."""

    directory: Path
    keystore: Keystore


class TerminalKeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """One key as `edgegw keys terminal list` shows it; nothing secret."""

    terminal: str
    version: int
    """0 is the master key."""
    state: str
    """`in use`, `waits` (for its first use), `ends` or `master`."""
    until_s: int | None = None
    """When it ends, in seconds since 1970."""
    check_value: str
    """Six hex digits that the terminal's owner can compare; they say nothing of the key."""
    file: str


@click.group("terminal")
def keys_terminal() -> None:
    """The MAC keys of ISO 8583 terminals, in versions that follow one another without a gap.

    \b
    edgegw keys terminal add box.toml T0000001 --out T0000001.master
    edgegw keys terminal rotate box.toml T0000001
    edgegw keys terminal list box.toml
    edgegw keys terminal revoke box.toml T0000001 2
    """


@keys_terminal.command("add")
@settings_argument
@_terminal_argument
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="New file, mode 0600, to bring the key to the terminal in: 64 hex digits. Destroy it afterwards.",
)
def terminal_add(settings: Path, terminal: str, out: Path) -> None:
    """Make a terminal's master key, under which its MAC keys travel; from then on it must send a MAC.

    Bring the file to the terminal by a way that nobody reads, then destroy it. The terminal asks for its
    first MAC key by itself (0800 with field 70 = 161).

    Example: edgegw keys terminal add box.toml T0000001 --out T0000001.master
    """
    from edgegw.payments.iso8583.terminal_keys import MASTER

    way = _way(settings)
    if any(found.version == MASTER for found in _files(way, terminal)):
        raise SettingsError(terminal, ["it has a master key; revoke it first, or rotate its MAC key"])
    _make(way, terminal, MASTER, out)


@keys_terminal.command("rotate")
@settings_argument
@_terminal_argument
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For a terminal without a master key: new file, mode 0600, to bring the key to it by hand.",
)
def terminal_rotate(settings: Path, terminal: str, out: Path | None) -> None:
    """Make a terminal's next MAC key; the one in use stays good until the grace after the next one's first
    use.

    A terminal with a master key is asked to fetch it as soon as it is signed on. To one without, the file has
    to be brought by hand. Without its first use nothing changes.

    Example: edgegw keys terminal rotate box.toml T0000001
    """
    from edgegw.payments.iso8583.terminal_keys import MASTER, VERSION_MAX

    way = _way(settings)
    files = _files(way, terminal)
    has_master = any(found.version == MASTER for found in files)
    live = [found.version for found in files if found.version != MASTER and found.until_s is None]
    if len(live) > 1:
        raise SettingsError(
            terminal, [f"version {max(live)} waits for its first use; revoke that first to make another"]
        )
    if not has_master and out is None:
        raise SettingsError(
            terminal, ["it has no master key; give --out and bring the key, or make one: keys terminal add"]
        )
    version = max((found.version for found in files), default=0) + 1
    if version > VERSION_MAX:
        raise SettingsError(terminal, [f"it has used all {VERSION_MAX} versions; give it another name"])
    _make(way, terminal, version, None if has_master else out)


@keys_terminal.command("list")
@settings_argument
@json_option
def terminal_list(settings: Path, as_json: bool) -> None:
    """Show the terminals' keys: version, whether it is in use, waits or ends, and a check value.

    Example: edgegw keys terminal list box.toml
    """
    from edgegw.payments.iso8583.terminal_keys import MASTER
    from edgegw.payments.vault import read_key
    from edgegw.sm.sm3 import hmac_sm3

    way = _way(settings)
    lines = []
    files = _files(way, None)
    for found in files:
        live = [one.version for one in files if one.terminal == found.terminal and one.until_s is None]
        waits = found.version == max(live, default=0) and sum(version != MASTER for version in live) > 1
        state = "master" if found.version == MASTER else "waits" if waits else "in use"
        lines.append(
            TerminalKeyLine(
                terminal=found.terminal,
                version=found.version,
                state=state if found.until_s is None else "ends",
                until_s=found.until_s,
                check_value=hmac_sm3(read_key(way.keystore, found.file), _CHECK_VALUE)[:3].hex(),
                file=str(found.file.path),
            )
        )
    if as_json:
        print_json(lines)
        return
    for line in lines:
        number = MASTER_NAME if line.version == MASTER else str(line.version)
        click.echo(f"{line.terminal:8} {number:>6}  {line.state:6}  {line.check_value}  {line.file}")


@keys_terminal.command("revoke")
@settings_argument
@_terminal_argument
@click.argument("version")
def terminal_revoke(settings: Path, terminal: str, version: str) -> None:
    """End a version of a terminal's key, or its `master`, at once and without a grace.

    The last key of a terminal stays, or it would be heard without a MAC: block the terminal instead.

    Example: edgegw keys terminal revoke box.toml T0000001 2
    """
    from edgegw.access.key_files import remove_key_file
    from edgegw.payments.iso8583.terminal_keys import MASTER

    way = _way(settings)
    files = _files(way, terminal)
    number = MASTER if version == MASTER_NAME else int(version) if version.isdecimal() else -1
    chosen = [found for found in files if found.version == number]
    if not chosen:
        has = ", ".join(MASTER_NAME if one.version == MASTER else str(one.version) for one in files) or "none"
        raise SettingsError(terminal, [f"it has no key {version}; it has {has}"])
    if len(chosen) == len(files):
        raise SettingsError(
            terminal,
            [
                (
                    "that is its last key, and without any it would be heard without a MAC; make the next,"
                    f' or block it: edgegw order block terminal {terminal} --reason "..."'
                )
            ],
        )
    for found in chosen:
        remove_key_file(found.file.path)
    click.echo(f"{terminal}: {version} is revoked; a running box knows it within seconds")


def _make(way: _Way, terminal: str, version: int, out: Path | None) -> None:
    from edgegw.access.key_files import write_new_file
    from edgegw.payments.iso8583.terminal_keys import MASTER, new_key, store_key
    from edgegw.sm.sm3 import hmac_sm3

    if out is not None and out.exists():
        raise SettingsError(str(out), ["it exists already; a key is never overwritten: move it away"])
    key = new_key()
    if out is not None:
        write_new_file(out, key.hex().encode() + b"\n", mode=0o600)
    store_key(way.directory, way.keystore, terminal, version, key)
    name = "the master key" if version == MASTER else f"version {version}"
    click.echo(f"{terminal}: {name} is made; check value {hmac_sm3(key, _CHECK_VALUE)[:3].hex()}")


def _way(path: Path) -> _Way:
    """Where the terminals of a box have their keys; raises SettingsError."""
    from edgegw import key_places
    from edgegw.payments.iso8583.options import TerminalOptions

    box = load_box(path, protocol_shapes())
    options = box.protocols.get("iso8583")
    if not isinstance(options, TerminalOptions):
        raise SettingsError(str(path), ["it has no [iso8583]: this box has no terminals"])
    return _Way(Path(options.terminal_keys_directory), key_places.keystore_of(box.settings))


def _files(way: _Way, terminal: str | None) -> list[TerminalKeyFile]:
    """The keys of a terminal, or of all; raises SettingsError."""
    from edgegw.payments.iso8583.terminal_keys import terminal_key_files
    from edgegw.payments.vault import SecretFileError

    if terminal is not None and not re.fullmatch(r"[A-Za-z0-9]{1,8}", terminal):
        raise SettingsError(terminal, ["it is no terminal's name: 1 to 8 letters and digits (field 41)"])
    try:
        found = list(terminal_key_files(way.directory))
    except SecretFileError as problem:
        raise SettingsError("iso8583.terminal_keys_directory", [str(problem)]) from None
    return [one for one in found if terminal in (None, one.terminal)]
