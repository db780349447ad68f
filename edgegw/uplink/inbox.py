"""What the hub directs: verified against its log so far, with the site bundles that it names, for the pen.

Directives are applied in order; one that names a bundle which is not here yet holds back itself and what
follows. So the hub says first what is coming, and names it once the bundle and its lists are here: they are
fetched beside the beats, or made from what the ledger has kept. A bundle that cannot be used is handed on
without: the pen journals that directive as refused, and the log moves on (DESIGN §3.10).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from edgegw.core import journal
from edgegw.core.exchange import Directives, HeldLog, PackageJudgement, SiteBundle, judge_package
from edgegw.core.lists import check_block
from edgegw.core.messages import Coming, ExchangeError, Package, PackageVerdict
from edgegw.core.records import (
    Directive,
    GrantDirective,
    RefuseDirective,
    SiteDirective,
    decode_directive,
)
from edgegw.core.site import Site, decode_site
from edgegw.core.site_file import NotOurs, check_site, restored
from edgegw.uplink.asks import Outcome
from edgegw.uplink.ports import HeldDirectives, Identity
from edgegw.uplink.transport import LineFault, NotThere, Transport
from edgegw.zones import UnknownZone, load_zone

FAULT_CHARS_MAX: Final = 300
SITE_TRIES_MAX: Final = 3
"""So often another bundle than the one named, or none, is taken for the line's fault; then it is the
hub's."""


Kept = Callable[[str], Awaitable[bytes | None]]
SiteFaults = Callable[[Site], Sequence[str]]


class Taken(NamedTuple):
    """What can be applied now, and the digest of the bundle that the next directive waits for ("" for
    none)."""

    directives: Directives | None
    missing: str


class Inbox:
    """The way in for directives."""

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        *,
        kept: Kept,
        faults: SiteFaults = lambda _: (),
    ) -> None:
        """kept: a bundle that the ledger has; faults: what keeps this program from working by a site."""
        self._identity = identity
        self._transport = transport
        self._kept = kept
        self._faults = faults
        self._named: dict[str, SiteDirective | Coming] = {}
        self._coming = ""
        self._bundles: dict[str, SiteBundle] = {}
        self._unusable: dict[str, str] = {}
        self._tries: Counter[str] = Counter()
        self.fault = ""
        """What was wrong with the last bundle, "" where nothing was."""

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
        sites, unusable, missing, count = {}, {}, "", 0
        for body in judged.records:
            directive = _decoded(body)
            if isinstance(directive, SiteDirective):
                digest = directive.digest
                if digest in self._bundles:
                    sites[digest] = self._bundles[digest]
                elif digest in self._unusable:
                    unusable[digest] = self._unusable[digest]
                else:
                    self._named[digest], missing = directive, digest
                    break
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
                unusable=unusable,
            ),
            missing,
        )

    def expect(self, coming: Coming) -> str:
        """The digest of what is coming where it is to be fetched ahead of its directive; "" where it is here,
        or never will be. What was expected before it is given up."""
        if coming.digest != self._coming:
            self._forget(self._coming)
            self._coming = coming.digest
        self._named[coming.digest] = coming
        return "" if self.ready else coming.digest

    @property
    def ready(self) -> str:
        """The digest of what is coming, once its directive would hold up nothing; "" before."""
        return self._coming if self._coming in self._bundles or self._coming in self._unusable else ""

    def applied(self, directives: Directives) -> None:
        """Forget the bundles that these needed."""
        for digest in map(site_digest, directives.bodies):
            self._forget(digest)

    def _forget(self, digest: str) -> None:
        self._named.pop(digest, None)
        self._bundles.pop(digest, None)
        self._unusable.pop(digest, None)
        self._tries.pop(digest, None)

    async def fetch(self, address: str, digest: str) -> None:
        """Get a bundle, from the ledger or the hub, and keep it until its directive is applied; a fault is
        kept in `fault`, and tries are counted."""
        directive = self._named.get(digest)
        self.fault = ""
        try:
            body = await self._kept_bundle(digest, directive) or await self._transport.site(address, digest)
            bundle = await asyncio.to_thread(self._open, body, digest, directive)
            self._bundles[digest] = bundle._replace(lists=await self._lists(address, bundle.site))
        except msgspec.MsgspecError as problem:
            self._give_up(digest, str(problem))
        except NotOurs as problem:
            self._give_up(digest, str(problem))
        except (NotThere, ExchangeError) as problem:
            self._tries[digest] += 1
            if self._tries[digest] >= SITE_TRIES_MAX:
                self._give_up(digest, str(problem))
            self.fault = f"site bundle {digest}: {problem}"
        except LineFault as problem:
            self.fault = f"site bundle {digest}: {problem}"

    def _give_up(self, digest: str, problem: str) -> None:
        self._unusable[digest] = problem[:FAULT_CHARS_MAX]
        self.fault = f"site bundle {digest}: {problem}"

    async def _kept_bundle(self, digest: str, directive: SiteDirective | Coming | None) -> bytes | None:
        """The bundle, if the ledger has it, or the older one whose content it has again."""
        body = await self._kept(digest)
        if body is not None or directive is None or not directive.restores:
            return body
        older = await self._kept(directive.restores)
        if older is None:
            return None
        try:
            made = await asyncio.to_thread(restored, older, version=directive.version)
        except msgspec.MsgspecError:  # an older program kept it
            return None
        return made if journal.sm3(made).hex() == digest else None

    async def _lists(self, address: str, site: Site) -> dict[str, bytes]:
        """The lists that these settings name, from the ledger or the hub; without one of them the settings
        are not to be had."""
        lists: dict[str, bytes] = {}
        for rule in site.lists or ():
            block = await self._kept(rule.digest)
            if block is None:
                block = await self._transport.site(address, rule.digest)
                await asyncio.to_thread(check_block, block, digest=rule.digest, entries=rule.entries)
            lists[rule.digest] = block
        return lists

    def _open(self, body: bytes, digest: str, directive: SiteDirective | Coming | None) -> SiteBundle:
        found = journal.sm3(body).hex()
        if found != digest:
            raise ExchangeError(f"the address gave a bundle with digest {found}")
        note = "" if directive is None else directive.note
        if note:
            check_site(note, body, self._identity.hub_key)
        site = decode_site(body)
        if site.calendar is not msgspec.UNSET:
            try:
                load_zone(site.calendar.zone)
            except UnknownZone as problem:
                raise msgspec.ValidationError(f"{problem} - at `$.calendar.zone`") from None
        faults = self._faults(site)
        if faults:
            raise msgspec.ValidationError("; ".join(faults))
        return SiteBundle(body, site, note)

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
