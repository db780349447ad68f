"""Makes a root into the one of an image: nothing of the machine that built it, nothing of one box, one time.

The image's root is read-only and `/var` is the data partition, so what packages keep in `/var` is told to
systemd-tmpfiles, which makes it on the box. Leaves out what the image gets more (`firmware.product`).
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firmware.places import BuildError, remove
from firmware.secrets_in_root import secrets_in
from firmware.tree import everything, remove_globs, set_times

HOSTNAME: Final = "edgegw"
RESOLVER: Final = "/run/systemd/resolve/stub-resolv.conf"
FACTORY: Final = "usr/share/factory/var"
VAR_RULES: Final = "usr/lib/tmpfiles.d/edgegw-var.conf"
OF_ONE_BUILD: Final = (
    "boot/*",
    "dev/*",
    "etc/*-",
    "etc/.pwd.lock",
    "etc/.updated",
    "etc/apt",
    "etc/ssh/ssh_host_*",
    "proc/*",
    "run/*",
    "tmp/*",
    "usr/lib/**/__pycache__",
    "opt/**/__pycache__",
    "root/.*",
    "root/*",
)
"""What one build, one boot or one box made; bytecode is compiled anew, as it bears the time of its source."""
NOT_OF_A_BOX: Final = (
    "var/backups",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/pam",
    "var/lib/python",
    "var/lib/shells.state",
    "var/lib/systemd/deb-systemd-*",
    "var/lib/systemd/catalog",
    "var/lib/ucf",
    "var/lib/wtmpdb/*",
    "var/lock",
    "var/log/*",
    "var/tmp",
)
"""Of /var: the package tools' own, what is made on the box, and what systemd's own rules make."""
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


def clean(root: Path) -> None:
    """Remove from a tree what its build left, and have the box make what packages keep in /var."""
    remove_globs(root, OF_ONE_BUILD)
    remove_globs(root, NOT_OF_A_BOX)
    # What the globs emptied is a place to mount at.
    for name in ("boot", "dev", "mnt", "proc", "root", "run", "sys", "tmp", "var"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    rules = root / VAR_RULES
    rules.parent.mkdir(parents=True, exist_ok=True)
    lines = [*_rules_of_var(root)]
    rules.write_text(
        "# What Debian's packages keep in /var; written when the image was built.\n"
        + "\n".join(lines)
        + "\n",
        encoding="utf-8",
    )
    for path in (root / "var").iterdir():
        remove(path)
    _say(root / "etc/hostname", f"{HOSTNAME}\n")
    _say(root / "etc/machine-id", "")
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.symlink_to(f"..{RESOLVER}")


def _say(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)


def _rules_of_var(root: Path) -> Iterator[str]:
    """systemd-tmpfiles' lines for the folders of /var, with links for its files to the image."""
    users, groups = _names(root / "etc/passwd"), _names(root / "etc/group")
    for path in sorted(everything(root / "var")):
        inner = path.relative_to(root)
        kept = path.lstat()
        if inner == Path("var"):
            continue
        if path.is_symlink():
            yield f"L /{inner} - - - - {path.readlink()}"
        elif path.is_dir():
            mode = stat.S_IMODE(kept.st_mode)
            yield f"d /{inner} {mode:04o} {users[kept.st_uid]} {groups[kept.st_gid]} -"
        else:
            place = root / FACTORY / path.relative_to(root / "var")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)
            yield f"L+ /{inner} - - - - /{place.relative_to(root)}"


def _names(path: Path) -> dict[int, str]:
    """Numbers to names, of a tree's passwd or group."""
    rows = (line.split(":") for line in path.read_text(encoding="utf-8").splitlines())
    return {int(row[2]): row[0] for row in rows}


def settle(root: Path, *, epoch: int) -> None:
    """The last step: no program runs as another user than its caller, no secrets, one time for all.

    Raises BuildError for what may not be in an image, as it is the same on all boxes.
    """
    for path in everything(root):
        kept = path.lstat()
        if stat.S_ISREG(kept.st_mode) and kept.st_mode & _SET_ID:
            path.chmod(stat.S_IMODE(kept.st_mode) & ~_SET_ID)
    found = secrets_in(root)
    if found:
        raise BuildError(
            "the image would hold what must not be in it:\n  " + "\n  ".join(found),
            hint="Take it out of what is put into the image: the image is the same on all boxes.",
        )
    (root / "usr/lib/clock-epoch").touch()
    set_times(root, epoch)
