"""The demo's course, where it must not depend on how fast the machine is."""

import asyncio
import json
from pathlib import Path

from edgegw.demo.play import IN_FLIGHT_MIN, kill_in_flight
from edgegw.demo.processes import Process, until
from tests.processes import START_SECONDS, Branch

PATIENCE_SECONDS = 0.05


async def test_a_box_faster_than_its_clients_is_killed_with_requests_in_flight(tmp_path: Path) -> None:
    """On a busy machine the clients are the slow side; the demo must not end there for want of requests."""
    process = Process("hub", ["hub", Branch(tmp_path).path("hub.toml")], log=tmp_path / "hub.log")
    in_flight: dict[int, int] = {}

    async def listens() -> bool:
        return '"event":"open"' in (tmp_path / "hub.log").read_text().replace(": ", ":")

    async def ask(number: int, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n")
        in_flight[number] = number
        try:
            await reader.read(1)
        finally:
            in_flight.pop(number)
            writer.close()

    async def client(port: int) -> None:
        """Ask once more when the last answer is there, or when it does not come at once."""
        async with asyncio.TaskGroup() as asking:
            for number in range(2 * IN_FLIGHT_MIN):
                await asyncio.wait((asking.create_task(ask(number, port)),), timeout=PATIENCE_SECONDS)

    try:
        await until(listens, "the hub listens", process=process, seconds_max=START_SECONDS)
        lines = [json.loads(line) for line in (tmp_path / "hub.log").read_text().splitlines()]
        opened = next(line for line in lines if line["event"] == "open")
        slow = asyncio.create_task(client(int(opened["addresses"][0].rpartition(":")[2])))
        async with asyncio.timeout(START_SECONDS):
            killed = await kill_in_flight(process, in_flight)
        assert len(killed) >= IN_FLIGHT_MIN
        assert await process.ended() < 0
        slow.cancel()
        await asyncio.wait((slow,))
    finally:
        process.abandon()
