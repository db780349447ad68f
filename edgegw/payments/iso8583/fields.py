"""The fields of ISO 8583:1987 and the bytes of a message: table, decoding, encoding, checks of form.

pyiso8583 is the codec; this module owns the table, what the codec lets pass (signs and blanks in lengths,
blanks in a bitmap, a tertiary bitmap), an empty secondary bitmap, and whether digits are digits and dates are
dates. Leaves out: which fields a message must have and what they mean (`messages`), and the length in front
of a frame (`protocols/iso8583.py`).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

import iso8583
import msgspec

Bitmap = Literal["hex", "binary"]
Spec = Mapping[str, Mapping[str, str | int]]

# Number and format as the standard writes them: a dot for each digit of the length in front, b in bits,
# x+n a sign and digits.
_TABLE: Final = """
2 n..19  3 n6  4 n12  5 n12  6 n12  7 n10  8 n8  9 n8  10 n8  11 n6  12 n6  13 n4  14 n4  15 n4  16 n4
17 n4  18 n4  19 n3  20 n3  21 n3  22 n3  23 n3  24 n3  25 n2  26 n2  27 n1  28 x+n8  29 x+n8  30 x+n8
31 x+n8  32 n..11  33 n..11  34 ns..28  35 z..37  36 n...104  37 an12  38 an6  39 an2  40 an3  41 ans8
42 ans15  43 ans40  44 an..25  45 an..76  46 an...999  47 an...999  48 an...999  49 an3  50 an3  51 an3
52 b64  53 n16  54 an...120  55 ans...999  56 ans...999  57 ans...999  58 ans...999  59 ans...999
60 ans...999  61 ans...999  62 ans...999  63 ans...999  64 b64  66 n1  67 n2  68 n3  69 n3  70 n3  71 n4
72 n4  73 n6  74 n10  75 n10  76 n10  77 n10  78 n10  79 n10  80 n10  81 n10  82 n12  83 n12  84 n12
85 n12  86 n16  87 n16  88 n16  89 n16  90 n42  91 an1  92 an2  93 an5  94 an7  95 an42  96 b64  97 x+n16
98 ans25  99 n..11  100 n..11  101 ans..17  102 ans..28  103 ans..28  104 ans...100  105 ans...999
106 ans...999  107 ans...999  108 ans...999  109 ans...999  110 ans...999  111 ans...999  112 ans...999
113 ans...999  114 ans...999  115 ans...999  116 ans...999  117 ans...999  118 ans...999  119 ans...999
120 ans...999  121 ans...999  122 ans...999  123 ans...999  124 ans...999  125 ans...999  126 ans...999
127 ans...999  128 b64
"""
_FORMAT: Final = re.compile(r"(x\+n|[a-z]+)(\.*)(\d+)")
_FORMATS: Final = dict(
    zip((int(number) for number in _TABLE.split()[::2]), _TABLE.split()[1::2], strict=True)
)

_NUMERIC: Final = frozenset(number for number, format_ in _FORMATS.items() if re.match(r"n[.\d]", format_))
_SIGNED: Final = frozenset(number for number, format_ in _FORMATS.items() if format_.startswith("x+n"))
_PRINTABLE: Final = frozenset({37, 38, 41, 42, 49})
"""Text that goes into records and answers, so it must be plain."""
_BINARY: Final = frozenset(number for number, format_ in _FORMATS.items() if format_.startswith("b"))

SECRET: Final = frozenset({2, 14, 34, 35, 36, 45, 52, 53, 55, 96})
"""Fields whose value is never shown: card numbers, tracks, PIN blocks, chip data."""

_NAMES: Final = {
    2: "card number", 3: "processing code", 4: "amount", 7: "transmission date and time", 11: "STAN",
    12: "local time", 13: "local date", 14: "expiration date", 15: "settlement date", 16: "conversion date",
    17: "capture date", 32: "acquirer", 35: "track 2", 37: "retrieval reference", 41: "terminal",
    42: "merchant", 45: "track 1", 49: "currency", 64: "MAC", 70: "network management code",
    73: "action date", 90: "original data", 95: "replacement amounts", 128: "MAC",
}  # fmt: skip

_SHOWN_CHARACTERS_MAX: Final = 12
_SHOWN_OF_LONGER: Final = 6
"""A message with shifted fields may have a card number anywhere; a mask shows its first six digits, too."""


class Message(msgspec.Struct, frozen=True):
    """A message: type, fields as text (binary ones as hex digits), and whether an empty secondary bitmap came
    along."""

    mti: str
    fields: dict[int, str]
    empty_secondary: bool = False

    def get(self, number: int) -> str:
        """A field without the blanks that fill it up, "" when it is absent."""
        return self.fields.get(number, "").rstrip(" ")


class FrameError(Exception):
    """Bytes that are no message. `partial` is what could be read before, with the MTI "" when not even
    that."""

    def __init__(self, text: str, *, word: str, partial: Message) -> None:
        super().__init__(text)
        self.word = word
        """At most 25 characters, for field 44."""
        self.partial = partial


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one field: in full for the log, and short for field 44."""

    text: str
    word: str


