"""The box's commands: run it, ask how it is, close its window."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgegw.commands import (
    ExitCode,
    SettingsPath,
    json_option,
    print_json,
    serve_until_end,
    settings_argument,
)
from edgegw.commands.health import standings_of
from edgegw.commands.ledger import open_reader, read_book
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import Box, load_box, tls_of
from edgegw.errors import OperatingError

if TYPE_CHECKING:
    from ssl import SSLContext

    from edgegw.discovery.finder import DiscoveryWord
    from edgegw.observe.health import Standing
    from edgegw.payments.http_api.bodies import Certificate, Replica
    from edgegw.update.state import Word
    from edgegw.uplink.status import MirrorWord

ANSWER_TIMEOUT_S = 5.0

token_option = click.option(
    "--token",
    envvar="EDGEGW_TOKEN",
    default="",
    help="A client's token (`edgegw token`); else the environment's EDGEGW_TOKEN.",
)


@click.command()
@settings_argument
def run(settings: Path) -> None:
    """Run a box until SIGTERM or Ctrl-C, with the line to the centre up or down.

    SETTINGS is the box's TOML file (box.toml here when it is not given). Its log is JSON lines on
    standard error.

    Example: edgegw run box.toml
    """
    from edgegw.sm import known_answers

    known_answers.self_test()  # before anything is hashed
    from edgegw.app import run_box
    from edgegw.ledger.space import LOG_DIRECTORY, Space, Use
    from edgegw.observe.logs import LogFile, set_up_logs

    box = load_box(settings, protocol_shapes())
    log, data = box.settings.log, Path(box.settings.data_dir)
    space = Space(data, payments_bytes_min=box.settings.disk.payments_bytes_min)
    kept = None
    if log.bytes_max:
        kept = LogFile(
            data / LOG_DIRECTORY / "box.jsonl",
            bytes_max=log.bytes_max,
            may_write=lambda line_bytes: space.may_use(Use.TELEMETRY, line_bytes),
        )
    set_up_logs(level=log.level, file=kept)
    serve_until_end(lambda: asyncio.run(run_box(box)))


class Need(msgspec.Struct, frozen=True):
    """One thing about a box that waits for a person."""

    what: str
    problem: str
    hint: str


class Report(msgspec.Struct, kw_only=True):
    """How a box is, as `edgegw status` prints it."""

    bank: str
    box: str
    running: bool
    pid: int = 0
    ready: bool = False
    """Whether it takes payments now."""
    not_ready: str = ""
    """Why a running box takes no payments."""
    mode: str = ""
    mode_reason: str = ""
    hint: str = ""
    epoch: int = 0
    journal_size: int = 0
    cosigned_size: int = 0
    waiting: int = 0
    """Records that the centre has not cosigned."""
    window: int = 0
    window_transfers: int = 0
    business_date: str = ""
    """Of the open window by the site's calendar; "" where a person closes windows."""
    windows_wait: bool = False
    """The clock stands so far beyond the last cut-off that no window closes by itself."""
    site_version: int = 0
    stand_ins_waiting: int = 0
    disk_free_bytes: int = 0
    disk_reserve_bytes: int = 0
    """What of the reserve is there."""
    disk_bytes: dict[str, int] = {}
    """What lies beside the ledger, by kind."""
    pruned_records: int = 0
    """Of all epochs: the centre has them, here only their identities and outcomes stay."""
    addresses: dict[str, tuple[str, ...]] = {}
    line: str = ""
    """The running box's word on its line: mode and reason."""
    hub_address: str = ""
    """The hub address in use; "" while there is none."""
    hubs_said: dict[str, str] = {}
    """What each hub address that fails said last."""
    lacking: int = 0
    """Records of the box's own past that are still to come back from the centre or the mirror."""
    mirror: MirrorWord | None = None
    """The running box's word on its mirror."""
    replica: Replica | None = None
    """The running box's word on the copy of its ledger's file."""
    certificate: Certificate | None = None
    """The running box's word on its own certificate."""
    discovery: DiscoveryWord | None = None
    """The running box's word on how it is found, and whom it knows on its network."""
    health: tuple[Standing, ...] = ()
    """How the machine stands, the worst first; what a running box holds to is told as such."""
    program: Word | None = None
    """What the agent of updates says; None on a machine without one."""
    replica_drill: dict[str, Any] = {}
    """What the last restore drill of that copy found."""
    needs: list[Need] = []
    """What a person must look at, although the box may take payments."""
    box_says: dict[str, Any] = {}
    """With a token: the box's own /v1/status."""


