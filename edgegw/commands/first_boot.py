"""`edgegw first-boot`: an appliance becomes a box, without a person at its console."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgegw.commands import ExitCode, json_option, print_json, serve_until_end
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import Box, BoxSettings, load_box
from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from ssl import SSLContext

    from edgegw.core.enrolment import Claim
    from edgegw.first_boot.work import State

FOLDER: Final = Path("/var/lib/edgegw")
STICK: Final = Path("/run/edgegw-stick")
STATE_FILE: Final = Path("/run/edgegw-first-boot/state.json")
TPM: Final = "device:/dev/tpmrm0"
PAGE_PORT: Final = 8090
STARTS_S_MAX: Final = 900.0
"""So long it is shown how the enrolled box comes up; a box without its site's settings waits for a person."""
SHOWN_S: Final = 20.0
"""So long the page shows that the box takes payments, if anybody looks."""
LOOK_S: Final = 1.0
FolderPath = click.Path(file_okay=False, path_type=Path)


@click.command("first-boot")
@click.option("--folder", default=FOLDER, show_default=True, type=FolderPath, help="The box's folder.")
@click.option(
    "--listen", default=f"0.0.0.0:{PAGE_PORT}", show_default=True, help="Where the page is, host:port."
)
@click.option("--stick", default=STICK, show_default=True, type=FolderPath, help="Where a stick is mounted.")
@click.option(
    "--tpm",
    default=TPM,
    show_default=True,
    help="The TPM that seals the keys if it is there, as tpm2-tools take it.",
)
@click.option(
    "--state",
    "state_file",
    default=STATE_FILE,
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that says how far it is, while it runs.",
)
@click.option("--status", "asked", is_flag=True, help="Say how far it is, and do nothing.")
@json_option
def first_boot(
    folder: Path, listen: str, stick: Path, tpm: str, state_file: Path, asked: bool, as_json: bool
) -> None:
    """Make this machine a box: wait for a claim, enrol, write its settings, and see it start.

    The claim comes as systemd's credential edgegw.claim, on a stick (edgegw/claim.json), or by the page that
    is open meanwhile. A line that is down is waited for; after a power cut it goes on. Where the machine is a
    box already, there is nothing to do. With --status: exit code 0 once it takes payments, 1 on the way, 3
    where a person is needed.

    Example: edgegw first-boot --status
    """
    if asked:
        _show(folder, state_file, as_json=as_json)
        return
    from edgegw.observe.logs import set_up_logs
    from edgegw.sm import known_answers

    known_answers.self_test()
    set_up_logs(level="info")
    serve_until_end(lambda: asyncio.run(_become(folder, _address(listen), stick, tpm, state_file)))


def _address(listen: str) -> tuple[str, int]:
    import re

    from edgegw.config.listen import ADDRESS_PATTERN, addresses

    if not re.match(ADDRESS_PATTERN, listen):
        raise SettingsError("--listen", [f"{listen}: write it as host:port"])
    return addresses((listen,))[0]


async def _become(folder: Path, listen: tuple[str, int], stick: Path, tpm: str, state_file: Path) -> None:
    """From a claim to a box that takes payments; raises OperatingError, KeyFileError and SettingsError."""
    from edgegw.commands.serving import listening
    from edgegw.first_boot.files import Files
    from edgegw.first_boot.page import CONNECTIONS_MAX, Page
    from edgegw.first_boot.work import FirstBoot
    from edgegw.liveness import Liveness

    files, alive, port = Files(folder), Liveness(), listen[1]
    if files.is_done:
        return

    def told(state: State) -> None:
        _keep_state(state_file, state)
        line = _line(state, port)
        alive.status(line)
        click.echo(f"edgegw: first boot: {line}")

    work = FirstBoot(
        files, stick=stick, load=_settings, keys=lambda claim: keys_for(claim, tpm=tpm), told=told
    )
    page = Page(state=lambda: work.state, offer=work.offer, give_up=work.give_up)
    async with listening(
        page.app(),
        [listen],
        name="first_boot",
        option="--listen",
        tls=None,
        connections_max=CONNECTIONS_MAX,
    ) as served:
        port = int(served[0].rpartition(":")[2])
        alive.ready()
        told(work.state)
        await work.run()
        if await _seen_starting(files.settings, work.starting):
            work.ready()
            if time.monotonic() - page.seen_at_s < SHOWN_S:
                await asyncio.sleep(SHOWN_S)


def _settings(path: Path) -> BoxSettings:
    return load_box(path, protocol_shapes()).settings


