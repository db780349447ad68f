"""The `[...tls]` tables: how a way in, or the line, is encrypted, and what may go without.

Everything that leaves the machine is encrypted, unless the settings say with `profile = "plain"` that
something else encrypts it. What a profile is made of is in `access.tls`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

Profile = Annotated[
    Literal["plain", "intl", "pq", "gm", "gm-pq"],
    msgspec.Meta(
        description="`intl`: TLS 1.3. `pq`: the same, with X25519MLKEM768 alone. `gm`: TLS 1.3 with SM2, SM3"
        " and SM4 (RFC 8998). `gm-pq`: the same, with curveSM2MLKEM768 alone. `plain`: nothing is encrypted"
        " here, because something in front does it."
    ),
]
PLAIN: Final = "plain"
HOST_PATTERN: Final = r"^[^\s/]*\Z"


class ServerTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tls]` of what listens."""

    profile: Profile
    certificate_file: Annotated[
        str,
        msgspec.Meta(description="PEM: the server's certificate, then those between it and its CA."),
    ] = ""
    key_file: Annotated[
        str, msgspec.Meta(description="PEM: the certificate's private key, for its owner alone.")
    ] = ""
    client_ca_file: Annotated[
        str,
        msgspec.Meta(
            description="PEM: the CAs one of which must have certified a client. Without it, where that is"
            " allowed, clients show no certificate."
        ),
    ] = ""
    crl_file: Annotated[
        str,
        msgspec.Meta(
            description="PEM: the lists of revoked certificates of those CAs, one of each; read again when it"
            " changes. Without it nobody is refused for being revoked."
        ),
    ] = ""


class ClientTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tls]` of what connects."""

    profile: Profile
    ca_file: Annotated[
        str, msgspec.Meta(description="PEM: the CAs one of which must have certified the server.")
    ] = ""
    crl_file: Annotated[
        str,
        msgspec.Meta(
            description="PEM: the lists of revoked certificates of those CAs, one of each; read again when it"
            " changes. Without it nobody is refused for being revoked."
        ),
    ] = ""
    certificate_file: Annotated[
        str,
        msgspec.Meta(
            description="PEM: the certificate of this box, then those between it and its CA. It names the box"
            " as URI:edgegw://BANK/BOX."
        ),
    ] = ""
    key_file: Annotated[
        str, msgspec.Meta(description="PEM: the certificate's private key, for its owner alone.")
    ] = ""
    server_name: Annotated[
        str,
        msgspec.Meta(
            pattern=HOST_PATTERN,
            description="The name or IP address that the server's certificate must have; without it, the host"
            " of the address.",
        ),
    ] = ""


OptionalServerTls = ServerTls | msgspec.UnsetType
OptionalClientTls = ClientTls | msgspec.UnsetType


def is_encrypted(tls: OptionalServerTls | OptionalClientTls) -> bool:
    """Whether a table is there and encrypts."""
    return tls is not msgspec.UNSET and tls.profile != PLAIN


def server_faults(
    tls: OptionalServerTls, hosts: Iterator[str], *, option: str, where: str, clients_certified: bool
) -> Iterator[str]:
    """What is wrong with a listener's table, a line each. option names the one with the hosts, where the
    table; clients_certified: clients must show a certificate."""
    if tls is msgspec.UNSET:
        for host in dict.fromkeys(hosts):
            if not is_loopback(host):
                yield (
                    f"{option} = {host}: it is reachable from outside and would not be encrypted; give"
                    f' [{where}] with its profile, or profile = "plain" where something in front encrypts'
                )
        return
    needed = {"certificate_file": tls.certificate_file, "key_file": tls.key_file}
    if clients_certified:
        needed["client_ca_file"] = tls.client_ca_file
    if tls.crl_file and not tls.client_ca_file:
        yield f"{where}.crl_file = {tls.crl_file}: without client_ca_file nobody shows a certificate; give it"
    given = needed | {"client_ca_file": tls.client_ca_file, "crl_file": tls.crl_file}
    yield from _files_faults(tls.profile, needed, given, where)


def client_faults(tls: OptionalClientTls, urls: Iterator[str], *, option: str, where: str) -> Iterator[str]:
    """What is wrong with the table of what connects to these URLs, a line each."""
    for url in urls:
        parts = urlsplit(url)
        if is_encrypted(tls) and parts.scheme != "https":
            yield f"{option} = {url}: [{where}] encrypts; write https://{parts.netloc}"
        elif parts.scheme == "https" and not is_encrypted(tls):
            yield f"{option} = {url}: how it is encrypted is missing; give [{where}] with its profile"
        elif tls is msgspec.UNSET and not is_loopback(parts.hostname or ""):
            yield (
                f"{option} = {url}: it leaves this machine and would not be encrypted; give [{where}] with"
                ' its profile, or profile = "plain" where something in front encrypts'
            )
    if tls is msgspec.UNSET:
        return
    files = {"ca_file": tls.ca_file, "certificate_file": tls.certificate_file, "key_file": tls.key_file}
    given = files | {"server_name": tls.server_name, "crl_file": tls.crl_file}
    yield from _files_faults(tls.profile, files, given, where)


def _files_faults(profile: str, needed: dict[str, str], given: dict[str, str], where: str) -> Iterator[str]:
    if profile == PLAIN:
        for name, value in given.items():
            if value:
                yield f"{where}.{name} = {value}: profile = plain uses none; give another profile, or drop it"
        return
    for name, value in needed.items():
        if not value:
            yield f"{where}.{name}: it is missing; profile = {profile} needs it"


def is_loopback(host: str) -> bool:
    """Whether nothing outside this machine reaches the host; of names, that is said of localhost alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
