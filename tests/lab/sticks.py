"""Sticks for the lab's machines, as any system makes them: one FAT32 partition with files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from firmware.sandbox import in_tools

LABEL: Final = "EDGEGW"
"""A stick with this name is mounted by the appliance."""
_BEGIN: Final = """
stick=$1 mib=$2 label=$3
truncate -s "${mib}M" "$stick"
echo "start=2048, type=uefi" | sfdisk -q -X gpt "$stick"
mkfs.vfat -F 32 -n "$label" --offset 2048 "$stick" $(((mib - 2) * 1024)) >/dev/null
shift 3
export MTOOLS_SKIP_CHECK=1
"""
_FOLDERS: Final = 'while [ "$1" != -- ]; do mmd -i "$stick@@1M" "::$1"; shift; done; shift\n'
_FILES: Final = 'while [ $# -gt 0 ]; do mcopy -i "$stick@@1M" "$2" "::$1"; shift 2; done\n'


def write_stick(stick: Path, files: Mapping[str, Path], *, tools: Path, mib: int, label: str = LABEL) -> None:
    """Make one of so many MiB; files: where each goes, and what it is."""
    folders = {str(one) for name in files for one in PurePosixPath(name).parents} - {"."}
    words = [word for name, path in files.items() for word in (name, path)]
    script = ["sh", "-euc", _BEGIN + _FOLDERS + _FILES, "sh", stick, str(mib), label, *sorted(folders)]
    in_tools(
        tools,
        [*script, "--", *words],
        doing="making the stick",
        writable=[stick.parent, *{path.parent for path in files.values()}],
    )


def listed(stick: Path, *, tools: Path) -> str:
    """What its file system lists, in all folders."""
    command = ["env", "MTOOLS_SKIP_CHECK=1", "mdir", "-/", "-b", "-i", f"{stick}@@1M", "::"]
    return in_tools(tools, command, doing="reading the stick", writable=[stick.parent])
