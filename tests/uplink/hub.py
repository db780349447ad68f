"""A hub for the line's tests: an ordinary implementation of the exchange, in memory, on real sockets.

It can be told to misbehave: to stay silent, to refuse, to tamper.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from edgegw.access.keys import VerifyingKey
from edgegw.core import journal
from edgegw.core.exchange import HeldEpoch, HubView, Session, judge_message, judge_open, judge_push, same_link
from edgegw.core.messages import (
    EXCHANGE_PATH,
    MESSAGE_BYTES_MAX,
    SITE_PATH,
    VERSION,
    Ask,
    Beat,
    Beaten,
    Direction,
    LinkNote,
    LogHead,
    Message,
    Open,
    Opened,
    Package,
    PackageVerdict,
    Verdict,
    open_envelope,
    read_envelope,
    seal_envelope,
    sign_link,
)
from edgegw.core.records import GrantDirective, RefuseDirective, SiteDirective, encode
from tests.core.authors import BANK, BOX, Author, Reader, new_key
from tests.core.policies import one_key


class MemoryHub:
    """What any number of `HubServer`s serve: one hub's database."""

    def __init__(self) -> None:
        self.key = new_key("hub")
        self.box_key: VerifyingKey | None = None
        self.epoch = 0
        self.epoch_key = ""
        self.reader = Reader()
        self.session = Session()
        self.directives = Author(self.key, field="incarnation")
        self.bundles: dict[str, bytes] = {}
        self.answer_ask: Callable[[Ask], str] = lambda _ask: "grant"
        self.answered: set[str] = set()
        self.cosigned_by_box: list[str] = []
        self.opens: list[Open] = []
        self.beats: list[Beat] = []
        self.pushes: list[PackageVerdict] = []
        self.released = False
        self.superseded = False
        self.readers: dict[int, Reader] = {}
        """Of every epoch that was issued; `reader` is the newest one's."""
        self.keys: dict[int, str] = {}
        self.links: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        """The box's newest signed head of each epoch."""
        self.closed: set[int] = set()
        """Epochs that are not pushed any more."""
        self.pulled = 0
        self.pull_records = 3
        """A package that goes back carries so many."""
        self.handed_back: list[Package] = []
        self.verdict = Verdict.OK
        self.tamper: Callable[[Package], Package] = lambda package: package

    def view(self) -> HubView:
        return HubView(
            epoch=self.epoch,
            key=self.epoch_key,
            journal=self.reader.held().head,
            journal_root_at=partial(_root, self.reader),
            directives=self.directives.head(),
            directives_root_at=self.directives.root,
            superseded=self.superseded,
            release=self.released,
            others=tuple(
                HeldEpoch(reader.held().head, partial(_root, reader))
                for epoch, reader in sorted(self.readers.items())
                if epoch != self.epoch
            ),
        )

    def opened(self, message: Open) -> Opened:
        self.opens.append(message)
        verdict, reason = judge_open(message, self.view(), hub_key=self.key.public)
        if verdict is Verdict.LINK:
            return Opened(version=VERSION, verdict=verdict, reason=reason, link=self._link(message))
        token = len(self.opens).to_bytes(16, "big")
        self.session = msgspec.structs.replace(self.session, candidate=token)
        return Opened(
            version=VERSION,
            verdict=verdict,
            reason=reason,
            session=token,
            journals=self._heads(closed=False),
            closed=self._heads(closed=True),
            directives=self.directives.head(),
        )

    def _heads(self, *, closed: bool) -> tuple[LogHead, ...]:
        return tuple(
            self.readers[epoch].held().head
            for epoch in sorted(self.readers)
            if (epoch in self.closed) is closed
        )

    def _link(self, message: Open) -> str:
        old = self.reader.held().head
        if same_link(message, self.view()):
            return self.links[self.epoch]
        self.epoch += 1
        self.epoch_key, self.released = message.key, False
        self.reader = self.readers[self.epoch] = Reader(self.epoch)
        self.keys[self.epoch] = message.key
        link = LinkNote(
            bank=BANK,
            box=BOX,
            epoch=self.epoch,
            key=self.epoch_key,
            old_epoch=self.epoch - 1,
            old_size=old.size,
            old_root=old.root.hex(),
        )
        self.links[self.epoch] = sign_link(link, self.key)
        return self.links[self.epoch]

    def beaten(self, beat: Beat, session: bytes, counter: int) -> Beaten:
        moved = judge_message(self.session, session=session, counter=counter)
        if moved is None:
            return Beaten(verdict=Verdict.REOPEN)
        self.session = moved
        self.beats.append(beat)
        if beat.directives_cosignature:
            self.cosigned_by_box.append(beat.directives_cosignature)
        pushed = self._take_push(beat.push) if beat.push else {}
        for ask in beat.asks:
            self._answer(ask)
        if beat.handed_back is not None:
            pushed["incarnation"] = self._take_back(beat.handed_back)
        return Beaten(
            verdict=self.verdict,
            directives=self._give(beat.directives),
            pulled=self._give_back(beat.pull) if beat.pull else None,
            **pushed,
        )

    def _give_back(self, held: LogHead) -> Package | None:
        """The box's own journal after what it has, where that is a beginning of it."""
        reader = self.readers[held.number]
        end = min(held.size + self.pull_records, len(reader.bodies))
        mine = reader.frontier.root() if held.size == len(reader.bodies) else _root(reader, held.size)
        if held.size >= len(reader.bodies) or (held.size and mine != held.root):
            return None
        self.pulled += 1
        node = journal.nodes_of(reader.leaves)
        return Package(
            number=held.number,
            old_size=held.size,
            records=tuple(reader.bodies[held.size : end]),
            root=_root(reader, end),
            checkpoint=self.notes[held.number],
            proof=tuple(journal.consistency_proof(end, len(reader.leaves), node)),
        )

    def _take_back(self, package: Package) -> LogHead:
        self.handed_back.append(package)
        log = self.directives
        if package.number == log.number and package.old_size == len(log.bodies):
            for body in package.records:
                log.append_body(body)
        return log.head()

    def _take_push(self, package: Package) -> dict[str, Any]:
        key, reader = VerifyingKey.parse(self.keys[package.number]), self.readers[package.number]
        keys = one_key(key, bank=BANK, box=BOX, epoch=package.number)
        judged = judge_push(package, reader.held(), bank=BANK, box=BOX, keys=keys)
        self.pushes.append(judged.verdict)
        cosignature = ""
        if judged.verdict is PackageVerdict.ACCEPTED:
            reader.keep(judged)
            self.notes[package.number] = package.checkpoint
            origin = journal.journal_origin(bank=BANK, box=BOX, epoch=package.number)
            checkpoint = journal.Checkpoint(origin, judged.head.size, judged.head.root)
            cosignature = self.key.cosign(checkpoint, time_s=1)
        return {
            "push": judged.verdict,
            "push_reason": judged.reason,
            "journal": judged.head,
            "cosignature": cosignature,
        }

    def _answer(self, ask: Ask) -> None:
        answer = self.answer_ask(ask)
        if ask.request_id in self.answered or answer == "ignore":
            return
        self.answered.add(ask.request_id)
        if answer == "grant":
            self.grant(ask.account_id, ask.amount_minor, ask.request_id)
        else:
            head = self._head()
            self.directives.append_body(
                encode(
                    RefuseDirective(
                        request_id=ask.request_id,
                        account_id=ask.account_id,
                        currency=ask.currency,
                        reason="no money",
                        **head,
                    )
                )
            )

    def grant(self, account_id: str, amount_minor: int, request_id: str = "") -> None:
        directive = GrantDirective(
            account_id=account_id,
            currency="CNY",
            amount_minor=amount_minor,
            request_id=request_id,
            **self._head(),
        )
        self.directives.append_body(encode(directive))

    def publish(self, version: int, bundle: bytes, digest: str = "") -> None:
        digest = digest or journal.sm3(bundle).hex()
        self.bundles[digest] = bundle
        directive = SiteDirective(version=version, digest=digest, bytes=len(bundle), **self._head())
        self.directives.append_body(encode(directive))

    def _head(self) -> dict[str, Any]:
        number = self.directives.number
        seq = len(self.directives.bodies)
        return {"v": 1, "bank": BANK, "box": BOX, "incarnation": number, "seq": seq, "wall_ns": 1}

    def _give(self, held: LogHead) -> Package | None:
        """Nothing before the epoch's link is held."""
        start = held.size if held.number == self.directives.number else 0
        stop = len(self.directives.bodies)
        if start == stop or not self.reader.bodies:
            return None
        return self.tamper(self.directives.package(start, stop))


