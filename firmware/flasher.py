"""Builds the flasher: a signed program that a server starts once, from a stick or over the network.

It writes the one image whose hash it bears, and reads it back; the stick and the network need not be trusted.
Leaves out the image itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from firmware.disk import Made, write_signed
from firmware.drivers import firmware_of
from firmware.initrd import begin, copy_modules, is_controller, pack
from firmware.layout import settings
from firmware.places import SOURCE, sha256_of

_APPLETS: Final = (
    *(
        "cat",
        "chmod",
        "cut",
        "dd",
        "echo",
        "find",
        "grep",
        "head",
        "ip",
        "ls",
        "mkdir",
        "modprobe",
        "mount",
        "poweroff",
    ),
    *(
        "printf",
        "readlink",
        "sed",
        "sh",
        "sha256sum",
        "sleep",
        "sort",
        "sync",
        "tail",
        "tr",
        "udhcpc",
        "umount",
    ),
    *("wc", "wget"),
)
_MODULES: Final = ("sd_mod", "vfat", "nls_ascii", "nls_cp437", "efivarfs", "virtio_net", "r8152")
_CARDS: Final = "kernel/drivers/net/ethernet/"
# Cards of other times and buses, and those that carry no frames until something else is set up.
_NO_CARD: Final = ("pcmcia", "/sun/", "/8390/", "/dec/", "mlxsw", "netronome", "liquidio", "/3com/", "octeon")


def write_flasher(target: Path, *, image: Path, kernel: Path, root: Path, made: Made, work: Path) -> None:
    """Write the flasher of an image, which the server finds under the image's own name."""
    work = work / "flasher"
    tree, initrd = work / "tree", work / "initrd.img"
    begin(tree, root, first=SOURCE / "initrd/flash", applets=_APPLETS)
    modules = copy_modules(root, tree, names=_MODULES, also=_is_needed, tools=made.tools)
    for pattern in sorted({name for module in modules for name in firmware_of(module)}):
        for path in sorted((root / "usr/lib/firmware").glob(pattern)):
            place = tree / "lib/firmware" / path.relative_to(root / "usr/lib/firmware")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    words = " ".join([*settings().kernel.command_line, "--"])
    (tree / "etc/words").write_text(words + "\n", encoding="ascii")
    told = f"IMAGE='{image.name}'\nBYTES={image.stat().st_size}\nSHA256={sha256_of(image)}\n"
    told += f"MODULES='{' '.join(_MODULES)}'\n"
    (tree / "etc/flash").write_text(told, encoding="ascii")
    pack(tree, initrd, tools=made.tools, epoch=made.epoch)
    write_signed(
        target, kernel=kernel, initrd=initrd, words=words, root=root, base=root, made=made, work=work
    )


def _is_needed(path: str) -> bool:
    return is_controller(path) or (path.startswith(_CARDS) and not any(no in path for no in _NO_CARD))
