"""A branch server of the lab: the machine of `tests.lab.vm` with the parts of real boards, no virtual ones.

What the hardware profile must drive: disk controller, network cards, TPM, USB, the chipset's watchdog.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.lab.vm import Machine
from tests.waiting import wait_until

SERIAL: Final = "LAB-0001"
SATA: Final = f"ide-hd,serial={SERIAL}"
NVME: Final = f"nvme,serial={SERIAL}"
_PLUGGED: Final = "plugged"
_NODE: Final = {"node-name": _PLUGGED}
_CARDS: Final = {"lan": "igb", "wan": "e1000e"}


class Server(Machine):
    """One server; what is an attribute may be changed while it is off, as by somebody with a screwdriver."""

    def __init__(self, folder: Path, *, controller: str, **more: Any) -> None:
        """As `Machine`, with the disk on this controller."""
        self.controller = controller
        self.stick: Path | None = None
        """A stick in its USB port, below its folder."""
        self.network_start: tuple[Path, str] | None = None
        """A folder below its own that TFTP serves in `wan`, and the name of the program to start."""
        super().__init__(folder, **more)

    def plug_in(self, stick: Path) -> None:
        """Put a stick below its folder into a USB port while it runs."""
        self.monitor("blockdev-add", driver="raw", file={"driver": "file", "filename": str(stick)}, **_NODE)
        self.monitor("device_add", driver="usb-storage", drive=_PLUGGED, id=_PLUGGED)

    def pull_out(self) -> None:
        """Take that stick out again."""
        self.monitor("device_del", id=_PLUGGED)
        parts = {"path": "/machine/peripheral"}
        wait_until(
            lambda: all(one["name"] != _PLUGGED for one in self.monitor("qom-list", **parts)),
            "the stick to be out",
        )
        self.monitor("blockdev-del", **_NODE)

    def _arguments(self) -> Iterator[str]:
        words = list(super()._arguments())
        cards = dict(_CARDS)
        if self.network_start is not None:
            # The lab's firmware starts over no other card: its drivers for them would have to be signed.
            cards["wan"] = "virtio-net-pci"
        for at, word in enumerate(words):
            kind, _, rest = word.partition(",")
            name = rest.partition("netdev=")[2].partition(",")[0]
            if kind == "virtio-blk-pci":
                words[at] = f"{self.controller},{rest}"
            elif kind == "virtio-net-pci":
                words[at] = f"{cards[name]},{rest}"
            elif kind == "virtio-rng-pci":
                words[at] = "qemu-xhci"
            elif kind == "i6300esb":
                words[at] = "usb-kbd"
            elif kind == "tpm-crb":
                words[at] = f"tpm-tis,{rest}"
            elif word.startswith("user,id=wan") and self.network_start is not None:
                folder, program = self.network_start
                words[at] = f"{word},tftp={folder},bootfile={program}"
        yield from words
        # The chipset's watchdog may only start the machine again when the board lets it.
        yield from ("-global", "ICH9-LPC.noreboot=off")
        if self.stick is not None:
            yield from ("-drive", f"if=none,id=stick,format=raw,file={self.stick}")
            yield from ("-device", "usb-storage,drive=stick")