@click.command()
@settings_argument
@token_option
@json_option
def status(settings: Path, token: str, as_json: bool) -> None:
    """Say how a box is, and what to do; exit code 0 where all is well, 1 where it takes payments but
    something needs a person, 3 where it takes none.

    Mode and reason, journal, what waits for the centre, window, disk, mirror and copy. The ledger is read,
    whether the box runs or not; a running box is asked too, with a token for all it says.

    A person is needed, each a line with its hint: while the copy is dead, silent, stuck, without room or
    malformed, or the last drill could not have it; while less than mirrored durability is in force and the
    settings want it; while the mirror does not answer. A box that is behind, forked or fenced takes no
    payments.

    Example: edgegw status box.toml --json
    """
    report = report_of(load_box(settings, protocol_shapes()), token)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if not report.ready:
        raise click.exceptions.Exit(ExitCode.CANNOT)
    if report.needs:
        raise click.exceptions.Exit(ExitCode.FOUND)


def report_of(box: Box, token: str) -> Report:
    """How a box is; raises OperatingError where its ledger cannot be read."""
    from edgegw.ledger.reserve import RESERVE_NAME
    from edgegw.ledger.space import Space
    from edgegw.ledger.windows import calendar_says
    from edgegw.replica.drills import last_drill
    from edgegw.update.state import read_word
    from edgegw.uplink.status import HINTS

    settings, directory = box.settings, Path(box.settings.data_dir)
    with open_reader(directory) as store:
        book, tip = read_book(store, bank=settings.bank, box=settings.box)
        kept = store.cosignature(tip.epoch)
        pruned = sum(horizon.size for horizon in store.pruned.horizons())
    cosigned_size = 0 if kept is None else kept[0]
    disk = os.statvfs(directory)
    reserve = directory / RESERVE_NAME
    report = Report(
        bank=settings.bank,
        box=settings.box,
        running=False,
        mode=book.mode.value,
        mode_reason=book.mode_reason,
        hint=HINTS.get(book.mode, ""),
        epoch=tip.epoch,
        journal_size=tip.size,
        cosigned_size=cosigned_size,
        waiting=tip.size - cosigned_size,
        window=book.window,
        window_transfers=book.window_transfers,
        site_version=book.site_version,
        stand_ins_waiting=len(list(book.stand_ins.items())),
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        disk_bytes=Space(directory, payments_bytes_min=settings.disk.payments_bytes_min).bytes_by_kind(),
        pruned_records=pruned,
        disk_reserve_bytes=reserve.stat().st_blocks * 512 if reserve.exists() else 0,
    )
    said = calendar_says(book, wall_ns=time.time_ns())
    if said is not None:
        awaited = said.cut_offs[0] if said.cut_offs else said.next
        report.business_date = "" if awaited is None else awaited.business_date.isoformat()
        report.windows_wait = said.waits_for_person
    if (drill := last_drill(directory)) is not None:
        report.replica_drill = msgspec.to_builtins(drill)
    report.program = read_word(Path(settings.update.state_dir))
    _ask_running(directory, token, http_tls(box), report)
    report.health = standings_of(box.settings)
    report.needs = list(_needs(report))
    return report


def _needs(report: Report) -> Iterator[Need]:
    """What waits for a person, whether the box takes payments or not."""
    from edgegw.core.records import Mode
    from edgegw.observe.health import why
    from edgegw.replica.status import MALFORMED_HINT
    from edgegw.uplink.status import HINTS

    if report.mode in (Mode.BEHIND.value, Mode.FORKED.value, Mode.FENCED.value):
        yield Need(report.mode, report.mode_reason, HINTS[Mode(report.mode)])
    if report.windows_wait:
        yield Need(
            "window",
            f"the clock is too far beyond the last cut-off: window {report.window} does not close by itself",
            "Set the clock right; where it is right, close the window: `edgegw window close --date DATE`.",
        )
    mirror, copy, certificate = report.mirror, report.replica, report.certificate
    if certificate is not None and certificate.state in ("ended", "refused"):
        problem = certificate.problem or "it has ended, and the centre was not reached since"
        yield Need("certificate", f"{certificate.state}: {problem}", certificate.hint)
    for one in report.health:
        if one.needs_person:
            yield Need("machine", why(one), one.mend)
    program = report.program
    if program is not None and program.problem:
        yield Need("update", program.problem, program.hint or "`edgegw update status` says more.")
    if mirror is not None and mirror.hint:
        yield Need("mirror", f"{mirror.durability}: {mirror.said or mirror.reason}", mirror.hint)
    if copy is not None and copy.alarm and not copy.malformed:
        yield Need("copy", f"{copy.state}: {copy.reason}", copy.hint)
    if copy is not None and copy.malformed:
        yield Need("copy", f"malformed: {copy.drill_problem}", MALFORMED_HINT)
    elif copy is not None and copy.drill_at_s and not (copy.drill_well or copy.drill_skipped):
        yield Need("last drill", copy.drill_problem, "Check the target; `edgegw drill` tries it again.")


