"""`edgegw support`: what a machine tells of itself to whoever helps from outside."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec

from edgegw import __version__
from edgegw.commands import json_option, print_json, settings_argument
from edgegw.commands.box import http_tls, report_of
from edgegw.commands.health import standings_of
from edgegw.commands.hub import open_database
from edgegw.commands.ledger import open_reader
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.files import read_toml
from edgegw.config.hub import load_hub
from edgegw.config.options import SettingsError

if TYPE_CHECKING:
    from edgegw.support.bundle import Part
    from edgegw.support.redact import Redactor

Kind = Literal["box", "hub", "mirror"]
LOG_BYTES_MAX: Final = 1 << 20
LOG_LINES_MAX: Final = 5_000
ASK_S: Final = 5.0
UNIT_OF: Final[dict[Kind, str]] = {
    "box": "edgegw.service",
    "hub": "edgegw-hub.service",
    "mirror": "edgegw-mirror.service",
}


@click.command()
@settings_argument
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; without it support-NAME-TIME.tar.gz here.",
)
@json_option
def support(settings: Path, output: Path | None, as_json: bool) -> None:
    """Write a bundle for who helps from outside: how this machine is, without anything that it keeps secret.

    SETTINGS is a box's, a hub's or a mirror's file. The machine may be ill: without a running process, with a
    damaged ledger or settings that cannot be read, what can be told is told, and the manifest names the rest.
    No key, token, card number, claim, account or person comes out: only words of the program itself, names of
    machines, addresses, times and small numbers do; other text is a mark. The journal's heads are in, no
    record is. At most 24 MB, mostly far less. Look at it before you send it.

    Example: edgegw support box.toml --output support.tar.gz
    """
    from edgegw.support.bundle import write_bundle
    from edgegw.support.redact import Redactor
    from edgegw.support.settings_facts import names_of, secret_files

    folder = settings.parent.absolute()
    table: dict[str, Any] = {}
    with suppress(SettingsError):
        table = read_toml(settings)
    kind = _kind_of(table)
    redactor = Redactor(names_of(table))
    name = str(table.get(kind, "hub")) if kind != "hub" else "hub"
    parts = list(_parts(kind, settings, table, redactor))
    path = output or Path(
        f"support-{redactor.text(name)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"
    )
    manifest = write_bundle(
        path,
        parts,
        of=f"{kind} {redactor.text(name)}",
        version=__version__,
        redactor=redactor,
        secret_files=secret_files(table, folder=folder),
    )
    if as_json:
        print_json({"file": str(path), "manifest": manifest})
        return
    click.echo(f"{path}: {len(manifest.files)} files, {path.stat().st_size:,} bytes")
    for one, problem in manifest.left_out.items():
        click.echo(f"not in it: {one}: {problem}")


def _kind_of(table: dict[str, Any]) -> Kind:
    """What the settings are of; a file that cannot be read is taken for a box's."""
    if isinstance(table.get("mirror"), str):
        return "mirror"
    return "box" if "box" in table or "hub" in table or not table else "hub"


def _parts(kind: Kind, settings: Path, table: dict[str, Any], redactor: Redactor) -> Iterator[Part]:
    from edgegw.support import machine
    from edgegw.support.bundle import Part
    from edgegw.support.settings_facts import told

    folder = settings.parent.absolute()
    data = folder / str(
        table.get("data_dir", "mirror" if kind == "mirror" else "data" if kind == "box" else ".")
    )

    def as_json(make: Callable[[], object]) -> Callable[[], bytes]:
        return lambda: msgspec.json.format(msgspec.json.encode(redactor.value(msgspec.to_builtins(make()))))

    def settings_told() -> bytes:
        return msgspec.json.format(msgspec.json.encode(told(read_toml(settings), redactor, folder=folder)))

    yield Part("settings.json", settings_told)
    yield Part("versions.json", as_json(lambda: {"edgegw": __version__} | machine.versions()))
    yield Part("kernel.json", as_json(machine.kernel))
    yield Part("disk.json", as_json(functools.partial(machine.disk, data)))
    yield Part("clock.json", as_json(machine.clock))
    yield Part("units.txt", lambda: redactor.text(machine.units()).encode())
    yield Part("slots.json", as_json(machine.slots))
    yield Part("log.jsonl", lambda: "\n".join(_log(kind, data, redactor)).encode())
    if kind == "box":
        yield Part("status.json", as_json(lambda: report_of(load_box(settings, protocol_shapes()), "")))
        yield Part(
            "health.json", as_json(lambda: standings_of(load_box(settings, protocol_shapes()).settings))
        )
        yield Part("metrics.txt", lambda: redactor.text(_metrics(settings, data)).encode())
        yield Part("heads.json", lambda: msgspec.json.format(msgspec.json.encode(_heads(data))))
    if kind == "hub":
        yield Part("hub.json", as_json(lambda: _hub_facts(settings)))


def _log(kind: Kind, data: Path, redactor: Redactor) -> Iterator[str]:
    """The newest lines of the log: of the box's own file, else of systemd's journal."""
    from edgegw.ledger.space import LOG_DIRECTORY
    from edgegw.support.machine import journal, tail

    own = data / LOG_DIRECTORY / "box.jsonl"
    if own.exists():
        lines = tail(own, bytes_max=LOG_BYTES_MAX)
    else:
        lines = journal(UNIT_OF[kind], lines_max=LOG_LINES_MAX, bytes_max=LOG_BYTES_MAX)
    for line in lines:
        try:
            value = msgspec.json.decode(line)
        except (msgspec.MsgspecError, ValueError):
            yield redactor.text(line)
        else:
            yield msgspec.json.encode(redactor.value(value)).decode()


def _metrics(settings: Path, data: Path) -> str:
    """The running box's metrics, without their help."""
    running = read_running(data)
    places = () if running is None else running.addresses.get("http", ())
    if not places:
        raise OSError("no box runs here, or it has no HTTP open")
    tls = http_tls(load_box(settings, protocol_shapes()))

    async def asked() -> str:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=ASK_S)
        url = f"http{'s' if tls else ''}://{places[0]}/metrics"
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, ssl=tls or True) as answer,
        ):
            return await answer.text()

    lines = asyncio.run(asked()).splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def _heads(data: Path) -> list[dict[str, Any]]:
    """How far each epoch's journal goes, and how much of it the hub has signed for; no record."""
    with open_reader(data) as store:
        return [
            {
                "epoch": head.epoch,
                "size": head.size,
                "root": head.root.hex(),
                "cosigned_size": 0 if (kept := store.cosignature(head.epoch)) is None else kept[0],
            }
            for head in store.heads()
        ]


def _hub_facts(settings: Path) -> dict[str, Any]:
    """How many things wait at the hub, by kind and box."""
    from edgegw.hub.findings import findings

    with open_database(load_hub(settings), serves=False) as database:
        found = Counter((one.kind, one.box, one.reason) for one in findings(database))
    return {"findings": [[*key, count] for key, count in sorted(found.items())]}
