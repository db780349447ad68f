"""`edgegw demo`: its options, its directory, its progress, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from edgegw.demo import faults
from edgegw.demo.client import NotAnswered
from edgegw.demo.day import PAYMENTS_MIN, make_day
from edgegw.demo.plan import Day
from edgegw.demo.play import Course, Say
from edgegw.demo.processes import DemoFailed
from edgegw.demo.report import Report, judge, show
from edgegw.demo.workplace import State, Workplace, free_ports

BEFORE_SYNC: Final = "before-sync"
PAYMENTS: Final = 4_000
UNKNOWN_PAN: Final = "6222029999999994"
"""A wrong message names it."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, and nothing else.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Work here and leave everything; else a temporary directory, removed when every check holds.",
)
@click.option(
    "--until",
    type=click.Choice([BEFORE_SYNC]),
    help="Stop every process there, just before the line returns; --resume goes on.",
)
@click.option("--resume", is_flag=True, help="Go on in --dir where --until has stopped.")
@click.option(
    "--plant",
    type=click.Choice(faults.FAULTS),
    help="Put this fault into the box's ledger file; the report must find it (exit code 1).",
)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Another day.")
@click.option(
    "--payments",
    default=PAYMENTS,
    show_default=True,
    type=click.IntRange(PAYMENTS_MIN, 1_000_000),
    help="How many payments the day has, about.",
)
@click.pass_context
def demo(
    ctx: click.Context,
    as_json: bool,
    directory: Path | None,
    until: str | None,
    resume: bool,
    plant: str | None,
    seed: int,
    payments: int,
) -> None:
    """Play a branch's day with the line cut: hub, box, outage, kill, restart, sync, report.

    Hub and box run as processes of their own on this machine. The report compares what the clients were
    answered with both databases. Exit code 0 only if every check holds.

    \b
    Example: edgegw demo
    Example: edgegw demo --dir day --until before-sync
    Example: edgegw demo --dir day --resume
    """
    if (resume or until) and directory is None:
        raise click.UsageError("--until and --resume need --dir, where everything lies")
    if until and (resume or plant):
        raise click.UsageError("--until stops before what --resume and --plant do; leave it out with them")
    place, course_state = _place(directory, resume=resume, seed=seed, payments=payments)
    day = make_day(seed=course_state.seed, payments=course_state.payments, date=course_state.date)
    try:
        with _progress(quiet=as_json) as say:
            report = asyncio.run(
                _demo(place, day, course_state, say, resume=resume, stop=until is not None, fault=plant)
            )
    except (DemoFailed, asyncio.CancelledError) as problem:
        why = str(problem) or "stopped by a signal"
        click.echo(f"edgegw demo: {why}\neverything lies in {place.directory}", err=True)
        ctx.exit(1)
    if report is None:
        click.echo(f"stopped just before the line returns; go on: edgegw demo --dir {directory} --resume")
        return
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        show(report, Console())
    _leave(place, remove=report.ok and directory is None, quiet=as_json)
    ctx.exit(0 if report.ok else 1)


def _leave(place: Workplace, *, remove: bool, quiet: bool) -> None:
    """Remove a temporary directory that proved nothing wrong; say where another one lies."""
    if remove:
        shutil.rmtree(place.directory)
    if not quiet:
        kept = f"everything lies in {place.directory}"
        click.echo("its files are removed; --dir keeps them" if remove else kept)


def _place(directory: Path | None, *, resume: bool, seed: int, payments: int) -> tuple[Workplace, State]:
    """The directory and what is known of it; raises UsageError for one that does not fit."""
    if resume and directory is not None:
        place = Workplace(directory)
        try:
            state = place.state()
        except FileNotFoundError:
            raise click.UsageError(f"--dir {directory}: no demo was stopped there") from None
        if state.stage != BEFORE_SYNC:
            raise click.UsageError(f"--dir {directory}: the demo there is {state.stage}; begin another one")
        return place, state
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="edgegw-demo-"))
    elif directory.exists() and any(directory.iterdir()):
        raise click.UsageError(f"--dir {directory} is not empty; name another one, or --resume")
    directory.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date()
    return Workplace(directory), State(seed=seed, payments=payments, date=date, ports=free_ports())


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Say]:
    """A function that shows what is being done, on a terminal."""
    console = Console(stderr=True, quiet=quiet)
    with console.status("begin") as status:

        def say(what: str) -> None:
            status.update(what)
            if console.is_terminal:
                console.log(what)

        yield say


async def _demo(
    place: Workplace, day: Day, state: State, say: Say, *, resume: bool, stop: bool, fault: str | None
) -> Report | None:
    """The whole demo, or the part that is asked for; None when it stops before the sync."""
    this = asyncio.current_task()
    if this is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    if not resume:
        place.furnish(day, state.ports)
    async with _course(place, day, state, say) as course:
        if not resume:
            await course.begin()
            await course.line_up()
            await course.outage()
            if stop:
                await course.stop_before_sync()
                return None
        await _to_the_end(course, resume=resume)
        planted = faults.plant(fault, place.ledger) if fault else ""
        await _exported(course)
    say("the report")
    figures = course.figures | ({"planted": planted} if planted else {})
    pans = [*day.cards, UNKNOWN_PAN]
    return judge(place, pans=pans, troubles=course.troubles, figures=figures)


async def _to_the_end(course: Course, *, resume: bool) -> None:
    """From the line's return to the end of the processes; what goes wrong is for the report."""
    try:
        if resume:
            await course.resume()
        await course.line_back()
        await course.gather()
    except (DemoFailed, NotAnswered) as problem:
        course.troubles.append(str(problem))
    try:
        await course.end()
    except DemoFailed as problem:
        course.troubles.append(str(problem))


async def _exported(course: Course) -> None:
    try:
        await course.export()
    except DemoFailed as problem:
        course.troubles.append(str(problem))


@contextlib.asynccontextmanager
async def _course(place: Workplace, day: Day, state: State, say: Say) -> AsyncIterator[Course]:
    """A course whose processes are gone at the end, whatever happens; raises DemoFailed."""
    course = Course(place, day, state, say)
    try:
        yield course
    except NotAnswered as problem:
        raise DemoFailed(f"{problem}; read {place.box_log}") from None
    finally:
        await course.close()
