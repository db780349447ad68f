"""Options as typed structs: reading a table into one, every fault at once, and listing what there is.

A shape is a msgspec Struct whose fields carry their help as `msgspec.Meta(description=...)` or as a docstring
below them. A name that ends in `_file`, `_dir` or `directory` is a path, relative to the folder of the
settings file.
"""

from __future__ import annotations

import ast
import datetime
import difflib
import enum
import functools
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

PATH_SUFFIXES: Final = ("_file", "_dir", "directory")
_SHOWN_CHARACTERS_MAX: Final = 80
_LISTED: Final = re.compile(r"\^\(([a-z_-]+(?:\|[a-z_-]+)+)\)\\Z")
"""A pattern that only lists the values."""


class SettingsError(Exception):
    """Settings that cannot be used; each fault is one line that names an option, its value and the mend."""

    def __init__(self, source: str, faults: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))
        self.source = source
        self.faults = tuple(faults)


class Option(NamedTuple):
    """One option as the reference lists it; `default` is empty for one that must be given."""

    name: str
    type: str
    default: str
    help: str


def read_table(shape: type[S], table: Mapping[str, Any], faults: list[str], *, where: str = "") -> S | None:
    """The table as a value of this shape; None when something is wrong, which is appended to faults."""
    before = len(faults)
    hints = hints_of(shape)
    values: dict[str, Any] = {}
    faults += [
        f"{where}{name}: there is no such option{_nearest(name, hints)}"
        for name in sorted(table.keys() - hints.keys())
    ]
    for field in msgspec.structs.fields(shape):
        name, hint = field.encode_name, hints[field.name]
        if name in table:
            values[field.name] = _read(
                hint, table[name], faults, where=f"{where}{name}", mend=help_of(shape, name)
            )
        elif field.required:
            faults.append(f"{where}{name}: it is missing. {help_of(shape, name)}".rstrip())
    return shape(**values) if len(faults) == before else None


def _read(hint: Any, value: Any, faults: list[str], *, where: str, mend: str) -> Any:
    inner = struct_in(hint)
    if inner is not None and isinstance(value, dict):
        return read_table(inner, value, faults, where=f"{where}.")
    rows = row_struct_in(hint)
    if rows is not None and isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return tuple(
            read_table(rows, row, faults, where=f"{where}[{number}].") for number, row in enumerate(value)
        )
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as problem:
        choices = _choices(hint)
        wrong = _one_of(value, choices) if choices else _sentence(problem)
        faults.append(f"{where} = {_shown(value)}: {wrong} {mend}".rstrip())
        return None


def _choices(hint: Any) -> list[Any]:
    """The values that an option, or each entry of its list, may have; none where they cannot be counted."""
    bare = _bare(hint)
    origin, parts = typing.get_origin(bare), typing.get_args(bare)
    for meta in typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ():
        listed = _LISTED.fullmatch(meta.pattern or "") if isinstance(meta, msgspec.Meta) else None
        if listed:
            return listed[1].split("|")
    if origin is typing.Literal:
        return list(parts)
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return [one.value for one in bare]
    return _choices(parts[0]) if origin in (tuple, list) else []


def _one_of(value: object, choices: list[Any]) -> str:
    """What is wrong with a value that is none of the choices, or a list with such a one."""
    wrong = next((one for one in value if one not in choices), "") if isinstance(value, list) else value
    near = difflib.get_close_matches(str(wrong).lower(), map(str, choices), n=1, cutoff=0.6)
    meant = f"; did you mean {near[0]}?" if near else "."
    return f"it must be one of {', '.join(_shown(one) for one in choices)}{meant}"


def repeated(field: str, values: Iterable[str | int], mend: str = "keep one") -> Iterator[str]:
    """Which values of a field stand there more than once, a line each."""
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{field} = {value}: it stands there {count} times; {mend}"


def struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The shape behind a table's type; None for what is no table."""
    bare = _bare(hint)
    return bare if isinstance(bare, type) and issubclass(bare, msgspec.Struct) else None


def row_struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The shape of the rows of an array of tables; None for any other type."""
    bare = _bare(hint)
    if typing.get_origin(bare) is not tuple:
        return None
    row = _bare(typing.get_args(bare)[0])
    return row if isinstance(row, type) and issubclass(row, msgspec.Struct) else None


def _bare(hint: Any) -> Any:
    """A type without its bounds, and without the mark of a table that may be left out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        given = [part for part in typing.get_args(hint) if part is not msgspec.UnsetType]
        hint = given[0] if len(given) == 1 else hint
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


@functools.cache
def hints_of(shape: type) -> dict[str, Any]:
    """The fields of a shape with their types, `Annotated` and all."""
    return typing.get_type_hints(shape, include_extras=True)


def help_of(shape: type, name: str) -> str:
    """The sentence of help of a field: the docstring below it, else its type's description; "" for none."""
    written = _docstrings(shape).get(name)
    if written:
        return written
    hint = hints_of(shape)[name]
    metas = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    for meta in reversed(metas):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return ""


@functools.cache
def _docstrings(shape: type) -> dict[str, str]:
    """The strings that stand below the fields of a class, which Python itself does not keep."""
    found: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(shape))).body[0]
    for field, below in itertools.pairwise(body.body if isinstance(body, ast.ClassDef) else ()):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = " ".join(text.value.split())
    return found


def _sentence(problem: msgspec.ValidationError) -> str:
    text = str(problem).partition(" - at ")[0]
    return text[0].lower() + text[1:] + "."


def _shown(value: object) -> str:
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def options_of(shape: type[msgspec.Struct], *, where: str = "") -> Iterator[Option]:
    """Every option of a shape and of the tables in it, in the order of declaration."""
    hints = hints_of(shape)
    for field in msgspec.structs.fields(shape):
        hint, name = hints[field.name], f"{where}{field.encode_name}"
        inner, rows = struct_in(hint), row_struct_in(hint)
        if inner is not None:
            yield from options_of(inner, where=f"{name}.")
        elif rows is not None:
            yield from options_of(rows, where=f"{name}[].")
        else:
            yield Option(name, _type_text(hint), _default_text(field), help_of(shape, field.name))


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(default, enc_hook=str).decode()


def _type_text(hint: Any) -> str:
    """A type as an operator reads it, with its bounds."""
    metas = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    bounds = "".join(
        f", {sign} {bound}"
        for meta in metas
        if isinstance(meta, msgspec.Meta)
        for sign, bound in (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt))
        if bound is not None
    )
    return _name_of(_bare(hint)) + bounds


def _name_of(bare: Any) -> str:
    origin, parts = typing.get_origin(bare), typing.get_args(bare)
    if origin is typing.Annotated:
        return _name_of(parts[0])
    if origin is typing.Literal:
        return " or ".join(msgspec.json.encode(part).decode() for part in parts)
    if origin is tuple:
        return f"list of {_name_of(parts[0])}"
    if origin is dict:
        return f"table of {_name_of(parts[1])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name_of(part) for part in parts if part is not type(None))
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    names[datetime.date] = "date"
    return names.get(bare, str(bare))


def with_paths(value: S, folder: Path) -> S:
    """The same settings with every path in them made absolute, from `folder` on; "" stays."""
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        one = getattr(value, field.name)
        if isinstance(one, msgspec.Struct):
            changes[field.name] = with_paths(one, folder)
        elif isinstance(one, tuple) and all(isinstance(row, msgspec.Struct) for row in one):
            changes[field.name] = tuple(with_paths(row, folder) for row in one)
        elif isinstance(one, str) and one and field.name.endswith(PATH_SUFFIXES):
            changes[field.name] = str(folder / one)
    return msgspec.structs.replace(value, **changes) if changes else value
