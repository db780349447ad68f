"""Texts and values for strangers' eyes: only words that the program itself has, and small numbers, are left.

Not a list of what must not come out, which forgets the next secret, but of what may: a word that stands in
this program's own source, a name that the settings give to machines, an IPv4 address, a time, a number too
short for a card. Anything else becomes a mark that is the same for the same text within one bundle, and
in no other.
"""

from __future__ import annotations

import functools
import hmac
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

NUMBER_MAX: Final = 2_500_000_000
"""Seconds since 1970 are below it, ten digits of a card that begins with 3 or more are above."""
NUMBER_DIGITS_MAX: Final = 9
DIGITS_MAX: Final = 6
"""In a text."""
_COUNTED: Final = ("_bytes", "_ns", "_records", "_size", "_kb")
"""Endings of names whose numbers are long and no card's; of these the first three digits are told."""
_SECRET_LIKE: Final = 16
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_CHUNK: Final = re.compile(
    r"(?P<time>(?<![0-9])20[0-9]{2}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?Z?)?(?![0-9-]))"
    rf"|(?P<address>(?<![0-9A-Za-z.]){_OCTET}(?:\.{_OCTET}){{3}}"
    r"(?::[0-9]{1,5})?(?:/[0-9]{1,2})?(?![0-9A-Za-z.]))"
    r"|(?P<digits>[0-9](?:[ \-_./,:]{0,2}[0-9]){9,})"
    r"|(?P<chunk>[^\s\"'`(),;<>\[\]{}|]+)",
    re.ASCII,
)
_PARTS: Final = re.compile(r"([-_/.:=+@%*#~^&?!]+)")
_SMALL: Final = re.compile(rf"[0-9]{{1,{DIGITS_MAX}}}(?:[a-zA-Z]{{1,2}})?\Z")
_FLOAT: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?\Z", re.IGNORECASE)
_MIXED: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
_OF_OTHERS: Final = frozenset(
    """
    abrt activating active activestate artix auto booted cgroup core cpu deactivating dead degraded
    dirty disabled dumped enabled exec exited ext4 failed good gib idle inactive inhibited installed kib
    linux loaded loadavg loadstate maintenance mem memavailable memfree memtotal mib mode mounted mount
    nvme operation oom ppid proc process rauc reload result ro root running rw sched slot squashfs start
    startlimit static status stop subids substate success swap swapfree swaptotal sysfs systemd tainted
    temp thermal timeout timer tmpfs unknown update uptime vda vdb watchdog nrestarts execmainstatus
    execmaincode unitfilestate activeenterTimestampMonotonic unset x86 aarch64
    """.lower().split()
)


@functools.cache
def vocabulary() -> frozenset[str]:
    """The words of this program's own source in small letters, but for the demo's, which has names."""
    package = Path(__file__).parents[1]
    words: set[str] = set(_OF_OTHERS)
    for path in package.rglob("*.py"):
        if path.parent.name != "demo":
            words.update(word.lower() for word in _WORD.findall(path.read_text(encoding="utf-8")))
    return frozenset(words)


class Redactor:
    """Makes the texts of one bundle; known: names of machines, which are told as they are."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._key = secrets.token_bytes(32)
        self._words = vocabulary() | {word.lower() for name in known for word in _WORD.findall(name)}

    def text(self, text: str) -> str:
        """The text with a mark in the place of every word and number that is not known."""
        return _CHUNK.sub(self._chunk, text)

    def value(self, value: object, *, name: str = "") -> object:
        """The same for what JSON has; name: the field's."""
        if isinstance(value, Mapping):
            within = name if name.endswith(_COUNTED) else ""
            return {
                self.text(str(key)): self.value(one, name=within or str(key)) for key, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(one, name=name) for one in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return self._number(value, name)
        if isinstance(value, float):
            return float(f"{value:.6g}") if math.isfinite(value) and abs(value) < NUMBER_MAX else None
        return self.text(str(value))

    def mark(self, text: str) -> str:
        """What stands for a text."""
        return "~" + hmac.digest(self._key, text.encode(), "sha256").hex()[:6]

    def _number(self, value: int, name: str) -> int | str:
        if abs(value) < NUMBER_MAX:
            return value
        if name.endswith(_COUNTED):
            return int(float(f"{value:.2e}"))
        return self.mark(str(value))

    def _chunk(self, found: re.Match[str]) -> str:
        text = found.group()
        if found.lastgroup in ("time", "address"):
            return text
        if found.lastgroup == "digits":
            return self.mark(text)
        if _FLOAT.match(text):
            number = float(text)
            return f"{number:.6g}" if abs(number) < NUMBER_MAX else self.mark(text)
        scheme, colon, place = text.partition("://")
        if colon:
            return self.text(scheme) + colon + self.text(place)
        parts = _PARTS.split(text)
        if sum(character.isdecimal() for character in text) > NUMBER_DIGITS_MAX:
            return self.mark(text)
        if len(text) >= _SECRET_LIKE and all(kind.search(text) for kind in _MIXED):
            return self.mark(text)
        return "".join(
            part if number % 2 or self._is_known(part) else self.mark(part)
            for number, part in enumerate(parts)
        )

    def _is_known(self, part: str) -> bool:
        return not part or (part.isascii() and (part.lower() in self._words or bool(_SMALL.match(part))))
