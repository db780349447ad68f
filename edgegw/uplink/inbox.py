"""What the hub directs: verified against its log so far, with the site bundles that it names, for the pen.

Directives are applied in order; one that names a bundle which is not here yet holds back itself and what
follows, while the bundle is fetched beside the beats. A bundle that cannot be used is handed on without: the
pen journals that directive as refused, and the log moves on (DESIGN §3.10).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from edgegw.core import journal
from edgegw.core.exchange import Directives, HeldLog, PackageJudgement, SiteBundle, judge_package
from edgegw.core.messages import ExchangeError, Package, PackageVerdict
from edgegw.core.records import (
    Directive,
    GrantDirective,
    RefuseDirective,
    SiteDirective,
    decode_directive,
)
from edgegw.core.site import decode_site
from edgegw.uplink.asks import Outcome
from edgegw.uplink.ports import HeldDirectives, Identity
from edgegw.uplink.transport import LineFault, NotThere, Transport
from edgegw.zones import UnknownZone, load_zone

SITE_TRIES_MAX: Final = 3
"""So often another bundle than the one named, or none, is taken for the line's fault; then it is the
hub's."""


class Taken(NamedTuple):
    """What can be applied now, and the digest of the bundle that the next directive waits for ("" for
    none)."""

    directives: Directives | None
    missing: str


class Inbox:
    """The way in for directives."""

    def __init__(self, identity: Identity, transport: Transport) -> None:
        self._identity = identity
        self._transport = transport
        self._bundles: dict[str, SiteBundle] = {}
        self._unusable: set[str] = set()
        self._tries: Counter[str] = Counter()
        self.fault = ""
        """What was wrong with the last bundle."""

    def take(self, package: Package, held: HeldDirectives) -> Taken:
        """Verify a package; raises ExchangeError when it is not the hub's true continuation of what is
        held."""
        log = HeldLog(held.incarnation, held.frontier, _last_leaf_only(held))
        who = self._identity
        judged = judge_package(package, log, bank=who.bank, box=who.box, key=who.hub_key)
        if judged.verdict is PackageVerdict.DUPLICATE:
            return Taken(None, "")
        if judged.verdict is not PackageVerdict.ACCEPTED:
            raise ExchangeError(f"directives refused, {judged.verdict}: {judged.reason}")
        return self._usable(package, judged, held)

    def _usable(self, package: Package, judged: PackageJudgement, held: HeldDirectives) -> Taken:
        sites, missing, count = {}, "", 0
        for body in judged.records:
            digest = site_digest(body)
            if digest and digest not in self._unusable:
                if digest not in self._bundles:
                    missing = digest
                    break
                sites[digest] = self._bundles[digest]
            count += 1
        if not count:
            return Taken(None, missing)
        frontier = held.frontier.copy() if package.number == held.incarnation else journal.Frontier()
        frontier.extend(judged.leaves[:count])
        return Taken(
            Directives(
                incarnation=package.number,
                start=frontier.size - count,
                bodies=judged.records[:count],
                leaves=judged.leaves[:count],
                frontier=frontier,
                checkpoint=package.checkpoint,
                sites=sites,
            ),
            missing,
        )

    def applied(self, directives: Directives) -> None:
        """Forget the bundles that these needed."""
        for digest in map(site_digest, directives.bodies):
            self._bundles.pop(digest, None)
            self._unusable.discard(digest)
            self._tries.pop(digest, None)

    async def fetch(self, address: str, digest: str) -> None:
        """Get a bundle and keep it until its directive is applied; a fault is kept in `fault`, and tries
        are counted."""
        try:
            body = await self._transport.site(address, digest)
            self._bundles[digest] = await asyncio.to_thread(_open_bundle, body, digest)
        except msgspec.MsgspecError as problem:
            self._unusable.add(digest)
            self.fault = f"site bundle {digest}: {problem}"
        except (NotThere, ExchangeError) as problem:
            self._tries[digest] += 1
            if self._tries[digest] >= SITE_TRIES_MAX:
                self._unusable.add(digest)
            self.fault = f"site bundle {digest}: {problem}"
        except LineFault as problem:
            self.fault = f"site bundle {digest}: {problem}"

    def fetched(self, digest: str) -> SiteBundle | None:
        """A bundle that `fetch` got, whoever wanted it; None when it could not."""
        return self._bundles.pop(digest, None)


def answers(directives: Directives) -> list[tuple[str, Outcome]]:
    """The request ids that these directives answer, and how."""
    found = []
    for body in directives.bodies:
        directive = _decoded(body)
        if isinstance(directive, GrantDirective) and directive.request_id:
            found.append((directive.request_id, Outcome.GRANTED))
        elif isinstance(directive, RefuseDirective):
            found.append((directive.request_id, Outcome.REFUSED))
    return found


def site_digest(body: bytes) -> str:
    """The digest that a site directive names; "" for every other directive."""
    directive = _decoded(body)
    return directive.digest if isinstance(directive, SiteDirective) else ""


def _decoded(body: bytes) -> Directive | None:
    """None for a directive of a newer hub: the pen journals it as refused."""
    try:
        return decode_directive(body)
    except msgspec.MsgspecError:
        return None


def _last_leaf_only(held: HeldDirectives) -> Callable[[int], bytes]:
    """The hub is told how far the box is and sends what follows; a package that starts elsewhere is
    refused."""

    def leaf_at(index: int) -> bytes:
        if index != held.frontier.size - 1:
            raise ExchangeError(f"directives from {index + 1}; {held.frontier.size} are held")
        return held.last_leaf

    return leaf_at


def _open_bundle(body: bytes, digest: str) -> SiteBundle:
    found = journal.sm3(body).hex()
    if found != digest:
        raise ExchangeError(f"the address gave a bundle with digest {found}")
    site = decode_site(body)
    if site.calendar is not msgspec.UNSET:
        try:
            load_zone(site.calendar.zone)
        except UnknownZone as problem:
            raise msgspec.ValidationError(f"{problem} - at `$.calendar.zone`") from None
    return SiteBundle(body, site)
