"""Who is the client of a request, from all that the request shows: the one thing that a way in over HTTP
asks.

Each way of showing who one is has a module of its own (`access.tokens`, `access.client_certificates`); this
one owns what a request shows and which way counts for it. Leaves out what a client may do (its scopes are in
`Client`), and the words of the protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from multidict import MultiMapping

from edgegw.access.client_certificates import CertifiedClients
from edgegw.access.tokens import Client, TokenError, Tokens
from edgegw.core.site import Site

AUTHORIZATION: Final = "Authorization"


class Shown(NamedTuple):
    """What a request shows of who sends it; nothing of it is believed yet."""

    method: str
    path: str
    """As it came, still percent-encoded, without the query."""
    query: str
    """As it came, without the question mark; "" without a query."""
    headers: MultiMapping[str]
    """By names in any case; `getall` gives each time that a name came."""
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


class Speakers:
    """Knows one box's clients."""

    def __init__(self, *, box: str, site: Callable[[], Site | None]) -> None:
        self._tokens = Tokens(box=box, site=site)
        self._certified = CertifiedClients(site=site)

    async def client_of(self, shown: Shown) -> Client | Stranger:
        """The client that a request is of, or why it is nobody's."""
        return self._on_its_connection(self._by_what_it_shows(shown), shown.certified, field=AUTHORIZATION)

    def client_of_token(
        self, authorization: str | None, *, field: str, certified: Callable[[], bytes | None]
    ) -> Client | Stranger:
        """The client of `Bearer <token>` alone, or why it is nobody's; field is where it came from, certified
        as in `Shown`."""
        return self._on_its_connection(self._of_token(authorization, field=field), certified, field=field)

    def _by_what_it_shows(self, shown: Shown) -> Client | Stranger:
        authorization = shown.headers.get(AUTHORIZATION)
        if authorization is None:
            speaker = self._certified.client_of(shown.certified)
            if isinstance(speaker, Client):
                return speaker
            if speaker is not None:
                return Stranger(speaker.code, speaker.message, AUTHORIZATION)
        return self._of_token(authorization, field=AUTHORIZATION)

    def _of_token(self, authorization: str | None, *, field: str) -> Client | Stranger:
        try:
            return self._tokens.client_of(authorization)
        except TokenError as error:
            return Stranger(error.code, str(error), field, counts=error.code == "token_invalid")

    def _on_its_connection(
        self, speaker: Client | Stranger, certified: Callable[[], bytes | None], *, field: str
    ) -> Client | Stranger:
        """A client that is tied to a certificate is heard with it alone, however it shows who it is."""
        if isinstance(speaker, Stranger):
            return speaker
        wrong = self._certified.foreign(speaker, certified)
        return speaker if wrong is None else Stranger(wrong.code, wrong.message, field, counts=True)
