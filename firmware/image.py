"""Builds an image from the finished root: what is flashed, and what is installed as an update.

    made = image("cloud")
    made.disk, made.bundle      # build/out/edgegw-0.1.0+1-cloud.img, .raucb
    update("cloud", build=2)    # the bundle alone: the same root under another version

Owns names and order; the parts are `firmware.product`'s, `firmware.disk`'s and `firmware.bundle`'s.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from firmware import bundle, disk
from firmware.disk import Made, Proven
from firmware.flasher import write_flasher
from firmware.keys import Keys, keys
from firmware.layout import ProfileName, settings
from firmware.places import CHECKOUT, BuildError, alone, build_folder, run, workshop
from firmware.product import Product, appliance
from firmware.roots import ready
from firmware.sbom import write_bill

TRUSTED: Final = "update-root.json"
"""Beside the keys: whom boxes believe about newer releases."""
_BUILD_MAX: Final = 999_999_999
_ESP: Final = "esp.img"


class Image(msgspec.Struct, frozen=True):
    """What one build of an image left in `build/out/`."""

    version: str
    disk: Path
    bundle: Path
    kernel_image: Path
    facts: Path
    contents: Path
    """What is in it (SBOM)."""
    flasher: Path | None
    """Writes it to a branch server's disk, started from a stick or over the network."""
    root_hash: str
    root_bytes: int
    """The packed root with its tree of hashes: what a slot must hold."""


def finished_root(profile: ProfileName) -> Product:
    """The finished root that every image of a profile holds, whatever its build; raises BuildError."""
    found = keys()
    releases(found)
    return appliance(profile, added=bundle.box_files(profile, found))


def image(profile: ProfileName, *, build: int | None = None, more_words: Sequence[str] = ()) -> Image:
    """Build the image of a profile; raises BuildError.

    `build` is the number after the `+` of its version, image.toml's if it is not given. `more_words` go to
    the kernel, for images that must not be kept.
    """
    number = _checked(settings().image.build if build is None else build)
    product = finished_root(profile)
    made = _made(product, number)
    with alone(f"image-{profile}"), workshop("image") as work:
        return _write(product, made, work=work, more_words=more_words)


def update(profile: ProfileName, *, build: int, more_words: Sequence[str] = ()) -> Path:
    """Build an image's bundle and nothing else, with the facts beside it that a release needs; its path.
    Raises BuildError. The arguments are those of `image`.
    """
    number = _checked(build)
    product = finished_root(profile)
    made = _made(product, number)
    with alone(f"image-{profile}"), workshop("image") as work:
        _write_update(product, made, work=work, more_words=more_words)
    return _out(made, "raucb")


def _checked(number: int) -> int:
    if not 0 < number <= _BUILD_MAX:
        raise BuildError(f"the build is {number}", hint=f"Name a number from 1 to {_BUILD_MAX}.")
    return number


def _made(product: Product, number: int) -> Made:
    found = keys()
    version = f"{product.version}+{number}"
    said = {"image.json": json.dumps(_facts(product, version), sort_keys=True).encode() + b"\n"}
    said[TRUSTED] = (found.folder / TRUSTED).read_bytes()
    return Made(
        profile=product.profile,
        version=version,
        tools=ready("tools").path,
        keys=found,
        epoch=product.epoch,
        said=said,
    )


def releases(found: Keys) -> Path:
    """The folder of the lab's releases, which boxes of this build believe; made if it is not there."""
    folder = found.folder / "releases"
    if (found.folder / TRUSTED).exists():
        return folder
    words = [sys.executable, "-m", "edgegw", "release"]
    signers = {name: found.folder / f"{name}.pem" for name in ("root", "targets", "online")}
    for path in signers.values():
        run([*words, "key", path], doing="making a key of releases", folder=CHECKOUT)
    options = [word for name, path in signers.items() for word in (f"--{name}-key", str(path))]
    run([*words, "init", folder, *options], doing="beginning the lab's releases", folder=CHECKOUT)
    shutil.copyfile(folder / "metadata/1.root.json", found.folder / TRUSTED)
    return folder


def _facts(product: Product, version: str) -> dict[str, object]:
    said = run(
        [sys.executable, "-m", "edgegw", "release", "facts"],
        doing="asking which ledgers the product reads",
        folder=CHECKOUT,
    )
    program = json.loads(said)
    return {
        "version": version,
        "compatible": bundle.compatible(product.profile),
        "security_epoch": settings().image.security_epoch,
        "schema": program["schema"],
        "readable_from": program["readable_from"],
        "built_s": product.epoch,
    }


def _write(product: Product, made: Made, *, work: Path, more_words: Sequence[str]) -> Image:
    proven = _write_update(product, made, work=work, more_words=more_words)
    by_hardware = settings().profiles[made.profile].by_hardware
    image = Image(
        version=made.version,
        disk=_out(made, "img"),
        bundle=_out(made, "raucb"),
        kernel_image=_out(made, "efi"),
        facts=_out(made, "json"),
        contents=write_bill(product, version=made.version),
        flasher=_out(made, "flash.efi") if by_hardware else None,
        root_hash=proven.root_hash,
        root_bytes=proven.path.stat().st_size,
    )
    disk.write_disk(image.disk, esp=work / _ESP, root=proven.path, made=made, work=work)
    if image.flasher is not None:
        write_flasher(
            image.flasher, image=image.disk, kernel=product.kernel, root=product.tree, made=made, work=work
        )
    return image


def _write_update(product: Product, made: Made, *, work: Path, more_words: Sequence[str]) -> Proven:
    """Write the bundle, and what it is made of; the EFI partition is left in `work`."""
    proven = _proven(product, made)
    kernel_image, esp = _out(made, "efi"), work / _ESP
    disk.write_kernel_image(
        kernel_image,
        kernel=product.kernel,
        root=product.tree,
        base=product.base.path,
        proven=proven,
        made=made,
        work=work,
        more_words=more_words,
    )
    disk.write_esp(esp, kernel_image, made=made)
    bundle.write_bundle(_out(made, "raucb"), root=proven.path, esp=esp, made=made, work=work)
    facts = json.loads(made.said["image.json"])
    facts.pop("built_s")
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    _out(made, "json").write_text(text, encoding="ascii")
    return proven


def _out(made: Made, kind: str) -> Path:
    return build_folder("out") / f"edgegw-{made.version}-{made.profile}.{kind}"


def _proven(product: Product, made: Made) -> Proven:
    """The product's root with its hashes, beside the root itself; made once."""
    path, note = product.squashfs.with_name("root.img"), product.squashfs.with_name("root.json")
    if note.exists():
        return msgspec.json.decode(note.read_bytes(), type=_Noted).at(path)
    shutil.copyfile(product.squashfs, path)
    proven = disk.add_hashes(path, made=made)
    disk.check_slot(proven, made=made)
    note.write_bytes(msgspec.json.encode(_Noted(proven.blocks, proven.salt, proven.root_hash)))
    return proven


class _Noted(msgspec.Struct, frozen=True):
    blocks: int
    salt: str
    root_hash: str

    def at(self, path: Path) -> Proven:
        return Proven(path=path, blocks=self.blocks, salt=self.salt, root_hash=self.root_hash)
