"""The line over real sockets: silence, cuts, other addresses, grants, forgeries, edited records."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from aiohttp import web

from edgegw.core import journal
from edgegw.core.messages import (
    MESSAGE_BYTES_MAX,
    PACKAGE_RECORDS_MAX,
    Package,
    PackageVerdict,
    Program,
    Verdict,
)
from edgegw.core.records import Mode
from edgegw.core.site import CurrencyRule, Site
from edgegw.uplink import line
from tests.core.authors import BANK, new_key
from tests.uplink.box import MemoryBox
from tests.uplink.hub import HubServer, MemoryHub
from tests.uplink.played import Start, synced
from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def test_first_contact_without_the_hubs_link_clears_nothing(start: Start, hub: MemoryHub) -> None:
    """A new box gets its epoch as a signed link, journals it first, and is active when the hub has it."""
    box = await start()
    await synced(box, hub)
    assert msgspec.json.decode(hub.reader.bodies[0])["type"] == "link"
    assert [mode for mode, _ in box.modes] == [Mode.SYNCING, Mode.ACTIVE]
    assert [message.epoch for message in hub.opens] == [0, 1]
    journal.check_cosignature(
        box.cosignatures[1], name="hub", key_id=hub.key.key_id, verify=hub.key.public.verify
    )


async def test_a_backlog_that_does_not_fit_into_one_message(start: Start, hub: MemoryHub) -> None:
    """Many records travel in packages of bounded size, each proved against the signed head, in order."""
    box = await start()
    await synced(box, hub)
    for number in range(3 * PACKAGE_RECORDS_MAX):
        box.write("operator", number=number)
    await synced(box, hub)
    sizes = [len(beat.push.records) for beat in hub.beats if beat.push]
    assert max(sizes) == PACKAGE_RECORDS_MAX
    assert set(hub.pushes) == {PackageVerdict.ACCEPTED}
    assert box.line.status.sent_bytes < box.line.status.sent_bytes_raw


async def test_a_line_too_slow_for_a_full_package_gets_smaller_ones(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """A package that does not get through in time is halved, so that the backlog shrinks over any line."""
    box = await start(answer_timeout_ms=300)
    await synced(box, hub)
    servers[0].carries_bytes_max = 40_000
    for number in range(20):
        box.write("operator", number=number, padding="x" * 10_000)
    await synced(box, hub)
    assert servers[0].unanswered > 0


async def test_a_line_that_carries_nothing_and_returns(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """A refused connection is OFFLINE with its reason; when the line returns everything is pushed once."""
    box = await start()
    await synced(box, hub)
    await servers[0].stop()
    await until(lambda: box.line.mode is Mode.OFFLINE, "the line to be found lost")
    assert not box.line.up
    assert "line_lost" in box.modes[-1][1]
    assert box.line.status.said[servers[0].address]
    assert box.line.status.hint
    box.write("operator")
    await servers[0].start()
    await synced(box, hub)
    assert [mode for mode, _ in box.modes[-2:]] == [Mode.SYNCING, Mode.ACTIVE]


async def test_a_peer_that_accepts_and_stays_silent_counts_as_down(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Silence ends after answer_timeout_ms: the line is lost, and payments that waited are told so."""
    hub.answer_ask = lambda _ask: "ignore"
    box = await start(answer_timeout_ms=500)
    await synced(box, hub)
    asking = asyncio.create_task(box.line.ask(account_id="a", currency="CNY", amount_minor=5))
    await until(lambda: any(beat.asks for beat in hub.beats), "the ask to arrive")
    servers[0].silent.set()
    assert await asking == "down"
    assert box.line.mode is Mode.OFFLINE
    assert await box.line.ask(account_id="a", currency="CNY", amount_minor=5) == "down"
    servers[0].silent.clear()
    await synced(box, hub)


async def test_a_port_that_never_reads_does_not_hang_the_line(start: Start, hub: MemoryHub) -> None:
    """A half-dead peer in front of everything costs one time limit, then the next address is used."""
    held = asyncio.Event()

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    second = await HubServer(hub).start()
    box = await start(
        f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", second.address, answer_timeout_ms=300
    )
    await synced(box, hub)
    await until(lambda: box.line.status.address == second.address, "the next address to be used")
    held.set()
    server.close()
    await second.stop()


async def garbage(_request: web.Request) -> web.Response:
    return web.Response(body=b"\x93garbage")


async def broken(_request: web.Request) -> web.Response:
    return web.Response(status=500, text="out of order")


