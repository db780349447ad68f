"""Runs programs of a root file system, and of the tools root, in a mount namespace of their own (bubblewrap).

Nothing is mounted on the machine itself, and no loop device is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from firmware.places import run

_SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
_MERGED: Final = ("bin", "lib", "lib64", "sbin")
SCRATCH: Final = "/tmp"  # noqa: S108 - inside the namespace it is empty and nobody else's


def inside(
    root: Path,
    command: Sequence[str],
    *,
    doing: str,
    read_only: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program of a root that is being built, with that root as `/` and writable, without a network.

    `read_only` lays folders of the machine at paths inside. Returns what the program printed; raises
    BuildError.
    """
    words: list[str | Path] = ["bwrap", "--bind", root, "/", *_COMMON, "--unshare-net", "--cap-add", "ALL"]
    for outer, inner in (read_only or {}).items():
        words += ["--ro-bind", outer, inner]
    for name, value in (environment or {}).items():
        words += ["--setenv", name, value]
    return run([*words, "--", *command], doing=doing)


def tools_command(
    tools: Path, command: Sequence[str | Path], *, writable: Sequence[Path] = (), network: bool = False
) -> list[str | Path]:
    """The command that runs a program of the tools root, which is read-only to it.

    `writable` folders are seen at their own paths. With `network` it sees this machine's network, as
    QEMU must to forward a port.
    """
    words: list[str | Path] = [
        "bwrap",
        "--ro-bind",
        tools / "usr",
        "/usr",
        "--ro-bind",
        tools / "etc",
        "/etc",
    ]
    words += ["--ro-bind", tools / "var", "/var", "--tmpfs", "/run"]
    for name in _MERGED:
        words += ["--symlink", f"usr/{name}", f"/{name}"]
    words += _COMMON
    if not network:
        words += ["--unshare-net"]
    for folder in writable:
        words += ["--bind", folder.absolute(), folder.absolute()]
    return [*words, "--", *command]


def in_tools(
    tools: Path,
    command: Sequence[str | Path],
    *,
    doing: str,
    writable: Sequence[Path] = (),
    give: bytes | None = None,
) -> str:
    """Run a program of the tools root to its end (`tools_command`); what it printed. Raises BuildError."""
    return run(tools_command(tools, command, writable=writable), doing=doing, give=give)


_COMMON: Final[list[str | Path]] = [
    *("--dev", "/dev", "--proc", "/proc", "--tmpfs", SCRATCH),
    # Not the users: a root's files belong to many.
    *("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--die-with-parent", "--clearenv"),
    *("--setenv", "PATH", _SEARCH, "--setenv", "LC_ALL", "C.UTF-8", "--setenv", "HOME", SCRATCH),
]
