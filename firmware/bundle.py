"""Builds bundles, and the settings by which a box takes them (RAUC's system.conf and keyring).

Leaves out releases: what a bundle's metadata says to boxes is `edgegw release`'s.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from firmware.disk import BLOCK_BYTES, Made, add_hashes, at_time
from firmware.keys import SIGNER, Keys, keyring
from firmware.layout import SLOTS, ProfileName, settings
from firmware.places import sha256_of
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
) -> None:
    """Write a signed bundle (RAUC, verity format) with a root and its EFI partition.

    The last two are for bundles that must be refused: another `compatible` or signer. RAUC's own `bundle`
    draws a salt and signs with the time of day; here the salt follows from the content, and the signature
    bears the build's time. The form is RAUC's: a squashfs, its tree of hashes, the manifest in a CMS
    signature, and the length of that in eight bytes.
    """
    content = work / "bundle"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    # The kernel image comes first: until its root is there too, what starts there gives way.
    parts = {"efi": ("esp.img", esp), "rootfs": ("root.img", root)}
    for name, path in parts.values():
        (content / name).hardlink_to(path)
    update = [f"compatible={for_compatible or compatible(made.profile)}", f"version={made.version}"]
    images = {
        f"image.{slot}": [f"sha256={sha256_of(path)}", f"size={path.stat().st_size}", f"filename={name}"]
        for slot, (name, path) in parts.items()
    }
    ours = {"meta.edgegw": [f"security_epoch={settings().image.security_epoch}"]}
    manifest = {"update": update, "bundle": ["format=verity"], **images, **ours}
    _write_manifest(content / "manifest.raucm", manifest, epoch=made.epoch)
    _pack(content, target, made=made)
    proven = add_hashes(target, made=made)
    manifest["bundle"] += [
        f"verity-hash={proven.root_hash}",
        f"verity-salt={proven.salt}",
        f"verity-size={target.stat().st_size - proven.blocks * BLOCK_BYTES}",
    ]
    _write_manifest(work / "manifest", manifest, epoch=made.epoch)
    signature = _signed(work / "manifest", made=made, signer=signer)
    with target.open("ab") as file:
        file.write(signature + len(signature).to_bytes(8, "big"))


def _write_manifest(path: Path, sections: Mapping[str, Sequence[str]], *, epoch: int) -> None:
    told = ("\n".join((f"[{name}]", *lines)) for name, lines in sections.items())
    path.write_text("\n\n".join(told) + "\n", encoding="ascii")
    os.utime(path, (epoch, epoch))


def _pack(content: Path, target: Path, *, made: Made) -> None:
    target.unlink(missing_ok=True)
    in_tools(
        made.tools,
        [
            *("mksquashfs", content, target, "-noappend", "-no-progress", "-quiet", "-all-root"),
            *("-comp", "zstd", "-Xcompression-level", "3", "-no-xattrs"),
            *("-all-time", str(made.epoch), "-mkfs-time", str(made.epoch), "-root-mode", "700"),
        ],
        doing="packing the bundle",
        writable=[content.parent, target.parent],
    )


def _signed(manifest: Path, *, made: Made, signer: str) -> bytes:
    """The manifest within its signature (CMS, DER)."""
    signed = manifest.with_suffix(".cms")
    in_tools(
        made.tools,
        [
            *("env", *at_time(made.epoch), "openssl", "cms", "-sign", "-binary", "-nodetach", "-nosmimecap"),
            *("-md", "sha256", "-signer", made.keys.certificate(signer), "-inkey", made.keys.key(signer)),
            *("-in", manifest, "-outform", "DER", "-out", signed),
        ],
        doing="signing the bundle",
        writable=[manifest.parent, made.keys.folder],
    )
    return signed.read_bytes()
