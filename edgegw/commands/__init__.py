"""The command line's parts: exit codes, how an error ends a command, what every command shares.

Leaves out the commands themselves (one file for what an operator does with one thing) and their assembly
(`edgegw.__main__`).
"""

from __future__ import annotations

import enum
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from edgegw.config.options import SettingsError
from edgegw.errors import OperatingError


class ExitCode(enum.IntEnum):
    """What a command's end says to a script."""

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    meaning: str

    OK = 0, "It is done, or it is well."
    FOUND = 1, "A check found something wrong; the output says what and where."
    USAGE = 2, "Wrong usage, wrong settings or a key that cannot be used: mend the command line or the file."
    CANNOT = 3, "It cannot be reached or cannot run now: the problem and a hint are printed."
    BROKEN = 70, "A rule of the program's own did not hold: it stopped itself; tell the makers."


class Program(click.Group):
    """The command group whose commands are loaded when they are asked for, and whose errors become exit
    codes, said once, here.

    places says where each command is (module below `edgegw`, a colon, its name); added, what a group of these
    words gets from other modules.
    """

    def __init__(
        self, *words: Any, places: Mapping[str, str], added: Mapping[str, tuple[str, ...]], **options: Any
    ) -> None:
        super().__init__(*words, **options)
        self._places, self._added = places, added

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        if cmd_name in self._places and cmd_name not in self.commands:
            self.add_command(_loaded(self._places[cmd_name]), cmd_name)
            for words, others in self._added.items():
                first, *rest = words.split()
                if first == cmd_name:
                    self._add(self.commands[first], rest, others)
        return super().get_command(ctx, cmd_name)

    def _add(self, group: click.Command, rest: Sequence[str], others: Sequence[str]) -> None:
        """Add these commands to the group that is reached by the rest of its words."""
        assert isinstance(group, click.Group)  # noqa: S101 - only groups are named
        if rest:
            self._add(group.commands[rest[0]], rest[1:], others)
            return
        for place in others:
            group.add_command(_loaded(place))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours ends the process with its code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as problem:  # noqa: BLE001 - the edge: every end has its exit code
            for line in described(problem):
                click.echo(line, err=True)
            ctx.exit(exit_code_of(problem))


def _loaded(place: str) -> click.Command:
    module, _, name = place.partition(":")
    command: click.Command = getattr(importlib.import_module(f"edgegw.{module}"), name)
    return command


def exit_code_of(problem: Exception) -> ExitCode:
    """The exit code of an error; one that nobody foresaw is a rule of our own that did not hold."""
    from edgegw.access.key_files import KeyFileError

    if isinstance(problem, SettingsError | KeyFileError):
        return ExitCode.USAGE
    return ExitCode.CANNOT if isinstance(problem, OperatingError | OSError) else ExitCode.BROKEN


def described(problem: Exception) -> Iterator[str]:
    """The lines that tell an operator of an error: what is wrong, and what to do; of a bug, where it is."""
    if exit_code_of(problem) is ExitCode.BROKEN:
        yield from "".join(traceback.format_exception(problem)).splitlines()
    yield from (f"edgegw: {line}" for line in str(problem).splitlines())
    hint = getattr(problem, "hint", "")
    if hint:
        yield f"hint: {hint}"


def serve_until_end(work: Callable[[], None]) -> None:
    """Run a server; an error that ends it is a line of its log, or of the terminal if a person looks on."""
    import structlog

    log = structlog.get_logger("edgegw")
    try:
        work()
    except Exception as problem:
        if sys.stderr.isatty():
            raise
        code, hint = exit_code_of(problem), getattr(problem, "hint", "")
        trace = problem if code is ExitCode.BROKEN else None
        log.critical("ended", exit_code=int(code), problem=str(problem), hint=hint, exc_info=trace)
        raise click.exceptions.Exit(code) from None


SettingsPath = click.Path(dir_okay=False, path_type=Path)

settings_argument = click.argument("settings", default="box.toml", type=SettingsPath)
hub_settings_option = click.option(
    "--hub",
    "hub_settings",
    default="hub.toml",
    show_default=True,
    type=SettingsPath,
    help="The hub's settings.",
)
RowNumber = click.IntRange(min=1, max=2**31 - 1)
"""The number of an order, an epoch or a cycle: as much as its column holds on each engine."""
LongNumber = click.IntRange(min=1, max=2**63 - 1)
"""The number of a window or of a version of the site's settings."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(value: object) -> None:
    """Print a value as JSON on one line."""
    click.echo(msgspec.json.encode(value).decode())


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that is told (done, in all) and shows it on a terminal; elsewhere it shows nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
