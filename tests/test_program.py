"""The command line as a whole: every command is where the table says, and costs what it needs and no more."""

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

import edgegw
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


def test_no_command_joins_a_group_of_another_file_by_itself() -> None:
    """It would be there only once something else had loaded its file: in tests, and not in a terminal."""
    for path in sorted(Path(edgegw.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        foreign = {
            name.asname or name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        } - {"click"}
        joined = [
            decorator.func.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr in ("command", "group")
            and isinstance(decorator.func.value, ast.Name)
        ]
        assert not foreign & set(joined), f"{path}: name its commands in edgegw.__main__.ADDED"


def test_a_command_loads_no_other() -> None:
    """All of them are a second of a fast processor, and most of a slow machine's start."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['edgegw.commands.units']"