def _root(reader: Reader, size: int) -> bytes:
    frontier = journal.Frontier()
    frontier.extend(reader.leaves[:size])
    return frontier.root()


class HubServer:
    """One address of the hub.

    `silent` accepts and never answers, as with a message over `carries_bytes_max`; `stop` refuses to connect.
    """

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.silent = asyncio.Event()
        self.port = 0
        self.carries_bytes_max = MESSAGE_BYTES_MAX
        self.unanswered = 0
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> "HubServer":
        app = web.Application(client_max_size=MESSAGE_BYTES_MAX)
        app.router.add_post(EXCHANGE_PATH, self._exchange)
        app.router.add_get(SITE_PATH + "{digest}", self._site)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _exchange(self, request: web.Request) -> web.Response:
        data = await request.read()
        envelope = read_envelope(data)
        if self.silent.is_set() or len(data) > self.carries_bytes_max:
            self.unanswered += 1
            await asyncio.Event().wait()
        assert self.hub.box_key is not None
        message = open_envelope(self.hub.box_key.verify, envelope, direction=Direction.TO_HUB)
        answer: Message
        if isinstance(message, Open):
            answer = self.hub.opened(message)
        else:
            assert isinstance(message, Beat)
            answer = self.hub.beaten(message, envelope.session, envelope.counter)
        sealed = seal_envelope(
            self.hub.key.sign,
            answer,
            direction=Direction.TO_BOX,
            bank=BANK,
            box=BOX,
            session=envelope.session,
            counter=envelope.counter,
        )
        return web.Response(body=sealed)

    async def _site(self, request: web.Request) -> web.Response:
        bundle = self.hub.bundles.get(request.match_info["digest"])
        return web.Response(body=bundle) if bundle is not None else web.Response(status=404)
