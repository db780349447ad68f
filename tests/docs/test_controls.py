"""Holds the control map to what exists: each command, option, file and path that it names."""

import re
import shlex

import click
import pytest

from edgegw.__main__ import main
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import BoxSettings
from edgegw.config.hub import HubSettings
from edgegw.config.options import options_of
from edgegw.core.records import Request
from edgegw.payments.http_api.operations import OPERATIONS
from tests.docs.readme import ROOT

PAGE = ROOT / "provision" / "CONTROLS.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
OPTIONS = {
    option.name.removeprefix(f"{table}.")
    for table, shape in (("", BoxSettings), ("", HubSettings), *protocol_shapes().items())
    for option in options_of(shape)
}
PROFILES = ("plain", "intl", "pq", "gm", "gm-pq")


def is_command(words: list[str]) -> bool:
    """Whether these words are a command with these options."""
    command: click.Command | None = main
    for number, word in enumerate(words[1:], 1):
        if not isinstance(command, click.Group):
            rest = words[number:]
            known = {name for option in command.params for name in option.opts} if command else set()
            return all(one in known for one in rest if one.startswith("-"))
        command = command.get_command(click.Context(command), word)
        if command is None:
            return False
    return True


def exists(named: str) -> bool:
    """Whether what stands in backquotes is something that there is."""
    if named.startswith("edgegw "):
        return is_command(shlex.split(named))
    if named.startswith("make "):
        return f"\n{named.split()[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    if named.startswith("GET "):
        return any(f"{one.method} {one.path}" == named for one in OPERATIONS)
    if named.startswith("["):
        table = named.strip("[]")
        return any(option.startswith((f"{table}.", f"{table}[]")) for option in OPTIONS)
    option = named.partition(" = ")[0]
    fields = {one.rpartition(".")[2] for one in OPTIONS}
    if named == "reference":
        return named in Request.__struct_fields__
    return option in OPTIONS or option in fields or named in PROFILES or (ROOT / named).exists()


@pytest.mark.parametrize("named", NAMED)
def test_what_the_map_names_is_there(named: str) -> None:
    """An assessor types it; what is not there makes the rest doubtful."""
    assert exists(named), named


def test_a_name_that_is_nothing_would_be_found() -> None:
    """The look is worth something: these are almost right."""
    for wrong in (
        "edgegw vault shredd",
        "edgegw support --outptu",
        "keys.plce",
        "[replika]",
        "GET /v1/payment",
        "make tests",
    ):
        assert not exists(wrong), wrong


def test_the_links_lead_somewhere() -> None:
    """Pages beside it and above it."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / target).exists(), target


def test_the_sizing_guide_counts_as_it_says() -> None:
    """Its commands are there, and its table follows from its own figures."""
    page = (ROOT / "provision" / "SIZING.md").read_text(encoding="utf-8")
    for module in re.findall(r"python -m (tests\.bench\.\w+)", page):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    [each] = re.findall(r"bytes of the ledger each payment[^|]*\| ([0-9,]+) \|", page)
    rows = re.findall(r"^\| ([0-9,]+) \| ([0-9.]+) GB \|", page, re.MULTILINE)
    assert len(rows) == 4
    for payments, ledger in rows:
        counted = number(payments) * number(each) * 407 / 1e9
        assert float(ledger) == pytest.approx(counted, abs=0.06)


def number(text: str) -> int:
    """Digits with commas."""
    return int(text.replace(",", ""))
