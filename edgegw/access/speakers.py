"""Who is the client of a request, from all that the request shows: the one thing that a way in over HTTP
asks.

Each way of showing who one is has a module of its own (`access.signers`, `access.tokens`,
`access.client_certificates`); this one owns which way counts for a request. A signature comes first: a
request that carries one is judged by it, whatever else it shows. Leaves out what a client may do (its scopes
are in `Client`), and the words of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgegw.access.client_certificates import CertifiedClients
from edgegw.access.oauth import TokenServer
from edgegw.access.sessions import Sessions
from edgegw.access.shown import Shown, Stranger
from edgegw.access.signers import Signers
from edgegw.access.tokens import Client, TokenError, Tokens
from edgegw.core.site import Site

AUTHORIZATION: Final = "Authorization"
_READING: Final = frozenset({"GET", "HEAD"})


class Speakers:
    """Knows one box's clients."""

    def __init__(
        self,
        *,
        box: str,
        site: Callable[[], Site | None],
        folder: Path,
        server: TokenServer | None = None,
    ) -> None:
        """folder, on the ledger's disk, keeps what must outlast the process; server gives the box's own
        tokens and knows what was revoked."""
        self._signers = Signers(box=box, site=site, folder=folder)
        self._tokens = Tokens(box=box, site=site, issuer=server)
        self._certified = CertifiedClients(site=site)
        self._server = server

    @property
    def sessions(self) -> Sessions:
        """The sessions of clients that sign."""
        return self._signers.sessions

    def close(self) -> None:
        """End what runs beside the requests."""
        self._signers.close()

    async def client_of(self, shown: Shown) -> Client | Stranger:
        """The client that a request is of, or why it is nobody's."""
        speaker: Client | Stranger
        signed = self._signers.signature_of(shown)
        if isinstance(signed, Stranger):
            speaker = signed
        elif signed is not None:
            speaker = await self._signers.client_of(shown, signed)
        else:
            speaker = self._by_what_it_shows(shown)
            if isinstance(speaker, Client) and shown.method not in _READING:
                speaker = self._signers.unsigned(speaker, field=AUTHORIZATION)
        return self._on_its_connection(speaker, shown.certified, field=AUTHORIZATION)

    def second_of_token(
        self, token: str, *, field: str, certified: Callable[[], bytes | None]
    ) -> Client | Stranger:
        """The client whose token stands in another's request, or why it is nobody's; field is where that
        is, certified as in `Shown`."""
        speaker = self._of_token(f"Bearer {token}", field=field)
        if isinstance(speaker, Client):
            speaker = self._signers.unsigned(speaker, field=field)
        return self._on_its_connection(speaker, certified, field=field)

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
        """A client that is tied to a certificate is heard with it alone, and one that is blocked not at all,
        however it shows who it is."""
        if isinstance(speaker, Stranger):
            return speaker
        why = None if self._server is None else self._server.why_blocked(speaker.name)
        if why is not None:
            return Stranger("client_blocked", f"{speaker.name} is blocked: {why}", field)
        wrong = self._certified.foreign(speaker, certified)
        return speaker if wrong is None else Stranger(wrong.code, wrong.message, field, counts=True)
