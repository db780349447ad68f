"""Builds bundles, and the settings by which a box takes them (RAUC's system.conf and keyring).

Leaves out releases: what a bundle's metadata says to boxes is `edgegw release`'s.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from firmware.disk import Made
from firmware.keys import SIGNER, Keys, keyring
from firmware.layout import SLOTS, ProfileName, settings
from firmware.sandbox import in_tools


def compatible(profile: ProfileName) -> str:
    """What a bundle must be for."""
    return f"edgegw-x86_64-{profile}"


def box_files(profile: ProfileName, keys: Keys) -> dict[str, bytes]:
    """What a root needs to take bundles: paths below it and contents."""
    read = settings()
    lines = [
        "[system]",
        f"compatible={compatible(profile)}",
        "bootloader=efi",
        "mountprefix=/run/rauc",
        "statusfile=/var/lib/edgegw-update/rauc.status",
        "bundle-formats=verity",
        f"min-bundle-version={read.image.oldest_version}",
        "activate-installed=true",
        "[keyring]",
        "path=/etc/rauc/keyring.pem",
        "check-crl=true",
        "check-purpose=codesign",
    ]
    for number, slot in enumerate(SLOTS):
        for kind, more in (("rootfs", f"bootname=edgegw-{slot}"), ("efi", f"parent=rootfs.{number}")):
            part = f"{'root' if kind == 'rootfs' else 'esp'}-{slot}"
            lines += [
                f"[slot.{kind}.{number}]",
                f"device=/dev/disk/by-partuuid/{read.disk.partitions[part]}",
                "type=raw",
                more,
            ]
    return {
        "etc/rauc/system.conf": ("\n".join(lines) + "\n").encode(),
        "etc/rauc/keyring.pem": keyring(keys),
    }


def write_bundle(
    target: Path,
    *,
    root: Path,
    esp: Path,
    made: Made,
    work: Path,
    for_compatible: str = "",
    signer: str = SIGNER,
    believed_by: Path | None = None,
) -> None:
    """Write a signed bundle (RAUC, verity format) with a root and its EFI partition.

    The last three are for bundles that must be refused: another `compatible`, signer or authority.
    """
    content = work / "bundle"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    (content / "root.img").hardlink_to(root)
    (content / "esp.img").hardlink_to(esp)
    read = settings()
    manifest = [
        "[update]",
        f"compatible={for_compatible or compatible(made.profile)}",
        f"version={made.version}",
        "[bundle]",
        "format=verity",
        "[meta.edgegw]",
        f"security_epoch={read.image.security_epoch}",
        # The kernel image comes first: until its root is there too, what starts there gives way.
        "[image.efi]",
        "filename=esp.img",
        "[image.rootfs]",
        "filename=root.img",
    ]
    (content / "manifest.raucm").write_text("\n".join(manifest) + "\n", encoding="ascii")
    target.unlink(missing_ok=True)
    settings_of_host = work / "bundle.conf"
    settings_of_host.write_text(
        "[system]\ncompatible=none\nbootloader=noop\n[keyring]\ncheck-purpose=codesign\n"
    )
    in_tools(
        made.tools,
        [
            *("env", f"SOURCE_DATE_EPOCH={made.epoch}", "rauc", "-c", settings_of_host, "bundle"),
            f"--cert={made.keys.certificate(signer)}",
            f"--key={made.keys.key(signer)}",
            *([f"--keyring={believed_by}"] if believed_by else []),
            "--mksquashfs-args=-comp zstd -Xcompression-level 3 -all-root -no-progress",
            *(content, target),
        ],
        doing="making the bundle",
        writable=[work, target.parent, made.keys.folder],
    )
