"""The README's command lines, for the tests that keep them true.

A fenced `sh` or `console` block may be announced by a comment line right above it:

    <!-- test: run -->                          the block is run as it stands, in an empty folder
    <!-- test: tests/demo/test_walk.py -->      that file runs the block; it must call block_of("the heading")

Without a comment each line must be of a kind that test_readme.py knows how to check.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<test>\S+) -->\n)?^```(?P<kind>sh|console)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block: the heading it stands under, who tests it ("" when nobody is named), its commands."""

    heading: str
    test: str
    commands: tuple[str, ...]


def blocks(document: str) -> Iterator[Block]:
    """Yield the fenced blocks of commands in a Markdown text, in order."""
    for match in _BLOCK.finditer(document):
        headings = re.findall(r"^#+ (.*)$", document[: match.start()], re.MULTILINE)
        body = match["body"].replace("\\\n", " ")
        lines = [line.strip() for line in body.splitlines()]
        if match["kind"] == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        commands = tuple(line for line in lines if line and not line.startswith("#"))
        yield Block(headings[-1] if headings else "", match["test"] or "", commands)


def block_of(heading: str) -> Block:
    """Return the README's only block under a heading; KeyError when there is none, or more than one."""
    found = [
        block
        for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"))
        if block.heading == heading
    ]
    if len(found) != 1:
        raise KeyError(f"README.md has {len(found)} blocks of commands under {heading!r}")
    return found[0]
