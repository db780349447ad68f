"""The enrolment's own listener: what goes over it, and what a stranger can cost."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from edgegw.access.certificate_keys import make_certificate_key
from edgegw.access.key_files import write_new_file
from edgegw.access.tls import client_context, server_context
from edgegw.authorities import list_file
from edgegw.commands.enrolling import keep_lists
from edgegw.config.hub import load_hub
from edgegw.core.enrolment import (
    CRL_PATH,
    ENROL_PATH,
    HUB,
    KINDS,
    LEAVE_PATH,
    RENEW_PATH,
    REQUEST_BYTES_MAX,
    Enrolled,
    Kind,
    Refusal,
    Signed,
    encode_signed,
    read_reply,
    signed_text,
)
from edgegw.core.messages import EXCHANGE_PATH
from edgegw.hub.certificates import pem_of
from edgegw.hub.enrolment_app import EACH_BURST, Enrolment, Turns
from edgegw.hub.enrolments import Desk, No, Scene
from edgegw.hub.identities import device_key, identities
from edgegw.hub.revocations import revoke_device
from edgegw.tls_tables import ClientTls, ServerTls
from tests.encrypted import echo_server
from tests.hub.applicant import LIFE_S, NS, Applicant, Office
from tests.hub.places import PostgresPlace, SqlitePlace
from tests.hub.simulated_box import BANK
from tests.hub.test_cluster import at_once
from tests.hub.world import World, a_site
from tests.waiting import until

EAST = "east"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A desk with both CAs, and SM2 in full."""
    world = World(SqlitePlace(tmp_path / "hub.db"))
    world.publish(a_site())
    yield Office(world, kinds=KINDS)
    world.hub.close()


class Line:
    """What speaks HTTP to the office."""

    def __init__(self, office: Office, client: TestClient) -> None:
        self.office = office
        self.client = client

    async def ask(self, path: str, data: bytes) -> tuple[int, bytes]:
        async with self.client.post(path, data=data) as response:
            return response.status, await response.read()

    async def refused(self, path: str, data: bytes) -> str:
        status, body = await self.ask(path, data)
        assert status >= 400
        return str(json.loads(body)["code"])

    async def reply(self, path: str, data: bytes) -> Enrolled:
        status, body = await self.ask(path, data)
        assert status == 200, body
        signed, reply = read_reply(body)
        assert self.office.world.hub_key.public.verify(signed_text(HUB, signed.body), signed.signatures[HUB])
        assert isinstance(reply, Enrolled)
        return reply


async def line_to(office: Office, turns: Turns | None = None) -> Line:
    app = Enrolment(office.world.hub, office.desk, turns=turns).app()
    client = TestClient(TestServer(app))
    await client.start_server()
    return Line(office, client)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_enrolled_shakes_hands(office: Office, kind: Kind, tmp_path: Path) -> None:
    """From a claim over HTTP to TLS in which each side takes the other's certificate, in each profile's
    kind."""
    line = await line_to(office)
    east = Applicant(EAST, kinds=[kind])
    ticket = office.claim(EAST, hosts=("localhost", "127.0.0.1"))
    reply = east.take(await line.reply(ENROL_PATH, east.enrolment(ticket)))
    await line.client.close()
    certificate, key, ca = (tmp_path / name for name in ("east.crt", "east.key", "ca.crt"))
    write_new_file(certificate, pem_of(reply.certificates[0].chain[0]), mode=0o644)
    write_new_file(key, east.keys[kind].to_pem(), mode=0o600)
    write_new_file(ca, pem_of(office.authorities[kind].der), mode=0o644)
    files = {"certificate_file": str(certificate), "key_file": str(key)}
    profile = "gm" if kind == "sm2" else "intl"
    server = server_context(ServerTls(profile=profile, client_ca_file=str(ca), **files))
    client = client_context(ClientTls(profile=profile, ca_file=str(ca), **files))
    async with echo_server(server) as echo:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", echo.port, ssl=client, server_hostname="localhost"
        )
        writer.close()


