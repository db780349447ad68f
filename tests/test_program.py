"""The command line as a whole: every command is where the table says, and costs what it needs and no more."""

import subprocess
import sys

import click
import pytest

from edgegw.__main__ import ADDED, COMMANDS, main

LOADED = """
import sys
from edgegw.__main__ import main
main(["units", "--help"], standalone_mode=False)
print(sorted(name for name in sys.modules if name.startswith("edgegw.commands.")))
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name: str) -> None:
    """A wrong line would be found out by who needs the command, at night."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_what_is_added_to_a_group_is_in_it() -> None:
    """Of commands whose files are their own."""
    for words, places in ADDED.items():
        first, *rest = words.split()
        group = main.get_command(click.Context(main), first)
        for word in rest:
            assert isinstance(group, click.Group)
            group = group.commands[word]
        assert isinstance(group, click.Group)
        modules = {command.callback.__module__ for command in group.commands.values() if command.callback}
        assert {f"edgegw.{place.partition(':')[0]}" for place in places} <= modules


def test_a_command_loads_no_other() -> None:
    """All of them are a second of a fast processor, and most of a slow machine's start."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['edgegw.commands.units']"
