"""`edgegw update`: the agent of an appliance, and what a person or their tool asks of it.

Composes what `edgegw.update` needs from the box's settings; a machine without slots, or a box that has not
enrolled, is said, never an error of the unit. Leaves out the centre's side (`commands.release`).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgegw.commands import ExitCode, SettingsPath, json_option, print_json, serve_until_end
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from ssl import SSLContext

    from edgegw.config.box import Box
    from edgegw.update.agent import Order, Outcome
    from edgegw.update.health import Answer
    from edgegw.update.machine import Surroundings
    from edgegw.update.sources import Source

BOX_SETTINGS: Final = Path("/var/lib/edgegw/box.toml")
STICK: Final = Path("/run/edgegw-stick/edgegw/updates")
FIRST_BOOT_URL: Final = "127.0.0.1:8090"
STICK_S: Final = 15.0
"""How often the agent looks for a stick."""
FolderPath: Final = click.Path(path_type=Path)

settings_option = click.option(
    "--settings",
    type=SettingsPath,
    default=BOX_SETTINGS,
    show_default=True,
    help="The box's settings; without the file, this machine has not enrolled.",
)
folder_option = click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/edgegw-update"),
    show_default=True,
    help="Folder of the agent's state and of the bundle.",
)
image_option = click.option(
    "--image",
    "image_folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/usr/lib/edgegw"),
    show_default=True,
    help="Folder of image.json and update-root.json of the image that runs.",
)


@click.group()
def update() -> None:
    """Updates of an appliance: the other slot, one trial boot, and back by itself.

    \b
    edgegw update status
    edgegw update check
    edgegw update check --now
    edgegw update install /run/edgegw-stick/edgegw/updates
    """


@update.command("agent")
@settings_option
@folder_option
@image_option
def update_agent(settings: Path, folder: Path, image_folder: Path) -> None:
    """Look for releases until SIGTERM: at the hub, and on a stick that is put in.

    Example: edgegw update agent
    """
    from edgegw.observe.logs import set_up_logs

    set_up_logs(level="info")
    serve_until_end(lambda: _run_agent(settings, folder, image_folder))


@update.command("check")
@settings_option
@folder_option
@image_option
@click.option("--now", "by_hand", is_flag=True, help="Take it now: neither hours nor rollout hold it up.")
@click.option("--no-reboot", "stays", is_flag=True, help="Leave the restart to who asks.")
@click.option("--from", "repository", type=FolderPath, help="A folder, as on a stick, in place of the hub.")
@click.option("--version", default="", help="Take this release and no other; the newest else.")
@json_option
def update_check(
    settings: Path,
    folder: Path,
    image_folder: Path,
    by_hand: bool,
    stays: bool,
    repository: Path | None,
    version: str,
    as_json: bool,
) -> None:
    """Look once, and take what there is as far as that may be now. Exit code 0 where nothing is newer or it
    is done, 1 where something is wrong with what is offered, 3 where it cannot be done now.

    Example: edgegw update check --now --json
    """
    from edgegw.update.agent import Order

    here = _surroundings(settings, folder, image_folder)
    source = _source(settings, repository)
    _show(_looked(here, source, Order(by_hand=by_hand, restart=not stays, version=version)), as_json)


@update.command("install")
@click.argument("repository", type=FolderPath)
@settings_option
@folder_option
@image_option
@click.option("--no-reboot", "stays", is_flag=True, help="Leave the restart to who asks.")
@json_option
def update_install(
    repository: Path, settings: Path, folder: Path, image_folder: Path, stays: bool, as_json: bool
) -> None:
    """Take a release from a folder now: a copy of the published repository, metadata and bundles, as on a
    stick. A bundle alone proves nothing; given one, its repository is looked for around it.

    Example: edgegw update install /run/edgegw-stick/edgegw/updates
    """
    from edgegw.update.agent import Order

    here = _surroundings(settings, folder, image_folder)
    source = _source(settings, _repository_of(repository))
    _show(_looked(here, source, Order(by_hand=True, restart=not stays)), as_json)


@update.command("commit")
@settings_option
@folder_option
@image_option
def update_commit(settings: Path, folder: Path, image_folder: Path) -> None:
    """In a boot on trial: keep the image once the box is well on this machine, else restart into the slot
    before. In any other boot it does nothing.

    Example: edgegw update commit
    """
    from edgegw.observe.logs import set_up_logs
    from edgegw.update.machine import NoSlots
    from edgegw.update.trial import judge

    set_up_logs(level="info")
    try:
        here = _surroundings(settings, folder, image_folder)
    except NoSlots as problem:
        click.echo(str(problem))
        return
    verdict = judge(here)
    click.echo(verdict)
    if verdict in ("left", "stays"):
        raise click.exceptions.Exit(ExitCode.FOUND)


@update.command("status")
@folder_option
@json_option
def update_status(folder: Path, as_json: bool) -> None:
    """Say which image runs, what is under way, and what has failed here.

    Example: edgegw update status --json
    """
    from edgegw.update.state import Word, read_word

    word = read_word(folder) or Word(problem="the agent has not run here yet")
    if as_json:
        print_json(word)
        return
    click.echo(
        f"{word.version or 'no image'} in slot {word.slot or '-'}, {word.phase} {word.target}".rstrip()
    )
    click.echo(f"never below {word.floor_version or word.version or '-'}, security epoch {word.floor_epoch}")
    for one in word.failed:
        click.echo(f"failed: {one.version}: {one.why}")
    if word.problem:
        click.echo(f"problem: {word.problem}" + (f"\nhint: {word.hint}" if word.hint else ""))


@update.command("trust")
@click.argument("root", type=SettingsPath)
@folder_option
@image_option
def update_trust(root: Path, folder: Path, image_folder: Path) -> None:
    """Place the centre's root on a machine whose image has none. One that is there is never exchanged: roots
    follow each other by their signatures.

    Example: edgegw update trust 1.root.json
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    from edgegw.update.files import replace_file
    from edgegw.update.trusted import ROOT_NAME, ROOT_PLACED

    body = root.read_bytes()
    try:
        read: Metadata[Root] = Metadata.from_bytes(body)
        read.verify_delegate("root", read)
    except (RepositoryError, ValueError) as problem:
        raise SettingsError(str(root), [f"it is no root of a repository ({problem})"]) from None
    for there in (image_folder / ROOT_NAME, folder / ROOT_PLACED):
        if there.exists() and there.read_bytes() != body:
            raise SettingsError(
                str(root),
                [f"{there} is trusted already; the centre goes on from it (`edgegw release rotate`)"],
            )
    if not (image_folder / ROOT_NAME).exists():
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(folder / ROOT_PLACED, body, mode=0o644)
    click.echo(f"root {read.signed.version} is trusted")


