"""`[replica]`: where litestream copies the ledger's file to, how often, and how the copy is proved.

Leaves out what litestream makes of it (`edgegw.replica.litestream`).
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

from edgegw.config.options import repeated

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}\Z"
_HOST: Final = re.compile(r"[^\s/:@]+(:[0-9]{1,5})?\Z")
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "file": ("copy_dir",),
    "sftp": ("host", "user", "path", "host_key_file"),
    "s3": ("bucket",),
}
_MAY: Final[dict[str, tuple[str, ...]]] = {
    "file": ("copy_dir",),
    "sftp": ("host", "user", "path", "host_key_file", "password_file", "private_key_file"),
    "s3": ("bucket", "path", "endpoint", "region", "access_key_id", "secret_access_key_file"),
}


class ReplicaTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[replica.targets]]`: one place that can hold a copy; the first that works is used."""

    name: Annotated[
        str, msgspec.Meta(pattern=NAME_PATTERN, description="The target's name in logs and commands.")
    ]
    kind: Annotated[
        Literal["file", "sftp", "s3"],
        msgspec.Meta(description="A directory on another disk, an SFTP server, or S3-compatible storage."),
    ]
    copy_dir: Annotated[
        str, msgspec.Meta(description="`file`: directory of the copy, on another disk than the ledger.")
    ] = ""
    host: Annotated[str, msgspec.Meta(description="`sftp`: the server, as host or host:port.")] = ""
    user: Annotated[str, msgspec.Meta(description="`sftp`: the user there.")] = ""
    host_key_file: Annotated[
        str, msgspec.Meta(description="`sftp`: file with the server's public host key, one OpenSSH line.")
    ] = ""
    private_key_file: Annotated[
        str, msgspec.Meta(description="`sftp`: the private key that logs in; or give password_file.")
    ] = ""
    password_file: Annotated[
        str,
        msgspec.Meta(
            description="`sftp`: file with the password, one line; without it and without private_key_file"
            " the environment's EDGEGW_SFTP_PASSWORD."
        ),
    ] = ""
    path: Annotated[
        str, msgspec.Meta(description="`sftp`: the directory there; `s3`: the key prefix in the bucket.")
    ] = ""
    endpoint: Annotated[
        str,
        msgspec.Meta(description="`s3`: the storage's URL; empty for the provider that gave S3 its name."),
    ] = ""
    bucket: Annotated[str, msgspec.Meta(description="`s3`: the bucket.")] = ""
    region: Annotated[str, msgspec.Meta(description="`s3`: the region.")] = ""
    access_key_id: Annotated[
        str,
        msgspec.Meta(
            description="`s3`: the key's id; without it the environment's LITESTREAM_ACCESS_KEY_ID."
        ),
    ] = ""
    secret_access_key_file: Annotated[
        str,
        msgspec.Meta(
            description="`s3`: file with the key's secret, one line; without it the environment's"
            " LITESTREAM_SECRET_ACCESS_KEY."
        ),
    ] = ""


class ReplicaTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[replica]`: the copy for the day the box burns."""

    targets: tuple[ReplicaTarget, ...] = ()
    sync_ms: Annotated[
        int,
        msgspec.Meta(ge=100, le=3_600_000, description="How often what is new is copied to the target."),
    ] = 1_000
    snapshot_hours: Annotated[
        int, msgspec.Meta(ge=1, le=720, description="How often the target gets the whole ledger anew.")
    ] = 24
    retention_hours: Annotated[
        int, msgspec.Meta(ge=1, le=8_760, description="How long older whole copies stay at the target.")
    ] = 72
    alarm_ms: Annotated[
        int,
        msgspec.Meta(
            ge=500,
            le=600_000,
            description="The alarm is raised when litestream does not answer, or the copy does not move, for"
            " so long; a litestream that has ended is alarmed at once.",
        ),
    ] = 6_000
    drill_hours: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=720,
            description="How often the copy is restored and checked beside the payments, the first time soon"
            " after the start; 0 for never.",
        ),
    ] = 24.0


def faults_of(table: ReplicaTable, *, data_dir: str) -> list[str]:
    """What is wrong with the targets, a line each."""
    names = [target.name for target in table.targets]
    faults = list(repeated("replica.targets[].name", names, "give each its own"))
    if table.retention_hours < table.snapshot_hours:
        faults.append(
            f"replica.retention_hours = {table.retention_hours}: it is less than snapshot_hours ="
            f" {table.snapshot_hours}; older whole copies must stay until there is a newer one"
        )
    for target in table.targets:
        faults += _target_faults(target, data_dir)
    return faults


def _target_faults(target: ReplicaTarget, data_dir: str) -> list[str]:
    where, faults = f"replica.targets[{target.name}]", []
    faults += [
        f"{where}.{field}: it is missing; a target of kind {target.kind} needs it"
        for field in _NEEDS[target.kind]
        if not getattr(target, field)
    ]
    faults += [
        f"{where}.{field}: a target of kind {target.kind} has no such option"
        for field in target.__struct_fields__
        if field not in ("name", "kind", *_MAY[target.kind]) and getattr(target, field)
    ]
    if target.host and not _HOST.match(target.host):
        faults.append(f"{where}.host = {target.host}: write it as host or host:port")
    if target.endpoint and not target.endpoint.startswith(("http://", "https://")):
        faults.append(f"{where}.endpoint = {target.endpoint}: write it as http://... or https://...")
    if target.copy_dir and target.copy_dir == data_dir:
        faults.append(f"{where}.copy_dir = {target.copy_dir}: it is data_dir; name a directory elsewhere")
    if target.password_file and target.private_key_file:
        faults.append(f"{where}.password_file, private_key_file: give one of them")
    return faults