def _ask_running(directory: Path, token: str, tls: SSLContext | None, report: Report) -> None:
    """Add what the running box says, if there is one."""
    from edgegw.core.records import Mode
    from edgegw.uplink.status import HINTS

    running = read_running(directory)
    if running is None:
        report.hint = report.hint or "It does not run; start it with `edgegw run`."
        return
    report.pid, report.addresses = running.pid, running.addresses
    report.line = running.line
    if running.mode and running.mode != report.mode:
        # A box that is behind or forked writes no record of it.
        report.mode, report.mode_reason = running.mode, running.line.partition(": ")[2]
        report.hint = HINTS.get(Mode(running.mode), "")
    report.mirror, report.lacking = running.mirror, running.lacking
    report.replica, report.certificate = running.replica, running.certificate
    report.discovery = running.discovery
    report.hub_address, report.hubs_said = running.hub_address, running.hubs_said
    for address in running.addresses.get("http", ()):
        try:
            code, said = asyncio.run(ask(address, "GET", "/readyz", tls=tls))
            if token:
                _, report.box_says = asyncio.run(ask(address, "GET", "/v1/status", token=token, tls=tls))
        except OperatingError:
            report.hint = "It does not run, or does not answer; start it with `edgegw run`."
            return
        report.running, report.ready = True, code == 200
        if not report.ready:
            report.not_ready, report.hint = said.get("message", ""), said.get("hint", "")
        return


async def ask(
    address: str,
    method: str,
    path: str,
    *,
    token: str = "",
    body: object = None,
    tls: SSLContext | None = None,
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a box's answer; raises OperatingError when there is none."""
    import aiohttp

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(
                method,
                f"http{'s' if tls else ''}://{address}{path}",
                headers=headers,
                json=body,
                ssl=tls or True,
            ) as answer,
        ):
            return answer.status, await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
        raise OperatingError(
            f"the box does not answer at {address}: {str(problem) or 'no answer in time'}",
            hint="`edgegw status` says whether it runs; its log says why not.",
        ) from None


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgegw.observe.health import why

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    # A path that is cut short is of no use.
    table.add_column(overflow="fold")
    says = f"running as process {report.pid}" if report.running else "not running"
    takes = "takes payments" if report.ready else "takes no payments"
    rows = {
        "box": f"{report.bank}/{report.box}, {says}, {takes}",
        "why": report.not_ready,
        "mode": f"{report.mode}: {report.mode_reason}",
        "journal": f"epoch {report.epoch}, {report.journal_size} records",
        "centre": f"holds {report.cosigned_size}, {report.waiting} wait",
        "behind": _behind(report),
        "stand-ins": f"{report.stand_ins_waiting} wait for the centre's word",
        "window": f"{report.window}, {report.window_transfers} transfers"
        + (f", business date {report.business_date}" if report.business_date else ""),
        "site": f"version {report.site_version}",
        "disk": f"{report.disk_free_bytes:,} bytes free, {report.disk_reserve_bytes:,} in reserve",
        "disk by kind": ", ".join(f"{kind} {size:,}" for kind, size in report.disk_bytes.items()),
        "pruned": f"{report.pruned_records} records" if report.pruned_records else "",
        "hint": report.hint,
    }
    rows |= {f"open: {name}": ", ".join(places) for name, places in report.addresses.items()}
    rows |= {"line": report.line, "hub in use": report.hub_address}
    if report.program is not None:
        one = report.program
        rows["program"] = f"{one.version} in slot {one.slot}, {one.phase} {one.target}".rstrip()
    rows |= _mirror_rows(report) | _copy_rows(report)
    if report.certificate is not None:
        until = f"until {_at(report.certificate.ends_s)}, {report.certificate.days_left:.1f} days"
        rows["certificate"] = f"{report.certificate.state}, {until}"
    if report.discovery is not None:
        rows["found as"] = found_as(report.discovery)
        rows["peers"] = ", ".join(f"{peer.kind} {peer.name}" for peer in report.discovery.peers)
    unwell = [one for one in report.health if one.action]
    rows["machine"] = (
        f"{len(unwell)} of {len(report.health)} things watched are not well" if unwell else "well"
    )
    rows |= {f"machine: {one.check} {one.subject}": f"{why(one)}; {one.action}" for one in unwell}
    rows |= {f"hub {address}": problem for address, problem in report.hubs_said.items()}
    rows |= {f"box: {name}": str(value) for name, value in report.box_says.items()}
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    for need in report.needs:
        table.add_row("needs a person", f"{need.what}: {need.problem}\nhint: {need.hint}")
    Console(highlight=False, soft_wrap=True).print(table)