async def test_both_kinds_are_enrolled_and_renewed_at_once(office: Office) -> None:
    """A box with a line of each kind carries one claim."""
    line = await line_to(office)
    east = Applicant(EAST, kinds=KINDS)
    reply = east.take(await line.reply(ENROL_PATH, east.enrolment(office.claim(EAST))))
    assert {one.kind for one in reply.certificates} == set(KINDS)
    assert len(reply.authorities) == len(reply.crls) == 2
    office.pass_time(LIFE_S)
    fresh = {kind: make_certificate_key(kind) for kind in KINDS}
    again = east.take(await line.reply(RENEW_PATH, east.renewal(fresh)), fresh)
    assert set(again.certificates).isdisjoint(reply.certificates)
    async with line.client.get("/v1/crl/sm2") as response:
        assert x509.load_der_x509_crl(await response.read()).is_signature_valid is not None
    status, _ = await line.ask(LEAVE_PATH, east.leaving())
    assert status == 200
    assert await line.refused(RENEW_PATH, east.renewal()) == Refusal.REVOKED
    await line.client.close()


async def test_a_revocation_reaches_the_file_that_listeners_read(office: Office, tmp_path: Path) -> None:
    """An operator's command at another machine writes to the database alone; the hub that serves does the
    rest."""
    (tmp_path / "hub.toml").write_text(f'bank = "{BANK}"\n[enrolment]\n')
    settings = load_hub(tmp_path / "hub.toml")
    (tmp_path / "secrets").mkdir()
    keeping = asyncio.create_task(keep_lists(office.world.hub, settings, office.desk, look_s=0.01))
    east = office.enrolled(EAST)
    serials = [x509.load_der_x509_certificate(der).serial_number for der in east.certificates.values()]

    def listed() -> set[int]:
        files = [list_file(settings, kind) for kind in KINDS]
        lists = [x509.load_pem_x509_crl(file.read_bytes()) for file in files if file.exists()]
        return {entry.serial_number for one in lists for entry in one}

    await until(lambda: all(list_file(settings, kind).exists() for kind in KINDS), "the first lists")
    assert listed() == set()
    office.run(lambda c: revoke_device(c, EAST, reason="", by="", now_ns=office.world.now_ns()))
    await until(lambda: listed() == set(serials), "the revocation in both lists")
    keeping.cancel()


async def test_the_listener_serves_nothing_of_the_exchange(office: Office) -> None:
    """Who has no certificate reaches no book, no status and no exchange."""
    line = await line_to(office)
    for path in (EXCHANGE_PATH, "/metrics", "/v1/status", "/healthz"):
        async with line.client.get(path) as response:
            assert response.status == 404
    async with line.client.post(EXCHANGE_PATH, data=b"x") as response:
        assert response.status == 404
    await line.client.close()


async def test_a_request_at_another_requests_path_is_refused(office: Office) -> None:
    """What is counted and limited as a renewal cannot be an enrolment."""
    line = await line_to(office)
    east = Applicant(EAST)
    assert await line.refused(RENEW_PATH, east.enrolment(office.claim(EAST))) == Refusal.MALFORMED
    assert await line.refused(ENROL_PATH, b"\xff" * 100) == Refusal.MALFORMED
    assert await line.refused(ENROL_PATH, encode_signed(Signed(body=b"", signatures={}))) == Refusal.MALFORMED
    _, told = await line.ask(ENROL_PATH, b"\xff" * 100)
    assert "edgegw --version" in json.loads(told)["hint"], "the hub's log of identities has nothing of it"
    status, _ = await line.ask(ENROL_PATH, bytes(REQUEST_BYTES_MAX + 1))
    assert status == 413
    await line.client.close()


