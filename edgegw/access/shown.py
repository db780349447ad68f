"""What a request shows of who sends it, and why it may be nobody's: what every way of showing it speaks in.

Pure data; who a client is `access.speakers` says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from multidict import MultiMapping


class Shown(NamedTuple):
    """What a request shows of who sends it; nothing of it is believed yet."""

    method: str
    path: str
    """As it came, still percent-encoded, without the query."""
    query: str
    """As it came, without the question mark; "" without a query."""
    scheme: str
    """`http` or `https`."""
    headers: MultiMapping[str]
    """By names in any case; `getall` gives each time that a name came."""
    has_body: bool
    """Whether requests to its address have one."""
    body: Callable[[], Awaitable[bytes]]
    """Its bytes, read whole within the limits of its address, once; b"" where none belongs. Raises what the
    way in answers to a body that is too large, too slow or cut off."""
    peer: str
    """The address that it comes from."""
    certified: Callable[[], bytes | None]
    """The DER of the certificate that its connection has shown in TLS; None where it has shown none."""


class Stranger(NamedTuple):
    """Why a request has no client."""

    code: str
    """One of `payments.problems`."""
    message: str
    field: str
    """The header, or the place in the body, that it is about."""
    counts: bool = False
    """Whether a client that the settings should know would look like this: many of them may mean that new
    settings have the wrong keys."""
    server_time_s: int = 0
    """The box's clock, where that helps; 0: it does not."""
    challenge: str = ""
    """A nonce to sign with instead of a time, where that helps."""