def found_as(word: DiscoveryWord) -> str:
    """How a box is found on its network, in words."""
    if word.instance:
        return f"{word.instance.removesuffix('.')} at {', '.join(word.addresses)}"
    return f"nothing: {word.problem}" if word.problem else "nothing yet"


def _behind(report: Report) -> str:
    """What a box that is behind waits for, until it clears."""
    if report.lacking:
        return f"{report.lacking} records of its past are still to come back"
    if report.mode != "behind":
        return ""
    return (
        "no more of its past is known to be lacking; it clears once the centre gives it a new epoch: `edgegw"
        f" order new-epoch {report.box}`"
    )


def _mirror_rows(report: Report) -> dict[str, str]:
    mirror = report.mirror
    if mirror is None:
        return {}
    says = f"{mirror.durability} since {_at(mirror.since_s)}"
    if mirror.durability != mirror.wanted:
        says += f", the settings want {mirror.wanted}: {mirror.reason}"
    where = f"at {mirror.address}" if mirror.address else f"away: {mirror.said or 'it has not answered yet'}"
    lacks = f"lacks {mirror.lacking_records} records, {mirror.lag_seconds:.1f} s"
    return {"durability": says, "mirror": f"{where}; it {lacks}"}


def _copy_rows(report: Report) -> dict[str, str]:
    copy, drill, rows = report.replica, report.replica_drill, {}
    if copy is not None:
        says = f"{copy.state} at {copy.target}, {copy.place}".rstrip(", ")
        rows["copy"] = f"{says}: {copy.reason}" if copy.reason else says
        rows["copied"] = (
            f"position {copy.replicated_txid} of {copy.txid}; {copy.lag_records} records, {copy.lag_bytes}"
            f" bytes, {copy.lag_seconds:.1f} s behind"
        )
    if drill:
        found = "well" if drill["well"] else drill["problem"]
        rows["last drill"] = f"{_at(drill['at_s'])}, {drill['place']}: {found}"
    return rows


def _at(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_s))


@click.group()
def window() -> None:
    """The box's clearing window.

    Example: edgegw window close box.toml --date 2026-03-02 --token "$TOKEN"
    """


@window.command("close")
@click.argument("settings", default="box.toml", type=SettingsPath)
@click.option("--date", "business_date", required=True, help="The business date that ends, YYYY-MM-DD.")
@token_option
@click.option(
    "--second-token", default="", help="Another operating client's token, where the site asks for two."
)
@json_option
@click.pass_context
def window_close(
    ctx: click.Context, settings: Path, business_date: str, token: str, second_token: str, as_json: bool
) -> None:
    """Close the running box's open window and print its positions; the next window is open at once.

    The token's client needs the scope `operate` in the site's settings. Where these say
    window_close_takes_two, another such client's token is needed as well; the record names both.

    Example: edgegw window close box.toml --date 2026-03-02 --token "$TOKEN"
    """
    box = load_box(settings, protocol_shapes())
    address, tls = _http_address(box), http_tls(box)
    code, said = asyncio.run(ask(address, "GET", "/v1/status", token=token, tls=tls))
    if code == 200:
        body = {"window": said["window"], "business_date": business_date}
        body |= {"second_token": second_token} if second_token else {}
        code, said = asyncio.run(ask(address, "POST", "/v1/windows/close", token=token, body=body, tls=tls))
    if code != 200:
        click.echo(f"edgegw: {said.get('code')}: {said.get('message')}\nhint: {said.get('hint')}", err=True)
        ctx.exit(ExitCode.USAGE if 400 <= code < 404 else ExitCode.CANNOT)
    if as_json:
        print_json(said)
        return
    click.echo(f"window {said['window']} of {said['business_date']}: {said['transfers']} transfers")
    for participant, currency, net_minor in said["positions"]:
        click.echo(f"{participant:20} {currency} {net_minor:>20}")


def http_tls(box: Box) -> SSLContext | None:
    """How a command on this machine speaks to the box, None where that is plain; raises SettingsError."""
    from edgegw.encryption import own_listener_of
    from edgegw.key_places import keystore_of, open_sealed_tls_keys

    open_sealed_tls_keys(box.settings, keystore_of(box.settings))
    way = box.protocols.get("http")
    return None if way is None else own_listener_of(tls_of(way), "http.tls")


def _http_address(box: Box) -> str:
    running = read_running(Path(box.settings.data_dir))
    addresses = running.addresses.get("http", ()) if running else ()
    if not addresses:
        raise OperatingError(
            f"box {box.settings.box} does not run, or has no HTTP open", hint="Start it with `edgegw run`."
        )
    return addresses[0]