def keys_for(claim: Claim, *, tpm: str) -> Mapping[str, object]:
    """The table [keys] of a new box: in the TPM where there is one, unless the claim says otherwise. Raises
    PlaceAway and SettingsError for one that is there and does not seal."""
    from edgegw.access.places import PlaceAway, PlaceRefuses
    from edgegw.access.places.tpm2 import Tpm2

    device = tpm.removeprefix("device:")
    if "keys" in claim.settings or (device != tpm and not Path(device).exists()):
        return {}
    place = Tpm2(tcti=tpm, pcrs=())
    try:
        place.seal(b"\0" * 32)
    except PlaceRefuses as problem:
        raise PlaceAway(
            f"this machine's TPM does not seal keys: {problem}",
            hint="Clear the TPM in the firmware's setup, or have the centre make a claim whose settings have"
            ' [keys] place = "files".',
        ) from None
    return {"place": "tpm2", **({} if tpm == TPM else {"tpm2": {"tcti": tpm}})}


async def _seen_starting(settings: Path, say: Callable[[str, str], None]) -> bool:
    """Wait until the box of these settings takes payments, and say meanwhile why it does not; whether it did
    before the time was over."""
    box = load_box(settings, protocol_shapes())
    asking = Readiness(box)
    try:
        async with asyncio.timeout(STARTS_S_MAX):
            while True:
                problem, hint = await asking.why_not()
                if not problem:
                    return True
                say(problem, hint)
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False


class Readiness:
    """Asks the box on this machine whether it takes payments."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._tls: SSLContext | None = None
        self._is_known = False

    async def why_not(self) -> tuple[str, str]:
        """Why it does not, and the hint to it; nothing where it does."""
        from edgegw.access.key_files import KeyFileError
        from edgegw.access.places import PlaceAway
        from edgegw.commands.box import ask, http_tls
        from edgegw.commands.running import read_running

        running = read_running(Path(self._box.settings.data_dir))
        places = () if running is None else running.addresses.get("http", ())
        if not places:
            return "the box is not up yet", "Wait a minute; else its log says why."
        try:
            if not self._is_known:  # a TPM opens the key once, not every second
                self._tls, self._is_known = http_tls(self._box), True
            code, said = await ask(places[0], "GET", "/readyz", tls=self._tls)
        except (OperatingError, SettingsError, KeyFileError, PlaceAway) as problem:
            return str(problem), getattr(problem, "hint", "")
        return ("", "") if code == 200 else (str(said.get("message", code)), str(said.get("hint", "")))


def _keep_state(file: Path, state: State) -> None:
    """Write it down for `--status`; a folder that takes no file is no reason to stop."""
    import msgspec
    import structlog

    fresh = file.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.chmod(0o644)  # nothing in it is secret, and whoever is at the machine may ask
        fresh.replace(file)
    except OSError as problem:
        structlog.get_logger("edgegw.first_boot").warning("state_not_kept", problem=str(problem))


def _line(state: State, port: int) -> str:
    """How far it is, for a console of one line."""
    from edgegw.first_boot import about

    problem = f" ({state.problem})" if state.problem else ""
    tries = f", try {state.tries}" if state.tries else ""
    pages = ", ".join(f"http://{f'[{one}]' if ':' in one else one}:{port}/" for one in about.addresses()[:2])
    return {
        "waiting": f"waits for a claim, by stick or at {pages or 'its page: no address yet'}{problem}",
        "asking": f"asks the centre for {state.whose}{tries}{problem}",
        "enrolled": f"enrolled as {state.whose}; the box starts{problem}",
        "ready": f"{state.whose} takes payments{problem}",
        "stuck": f"needs a person{problem}",
    }[state.state]


def _show(folder: Path, state_file: Path, *, as_json: bool) -> None:
    import msgspec

    state = _state_now(folder, state_file)
    if as_json:
        print_json(msgspec.to_builtins(state))
    else:
        click.echo(_line(state, PAGE_PORT))
        for line in (state.hint, f"device key {state.key}" if state.key else ""):
            if line:
                click.echo(line)
    if state.state != "ready":
        raise click.exceptions.Exit(ExitCode.CANNOT if state.state == "stuck" else ExitCode.FOUND)


def _state_now(folder: Path, state_file: Path) -> State:
    """What the box says of itself; before it is one, what its first boot says."""
    import msgspec

    from edgegw.core.records import UNREADABLE
    from edgegw.first_boot.files import Files
    from edgegw.first_boot.work import State, key_id

    settings = Files(folder).settings
    if settings.exists():
        box = load_box(settings, protocol_shapes())
        problem, hint = asyncio.run(Readiness(box).why_not())
        return State(
            state="enrolled" if problem else "ready",
            problem=problem,
            hint=hint,
            bank=box.settings.bank,
            box=box.settings.box,
            key=key_id(box.settings),
        )
    try:
        return msgspec.json.decode(state_file.read_bytes(), type=State)
    except (OSError, *UNREADABLE):
        return State(
            state="stuck",
            problem="no first boot runs, and this machine is no box",
            hint="Start it: systemctl start edgegw-first-boot, or switch the machine off and on.",
        )
