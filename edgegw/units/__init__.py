"""What systemd and the kernel are told of a machine that runs a box, a hub or a mirror.

The files lie in `files/` as they are installed; this module says which of them a machine of one role gets,
and where. One set serves the appliance's image and a plain Debian server. Leaves out what the programs do,
and the parts of the image that are its own (`firmware/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from edgegw.errors import OperatingError

Role = Literal["box", "hub", "mirror", "appliance"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_UNITS: Final = "usr/lib/systemd/system"
_OWN: Final = "usr/lib/edgegw"
_MODE: Final = 0o644
_PROGRAM_MODE: Final = 0o755
_MASKED: Final = (
    # Nobody logs in at the console, and nobody is asked anything there.
    "autovt@.service",
    "console-getty.service",
    "container-getty@.service",
    "ctrl-alt-del.target",
    "debug-shell.service",
    "emergency.service",
    "getty@.service",
    "rescue.service",
    "serial-getty@.service",
    "systemd-firstboot.service",
    # One way in, and only with a key: edgegw-ssh.path.
    "ssh.socket",
    "sshd-keygen.service",
)
"""Units of the distribution that the appliance never starts, whoever asks."""

_ALL: Final = {
    "edgegw-ports@.service": _UNITS,
    "edgegw-firewall.service": _UNITS,
    "firewall.nft": _OWN,
    "ports": _OWN,
    "firewall-additions": _OWN,
    "edgegw.sysusers": "usr/lib/sysusers.d/edgegw.conf",
    "edgegw.tmpfiles": "usr/lib/tmpfiles.d/edgegw.conf",
    "edgegw.sysctl": "usr/lib/sysctl.d/60-edgegw.conf",
    "edgegw-tpm.rules": "usr/lib/udev/rules.d/60-edgegw-tpm.rules",
}
_CLOCK: Final = {
    "clock": _OWN,
    "edgegw-clock.service": _UNITS,
    "edgegw-clock-seen.service": _UNITS,
    "edgegw-clock-seen.timer": _UNITS,
}
_DISKS: Final = {"edgegw-disks.service": _UNITS, "edgegw-disks.timer": _UNITS}
_APPLIANCE: Final = {
    "edgegw-first-boot.service": _UNITS,
    "edgegw-update.service": _UNITS,
    "edgegw-commit.service": _UNITS,
    "edgegw-fallback.service": _UNITS,
    "fallback": _OWN,
    "edgegw.path": _UNITS,
    "edgegw-clock-word.path": _UNITS,
    "edgegw-clock-word.service": _UNITS,
    "edgegw-degraded.service": _UNITS,
    "degraded": _OWN,
    "edgegw-host-keys.service": _UNITS,
    "edgegw-ssh.path": _UNITS,
    "ssh.conf": f"{_UNITS}/ssh.service.d/edgegw.conf",
    "run-edgegw-stick.mount": f"{_UNITS}/run-edgegw\\x2dstick.mount",
    "edgegw-stick.rules": "usr/lib/udev/rules.d/85-edgegw-stick.rules",
    "edgegw-appliance.tmpfiles": "usr/lib/tmpfiles.d/edgegw-appliance.conf",
    "journald.conf": "usr/lib/systemd/journald.conf.d/60-edgegw.conf",
    "system.conf": "usr/lib/systemd/system.conf.d/60-edgegw.conf",
    "appliance.preset": "usr/lib/systemd/system-preset/10-edgegw.preset",
    "networkd.conf": f"{_UNITS}/systemd-networkd.service.d/edgegw.conf",
    "resolved.conf": "usr/lib/systemd/resolved.conf.d/60-edgegw.conf",
    "lan.network": "usr/lib/systemd/network/80-edgegw.network",
}
_OF_ROLE: Final[dict[Role, dict[str, str]]] = {
    "box": {"edgegw.service": _UNITS, **_CLOCK, **_DISKS, **_ALL},
    "hub": {"edgegw-hub.service": _UNITS, **_ALL},
    "mirror": {"edgegw-mirror.service": _UNITS, **_ALL},
    "appliance": {"edgegw.service": _UNITS, **_CLOCK, **_DISKS, **_ALL, **_APPLIANCE},
}


class UnitFile(NamedTuple):
    """One file of a machine."""

    path: str
    """Below the root of its file systems."""
    content: bytes
    mode: int


def files_of(role: Role) -> list[UnitFile]:
    """The files of a machine of this role, by path."""
    folder = resources.files(__name__) / "files"
    files = []
    for name, place in _OF_ROLE[role].items():
        path = f"{place}/{name}" if place in (_UNITS, _OWN) else place
        content = (folder / name).read_bytes()
        files.append(UnitFile(path, content, _PROGRAM_MODE if content.startswith(b"#!") else _MODE))
    return sorted(files)


def install(root: Path, role: Role) -> list[str]:
    """Write the files that are not there as they should be, below this root; their paths. Nothing is enabled
    or started. Raises OperatingError where one cannot be written."""
    written = []
    for file in files_of(role):
        path = root / file.path
        if _is_there(path, file):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_bytes(file.content)
            fresh.chmod(file.mode)
            fresh.replace(path)
        except OSError as problem:
            raise _not_written(path, problem) from None
        written.append(file.path)
    for path in _to_mask(root, role):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to("/dev/null")
        except OSError as problem:
            raise _not_written(path, problem) from None
        written.append(str(path.relative_to(root)))
    return written


def differing(root: Path, role: Role) -> list[str]:
    """The paths that `install` would write."""
    unlike = [file.path for file in files_of(role) if not _is_there(root / file.path, file)]
    return unlike + [str(path.relative_to(root)) for path in _to_mask(root, role)]


def _to_mask(root: Path, role: Role) -> Iterator[Path]:
    """The appliance's masks that are not there."""
    if role != "appliance":
        return
    for unit in _MASKED:
        path = root / "etc/systemd/system" / unit
        if not path.is_symlink() or path.readlink() != Path("/dev/null"):
            yield path


def _is_there(path: Path, file: UnitFile) -> bool:
    try:
        return path.read_bytes() == file.content and path.stat().st_mode & 0o777 == file.mode
    except OSError:
        return False


def _not_written(path: Path, problem: OSError) -> OperatingError:
    return OperatingError(
        f"{path} cannot be written: {problem.strerror or problem}",
        hint="Run it as root, and give the directory that is the root of the machine's file systems.",
    )