@update.command("forget")
@click.argument("version")
@folder_option
def update_forget(version: str, folder: Path) -> None:
    """Let a release that has failed here be tried again: when the machine was at fault.

    Example: edgegw update forget 0.2.0+1
    """
    import msgspec

    from edgegw.update.files import alone
    from edgegw.update.state import Store

    store = Store(folder)
    with alone(folder):
        state = store.read()
        failed = tuple(one for one in state.failed if one.version != version)
        gone = {one.sha256 for one in state.failed} - {one.sha256 for one in failed}
        interrupted = {key: count for key, count in state.interrupted.items() if key not in gone}
        store.write(msgspec.structs.replace(state, failed=failed, interrupted=interrupted))
    click.echo(f"{len(state.failed) - len(failed)} forgotten")


# --- composition --------------------------------------------------------------------------------------------


def _surroundings(settings: Path, folder: Path, image_folder: Path) -> Surroundings:
    """All that the agent touches; raises NoSlots and WrongImage."""
    from edgegw.config.update import UpdateTable
    from edgegw.ledger.schema import MIGRATIONS
    from edgegw.machine import MachineClock, started
    from edgegw.update.bundle import BundleFile
    from edgegw.update.epoch import EpochVariable
    from edgegw.update.health import running_box
    from edgegw.update.machine import Surroundings, read_image, restart_machine
    from edgegw.update.rauc import Rauc
    from edgegw.update.state import Store
    from edgegw.update.trusted import ROOT_NAME

    image = read_image(image_folder)
    try:
        box = _box(settings)
    except SettingsError:
        box = None  # no box runs by them; a release from a stick may be what reads them
    clock = MachineClock()
    table = UpdateTable() if box is None else box.settings.update
    disk = 0 if box is None else box.settings.disk.reserve_bytes + box.settings.disk.payments_bytes_min
    return Surroundings(
        image=image,
        rauc=Rauc(),
        store=Store(folder),
        bundle=BundleFile(folder, room_bytes=table.bundle_bytes_max, keep_free_bytes=disk),
        variable=EpochVariable(),
        table=table,
        root_file=image_folder / ROOT_NAME,
        schema=len(MIGRATIONS),
        box_name="" if box is None else f"{box.settings.bank}/{box.settings.box}",
        now_s=lambda: _now_s(box),
        boot_id=clock.boot_id,
        box=lambda: None if box is None else running_box(Path(box.settings.data_dir), started),
        ask=partial(_asked, settings, {}),
        restart=restart_machine,
    )