def name(number: int) -> str:
    """How a field is called in errors: `field 13 (local date)`."""
    known = _NAMES.get(number)
    return f"field {number} ({known})" if known else f"field {number}"


def shown(number: int, value: str) -> str:
    """A field's value as errors may show it: never a secret one, never long enough for a card number."""
    if number in SECRET:
        return f"({len(value)} characters, not shown)"
    return repr(value if len(value) < _SHOWN_CHARACTERS_MAX else value[:_SHOWN_OF_LONGER] + "…")


def specification(bitmap: Bitmap) -> Spec:
    """pyiso8583's table: bitmaps and binary fields as ASCII hex digits or as bytes, text as Latin-1, lengths
    as ASCII digits."""
    spec: dict[str, Mapping[str, str | int]] = {"h": _entry("latin-1", 0, 0), "t": _entry("latin-1", 0, 4)}
    bits = _entry("latin-1", 0, 16) if bitmap == "hex" else _entry("b", 0, 8)
    spec["p"] = spec["1"] = spec["65"] = bits
    for number, format_ in _FORMATS.items():
        [(kind, points, digits)] = _FORMAT.findall(format_)
        dots, size = len(points), int(digits)
        if kind == "b":
            spec[str(number)] = bits
        elif number == 55 and bitmap == "binary":
            spec["55"] = _entry("b", dots, size)
        else:
            spec[str(number)] = _entry("latin-1", dots, size + 1 if kind == "x+n" else size)
    return spec


def _entry(encoding: str, length_digits: int, size: int) -> Mapping[str, str | int]:
    return {"data_enc": encoding, "len_enc": "ascii", "len_type": length_digits, "max_len": size}


class Codec:
    """Bytes to messages and back, in one of the two ways to write bitmaps."""

    def __init__(self, bitmap: Bitmap) -> None:
        self._spec = specification(bitmap)
        self._bitmap: Bitmap = bitmap
        self._bitmap_bytes = 16 if bitmap == "hex" else 8
        self.mac_bytes = self._bitmap_bytes
        """How many bytes the value of field 64 or 128 takes."""

    def decode(self, raw: bytes) -> Message:
        """The message in these bytes; raises FrameError."""
        self._check_bitmaps(raw)
        try:
            document, pieces = iso8583.decode(raw, self._spec)
        except iso8583.DecodeError as error:
            raise _frame_error(error) from None
        message = _message(document)
        for key, piece in pieces.items():
            if not all(48 <= byte <= 57 for byte in piece["len"]):
                text = f"{name(int(key))} has the length {piece['len']!r}; send decimal digits"
                raise FrameError(text, word=f"F{key} length", partial=message)
        return message

    def _check_bitmaps(self, raw: bytes) -> None:
        width = self._bitmap_bytes
        start = 4
        for label in ("primary", "secondary"):
            piece = raw[start : start + width]
            bits = piece if self._bitmap == "binary" else _hex_bits(piece)
            if bits is None or len(bits) < 8:
                mti = raw[:4].decode("latin-1") if len(raw) >= 4 else ""
                what = "is cut short" if len(piece) < width else "is not 16 hex digits"
                text = f"the {label} bitmap {what}; send {width} bytes of it after the MTI"
                raise FrameError(text, word=f"{label} bitmap", partial=Message(mti, {}))
            first = bool(bits[0] & 0x80)
            if label == "secondary" and first:
                text = (
                    "field 65 announces a third bitmap, which the 1987 standard does not fill; leave it out"
                )
                raise FrameError(
                    text, word="F65 third bitmap", partial=Message(raw[:4].decode("latin-1"), {})
                )
            if not first:
                return
            start += width

    def encode(self, message: Message) -> bytes:
        """The bytes of a message; raises ValueError (pyiso8583's EncodeError) when a field does not fit the
        table."""
        document = {str(number): value for number, value in message.fields.items()}
        document["t"] = message.mti
        encoded, _ = iso8583.encode(document, self._spec)
        raw = bytes(encoded)
        if not message.empty_secondary:
            return raw
        end = 4 + self._bitmap_bytes
        if self._bitmap == "binary":
            return raw[:4] + bytes([raw[4] | 0x80]) + raw[5:end] + bytes(8) + raw[end:]
        return raw[:4] + b"%X" % (int(raw[4:5], 16) | 8) + raw[5:end] + b"0" * 16 + raw[end:]