async def test_an_address_that_asks_too_often_waits_and_is_told_of(office: Office) -> None:
    """A flood costs the hub a few requests, the log a few lines, and the table a few rows."""
    now_s = 0.0
    line = await line_to(office, Turns(lambda: now_s))
    ticket, thief = office.claim(EAST)._replace(id="ab" * 16), Applicant(EAST)
    codes = [await line.refused(ENROL_PATH, thief.enrolment(ticket)) for _ in range(EACH_BURST + 20)]
    assert codes == [Refusal.CLAIM_UNKNOWN] * EACH_BURST + [Refusal.TOO_MANY] * 20
    assert sorted(one.event for one in office.alarms()) in (["claim_unknown"], ["claim_unknown", "too_many"])
    now_s = 60.0
    assert await line.refused(ENROL_PATH, thief.enrolment(ticket)) == Refusal.CLAIM_UNKNOWN
    await line.client.close()


async def test_a_flood_buries_no_other_alarm(office: Office) -> None:
    """Who has stolen a claim asks for anything a thousand times, and the one line is out of sight."""
    line = await line_to(office, Turns(lambda: 0.0))
    for _ in range(EACH_BURST + 20):
        await line.client.get(f"{CRL_PATH}p256")
    assert [one.event for one in office.alarms()] == ["too_many"]
    await line.client.close()


def test_the_turns_of_one_address_cost_no_other_and_their_memory_is_bounded() -> None:
    """One flood does not close the door for a fleet, nor do addresses that never come again fill it."""
    now_s = 0.0
    turns = Turns(lambda: now_s)
    assert sum(turns.take("192.0.2.1") for _ in range(100)) == EACH_BURST
    assert turns.take("192.0.2.2")
    assert sum(turns.take(f"2001:db8::{number:x}") for number in range(100)) == EACH_BURST
    for number in range(6_000):
        now_s += 1
        turns.take(f"10.0.{number // 256}.{number % 256}")
    assert len(turns._each) <= 4_096


def test_one_claim_at_two_hubs_at_once_binds_one_device(postgres: PostgresPlace) -> None:
    """Two machines with a copy of the stick, at two hub processes in the same moment."""
    world = World(postgres)
    office = Office(world)
    ends = [postgres.open(), postgres.open()]
    desk = Desk(bank=office.desk._bank, authorities=office.authorities, life_s=LIFE_S)
    try:
        for number in range(2):
            box = f"box-{number}"
            ticket = office.claim(box)
            applicants = [Applicant(box), Applicant(box)]
            requests = [one.enrolment(ticket) for one in applicants]

            def ask(end: int, data: bytes) -> object:
                from edgegw.core.enrolment import read_request

                signed, request = read_request(data)
                now_ns = world.now_ns()
                return ends[end].transact(
                    lambda c: desk.answer(Scene(c, signed, "192.0.2.7", now_ns, lambda: True), request)
                )

            answers = at_once(partial(ask, 0, requests[0]), partial(ask, 1, requests[1]))
            won = [isinstance(one, Enrolled) for one in answers]
            assert sorted(won) == [False, True], answers
            [refused] = [one for one in answers if isinstance(one, No)]
            assert refused.code is Refusal.CLAIM_USED
            winner = applicants[won.index(True)]
            assert office.run(partial(device_key, box=box)) == winner.device.public
            assert len([one for one in office.run(identities) if one.box == box]) == 1
    finally:
        for end in ends:
            end.close()
        world.hub.close()


def test_the_hubs_clock_alone_says_when_a_claim_ends(office: Office) -> None:
    """A box whose clock is wrong by years enrols, and how wrong it is stands in the log."""
    east = Applicant(EAST)
    now_s = office.world.now_ns() // NS
    years_s = 5 * 365 * 86_400
    reply = office.ask(east.enrolment(office.claim(EAST), clock_s=now_s - years_s))
    assert isinstance(reply, Enrolled)
    assert abs(reply.hub_time_s - now_s) < 60
    from edgegw.hub.identity_log import events

    [enrolled] = [one for one in office.run(events) if one.event == "enrolled"]
    assert f"-{years_s}"[:5] in enrolled.detail