def _box(settings: Path) -> Box | None:
    """The box's settings; None before it has enrolled."""
    from edgegw.commands.settings import protocol_shapes
    from edgegw.config.box import load_box

    return load_box(settings, protocol_shapes()) if settings.exists() else None


def _now_s(box: Box | None) -> float:
    """The time by which metadata ends: the hub's word where there is one, so that a wrong clock neither
    revives what has ended nor ends what is fresh."""
    from edgegw.enrolment import hub_time_of
    from edgegw.machine import MachineClock

    if box is not None:
        try:
            return hub_time_of(box.settings, MachineClock()).now_s()
        except SettingsError:
            pass  # a plain line keeps no hub's word
    return time.time()


def _asked(settings: Path, kept: dict[Path, SSLContext | None]) -> Answer:
    """How the box is, asked on this machine alone. kept: the context for it while it serves: a key in a TPM
    is not opened every two seconds."""
    from edgegw.access.key_files import KeyFileError
    from edgegw.commands.box import ask, http_tls
    from edgegw.machine import started
    from edgegw.update.health import Answer, running_box

    try:
        box = _box(settings)
        if box is None:
            return _first_boot_page()
        running = running_box(Path(box.settings.data_dir), started)
        if running is None:
            return Answer(alive=False, said="the box does not run")
        addresses = running.addresses.get("http", ())
        if addresses and settings not in kept:
            kept[settings] = http_tls(box)
        for address in addresses:
            alive, _ = asyncio.run(ask(address, "GET", "/healthz", tls=kept[settings]))
            code, said = asyncio.run(ask(address, "GET", "/readyz", tls=kept[settings]))
            return Answer(alive=alive == 200, ready=code == 200, said=str(said.get("message", code)))
    except (OperatingError, KeyFileError, SettingsError) as problem:
        kept.clear()
        return Answer(alive=False, said=str(problem))
    from edgegw.core.records import Mode

    # Without HTTP its own word is all there is: it is written once every way in is open.
    clears = running.mode == "" or Mode(running.mode).clears
    return Answer(alive=True, ready=clears, said=running.mode)


def _first_boot_page() -> Answer:
    """Before it has enrolled, the page that takes the claim is what must be there. It takes no payments: a
    machine that becomes a box during a trial may still wait for the settings of its site."""
    import http.client

    from edgegw.update.health import Answer

    connection = http.client.HTTPConnection(FIRST_BOOT_URL, timeout=5)
    try:
        connection.request("GET", "/state")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        return Answer(alive=False, said=f"the page of the first boot does not answer: {problem}")
    finally:
        connection.close()
    return Answer(alive=status == 200, said=f"the page of the first boot: {status}")


def _source(settings: Path, repository: Path | None) -> Source:
    """Where releases come from; raises SettingsError."""
    from edgegw.encryption import line_of
    from edgegw.enrolment import hub_time_of
    from edgegw.key_places import keystore_of, open_sealed_tls_keys
    from edgegw.machine import MachineClock
    from edgegw.tls_tables import is_encrypted
    from edgegw.update.sources import FolderSource, HubSource

    if repository is not None:
        return FolderSource(repository)
    box = _box(settings)
    if box is None:
        raise SettingsError(
            str(settings),
            ["it is missing: this machine has not enrolled; give --from, the folder of a stick"],
        )
    hub = box.settings.hub
    open_sealed_tls_keys(box.settings, keystore_of(box.settings))
    now_s = hub_time_of(box.settings, MachineClock()).now_s if is_encrypted(hub.tls) else None
    tls = line_of(hub.tls, "hub.tls", now_s=now_s)
    addresses = [one.url for one in sorted(hub.addresses, key=lambda one: one.priority)]
    return HubSource(addresses, tls)


def _repository_of(path: Path) -> Path:
    """The repository that a path means; raises SettingsError."""
    from edgegw.foreign_files import is_regular

    for folder in (path, path.parent.parent, path.parent):
        if is_regular(folder, "metadata", "timestamp.json"):
            return folder
    raise SettingsError(
        str(path), ["there is no signed metadata around it; copy the whole published repository to the stick"]
    )


