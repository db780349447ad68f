"""The drivers that the machines of a profile need, and the firmware that these drivers ask for.

Leaves out which of them the initial RAM file system has (`firmware.initrd`).
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path
from typing import Final

from firmware.layout import ProfileName
from firmware.places import BuildError

DRIVERS: Final[dict[ProfileName, str]] = {
    "cloud": "virtio_net virtio_blk virtio_scsi vmxnet3 hv_netvsc ena nvme dm_verity squashfs tpm_crb",
    "hardware": "igb igc ixgbe i40e ice e1000 e1000e tg3 bnx2 bnx2x bnxt_en be2net enic sfc mlx4_en mlx5_core"
    " qede cxgb4 r8169 atlantic r8152"
    " ahci nvme vmd megaraid_sas mpt3sas mpi3mr hpsa aacraid smartpqi sdhci_pci usb_storage uas"
    " iTCO_wdt wdat_wdt sp5100_tco hpwdt ipmi_watchdog i6300esb"
    " ipmi_si ipmi_ssif ipmi_devintf tpm_crb tpm_tis coretemp k10temp"
    " xhci_pci usbhid virtio_net virtio_blk dm_verity squashfs ext4",
}
"""What the machines of a profile need; a root that lacks one, after a new kernel for instance, is refused."""
_FIRMWARE: Final = re.compile(rb"(?:^|\0)firmware=([^\0]+)(?=\0)")


def kernel_version(tree: Path) -> str:
    """The version of the one kernel whose modules a root has; raises BuildError for none or several."""
    found = sorted(path.name for path in (tree / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise BuildError(f"{tree} has the modules of {len(found)} kernels, not of one: {found}")
    return found[0]


def check_drivers(tree: Path, profile: ProfileName) -> None:
    """Raise BuildError that names the drivers of a profile that a root's kernel does not have in any form, or
    the firmware that these drivers and what they need ask for and the root does not have.
    """
    folder = tree / "usr/lib/modules" / kernel_version(tree)
    lines = (folder / "modules.dep").read_text(encoding="ascii").splitlines()
    needs = {path: others.split() for path, _, others in (line.partition(":") for line in lines)}
    modules = {_name(path): path for path in needs}
    builtin = {_name(line) for line in (folder / "modules.builtin").read_text(encoding="ascii").splitlines()}
    wanted = set(DRIVERS[profile].split())
    if missing := sorted(wanted - set(modules) - builtin):
        raise BuildError(
            f"the kernel of the profile {profile} lacks the drivers {', '.join(missing)}",
            hint="Mend `without` in firmware/roots.toml, or DRIVERS in firmware/drivers.py for a new name.",
        )
    used = {path for name in wanted & set(modules) for path in (modules[name], *needs[modules[name]])}
    asked = {name for path in used for name in firmware_of(folder / path)}
    if absent := sorted(name for name in asked if not any((tree / "usr/lib/firmware").glob(name))):
        raise BuildError(
            f"drivers of the profile {profile} ask for firmware that is not there: {', '.join(absent)}",
            hint="Add its package to `unpacked` in firmware/roots.toml, or mend `without`.",
        )


def _name(path: str) -> str:
    return path.rpartition("/")[2].split(".ko")[0].replace("-", "_")


def firmware_of(module: Path) -> list[str]:
    """The files of firmware that a module may ask for, as patterns below /usr/lib/firmware."""
    packed = module.read_bytes()
    content = lzma.decompress(packed) if module.suffix == ".xz" else packed
    return [name.decode() for name in _FIRMWARE.findall(content)]
