"""The line over TLS: the real ledger and the real hub, and boxes that show a certificate not their own."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgegw.access.tls import TransportContext, client_context, server_context
from edgegw.core.records import Mode
from tests.core.authors import new_key
from tests.encrypted import authority, connecting, kind_of, serving
from tests.hub.simulated_box import BANK
from tests.hub.world import NORTH, SOUTH, World
from tests.uplink.real_box import Port, RealBox, synced
from tests.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


def _hub(profile: str, folder: Path) -> TransportContext:
    ours = authority(folder, kind_of(profile))
    return server_context(serving(profile, ours.server("hub"), ours.ca))


def _box(profile: str, folder: Path, *, box: str = NORTH, bank: str = BANK) -> TransportContext:
    ours = authority(folder, kind_of(profile))
    files = ours.box(box, bank=bank, name=f"{bank}-{box}")
    return client_context(connecting(profile, files, ours.ca))


@pytest.mark.parametrize(
    "profile", ["gm-pq", *(pytest.param(one, marks=pytest.mark.slow) for one in ("intl", "pq", "gm"))]
)
async def test_money_over_an_encrypted_line_is_there_once(
    profile: str, tmp_path: Path, folder: Path, world: World, boxes: list[RealBox]
) -> None:
    """Link, site, grant, payments, a line that is cut again and again, a restart: each payment counts once,
    and an answer that was lost is the same when it is asked for again."""
    port = Port(world, tls=_hub(profile, folder))
    await port.open()
    key, tls = new_key("checkpoint"), _box(profile, folder)
    box = RealBox(tmp_path, world, port, key=key, boot="one", tls=tls)
    boxes.append(box)
    await synced(box, world)
    assert await box.line.ask(account_id="A", currency="CNY", amount_minor=400) == "granted"
    for number in range(1, 3):
        (first,) = await box.pay(number, 10 * number)
        await port.close()
        await until(lambda: box.pen.mode is Mode.OFFLINE, "the outage")
        (again,) = await box.pay(number, 10 * number)
        assert again.body == first.body
        await box.pay(10 + number, 5)
        await port.open()
        await synced(box, world)
    await boxes.pop().stop()
    restarted = RealBox(tmp_path, world, port, key=key, boot="two", tls=tls)
    boxes.append(restarted)
    await synced(restarted, world)
    assert world.money("SHOP") == (40, 0, 40)
    assert world.money("A") == (960, 600, 360)
    await port.close()


@pytest.mark.parametrize(("box", "bank"), [(SOUTH, BANK), (NORTH, "otherbank")])
async def test_a_box_with_the_certificate_of_another_is_refused(
    box: str, bank: str, tmp_path: Path, folder: Path, world: World, boxes: list[RealBox]
) -> None:
    """A copied device key is worth nothing with another certificate: nothing is opened, and why is said."""
    port = Port(world, tls=_hub("gm-pq", folder))
    await port.open()
    with capture_logs() as logs:
        stranger = RealBox(
            tmp_path,
            world,
            port,
            key=new_key("checkpoint"),
            boot="one",
            tls=_box("gm-pq", folder, box=box, bank=bank),
        )
        boxes.append(stranger)
        await until(lambda: "other_certificate" in str(stranger.line.status.said), "the refusal")
    assert any(
        line["event"] == "message_refused"
        and f"of edgegw://{BANK}/{NORTH}, and the connection's certificate names edgegw://{bank}/{box}"
        in line["problem"]
        for line in logs
    )
    assert world.rows("SELECT * FROM session") == []
    await port.close()


async def test_a_line_whose_hub_cannot_be_trusted_stays_down_and_says_why(
    tmp_path: Path, folder: Path, world: World, boxes: list[RealBox]
) -> None:
    """Somebody else's server at the hub's address, or a plain one, gets not one message of the box."""
    strange = authority(folder, "sm2", "strangers")
    port = Port(world, tls=server_context(serving("gm-pq", strange.server("hub"), strange.ca)))
    await port.open()
    box = RealBox(tmp_path, world, port, key=new_key("checkpoint"), boot="one", tls=_box("gm-pq", folder))
    boxes.append(box)
    await until(lambda: "certificate verify failed" in str(box.line.status.said), "the refusal")
    await port.close()
    taken: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(5))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", port.number)
    await until(lambda: "wrong version number" in str(box.line.status.said).lower(), "the refusal")
    assert {first[:1] for first in taken} == {b"\x16"}
    listening.close()
    assert box.line.mode is Mode.OFFLINE
