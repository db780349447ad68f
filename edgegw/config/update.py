"""`[update]` of a box's settings: when the agent looks for a new program of the appliance, and when the box
may be restarted for it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from edgegw.core.site import TIME_PATTERN

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEK: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LocalTime = Annotated[str, msgspec.Meta(pattern=TIME_PATTERN)]


class UpdateTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[update]`: when new images are looked for, and when the box restarts into one."""

    state_dir: Annotated[
        str, msgspec.Meta(min_length=1, description="Where the agent says how updates are.")
    ] = "/var/lib/edgegw-update"
    automatic: bool = True
    """Whether the agent takes a release by itself; else only `edgegw update check --now` does."""
    days: tuple[Day, ...] = WEEK
    """The days on which the box may restart, by the site's time zone."""
    begins: LocalTime = "01:00"
    """Local time (HH:MM) from which on it may restart."""
    ends: LocalTime = "05:00"
    """Local time until which it may; one before `begins` is on the next day, the same is all day."""
    quiet_minutes: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=720, description="So long before a cut-off of the site's calendar it does not restart."
        ),
    ] = 30
    check_minutes: Annotated[
        int, msgspec.Meta(ge=1, le=10_080, description="How often the agent asks the hub.")
    ] = 360
    bundle_bytes_max: Annotated[
        int,
        msgspec.Meta(
            ge=1 << 20,
            le=1 << 34,
            description="The room that is kept for one bundle, apart from the ledger's.",
        ),
    ] = 336 << 20
    commit_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=10, le=780, description="A new image that is not well on this machine for so long is left."
        ),
    ] = 600
