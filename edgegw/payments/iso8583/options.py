"""The `[iso8583]` table of a box's settings, but for its encryption, which the way in itself adds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgegw.payments.iso8583.fields import Bitmap


class TerminalOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What terminals are served with."""

    host: Annotated[str, msgspec.Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    ] = 8583
    length_header: Annotated[
        Literal["binary", "ascii"],
        msgspec.Meta(description="Length in front of a frame: 2 bytes big-endian, or 4 ASCII digits."),
    ] = "binary"
    bitmap: Annotated[
        Bitmap, msgspec.Meta(description="Bitmaps and binary fields as ASCII hex digits, or as bytes.")
    ] = "hex"
    vault_key_file: Annotated[
        str, msgspec.Meta(description="File with the bank's vault key: 64 hex digits, mode 0600.")
    ] = "secrets/vault.key"
    terminal_keys_directory: Annotated[
        str,
        msgspec.Meta(
            description="Directory of MAC keys: `<terminal>.key`, and what `edgegw keys terminal` makes;"
            " other terminals send no MAC."
        ),
    ] = "secrets/terminals"
    terminal_key_grace_s: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=604_800,
            description="A terminal's MAC key is good for so long after the first message under the next.",
        ),
    ] = 3_600
    frame_bytes_max: Annotated[
        int,
        msgspec.Meta(
            ge=64, le=9_999, description="Longest message taken; a longer one closes the connection."
        ),
    ] = 4_096
    connections_max: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=10_000,
            description="Connections at once. When all are taken, one that is idle and on which no terminal"
            " has signed on is closed for a new one; where there is none, the new one is closed.",
        ),
    ] = 512
    in_flight_max: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=10_000, description="Unanswered messages of one connection; then reading waits."
        ),
    ] = 256
    idle_timeout_ms: Annotated[
        int,
        msgspec.Meta(
            ge=10, le=86_400_000, description="A connection that says nothing for this long is closed."
        ),
    ] = 900_000
    frame_timeout_ms: Annotated[
        int,
        msgspec.Meta(ge=10, le=600_000, description="From the first byte of a frame to its last, at most."),
    ] = 10_000
    write_timeout_ms: Annotated[
        int,
        msgspec.Meta(ge=10, le=600_000, description="A peer that takes no answer for this long is cut off."),
    ] = 10_000
    hold_timeout_s: Annotated[
        int, msgspec.Meta(ge=1, le=31_536_000, description="How long the hold of a 0100 lasts.")
    ] = 604_800
    replay_horizon_days: Annotated[
        int, msgspec.Meta(ge=1, le=180, description="An older message that comes again is 94, not approved.")
    ] = 7
