"""A running box keeps its certificate: in time, after any outage, and never for two devices."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from edgegw.access.hub_time import HubTime
from edgegw.access.keys import VerifyingKey
from edgegw.access.tls import client_context, server_context
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.enrolment import HUB_TIME_NAME, Holder, certificate_files, crl_file, enrolled_table
from edgegw.key_places import keystore_of
from edgegw.renewal import ENDED_PAUSE_S_MAX, PAUSE_S_MAX, Renewal
from tests.access.test_tls_clock import WrongClock
from tests.centre import Centre, centre_of
from tests.encrypted import echo_server, posted
from tests.processes import edgegw

DAY_S = 86_400


@pytest.fixture(params=["intl"])
async def centre(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Centre]:
    async with centre_of(tmp_path, request.param) as centre:
        yield centre


class Enrolled:
    """A box's folder after its enrolment, with clocks that the test moves."""

    def __init__(self, folder: Path, centre: Centre) -> None:
        self.centre = centre
        settings = load_box(folder / "box.toml", protocol_shapes()).settings
        self.settings = settings
        self.clock = WrongClock(centre.now_ns() / 1e9)
        self.tls = enrolled_table(settings)
        time = HubTime(Path(self.tls.certificate_file).with_name(HUB_TIME_NAME), self.clock)
        hub = VerifyingKey.parse(settings.hub.key)
        self.holder = Holder(settings, keystore_of(settings), hub, time)
        self.renewal = Renewal(self.holder, chance=lambda: 0.5)

    @classmethod
    async def at(cls, centre: Centre, folder: Path) -> Enrolled:
        """Enrol a box in this folder."""
        words = ("enroll", "--config", str(folder / "box.toml"), "--claim", str(centre.claim()))
        done = await asyncio.to_thread(edgegw, *words)
        assert done.exit_code == 0, done.output
        return cls(folder, centre)

    def pass_days(self, days: float) -> None:
        """Time passes for the box and for the centre."""
        self.clock.wall_s += days * DAY_S
        self.clock.mono_s += days * DAY_S
        self.centre.ahead_s += days * DAY_S

    @property
    def serial(self) -> int:
        """Of the certificate in force."""
        files = certificate_files(self.settings)
        assert files.key().public in files.held()
        return x509.load_der_x509_certificate(files.held()).serial_number


@pytest.mark.parametrize("centre", ["intl", pytest.param("gm", marks=pytest.mark.slow)], indirect=True)
async def test_a_certificate_is_renewed_at_two_thirds_and_taken_up_without_a_restart(
    tmp_path: Path, centre: Centre
) -> None:
    """A box that has to be restarted for it is a box that somebody forgets."""
    centre.ahead_s -= 64 * DAY_S
    box = await Enrolled.at(centre, tmp_path / "box")
    line = client_context(box.tls, now_s=box.holder.time.now_s)
    first = box.serial
    async with echo_server(server_context(centre.server(clients=True))) as server:
        url = f"https://127.0.0.1:{server.port}/"
        box.pass_days(59)
        assert (await posted(url, line))[2] == "edgegw://b1/box-1"
        assert 0 < await box.renewal.once() <= PAUSE_S_MAX
        assert (box.serial, box.renewal.status.state) == (first, "well")
        box.pass_days(5)
        assert box.renewal.status.state == "due"
        await box.renewal.once()
        assert box.serial != first
        assert 89 < box.renewal.status.days_left < 91
        held = certificate_files(box.settings).held()
        assert (await posted(url, line))[2] == "edgegw://b1/box-1"
        assert server.shown[-1] == held


async def test_a_box_that_was_away_for_longer_than_its_certificate_lived_renews_first(
    tmp_path: Path, centre: Centre
) -> None:
    """After a long outage there is no other way back to the line, and nobody travels for it."""
    box = await Enrolled.at(centre, tmp_path / "box")
    await centre.close()
    box.pass_days(200)
    with capture_logs() as logs:
        pauses = [await box.renewal.once() for _ in range(12)]
    assert box.renewal.status.state == "ended"
    assert {line["event"] for line in logs} == {"renewal_failed"}
    assert max(pauses) <= ENDED_PAUSE_S_MAX
    first = box.serial
    await centre.open()
    await box.renewal.once()
    assert box.serial != first
    assert box.renewal.status.state == "well"


