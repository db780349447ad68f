"""`[health]`: how the box watches the machine that it runs on. The thresholds that nobody needs to change are
in `edgegw.observe.checks`."""

from __future__ import annotations

from typing import Annotated

import msgspec


class HealthTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[health]`: how the box watches the machine that it runs on, and from when it acts."""

    sample_seconds: Annotated[
        int, msgspec.Meta(ge=1, le=300, description="How often the machine is looked at.")
    ] = 5
    calm_seconds: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=3_600,
            description="What was done is undone when all was well again for so long; after relapses longer,"
            " up to an hour.",
        ),
    ] = 120
    memory_percent_min: Annotated[
        int,
        msgspec.Meta(
            ge=5,
            le=50,
            description="With less memory that can be had, telemetry is shed; with half of it work that can"
            " wait does; with a fifth of it new payments are refused.",
        ),
    ] = 10
    temperature_celsius_max: Annotated[
        int,
        msgspec.Meta(
            ge=40, le=120, description="The critical temperature of a sensor that names none of its own."
        ),
    ] = 90
    wear_percent_max: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=200, description="From so much of its rated endurance on, a disk is to be replaced."
        ),
    ] = 80
    clock_ahead_seconds_max: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=86_400,
            description="A machine's clock that differs by more from the centre's time is to be set.",
        ),
    ] = 300
    root_dir: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="Below it are the machine's proc, sys and run; in a container, where the host's are"
            " mounted.",
        ),
    ] = "/"
