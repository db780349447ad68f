"""What goes into an operation's handler and what comes out: a request, decoded, and what to send back."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

JSON: Final = "application/json"


class Call(NamedTuple):
    """One request, decoded: its types are those of the operation."""

    client: str
    body: Any
    path: Any
    query: Any
    second: str = ""
    """Another client that stands behind it, by a token of its own."""
    signed_by: str = ""
    """The keyid of the client's SM2 key, where that has signed this request."""
    scopes: frozenset[str] = frozenset()
    """What the client may do, by what it has shown."""
    base: str = ""
    """The scheme and host by which it was sent, as the client has named them."""


class Reply(NamedTuple):
    """What to send back."""

    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    content_type: str = JSON