async def elsewhere(_request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def endless(request: web.Request) -> web.StreamResponse:
    """More than any message, compressed to almost nothing."""
    body = gzip.compress(bytes(MESSAGE_BYTES_MAX + 1))
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("answer", [garbage, broken, elsewhere, endless])
async def test_what_answers_but_is_no_hub_is_passed_over(
    start: Start, hub: MemoryHub, servers: list[HubServer], answer: Handler
) -> None:
    """Whatever an address says that the hub's key has not signed is its fault; the next address is used."""
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    wrong = f"http://127.0.0.1:{runner.addresses[0][1]}"
    box = await start(wrong, servers[0].address, failback_ms=60_000)
    await synced(box, hub)
    assert box.line.status.said[wrong]
    await runner.cleanup()


async def test_an_impostor_with_a_key_of_its_own_is_no_hub(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Only the pinned key gives links, grants and cosignatures."""
    true_key, hub.key = hub.key, new_key("hub")
    box = MemoryBox(true_key)
    hub.box_key = box.identity.key.public
    await start(box=box)
    await until(lambda: "pinned key" in str(box.line.status.said), "the impostor to be found out")
    assert not box.epochs
    assert not box.line.up


async def test_fail_over_to_the_next_address_and_back(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """The worse address is used while the better one is silent, and no longer than that; never OFFLINE."""
    better, worse = servers
    box = await start(better.address, worse.address, answer_timeout_ms=1_000)
    await synced(box, hub)
    better.silent.set()
    await until(lambda: box.line.status.address == worse.address, "fail-over")
    box.write("operator")
    await synced(box, hub)
    better.silent.clear()
    await until(lambda: box.line.status.address == better.address, "fail-back")
    box.write("operator")
    await synced(box, hub)
    assert Mode.OFFLINE not in [mode for mode, _ in box.modes]


async def test_a_grant_comes_back_as_a_directive_and_is_applied_before_the_answer(
    start: Start, hub: MemoryHub
) -> None:
    """`granted` means that the allowance is there; its id names epoch and boot; the box cosigns."""
    box = await start()
    await synced(box, hub)
    assert await box.line.ask(account_id="a", currency="CNY", amount_minor=500) == "granted"
    assert box.granted == {"a": 500}
    assert next(iter(hub.answered)).startswith("1-boot1-")
    await until(lambda: bool(hub.cosigned_by_box), "the box to cosign the directives")
    key = box.identity.key.public
    signed = journal.check_cosignature(
        hub.cosigned_by_box[-1], name=key.name, key_id=key.key_id, verify=key.verify
    )
    assert signed.checkpoint.root == hub.directives.root()


async def test_many_asks_at_once_are_answered_each(start: Start, hub: MemoryHub) -> None:
    """More asks than one message carries are all answered, and each is granted once."""
    box = await start()
    await synced(box, hub)
    asks = [box.line.ask(account_id=f"a{n}", currency="CNY", amount_minor=1) for n in range(600)]
    assert set(await asyncio.gather(*asks)) == {"granted"}
    assert box.granted == {f"a{n}": 1 for n in range(600)}


async def test_a_refusal_by_the_centre_is_no_timeout(start: Start, hub: MemoryHub) -> None:
    """A refusal never counts as the line being down."""
    hub.answer_ask = lambda _ask: "refuse"
    box = await start()
    await synced(box, hub)
    assert await box.line.ask(account_id="a", currency="CNY", amount_minor=500) == "refused"
    assert box.granted == {}
    assert box.line.up


async def test_a_late_grant_is_handed_back(start: Start, hub: MemoryHub) -> None:
    """No answer within centre_timeout_ms is a timeout; the grant that comes later finds nobody."""
    hub.answer_ask = lambda _ask: "ignore"
    box = await start(centre_timeout_ms=50)
    await synced(box, hub)
    while not any(beat.asks for beat in hub.beats):  # one that timed out before it was sent is sent no more
        assert await box.line.ask(account_id="a", currency="CNY", amount_minor=500) == "timeout"
    hub.grant("a", 500, next(ask.request_id for beat in hub.beats for ask in beat.asks))
    await until(lambda: bool(box.applied), "the late grant to be applied")
    assert box.applied == [("grant", "returned")]
    assert box.granted == {}


async def test_tampered_directives_are_refused(start: Start, hub: MemoryHub) -> None:
    """A grant with another amount than the hub signed is never applied, and the status says why."""
    box = await start()
    await synced(box, hub)

    def richer(package: Package) -> Package:
        records = tuple(body.replace(b":500", b":900") for body in package.records)
        return msgspec.structs.replace(package, records=records)

    hub.tamper = richer
    hub.grant("a", 500)
    await until(lambda: "directives refused" in str(box.line.status.said), "the refusal")
    assert box.applied == []
    hub.tamper = lambda package: package
    await until(lambda: box.granted == {"a": 500}, "the true directive")


async def test_a_directive_of_a_newer_hub_does_not_block_the_next(start: Start, hub: MemoryHub) -> None:
    """What cannot be applied is journalled as refused, and the log moves on."""
    box = await start()
    await synced(box, hub)
    hub.directives.append_body(hub.directives.body("", type="levitate"))
    hub.grant("a", 500)
    await until(lambda: box.granted == {"a": 500}, "the grant behind it")
    assert box.applied == [("levitate", "refused"), ("grant", "applied")]


SITE = Site(bank=BANK, version=4, currencies=(CurrencyRule(code="CNY", numeric=156),))


async def test_a_ledger_that_is_busy_for_a_moment_loses_neither_mode_nor_grant(
    start: Start, hub: MemoryHub
) -> None:
    """What the pen could not write comes again with the next message; the line's task lives on."""
    box = await start()
    await synced(box, hub)
    box.busy = 2
    hub.grant("a", 500)
    await until(lambda: box.granted == {"a": 500}, "the grant to be applied")
    assert box.applied == [("grant", "applied")]
    box.busy = 2
    hub.verdict = Verdict.FENCED
    await until(lambda: box.mode is Mode.FENCED, "the mode to be journalled")
    assert not box.line.status.pen_fault


async def test_a_site_bundle_is_applied_only_with_the_digest_that_the_hub_signed(
    start: Start, hub: MemoryHub
) -> None:
    """The bundle is fetched and checked before its directive is applied; order is kept."""
    box = await start()
    await synced(box, hub)
    hub.grant("a", 1)
    hub.publish(4, msgspec.json.encode(SITE))
    hub.grant("a", 2)
    await until(lambda: len(box.applied) == 3, "all three")
    assert box.applied == [("grant", "applied"), ("site", "applied"), ("grant", "applied")]
    assert box.sites == [4]


@pytest.mark.parametrize(
    ("bundle", "digest"),
    [(b"{}", ""), (b"not json", ""), (msgspec.json.encode(SITE), "ab" * 32)],
    ids=["no site", "garbage", "another digest"],
)
async def test_a_bundle_that_cannot_be_used_is_refused_and_blocks_nothing(
    start: Start, hub: MemoryHub, bundle: bytes, digest: str
) -> None:
    """Grants before and behind it are applied; the directive itself is handed on as one to refuse."""
    box = await start()
    await synced(box, hub)
    hub.grant("a", 1)
    hub.publish(4, bundle, digest)
    hub.grant("a", 2)
    await until(lambda: len(box.applied) == 3, "all three")
    assert box.applied == [("grant", "applied"), ("site", "refused"), ("grant", "applied")]
    assert box.line.status.bundle_fault
    hub.publish(5, msgspec.json.encode(msgspec.structs.replace(SITE, version=5)))
    await until(lambda: box.sites == [5], "settings that can be used")
    assert not box.line.status.bundle_fault


async def test_the_program_is_said_once_in_a_session_and_when_it_changes(
    start: Start, hub: MemoryHub
) -> None:
    """The centre must know its fleet's versions, and a thin line must not carry them each half second."""
    box = await start()
    await synced(box, hub)
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats")
    assert [beat.program for beat in hub.beats if beat.program] == [Program(version="1.0.0")]
    box.program = Program(version="1.0.0", problem="1.1.0 has failed")
    await until(lambda: hub.beats[-1].program is not None, "the changed word")
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats")
    said = [beat.program for beat in hub.beats if beat.program]
    assert said == [Program(version="1.0.0"), box.program]


async def edited(box: MemoryBox, hub: MemoryHub) -> None:
    """Wait until the box has found what was edited, and check that the hub got nothing of it."""
    before = list(hub.reader.bodies)
    box.line.head_moved()
    await until(lambda: box.line.mode is Mode.FORKED, "the edited record to be found")
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats to go on")
    assert hub.reader.bodies == before
    assert hub.beats[-1].mode is Mode.FORKED
    assert not box.line.up
    assert box.line.status.hint


async def offline_with_records(box: MemoryBox, hub: MemoryHub, server: HubServer) -> int:
    """Cut the line and write five records; the size that the hub holds."""
    await synced(box, hub)
    await server.stop()
    await until(lambda: box.line.mode is Mode.OFFLINE, "the outage")
    for number in range(5):
        box.write("operator", amount=number)
    return len(hub.reader.bodies)


async def test_a_record_edited_by_hand_is_found_before_it_is_sent(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """The place of the record is in the reason, nothing is sent, and the box clears nothing more."""
    box = await start()
    held = await offline_with_records(box, hub, servers[0])
    place = held + 2
    box.log.bodies[place] = box.log.bodies[place].replace(b'"amount":1', b'"amount":9')
    await servers[0].start()
    await edited(box, hub)
    assert f"record 1/{place}" in box.modes[-1][1]


async def test_a_record_edited_with_its_leaf_is_found_before_it_is_sent(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Whoever recomputes the leaves too does not get them under the head that was signed."""
    box = await start()
    held = await offline_with_records(box, hub, servers[0])
    signed, root = box.log.checkpoint(), box.log.root()
    heads = box.heads()
    log = box.log
    log.bodies[held + 2] = log.bodies[held + 2].replace(b'"amount":1', b'"amount":9')
    log.leaves[held:] = journal.chain(log.leaves[held - 1], log.bodies[held:])
    box.heads = lambda: [heads[0]._replace(checkpoint=signed, root=root)]  # type: ignore[method-assign]
    await servers[0].start()
    await edited(box, hub)
    assert "signed head" in box.modes[-1][1]


async def test_an_edited_column_is_found_before_it_is_sent(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """A column beside the record that was changed is as bad as the record: lookups go by it."""
    box = await start()
    held = await offline_with_records(box, hub, servers[0])
    box.columns[1][held + 1] = "refusal"
    await servers[0].start()
    await edited(box, hub)
    assert f"record 1/{held + 1}" in box.modes[-1][1]


@pytest.mark.parametrize(("verdict", "mode"), [(Verdict.FENCED, Mode.FENCED), (Verdict.FORKED, Mode.FORKED)])
async def test_a_verdict_in_the_middle_of_a_session_stops_the_box(
    start: Start, hub: MemoryHub, verdict: Verdict, mode: Mode
) -> None:
    """The hub's word is obeyed at once and journalled with its reason; nothing but a new epoch leads out."""
    box = await start()
    await synced(box, hub)
    hub.verdict = verdict
    await until(lambda: box.line.mode is mode, "the verdict to be obeyed")
    assert box.mode is mode
    hub.verdict = Verdict.OK
    beats = len(hub.beats)
    await until(lambda: len(hub.beats) > beats + 2, "heartbeats to go on")
    assert box.line.mode is mode
    assert not box.line.up


async def test_a_fenced_box_still_delivers_what_it_wrote(start: Start, hub: MemoryHub) -> None:
    """Fencing ends authorship, not delivery."""
    box = await start()
    await synced(box, hub)
    hub.verdict = Verdict.FENCED
    await until(lambda: box.line.mode is Mode.FENCED, "the fence")
    await until(lambda: hub.reader.bodies == box.log.bodies, "its tail to be delivered")


async def test_a_hub_that_lost_what_it_cosigned_gets_it_back_and_grants_nothing_meanwhile(
    start: Start, hub: MemoryHub, servers: list[HubServer]
) -> None:
    """Found by its own cosignature; the box pushes its records again."""
    box = await start()
    await synced(box, hub)
    await servers[0].stop()
    await until(lambda: box.line.mode is Mode.OFFLINE, "the outage")
    hub.reader = hub.readers[1] = type(hub.reader)()
    await servers[0].start()
    await until(lambda: hub.reader.bodies[:2] == box.log.bodies[:2], "the records to come back")
    assert hub.opens[-1].cosignature


@pytest.mark.parametrize("ticks", range(5))
async def test_a_stop_that_meets_an_event_ends_the_task(ticks: int) -> None:
    """However the two fall together, a cancelled line ends; it once went on for ever."""
    event = asyncio.Event()

    async def pauses() -> None:
        while True:
            await line._wait(event, 60_000)
            event.clear()

    task = asyncio.create_task(pauses())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,), timeout=30)
    assert task.cancelled()


async def test_a_restarted_box_starts_offline_and_goes_on_in_its_epoch(start: Start, hub: MemoryHub) -> None:
    """After a kill the journal says ACTIVE; the line does not believe it before the hub answers."""
    box = await start()
    await synced(box, hub)
    count = len(box.modes)
    await start(box=box)
    await synced(box, hub)
    assert box.modes[count] == (Mode.OFFLINE, "started")
    assert max(box.epochs) == 1