async def test_while_the_hub_is_away_the_box_asks_for_ever_and_ever_later(
    tmp_path: Path, centre: Centre
) -> None:
    """A fleet that asks every second keeps a hub down that comes back."""
    box = await Enrolled.at(centre, tmp_path / "box")
    await centre.close()
    box.pass_days(70)
    pauses = [await box.renewal.once() for _ in range(10)]
    assert pauses == sorted(pauses)
    assert PAUSE_S_MAX / 2 <= pauses[-1] <= PAUSE_S_MAX
    assert "does not answer" in box.renewal.status.problem


async def test_a_lost_answer_to_a_renewal_is_asked_for_again(tmp_path: Path, centre: Centre) -> None:
    """Otherwise the hub takes the box for its own clone."""
    box = await Enrolled.at(centre, tmp_path / "box")
    await box.renewal.once()
    box.pass_days(70)
    first = box.serial
    centre.lose_replies = 1
    await box.renewal.once()
    assert box.serial == first
    again = Enrolled(tmp_path / "box", centre)
    again.clock.wall_s += 70 * DAY_S
    await again.renewal.once()
    assert again.serial != first
    assert [one.event for one in centre.log()][-2:] == ["renewed", "renewed_again"]


async def test_of_two_devices_with_one_identity_one_is_told_at_its_renewal(
    tmp_path: Path, centre: Centre
) -> None:
    """A copied disk must not live on with certificates of its own."""
    box = await Enrolled.at(centre, tmp_path / "box")
    shutil.copytree(tmp_path / "box", tmp_path / "copy")
    copy = Enrolled(tmp_path / "copy", centre)
    box.pass_days(70)
    copy.clock.wall_s += 70 * DAY_S
    await box.renewal.once()
    with capture_logs() as logs:
        await copy.renewal.once()
        await copy.renewal.once()
    assert copy.renewal.status.state == "refused"
    assert "superseded" in copy.renewal.status.problem
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["identity_refused"]
    assert [one.event for one in centre.log() if one.alarm] == ["superseded"], "told once"


async def test_a_revoked_box_is_told_so_and_gets_nothing_more(tmp_path: Path, centre: Centre) -> None:
    """A stolen box must not renew until somebody notices."""
    box = await Enrolled.at(centre, tmp_path / "box")
    await box.renewal.once()
    centre.revoke()
    box.pass_days(1)
    first = box.serial
    await box.renewal.once()
    assert (box.serial, box.renewal.status.state) == (first, "refused")
    box.pass_days(70)
    await box.renewal.once()
    assert (box.serial, box.renewal.status.state) == (first, "refused")
    assert "factory-reset" in box.renewal.status.hint
    crl = x509.load_pem_x509_crl(crl_file(box.settings).read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(first) is not None


async def test_a_machine_whose_clock_stopped_renews_by_the_centres_time(
    tmp_path: Path, centre: Centre
) -> None:
    """An empty battery: each boot begins in 2015, and by that clock no certificate is ever due."""
    box = await Enrolled.at(centre, tmp_path / "box")
    first = box.serial
    centre.ahead_s += 70 * DAY_S
    box.clock.wall_s, box.clock.boot = 1_420_000_000.0, "boot-2"
    await box.renewal.once()
    assert box.serial != first
    assert box.renewal.status.clock_ahead_s < -300 * DAY_S


async def test_a_hub_whose_clock_was_years_ahead_for_a_day_locks_no_box_out(
    tmp_path: Path, centre: Centre
) -> None:
    """Its word, its list and its certificate of that day would else be the newest for years."""
    box = await Enrolled.at(centre, tmp_path / "box")
    centre.ahead_s += 2_000 * DAY_S
    await box.renewal.once()
    ahead = box.serial
    centre.ahead_s -= 2_000 * DAY_S
    box.pass_days(1)
    await box.renewal.once()
    assert box.serial != ahead
    assert abs(box.renewal.status.clock_ahead_s) < 60
    assert (box.renewal.status.state, 89 < box.renewal.status.days_left < 91) == ("well", True)
    box.pass_days(1)
    after = box.serial
    await box.renewal.once()
    assert (box.renewal.status.problem, box.serial) == ("", after)
