"""Changes to true samples: of bytes, and of the values inside JSON and msgpack, so that what comes out still
looks like what a peer sends.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from tests.fuzz.target import BYTES_MAX

TOKENS: Final = (
    b"\x00", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b'"\\ud800"', b"\\u0000", b'"',
    b"\n\n", b"\n", b"{}", b"[]", b"null", b"true", b"-0", b"1e999", b"1.5", b"9223372036854775808", b"-1",
    b"NaN", b"9" * 5_000, b"[" * 3_000, b'{"a":' * 2_000, b"\x91" * 3_000, b"\x81\xa1a" * 2_000, b"A" * 3_000,
    "— ".encode(), b"+", b"=", b"/", b"\r", b"\x7f", b" ", b"0", b"\xc1", b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff",
)  # fmt: skip
"""What decoders have stumbled over before: other texts' ends, depths, lengths and numbers."""
ODD: Final[tuple[Any, ...]] = (
    0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**400, 1.5, -0.0, 1e308, True, False,
    None, "", "\x00", "\n", "\ud800", "é", "0" * 32, "f" * 64, "A" * 300, "centre:CNY", [], {}, [[]],
    [0] * 300,     {"": ""}, {"type": "link"}, b"", b"\xff", bytes(32), bytes(64), bytes(300),
)  # fmt: skip
DEEP: Final = 2_500


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The bytes with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(data, rng, others)
    return data[: BYTES_MAX * 4]


def _flip(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    content = bytearray(data)
    content[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _set(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[rng.randint(start, len(data)) :]


def _end(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


def _repeat(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    end = rng.randint(start, min(len(data), start + 500))
    return data[:end] + data[start:end] * rng.choice((1, 2, 20)) + data[end:]


def _token(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _line(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines.insert(one, lines[two])
    return b"\n".join(lines)


def _value(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """One value of a document, or of one line of it, becomes another."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    for read, write in _FORMS:
        for whole in (True, False):
            try:
                document = read(data if whole else lines[at])
                body = write(_with_odd(document, rng))
            except (ValueError, TypeError, RecursionError, OverflowError, msgspec.MsgspecError):
                continue
            return body if whole else b"\n".join([*lines[:at], body, *lines[at + 1 :]])
    return _flip(data, rng, ())


def _read_msgpack(data: bytes) -> Any:
    document = msgspec.msgpack.decode(data)
    if not isinstance(document, dict | list):
        raise TypeError("a number: no document")
    return document


_FORMS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (json.loads, lambda document: json.dumps(document, separators=(",", ":"), default=repr).encode()),
    (_read_msgpack, msgspec.msgpack.encode),
)


def _with_odd(document: Any, rng: random.Random) -> Any:
    """The document with one value replaced, left out, doubled or wrapped."""
    if isinstance(document, dict) and document and rng.random() < 0.9:
        name = rng.choice(list(document))
        return _changed_map(document, name, rng)
    if isinstance(document, list) and document and rng.random() < 0.9:
        at = rng.randrange(len(document))
        if rng.random() < 0.2:
            return [*document[:at], *document[at + 1 :]]
        return [*document[:at], _with_odd(document[at], rng), *document[at + 1 :]]
    if isinstance(document, bytes) and document and rng.random() < 0.6:
        return _flip(document, rng, ()) if rng.random() < 0.5 else _token(document, rng, ())
    if isinstance(document, int) and rng.random() < 0.4:
        return document + rng.choice((-1, 1))
    if isinstance(document, str) and document and rng.random() < 0.4:
        return _token(document.encode("utf-8", "replace"), rng, ()).decode("utf-8", "replace")
    if rng.random() < 0.02:
        for _ in range(DEEP):
            document = [document]
        return document
    return rng.choice(ODD)


def _changed_map(document: dict[Any, Any], name: Any, rng: random.Random) -> dict[Any, Any]:
    chance = rng.random()
    if chance < 0.15:
        return {key: value for key, value in document.items() if key != name}
    if chance < 0.25:
        return {**document, rng.choice(("", "type", "v", "id", "x" * 70)): document[name]}
    if chance < 0.35:
        other = rng.choice(list(document))
        return {**document, name: document[other], other: document[name]}
    return {**document, name: _with_odd(document[name], rng)}


_CHANGES: Final = (_flip, _set, _cut, _end, _repeat, _token, _splice, _line, _value, _value, _value, _value)