def _looked(here: Surroundings, source: Source, order: Order) -> Outcome:
    """How an ordered look ended, also where the agent is at one of its own: whoever ordered comes again."""
    from edgegw.update.agent import Agent, Outcome
    from edgegw.update.files import AtWork

    try:
        return Agent(here).look(source, order)
    except AtWork as problem:
        return Outcome("busy", str(problem), problem.hint)


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(outcome._asdict())
    else:
        click.echo(" ".join(part for part in (outcome.end, outcome.version, outcome.said) if part))
        if outcome.hint:
            click.echo(f"hint: {outcome.hint}", err=True)
    if outcome.end == "refused":
        raise click.exceptions.Exit(ExitCode.FOUND)
    if outcome.end in ("waits", "away", "busy"):
        raise click.exceptions.Exit(ExitCode.CANNOT)


# --- the agent's loop ---------------------------------------------------------------------------------------


def _run_agent(settings: Path, folder: Path, image_folder: Path) -> None:
    """Look now and then until SIGTERM; a look that fails is told and tried again."""
    import structlog

    from edgegw.update.machine import NoSlots

    log = structlog.get_logger("edgegw.update")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        here = _surroundings(settings, folder, image_folder)
    except NoSlots as problem:
        log.warning("no_slots", problem=str(problem), hint=problem.hint)
        return
    log.info("agent", version=here.image.version, compatible=here.image.compatible)
    due_s, seen, done = 0.0, "", ""
    _reserve(here)  # at the first boot, before the ledger has grown
    while not stop.is_set():
        here = _surroundings(settings, folder, image_folder)
        fresh = _stick_signature()
        done = done if fresh else ""  # one that is put in again is looked at again
        is_stick = fresh not in ("", done)
        is_due = time.monotonic() >= due_s and (is_stick or (settings.exists() and here.table.automatic))
        if (is_stick and fresh != seen) or is_due:
            end, pause_s = _once(here, settings, stop, is_stick=is_stick)
            due_s = time.monotonic() + pause_s
            if is_stick and end not in ("waits", "busy"):
                done = fresh
        seen = fresh
        stop.wait(STICK_S)


def _stick_signature() -> str:
    """Names what lies on the stick that is put in; "" while none is."""
    from edgegw.foreign_files import open_regular

    try:
        with open_regular(STICK, "metadata", "timestamp.json") as file:
            found = os.fstat(file.fileno())
    except OSError:
        return ""
    # No inode: on FAT a file has another one whenever it was forgotten meanwhile.
    return f"{found.st_dev}-{found.st_size}-{found.st_mtime_ns}"


def _reserve(here: Surroundings) -> None:
    """Take hold of the bundle's room. Without it a look goes on all the same: it tells the centre, once a
    release is there that needs it."""
    import structlog

    try:
        here.bundle.reserve()
    except (OSError, OperatingError) as problem:
        hint = getattr(problem, "hint", "")
        structlog.get_logger("edgegw.update").warning("no_room_for_bundles", problem=str(problem), hint=hint)


def _once(here: Surroundings, settings: Path, stop: threading.Event, *, is_stick: bool) -> tuple[str, float]:
    """One look: how it ended ("" where it failed), and for how many seconds there is nothing to do then."""
    import structlog

    from edgegw.foreign_files import is_regular
    from edgegw.update.agent import Agent, Order
    from edgegw.update.files import AtWork
    from edgegw.update.sources import NOW_NAME

    log = structlog.get_logger("edgegw.update")
    by_hand = is_stick and is_regular(STICK, NOW_NAME)
    try:
        _reserve(here)
        source = _source(settings, STICK if is_stick else None)
        outcome = Agent(here, stopped=stop.is_set).look(source, Order(by_hand=by_hand))
    except AtWork as problem:
        log.info("looked", end="busy", said=str(problem))
        return "busy", 60.0
    except Exception as problem:  # noqa: BLE001 - told; the box goes on, and the agent looks again
        log.error("look_failed", problem=str(problem), hint=getattr(problem, "hint", ""))
        return "", 300.0
    log.info("looked", end=outcome.end, version=outcome.version, said=outcome.said)
    if outcome.end == "restarts":
        stop.wait(600)
    every_s = here.table.check_minutes * 60 * (0.75 + random.random() / 2)  # noqa: S311 - no secret
    return outcome.end, min({"waits": 60.0, "away": 300.0}.get(outcome.end, every_s), every_s)
