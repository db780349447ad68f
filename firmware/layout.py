"""What `image.toml` says: the disk's partitions, the profiles and the kernel's command line.

Leaves out what is in the partitions.
"""

from __future__ import annotations

import tomllib
import uuid
from typing import Final, Literal

import msgspec

from firmware.places import SOURCE, BuildError

ProfileName = Literal["cloud", "hardware"]
PROFILES: Final[tuple[ProfileName, ...]] = ("cloud", "hardware")
SLOTS: Final = ("a", "b")
SECTOR_BYTES: Final = 512
MIB: Final = 1 << 20
# The numbers that the GPT's users agreed on for an EFI system, for a root of x86-64, for data of Linux.
_ESP_TYPE: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT_TYPE: Final = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_DATA_TYPE: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


class ImageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts images."""

    build: int
    security_epoch: int
    oldest_version: str


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the kernel is told, without what belongs to one root."""

    command_line: tuple[str, ...]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs between a virtual machine and a branch server."""

    root_mib: int
    modules: tuple[str, ...]
    by_hardware: bool


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The disk's numbers and sizes."""

    uuid: str
    esp_mib: int
    data_mib: int
    partitions: dict[str, str]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """image.toml."""

    image: ImageSettings
    kernel: Kernel
    profiles: dict[ProfileName, Profile]
    disk: Disk


class Partition(msgspec.Struct, frozen=True):
    """One partition of the disk."""

    number: int
    name: str
    uuid: str
    type: str
    start_bytes: int
    size_bytes: int


def settings() -> Settings:
    """Read image.toml; raises BuildError that names the field."""
    path = SOURCE / "image.toml"
    try:
        read = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Settings)
        for value in (read.disk.uuid, *read.disk.partitions.values()):
            uuid.UUID(value)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint="Mend that entry.") from error
    return read


def partitions(profile: ProfileName) -> tuple[Partition, ...]:
    """The disk's partitions in their order."""
    read = settings()
    root_mib = read.profiles[profile].root_mib
    kinds = {"esp": (_ESP_TYPE, read.disk.esp_mib), "root": (_ROOT_TYPE, root_mib)}
    kinds["data"] = (_DATA_TYPE, read.disk.data_mib)
    found: list[Partition] = []
    start = MIB
    for number, (name, own) in enumerate(read.disk.partitions.items(), start=1):
        kind, size_mib = kinds[name.partition("-")[0]]
        found.append(
            Partition(
                number=number, name=name, uuid=own, type=kind, start_bytes=start, size_bytes=size_mib * MIB
            )
        )
        start += size_mib * MIB
    return tuple(found)


def partition(profile: ProfileName, name: str) -> Partition:
    """One partition by its name."""
    return next(found for found in partitions(profile) if found.name == name)


def boot_entry(profile: ProfileName, slot: str) -> bytes:
    """What the firmware keeps to start a slot: an EFI_LOAD_OPTION that finds the slot's own EFI partition."""
    esp = partition(profile, f"esp-{slot}")
    hard_drive = (
        bytes([4, 1])
        + (42).to_bytes(2, "little")
        + esp.number.to_bytes(4, "little")
        + (esp.start_bytes // SECTOR_BYTES).to_bytes(8, "little")
        + (esp.size_bytes // SECTOR_BYTES).to_bytes(8, "little")
        + uuid.UUID(esp.uuid).bytes_le
        + bytes([2, 2])
    )
    file = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")
    path = (
        hard_drive + bytes([4, 4]) + (4 + len(file)).to_bytes(2, "little") + file + bytes([0x7F, 0xFF, 4, 0])
    )
    active = (1).to_bytes(4, "little")
    return active + len(path).to_bytes(2, "little") + f"edgegw-{slot}\0".encode("utf-16-le") + path
