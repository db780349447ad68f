"""Writes REFERENCE.md: every option, code, reason, metric, command, endpoint and record, from the code
itself.

`python -m edgegw.references` writes the file; a test fails when it differs from what the code says.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

import click
import msgspec

import edgegw
from edgegw import errors
from edgegw.__main__ import main
from edgegw.commands import ExitCode, crypto
from edgegw.config.box import BoxSettings
from edgegw.config.hub import HubSettings
from edgegw.config.mirror import MirrorSettings
from edgegw.config.options import Option, help_of, options_of
from edgegw.core import records, scopes
from edgegw.core.reasons import Reason
from edgegw.core.site import Site
from edgegw.hub.app import HubMetrics
from edgegw.mirror.app import MirrorMetrics
from edgegw.observe import metrics
from edgegw.payments import protocols, rules
from edgegw.payments.http_api.operations import OPERATIONS, Operation
from edgegw.payments.iso8583 import messages
from edgegw.payments.problems import PROBLEMS
from edgegw.reconcile import classes, core_file
from edgegw.sm import known_answers, rates

REFERENCE: Final = "REFERENCE.md"
TEXT_COLUMNS_MAX: Final = 200
RESPONSE_CODE_DIGITS: Final = 2

Row = Sequence[str]


class Table(msgspec.Struct, frozen=True):
    """One table of the reference."""

    title: str
    introduction: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tables() -> Iterator[Table]:
    """Every table, in the order of the file."""
    yield from _settings()
    yield from _commands()
    yield from _known_answers()
    yield from _reconciliation()
    yield from _answers()
    yield from _journal()
    yield from _metrics()


# --- settings -----------------------------------------------------------------------------------------------


def _settings() -> Iterator[Table]:
    yield _options(
        "Box settings",
        "`box.toml`. A name with a dot stands in a table: `line.heartbeat_ms` is `heartbeat_ms` below"
        " `[line]`; `[]` is an array of tables. Paths are relative to the file's folder.",
        options_of(BoxSettings),
    )
    for name, adapter in protocols.discover().items():
        yield _options(
            f"Box settings: [{name}]",
            "Without this table the way in stays closed.",
            options_of(adapter.options, where=f"{name}."),
        )
    introduction = "`hub.toml`. Paths are relative to the file's folder."
    yield _options("Hub settings", introduction, options_of(HubSettings))
    introduction = "`mirror.toml`. Paths are relative to the file's folder."
    yield _options("Mirror settings", introduction, options_of(MirrorSettings))
    yield _options(
        "Site settings",
        "One JSON or TOML file, published by `edgegw site publish`, the same for every box of the site.",
        options_of(Site),
    )


def _options(title: str, introduction: str, options: Iterable[Option]) -> Table:
    rows = tuple(
        (f"`{one.name}`", one.type, f"`{one.default}`" if one.default else "must be given", one.help)
        for one in options
    )
    return Table(title, introduction, ("option", "type", "default", "what it is"), rows)


# --- commands -----------------------------------------------------------------------------------------------


def _commands() -> Iterator[Table]:
    rows = []
    for words, command in _leaves(main, ("edgegw",)):
        context = click.Context(command, info_name=words[-1])
        usage = " ".join((*words, *_arguments(command)))
        rows.append((f"`{usage}`", command.get_short_help_str(limit=TEXT_COLUMNS_MAX)))
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                names = ", ".join(f"`{name}`" for name in parameter.opts)
                rows.append((f"&emsp;{names}", parameter.help or ""))
    yield Table(
        "Commands",
        "`--help` behind any of them says more.",
        ("command or option", "what it does"),
        tuple(rows),
    )
    codes = tuple((str(int(code)), code.meaning) for code in ExitCode)
    yield Table("Exit codes", "Of every command.", ("code", "meaning"), codes)


def _known_answers() -> Iterator[Table]:
    yield Table(
        "Known answers",
        "What box, hub and mirror ask of the machine's libraries before they start; `edgegw crypto self-test"
        " --json` prints each as an element of `answers`, with `problem` empty when it is right.",
        ("name", "library", "what it must do"),
        tuple((f"`{one.name}`", one.library, one.question) for one in known_answers.QUESTIONS),
    )
    shapes: tuple[tuple[str, type[msgspec.Struct]], ...] = (
        ("", crypto.Report),
        ("answers[].", known_answers.Answer),
        ("openssl.", rates.Openssl),
        ("rates[].", rates.Rate),
    )
    yield Table(
        "Report of the self-test",
        "The JSON object that `edgegw crypto self-test --json` prints.",
        ("field", "what it is"),
        tuple(
            (f"`{prefix}{field.name}`", help_of(shape, field.name))
            for prefix, shape in shapes
            for field in msgspec.structs.fields(shape)
        ),
    )


def _reconciliation() -> Iterator[Table]:
    yield Table(
        "The bank core's list",
        "The CSV file for `edgegw reconcile --core`: UTF-8, a header that names these columns, in any order"
        " and beside any others, then one posting a line; commas, semicolons or tabs between them. A payment,"
        " the post of a hold and a refund are `posted` lines of their own, by their own request_id. So is a"
        " reversal, unless it gives all back and the original's line says `reversed`. A hold is `held` while"
        " it is open, then `released` (what was posted of it is the post's line), a stand-in `held` until the"
        " centre's word, then `posted` or `declined`; what is open, released, declined or refused may as well"
        " have no line. A line of another channel may leave client, request_id, box and accounts empty.",
        ("column", "form", "what it is"),
        tuple((f"`{column.name}`", column.words, column.meaning) for column in core_file.COLUMNS),
    )
    yield Table(
        "Breaks",
        "What `edgegw reconcile` finds; a break has one class.",
        ("class", "what it is", "who mends it"),
        tuple((f"`{one.name}`", one.definition, one.mend) for one in classes.BREAKS),
    )
    yield Table(
        "What a reconciliation tells apart",
        "Counted, and no breaks.",
        ("class", "what it is"),
        tuple((f"`{one.name}`", one.definition) for one in classes.APART),
    )


def _leaves(
    command: click.Command, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words[-1])
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _leaves(found, (*words, name))
    else:
        yield words, command


def _arguments(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            name = (parameter.name or "").upper() + ("..." if parameter.nargs == -1 else "")
            yield name if parameter.required else f"[{name}]"


# --- answers ------------------------------------------------------------------------------------------------


def _answers() -> Iterator[Table]:
    yield Table(
        "HTTP endpoints",
        "`GET /v1/openapi.json` at the box describes each in full.",
        ("method", "path", "scope", "what it does", "problem codes of its own"),
        tuple(_operation(one) for one in OPERATIONS),
    )
    yield Table(
        "Scopes",
        "What a client may do, by its `scopes` or `groups` in the site's settings, or less by its token. Each"
        " group stands for all of its scopes.",
        ("scope", "group", "what it lets a client do"),
        tuple(
            (f"`{scope}`", f"`{group}`", text)
            for group, members in scopes.GROUPS.items()
            for scope, text in members.items()
        ),
    )
    yield Table(
        "Problem codes",
        "`code` of an RFC 9457 problem document: nothing was decided, or the id means something else.",
        ("code", "HTTP", "what it means", "mend", "ask again"),
        tuple(
            (
                f"`{one.code}`",
                str(one.status),
                one.title,
                one.mend,
                f"after {one.retry_after_s} s" if one.retry_after_s else "no",
            )
            for one in PROBLEMS.values()
        ),
    )
    yield Table(
        "Reasons of refusals",
        "Decided, and final under that id (HTTP 409). In order of precedence: the first that holds is the"
        " answer. Transient: the same request under a new id may succeed later.",
        ("code", "transient", "mend"),
        tuple((f"`{one.value}`", "yes" if one.transient else "no", one.mend) for one in Reason),
    )
    yield Table(
        "Rules",
        "Run before the funds are looked at, in this order.",
        ("order", "rule", "what it refuses"),
        tuple((str(one.order), f"`{one.name}`", _prose(one.documentation)) for one in rules.discover()),
    )
    yield Table(
        "ISO 8583 response codes",
        "Field 39; field 44 carries a word of explanation.",
        ("code", "when"),
        tuple((f"`{code}`", _join(whens)) for code, whens in sorted(_response_codes().items())),
    )
    yield Table(
        "Operating errors",
        "What the world does to a box: in logs, in `edgegw status` and behind exit code 3.",
        ("code", "what it is", "what the box does", "hint"),
        tuple(
            (f"`{one.code}`", _prose(one.__doc__), one.next.value, one.default_hint)
            for one in _operating_errors()
        ),
    )


def _operating_errors() -> list[type[errors.OperatingError]]:
    """Those of all modules, whichever are loaded already: a table must not depend on what ran before."""
    for module in pkgutil.walk_packages(edgegw.__path__, "edgegw."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [one for one in errors.OperatingError.__subclasses__() if one.__module__.startswith("edgegw.")]
    return sorted(found, key=lambda one: one.code)


def _operation(one: Operation) -> Row:
    return (
        one.method,
        f"`{one.path}`",
        one.scope or "open",
        one.summary,
        ", ".join(f"`{c}`" for c in one.problems),
    )


def _response_codes() -> dict[str, list[str]]:
    """Field 39 to what it can stand for: the protocol's own words, then the ledger's reasons."""
    found: dict[str, list[str]] = {}
    for name, code in vars(messages).items():
        if name.isupper() and isinstance(code, str) and len(code) == RESPONSE_CODE_DIGITS:
            found.setdefault(code, []).append(name.lower().replace("_", " "))
    for reason, code in messages.RESPONSE_CODES.items():
        found.setdefault(code, []).append(f"`{reason}`")
    return found


# --- the journal, the metrics -------------------------------------------------------------------------------


def _journal() -> Iterator[Table]:
    yield Table(
        "Records of the journal",
        "`type` of a record. Every record also names v, bank, box, epoch, seq, at_ns, wall_ns and mono_ns.",
        ("type", "what it is", "fields of its own"),
        tuple(_record(shape, records.RecordHead) for shape in get_args(records.Record)),
    )
    yield Table(
        "Directives of the hub",
        "`type` of a directive; each stands verbatim in the `directive` record that says what became of it.",
        ("type", "what it orders", "fields of its own"),
        tuple(_record(shape, records.DirectiveHead) for shape in get_args(records.Directive)),
    )
    yield Table(
        "Fields of a request",
        "As a `transfer` or `refusal` record keeps it.",
        ("field", "what it is"),
        tuple(
            (f"`{field.name}`", help_of(records.Request, field.name))
            for field in msgspec.structs.fields(records.Request)
        ),
    )
    yield Table(
        "Modes of the line",
        "Journalled with their reason whenever they change.",
        ("mode", "clears payments"),
        tuple((f"`{mode.value}`", "yes" if mode.clears else "no") for mode in records.Mode),
    )


def _record(shape: type[msgspec.Struct], head: type[msgspec.Struct]) -> Row:
    own = [name for name in shape.__struct_fields__ if name not in head.__struct_fields__]
    return f"`{shape.__struct_config__.tag}`", _prose(shape.__doc__), ", ".join(f"`{name}`" for name in own)


def _metrics() -> Iterator[Table]:
    yield Table(
        "Metrics of a box",
        "At `GET /metrics`, in Prometheus' text format; counters end in `_total` there.",
        ("metric", "type", "what it is"),
        tuple((f"`{name}`", kind, text) for name, kind, text in metrics.described()),
    )
    families = sorted(HubMetrics().registry.collect(), key=lambda family: family.name)
    yield Table(
        "Metrics of the hub",
        "At `GET /metrics` of the hub, from its own machine only.",
        ("metric", "type", "what it is"),
        tuple((f"`{family.name}`", family.type, family.documentation) for family in families),
    )
    families = sorted(MirrorMetrics().registry.collect(), key=lambda family: family.name)
    yield Table(
        "Metrics of a mirror",
        "At `GET /metrics` of the mirror, from its own machine only.",
        ("metric", "type", "what it is"),
        tuple((f"`{family.name}`", family.type, family.documentation) for family in families),
    )


# --- the text -----------------------------------------------------------------------------------------------


def _prose(text: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _join(words: Sequence[str]) -> str:
    return ", ".join(words)


def reference() -> str:
    """The whole file."""
    lines = [
        "# Reference",
        "",
        "Written by `make reference` from the code; `make check` fails when it is not what the code says.",
    ]
    found = list(tables())
    lines += ["", *(f"- [{one.title}](#{_anchor(one.title)})" for one in found)]
    for one in found:
        lines += ["", f"## {one.title}", "", one.introduction, ""]
        lines += [_line(one.columns), _line(["---"] * len(one.columns)), *(_line(row) for row in one.rows)]
    for name, adapter in protocols.discover().items():
        lines += ["", f"## The way in `{name}`", "", inspect.cleandoc(adapter.documentation)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _anchor(title: str) -> str:
    kept = "".join(character for character in title.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m edgegw.references", description=__doc__)
    parser.add_argument("file", nargs="?", default=REFERENCE, type=Path, help="default: %(default)s")
    parser.parse_args().file.write_text(reference(), encoding="utf-8")
