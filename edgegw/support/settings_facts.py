"""A settings file for strangers' eyes: what is chosen, where its secrets lie, and whose names are told.

It reads the file's own tables, not what the program makes of them, so that one with faults can be told too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgegw.config.options import PATH_SUFFIXES
from edgegw.support.redact import Redactor

SECRETS_FOLDER: Final = "secrets"
"""Beside the settings, by the defaults."""
_FILES_MAX: Final = 200
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_PLACE: Final = re.compile(r"[A-Za-z0-9.:/\[\]_-]{1,128}\Z")
_NAMES: Final = ("bank", "box", "mirror")
_PLACES: Final = ("url", "host", "listen", "addresses", "line", "server_name", "interfaces", "endpoint")
_PUBLIC_KEYS: Final = ("key", "hub_key", "public_key")
_KEY: Final = re.compile(r"(?:[a-z0-9/_-]+\+[0-9a-f]{8}\+)?[A-Za-z0-9+/]{43,120}={0,2}\Z")


def names_of(table: Mapping[str, Any]) -> Iterator[str]:
    """The names of machines that settings give: bank, boxes, mirror, and hosts of addresses."""
    boxes = table.get("boxes")
    for one in (*map(table.get, _NAMES), *(boxes if isinstance(boxes, dict) else ())):
        if isinstance(one, str) and _is_name(one):
            yield one
    for name, value in _leaves(table):
        if name in _PLACES and isinstance(value, str) and _PLACE.match(value):
            yield urlsplit(value if "//" in value else f"//{value}").hostname or ""


def told(table: Mapping[str, Any], redactor: Redactor, *, folder: Path) -> dict[str, Any]:
    """The table with every secret, and every text that is not known to be none, left out."""
    return {_key(name, redactor): _told(name, value, redactor, folder) for name, value in table.items()}


def secret_files(table: Mapping[str, Any], *, folder: Path) -> Iterator[Path]:
    """Files that hold keys, tokens or claims: those that the settings name, and what lies in their folders
    and beside the settings."""
    folders = {folder / SECRETS_FOLDER}
    for name, value in _leaves(table):
        if isinstance(value, str) and value and name.endswith("_file") and name != "database_file":
            yield folder / value
        elif isinstance(value, str) and value and name in ("vault_keys_dir", "ca_dir", "kek_dir"):
            folders.add(folder / value)
    for place in sorted(folders):
        yield from (one for one in sorted(place.rglob("*"))[:_FILES_MAX] if one.suffix != ".pub")
    for pattern in ("*.pem", "*.key", "*.claim", "*claim*.json", "*.token", "*.p12"):
        yield from sorted(folder.glob(pattern))[:_FILES_MAX]


def _leaves(table: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _leaves(value, str(key))
    elif isinstance(table, list):
        for value in table:
            yield from _leaves(value, name)
    else:
        yield name, table


def _told(name: str, value: Any, redactor: Redactor, folder: Path) -> Any:
    if name == "boxes" and isinstance(value, Mapping):
        return {_key(box, redactor): _public_key(key) for box, key in value.items()}
    if isinstance(value, Mapping):
        return told(value, redactor, folder=folder)
    if isinstance(value, list):
        return [_told(name, one, redactor, folder) for one in value]
    if not isinstance(value, str):
        return redactor.value(value, name=name)
    if name in _PUBLIC_KEYS:
        return _public_key(value)
    if name.endswith(PATH_SUFFIXES):
        return _path(folder / value, redactor)
    if name in _NAMES and _is_name(value):
        return value
    if name in _PLACES:
        return redactor.text(_without_user(value))
    return redactor.text(value)


def _key(name: object, redactor: Redactor) -> str:
    return redactor.text(str(name))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(_NAME.match(value))


def _public_key(text: object) -> str:
    """What tells two public keys apart, and nothing of a private one that was put in its place."""
    if not isinstance(text, str) or not _KEY.match(text.strip()):
        return f"no public key, {len(str(text))} characters"
    return "public key, SHA-256 begins with " + hashlib.sha256(text.strip().encode()).hexdigest()[:6]


def _path(path: Path, redactor: Redactor) -> dict[str, Any]:
    facts: dict[str, Any] = {"place": redactor.text(str(path))}
    try:
        found = path.stat()
    except OSError as problem:
        return facts | {"problem": problem.strerror}
    return facts | {"mode": oct(found.st_mode), "bytes": found.st_size, "changed_s": int(found.st_mtime)}


def _without_user(url: str) -> str:
    scheme, colon, place = url.partition("://")
    return scheme + colon + place.rpartition("@")[2]
