"""How the site's settings in force came to be in force at a box: what they replaced, and what binds beside
them.

A box must not loosen anything by itself (DESIGN §9): settings that it takes up while the line is down, or
goes back to, are held to the limits of those that it had, until the line has been up. Pure, and made from
records alone, so that a replay ends where the box was. Leaves out how two settings bind together
(`core.site_change.tighter`).
"""

from __future__ import annotations

import msgspec


class Standing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Beside the digest in force. Digests are SM3 in hex."""

    before: str = ""
    """Of the settings that were in force before, to which the box may return; "" where it may not."""
    held_to: str = ""
    """Of settings whose limits bind too, "" for none."""
    since_ns: int = 0
    """The box's own time when the present ones came into force."""


def applied(*, before: str, is_offline: bool, at_ns: int) -> Standing:
    """After a directive has put other settings into force."""
    return Standing(before=before, held_to=before if is_offline else "", since_ns=at_ns)


def returned(*, left: str, at_ns: int) -> Standing:
    """After the box has gone back by itself: what it left may have been tighter."""
    return Standing(held_to=left, since_ns=at_ns)


def line_was_up(standing: Standing) -> Standing:
    """Once the centre has had its say."""
    return msgspec.structs.replace(standing, held_to="")