def _hex_bits(piece: bytes) -> bytes | None:
    if not re.fullmatch(rb"[0-9A-Fa-f]*", piece) or len(piece) % 2:
        return None
    return bytes.fromhex(piece.decode("ascii"))


def _message(document: Mapping[str, str]) -> Message:
    fields = {int(key): value for key, value in document.items() if key.isdigit() and key != "1"}
    return Message(
        document.get("t", ""), fields, empty_secondary="1" in document and max(fields, default=0) <= 64
    )


def _frame_error(error: iso8583.DecodeError) -> FrameError:
    document = {key: value for key, value in error.doc_dec.items() if key != error.field}
    if error.msg.startswith("Extra data"):
        document = dict(error.doc_dec)
        text, word = (
            f"{len(error.s) - error.pos} bytes follow the last field; mend the bitmap or the length",
            "extra bytes",
        )
    elif error.field.isdigit() and "expecting" in error.msg:
        text = f"truncated in {name(int(error.field))}: {error.msg}; send it whole, or mend the bitmap"
        word = f"F{error.field} truncated"
    elif error.field.isdigit():
        text = f"{name(int(error.field))} cannot be read: {error.msg}; mend its length, or the bitmap"
        word = f"F{error.field} bad length"
    else:
        document, text, word = {}, f"the message ends within its first bytes: {error.msg}", "too short"
    return FrameError(text, word=word, partial=_message(document))


# -- checks of form --------------------------------------------------------------------------------


def _date(*, month: str, day: str, year: int = 2000) -> bool:
    """Whether it is a day of the calendar; without a year, of a leap year."""
    try:
        datetime.date(year, int(month), int(day))
    except ValueError:
        return False
    return True


def _time(text: str) -> bool:
    return int(text[:2]) < 24 and int(text[2:4]) < 60 and int(text[4:]) < 60


def _month_day(text: str) -> bool:
    return _date(month=text[:2], day=text[2:])


_CALENDAR: Final[dict[int, tuple[str, Callable[[str], bool]]]] = {
    7: ("MMDDhhmmss", lambda text: _month_day(text[:4]) and _time(text[4:])),
    12: ("hhmmss", _time),
    13: ("MMDD", _month_day),
    14: ("YYMM", lambda text: 1 <= int(text[2:]) <= 12),
    15: ("MMDD", _month_day),
    16: ("MMDD", _month_day),
    17: ("MMDD", _month_day),
    73: ("YYMMDD", lambda text: _date(year=2000 + int(text[:2]), month=text[2:4], day=text[4:])),
}


def problems(message: Message) -> list[Problem]:
    """What is wrong with the form of the fields that are present, in the order of their numbers."""
    found = (_problem(number, message.fields[number]) for number in sorted(message.fields))
    return [problem for problem in found if problem is not None]


def is_well_formed(number: int, value: str) -> bool:
    """Whether a field's value has the form that the table gives it."""
    return _problem(number, value) is None


def _problem(number: int, value: str) -> Problem | None:
    what = ""
    if number in _NUMERIC and not (value.isascii() and value.isdigit()) and value:
        what = "not digits"
    elif number in _SIGNED and not re.fullmatch(r"[CD][0-9]+", value):
        what = "not C or D and digits"
    elif number in _PRINTABLE and not (value.isascii() and value.isprintable()):
        what = "not plain text"
    elif number in _BINARY and not re.fullmatch(r"[0-9A-Fa-f]{16}", value):
        what = "not hex digits"
    elif number in _CALENDAR and not _CALENDAR[number][1](value):
        what = f"not {_CALENDAR[number][0]}"
    if not what:
        return None
    printable = "".join(character if " " <= character <= "~" else "?" for character in value[:10])
    value_shown = "" if number in SECRET else printable + " "
    text = f"{name(number)} is {shown(number, value)}, {what}; send it as {_mend(number)}"
    return Problem(text, f"F{number} {value_shown}{what}"[:25])


def _mend(number: int) -> str:
    if number in _CALENDAR:
        return f"a possible {_CALENDAR[number][0]}"
    return _FORMATS[number]
