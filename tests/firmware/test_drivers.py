"""What a branch server needs of the kernel is there, or the build stops; and the page says the same."""

import lzma
import re
from pathlib import Path

import pytest

from firmware.drivers import DRIVERS, check_drivers
from firmware.places import CHECKOUT, BuildError

FOLDER = "usr/lib/modules/6.1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root whose kernel has every driver of the hardware profile; one of them needs another, which asks for
    firmware.
    """
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    built_in, *modules = DRIVERS["hardware"].split()
    (folder / "modules.builtin").write_text(f"kernel/{built_in}.ko\n")
    lines = [f"kernel/{name.replace('_', '-')}.ko.xz: kernel/shared.ko.xz\n" for name in modules]
    (folder / "modules.dep").write_text("".join(lines) + "kernel/shared.ko.xz:\n")
    (folder / "kernel").mkdir()
    for name in modules:
        (folder / f"kernel/{name.replace('_', '-')}.ko.xz").write_bytes(
            lzma.compress(b"\x7fELF\0license=GPL\0")
        )
    (folder / "kernel/shared.ko.xz").write_bytes(lzma.compress(b"\0firmware=card/fw-[0-9]*.bin\0parm=x\0"))
    (tmp_path / "usr/lib/firmware/card").mkdir(parents=True)
    (tmp_path / "usr/lib/firmware/card/fw-7.bin").touch()
    return tmp_path


def test_a_driver_that_is_gone_stops_the_build(tree: Path) -> None:
    """A new kernel that moved a network card's driver is a fleet that never comes back from its update."""
    check_drivers(tree, "hardware")
    listed = tree / FOLDER / "modules.dep"
    listed.write_text(listed.read_text().replace("/igc.ko", "/renamed.ko"))
    with pytest.raises(BuildError, match="lacks the drivers igc"):
        check_drivers(tree, "hardware")


def test_firmware_that_a_driver_asks_for_and_nobody_packed_stops_the_build(tree: Path) -> None:
    """A card without its firmware is seen, and carries nothing."""
    (tree / "usr/lib/firmware/card/fw-7.bin").unlink()
    with pytest.raises(BuildError, match="card/fw-"):
        check_drivers(tree, "hardware")


def test_the_page_names_the_drivers_that_a_build_is_held_to() -> None:
    """Who buys a server by the page must find that card in the image."""
    page = (CHECKOUT / "firmware/README.md").read_text(encoding="utf-8")
    table = page.partition("## Drivers")[2].partition("\n## ")[0]
    told = {
        name
        for row in re.findall(r"^\| [a-z]+ \| (.*) \|$", table, re.MULTILINE)
        if row != "drivers"
        for name in re.findall(r"\w+", re.sub(r" \([^)]*\)", "", row))
    }
    assert told == set(DRIVERS["hardware"].split())
