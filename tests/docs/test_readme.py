"""Holds the README to what exists: every command line in it is run, or checked against what would run it."""

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest

from tests.docs.readme import ROOT, Block, blocks

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCKS = [block for name in DOCUMENTS for block in blocks((ROOT / name).read_text(encoding="utf-8"))]
BIN = Path(sys.executable).parent
MARKERS = {
    line.split(":")[0]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "markers"
    ]
}


def check_make(words: list[str]) -> None:
    """Fail unless every word is a variable or a target that the Makefile describes."""
    described = re.findall(
        r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    for word in words[1:]:
        is_variable = word.startswith(("ARGS=", "PROFILE="))
        assert is_variable or word in described, f"the Makefile has no target {word!r}"


def check_edgegw(words: list[str]) -> None:
    """Fail unless the command line program has that command and takes those options and arguments."""
    command: click.Command = import_module("edgegw.__main__").main
    rest = words[1:]
    context = click.Context(command, info_name="edgegw")
    while isinstance(command, click.Group):
        if rest and rest[0] in ("--help", "--version"):
            run_command(words)
            return
        name, rest = rest[0], rest[1:]
        found = command.get_command(context, name)
        assert found is not None, f"edgegw has no command {name!r}; it has {command.list_commands(context)}"
        command = found
        context = click.Context(command, info_name=name, parent=context)
    if "--help" in rest:
        run_command(words)
        return
    _, left, _ = command.make_parser(context).parse_args(list(rest))
    assert not left, f"edgegw {command.name} does not take {left}"


def check_pytest(words: list[str]) -> None:
    """Fail unless the marker after -m is one that the project knows."""
    for before, word in itertools.pairwise(words):
        if before == "-m":
            assert word in MARKERS, f"no test is marked {word!r}"


def check_apt(words: list[str]) -> None:
    """Fail unless the packages are the ones that set-up would name."""
    setup = (ROOT / ".ci/setup").read_text(encoding="utf-8")
    packages = [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]
    assert packages, "apt-get install names no package"
    assert all(re.search(rf"echo {re.escape(package)}\b", setup) for package in packages), packages


def run_command(words: list[str]) -> None:
    """Fail unless the program ends with exit code 0 within a short time."""
    words = [str(BIN / Path(words[0]).name), *words[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "edgegw": check_edgegw,
    ".venv/bin/edgegw": check_edgegw,
    ".venv/bin/pytest": check_pytest,
}


def check(command: str) -> None:
    """Check one command line; a kind that nobody knows how to check is a fault of its own."""
    if command.startswith("apt-get update && apt-get install "):
        check_apt(shlex.split(command))
        return
    words = shlex.split(command)
    assert words[0] in CHECKS, f"nothing checks {words[0]!r}: add it to CHECKS, or announce the block's test"
    CHECKS[words[0]](words)


def check_block(block: Block, directory: Path) -> None:
    """Check, run, or find the test of one block."""
    if block.test == "run":
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        script = "set -euo pipefail\n" + "\n".join(block.commands)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    elif block.test:
        assert (ROOT / block.test).is_file(), f"{block.test} does not exist"
        called = f'block_of("{block.heading}")' in (ROOT / block.test).read_text(encoding="utf-8")
        assert called, f"{block.test} does not play the block under {block.heading!r}"
    else:
        for command in block.commands:
            check(command)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.heading}: {block.commands[0]}")
def test_a_command_in_the_documents_is_one_that_works(block: Block, tmp_path: Path) -> None:
    """A stranger types what stands there; the first line that fails is the last that they type."""
    check_block(block, tmp_path)


def test_the_two_commands_stand_at_the_top() -> None:
    """Whoever has a minute must find them without scrolling."""
    first = next(blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    assert first.commands == ("make demo", "make test")
    assert (ROOT / "README.md").read_text(encoding="utf-8").startswith("# edgegw\n\n```")


def test_ci_runs_the_very_same_test_command() -> None:
    """A second way to run the tests would be green while the documented one is red."""
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make --no-print-directory test", "exec make --no-print-directory lab"]


def test_every_file_that_the_documents_name_exists() -> None:
    """A pointer to a file that was moved sends the reader nowhere."""
    pattern = r"`((?:[\w.-]+/)*[\w-]+\.(?:md|py|toml|lock)|(?:[\w.-]+/)+)`"
    named = [
        (name, word)
        for name in (*DOCUMENTS, "SECURITY.md")
        for word in re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"))
    ]
    missing = [f"{name}: {word}" for name, word in named if not (ROOT / word).exists()]
    assert not missing, missing


@pytest.mark.parametrize(
    "document",
    [
        "```sh\nmake nothing\n```\n",
        "```sh\nrm -rf /\n```\n",
        "```sh\n.venv/bin/pytest -m nothing\n```\n",
        "```sh\napt-get update && apt-get install -y nothing\n```\n",
        "```console\n$ make nothing\nits output\n```\n",
        "<!-- test: run -->\n```sh\nfalse\n```\n",
        "<!-- test: tests/nothing.py -->\n```sh\nmake test\n```\n",
        "# Tests\n<!-- test: tests/conftest.py -->\n```sh\nmake test\n```\n",
    ],
)
def test_a_planted_command_is_found(document: str, tmp_path: Path) -> None:
    """A check of documents that passes everything is only a comfort."""
    (block,) = blocks(document)
    with pytest.raises(AssertionError):
        check_block(block, tmp_path)


def test_a_command_over_two_lines_and_a_console_are_read_as_typed(tmp_path: Path) -> None:
    """Output and line breaks taken for commands would make honest documents red."""
    (folded, console) = blocks("```sh\nmake \\\n  test\n```\n\n```console\n$ make test\n3 passed\n```\n")
    assert shlex.split(folded.commands[0]) == ["make", "test"]
    assert console.commands == ("make test",)
    check_block(folded, tmp_path)
    check_block(console, tmp_path)
