"""Card numbers in bytes that a program wrote, whatever they look like there: as text of any width and with
separators, escaped, packed, encoded, compressed, in a cell of a SQLite file, or only in part.

A part is more than a mask shows (the first six and the last four digits): any ten digits in a row, or seven
in front of a mask, or five behind one. Leaves out which files there are.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

PIECE_BYTES: Final = 1 << 22
OVERLAP_BYTES: Final = 512
PART_DIGITS: Final = 10
END_BYTES: Final = 4
_UNPACKED_BYTES_MAX: Final = 1 << 27
_GZIP: Final = b"\x1f\x8b\x08"
_ZLIB: Final = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_SQLITE: Final = b"SQLite format 3\0"
_ESCAPES: Final = re.compile(rb"(?:%|\\x|\\u00|&#x)3|;")


def _as_it_is(run: bytes) -> bytes:
    return run


def _without_escapes(run: bytes) -> bytes:
    return _ESCAPES.sub(b"", run)


def _of_codes(run: bytes) -> bytes:
    return bytes(int(code) for code in re.findall(rb"[0-9]+", run))


_RUNS: Final[tuple[tuple[str, re.Pattern[bytes], Callable[[bytes], bytes]], ...]] = (
    ("text", re.compile(rb"[0-9](?:[ \-_./,:]{0,2}[0-9]){9,}"), _as_it_is),
    ("wide text", re.compile(rb"[0-9]\0(?:[ \-]\0)?(?:[0-9]\0(?:[ \-]\0)?){8,}[0-9]"), _as_it_is),
    ("hex of text", re.compile(rb"(?:3[0-9]){10,}"), binascii.unhexlify),
    ("escaped text", re.compile(rb"(?:(?:%|\\x|\\u00|&#x)3[0-9];?){10,}"), _without_escapes),
    ("decimal entities", re.compile(rb"(?:&#(?:4[89]|5[0-7]);){10,}"), _of_codes),
)
_HEADS: Final = re.compile(rb"[0-9]{7,19}(?=[*xX.#]{3})")
_TAILS: Final = re.compile(rb"(?<=[*xX#]{3})[0-9]{5,19}")


class Leak(NamedTuple):
    """One find; nothing secret."""

    form: str
    ends_in: str
    """The last four digits of the number."""


class CardSearch:
    """A search for these numbers, and where `parts` for parts of them."""

    def __init__(self, numbers: Iterable[str], *, parts: bool = True) -> None:
        """parts: choose numbers that share nothing long with anything else that is written."""
        self._numbers = tuple(numbers)
        width = PART_DIGITS if parts else 0
        self._windows = {
            number[start : start + (width or len(number))].encode(): number
            for number in self._numbers
            for start in range(len(number) - (width or len(number)) + 1)
        }
        self._widths = sorted({len(window) for window in self._windows})
        self._heads = {number[:7].encode(): number for number in self._numbers if parts}
        self._tails = {number[-5:].encode(): number for number in self._numbers if parts}
        self._literals = _by_a_shared_end(
            [(form, literal, number) for number in self._numbers for form, literal in _binary(number)]
        )

    def in_bytes(self, data: bytes) -> Iterator[Leak]:
        """What is found in these bytes, and in what they hold compressed."""
        for unpacked in _unpacked(data):
            yield from self._in_plain(unpacked)
        yield from self._in_plain(data)

    def _in_plain(self, data: bytes) -> Iterator[Leak]:
        for form, pattern, decoded in _RUNS:
            for run in pattern.finditer(data):
                digits = re.sub(rb"[^0-9]", b"", decoded(run.group()))
                for number in self._in_digits(digits):
                    yield Leak(form, number[-4:])
        for end, literals in self._literals.items():
            if end in data:
                for form, literal, number in literals:
                    if literal in data:
                        yield Leak(form, number[-4:])
        for number in self._behind_masks(data):
            yield Leak("too short a mask", number[-4:])

    def _behind_masks(self, data: bytes) -> Iterator[str]:
        if self._heads:
            yield from filter(None, (self._heads.get(run.group()[:7]) for run in _HEADS.finditer(data)))
            yield from filter(None, (self._tails.get(run.group()[-5:]) for run in _TAILS.finditer(data)))

    def in_file(self, path: Path) -> Iterator[Leak]:
        """What is found in a file's bytes and, of a SQLite file, in its cells; a pipe or a folder has
        none."""
        if not path.is_file():
            return
        before = b""
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                data = before + piece
                if not before and data.startswith(_SQLITE):
                    yield from self._in_cells(path)
                yield from self.in_bytes(data)
                before = data[-OVERLAP_BYTES:]

    def _in_digits(self, digits: bytes) -> Iterator[str]:
        for width in self._widths:
            for start in range(len(digits) - width + 1):
                number = self._windows.get(digits[start : start + width])
                if number is not None:
                    yield number
                    return

    def _in_cells(self, path: Path) -> Iterator[Leak]:
        """A long value is cut into pages that lie apart."""
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"):
                for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - the file's own name
                    cells = b"\n".join(one if isinstance(one, bytes) else str(one).encode() for one in row)
                    yield from self.in_bytes(cells)
        finally:
            connection.close()


def _binary(number: str) -> Iterator[tuple[str, bytes]]:
    """A number's forms that are no run of digits: packed decimals, base64, integers."""
    for shift in (0, 1):
        digits = number[shift : shift + (len(number) - shift) // 2 * 2]
        yield "packed decimal", binascii.unhexlify(digits)
        for encode in (base64.b64encode, base64.b32encode):
            ascii_in_front = b"0" * shift + number.encode()
            form = encode.__name__.removesuffix("encode")
            yield form, _middle(encode(ascii_in_front), form, in_front=shift)
    yield "b64", _middle(base64.b64encode(b"00" + number.encode()), "b64", in_front=2)
    yield "reversed text", number[::-1].encode()
    packed = int(number).to_bytes(8, "big").lstrip(b"\0")
    yield "integer", packed
    yield "integer", packed[::-1]


def _by_a_shared_end(
    literals: Sequence[tuple[str, bytes, str]],
) -> dict[bytes, list[tuple[str, bytes, str]]]:
    """The literals by their first or last bytes, whichever more of them have: cards of one bank begin alike,
    and bytes without that beginning need no look for each card."""
    firsts = Counter(literal[:END_BYTES] for _, literal, _ in literals)
    lasts = Counter(literal[-END_BYTES:] for _, literal, _ in literals)
    found: dict[bytes, list[tuple[str, bytes, str]]] = {}
    for one in literals:
        first, last = one[1][:END_BYTES], one[1][-END_BYTES:]
        found.setdefault(first if firsts[first] >= lasts[last] else last, []).append(one)
    return found


def _middle(encoded: bytes, form: str, *, in_front: int) -> bytes:
    """The characters that hang on the number alone, not on what stands beside it."""
    bits = 6 if form == "b64" else 5
    first = -(-in_front * 8 // bits)
    whole = len(encoded.rstrip(b"="))
    return encoded[first : whole - 1]


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What begins like gzip or zlib anywhere in the bytes, as far as it unpacks."""
    view = memoryview(data)
    starts = [at.start() for at in re.finditer(re.escape(_GZIP), data)]
    for start, wbits in [(at, 31) for at in starts] + [(at.start(), 15) for at in _ZLIB.finditer(data)]:
        try:
            unpacked = zlib.decompressobj(wbits).decompress(view[start:], _UNPACKED_BYTES_MAX)
        except zlib.error:
            continue
        if unpacked:
            yield unpacked
