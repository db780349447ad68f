"""Clients and terminals by the certificate that their connection has shown in TLS.

That a CA of the settings has certified it, and that it is in time, is TLS's business (`access.tls`). Here it
is held against the site's rules: a name in it (URI or DNS) or its SHA-256, several at once so that the next
one is known before it is used. A token may be bound to one certificate (RFC 8705, `cnf` with `x5t#S256`).
Leaves out scopes, and the words of the protocols.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec
from cryptography import x509

from edgegw.access.tokens import Client
from edgegw.core.scopes import scopes_of
from edgegw.core.site import CertificateRule, ClientRule, Site, TerminalRule

NAMES_SHOWN_MAX: Final = 3
_NAME_CHARACTERS_MAX: Final = 80
REMEMBERED_MAX: Final = 1_024
CERTIFICATE_MISSING: Final = "certificate_missing"
CERTIFICATE_WRONG: Final = "certificate_wrong"
TOKEN_OF_OTHER_CERTIFICATE: Final = "token_of_other_certificate"  # noqa: S105 - a problem's code


class Certificate(NamedTuple):
    """What rules compare of a certificate."""

    sha256: str
    """Of its DER, hex."""
    uris: frozenset[str]
    dns: frozenset[str]
    """In lower case."""
    ends_at_s: int

    @property
    def x5t_s256(self) -> str:
        """Its SHA-256 as RFC 8705 writes it."""
        return base64.urlsafe_b64encode(bytes.fromhex(self.sha256)).rstrip(b"=").decode()

    def text(self) -> str:
        """How problems and log lines name it."""
        names = [f"URI:{one}" for one in sorted(self.uris)] + [f"DNS:{one}" for one in sorted(self.dns)]
        shown = [one[:_NAME_CHARACTERS_MAX] for one in names[:NAMES_SHOWN_MAX]]
        return f"{', '.join(shown) or 'no name'} (SHA-256 {self.sha256})"


class Foreign(NamedTuple):
    """Why a client is not heard on this connection."""

    code: str
    message: str


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def certificate_of(der: bytes) -> Certificate | None:
    """What rules compare of these bytes; None where they are no certificate that can be read."""
    uris: list[str] = []
    dns: list[str] = []
    try:
        read = x509.load_der_x509_certificate(der)
        for extension in read.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
                dns = extension.value.get_values_for_type(x509.DNSName)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    return Certificate(
        sha256=hashlib.sha256(der).hexdigest(),
        uris=frozenset(uris),
        dns=frozenset(name.lower() for name in dns),
        ends_at_s=int(read.not_valid_after_utc.timestamp()),
    )


def rules_of(rule: ClientRule | TerminalRule) -> tuple[CertificateRule, ...]:
    """The certificates that a client or terminal is tied to, () where to none."""
    return () if rule.certificates is msgspec.UNSET else rule.certificates


def is_one_of(certificate: Certificate, rules: Iterable[CertificateRule]) -> bool:
    """Whether one of these rules names it."""
    return any(_matches(certificate, rule) for rule in rules)


def _matches(certificate: Certificate, rule: CertificateRule) -> bool:
    """All that the rule gives is so; one that gives nothing names nobody."""
    if not (rule.sha256 or rule.uri or rule.dns):
        return False
    return (
        (not rule.sha256 or rule.sha256 == certificate.sha256)
        and (not rule.uri or rule.uri in certificate.uris)
        and (not rule.dns or rule.dns.lower() in certificate.dns)
    )


def foreign(der: bytes | None, name: str, rules: tuple[CertificateRule, ...]) -> Foreign | None:
    """Why the client or terminal of this name, tied to these, is not on a connection that has shown der."""
    if not rules:
        return None
    if der is None:
        text = f"{name} is tied to its certificate, and this connection has shown none"
        return Foreign(CERTIFICATE_MISSING, text)
    certificate = certificate_of(der)
    if certificate is not None and is_one_of(certificate, rules):
        return None
    shown = "one that cannot be read" if certificate is None else certificate.text()
    return Foreign(CERTIFICATE_WRONG, f"{name} is tied to another certificate; this connection shows {shown}")


class CertifiedClients:
    """The clients of the site's settings that are tied to certificates, at one box."""

    def __init__(self, *, site: Callable[[], Site | None]) -> None:
        self._site = site
        self._seen: Site | None = None
        self._tied: dict[str, tuple[CertificateRule, ...]] = {}
        self._enough: tuple[ClientRule, ...] = ()

    def client_of(self, certified: Callable[[], bytes | None]) -> Client | Foreign | None:
        """The client for which this connection's certificate is enough, or why it is for none; None where
        that is no question: it has shown none, or no client of the site goes by its certificate alone."""
        self._look()
        der = certified() if self._enough else None
        certificate = None if der is None else certificate_of(der)
        if certificate is None:
            return None
        found = [rule for rule in self._enough if is_one_of(certificate, rules_of(rule))]
        if len(found) == 1 and self._seen is not None:
            return Client(found[0].name, scopes_of(found[0], self._seen), certificate.ends_at_s)
        whose = "no client" if not found else "several clients: " + ", ".join(rule.name for rule in found)
        text = (
            f"there is no Authorization header, and the certificate {certificate.text()} is that of {whose}"
        )
        return Foreign("token_missing", text)

    def foreign(self, client: Client, certified: Callable[[], bytes | None]) -> Foreign | None:
        """Why this client is not heard on a connection that has shown `certified`; None where it is."""
        self._look()
        rules = self._tied.get(client.name, ())
        if not rules and not client.certificate:
            return None
        der = certified()
        if client.certificate:
            shown = None if der is None else certificate_of(der)
            if shown is None or shown.x5t_s256 != client.certificate:
                has = "none" if shown is None else shown.text()
                text = f"{client.name}'s token is bound to another certificate; this connection shows {has}"
                return Foreign(TOKEN_OF_OTHER_CERTIFICATE, text)
        return foreign(der, client.name, rules)

    def _look(self) -> None:
        site = self._site()
        if site is not self._seen:
            self._seen = site
            clients = () if site is None else site.clients
            self._tied = {rule.name: rules_of(rule) for rule in clients if rules_of(rule)}
            self._enough = tuple(rule for rule in clients if rule.certificate_is_enough is True)
