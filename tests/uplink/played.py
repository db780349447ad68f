"""What tests of the line share: a start of a played box, and when box and hub agree."""

from collections.abc import Awaitable, Callable

from edgegw.core.records import Mode
from tests.uplink.box import MemoryBox
from tests.uplink.hub import MemoryHub
from tests.waiting import until

Start = Callable[..., Awaitable[MemoryBox]]


async def synced(box: MemoryBox, hub: MemoryHub) -> None:
    """The hub holds every record of the box, and the line is active."""
    await until(
        lambda: box.line.mode is Mode.ACTIVE and hub.reader.bodies == box.log.bodies,
        "hub and box to agree",
    )
