"""Holds firmware/README.md to what exists: its commands are those of the build and of the Makefile."""

import re
import shlex

import pytest

from firmware.__main__ import firmware
from firmware.places import CHECKOUT
from tests.docs.readme import blocks

PAGE = (CHECKOUT / "firmware/README.md").read_text(encoding="utf-8")
COMMANDS = [command for block in blocks(PAGE) if not block.test for command in block.commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_exists(command: str) -> None:
    """Who builds an image for the first time has this page and nothing else."""
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "make":
        makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
        assert words[1] in re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE)
    elif words[1:3] == ["-m", "firmware"]:
        assert words[3] in firmware.commands
    else:
        assert (CHECKOUT / words[0]).exists()
