"""Which time says that a server's certificate has ended, where the machine's own clock cannot be trusted."""

import datetime
import ssl
from pathlib import Path

import aiohttp
import pytest

from edgegw.access.hub_time import HubTime
from edgegw.access.tls import TransportContext, client_context, server_context, timeless_context
from tests.certificates import AT, Authority
from tests.encrypted import authority, connecting, echo_server, kind_of, posted, serving

YEARS_S = 10 * 366 * 86_400
SECOND = 1_000_000_000
TODAY_S = AT.timestamp() + 86_400
ENDED = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class WrongClock:
    """A machine whose wall clock says what a test wants."""

    def __init__(self, wall_s: float, *, boot: str = "boot-1") -> None:
        self.wall_s, self.mono_s, self.boot = wall_s, 100.0, boot

    def wall_ns(self) -> int:
        return int(self.wall_s * SECOND)

    def mono_ns(self) -> int:
        return int(self.mono_s * SECOND)

    def boot_id(self) -> str:
        return self.boot


def _client(profile: str, ours: Authority, time: HubTime) -> TransportContext:
    return client_context(connecting(profile, ours.box("clocked"), ours.ca), now_s=time.now_s)


@pytest.mark.parametrize("profile", ["intl", "gm"])
@pytest.mark.parametrize("wrong_s", [-YEARS_S * 3, YEARS_S * 3])
async def test_a_clock_that_is_wrong_by_years_does_not_cut_the_line_once_the_hub_was_heard(
    tmp_path: Path, profile: str, wrong_s: int
) -> None:
    """A box with an empty battery would otherwise stay offline until somebody climbs up to it."""
    ours = authority(tmp_path, kind_of(profile))
    clock = WrongClock(TODAY_S + wrong_s)
    time = HubTime(tmp_path / "hub_time.json", clock)
    async with echo_server(server_context(serving(profile, ours.server(), ours.ca))) as server:
        if wrong_s > 0:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
                await posted(server.url, _client(profile, ours, time))
        time.heard(TODAY_S)
        assert (await posted(server.url, _client(profile, ours, time)))[0] == b"hello"


@pytest.mark.parametrize("profile", ["intl", "gm"])
async def test_a_certificate_that_ended_before_the_hubs_last_word_is_refused(
    tmp_path: Path, profile: str
) -> None:
    """Setting a box's clock back must not bring a certificate back to life whose key was stolen since."""
    ours = authority(tmp_path, kind_of(profile))
    old = ours.issue("ended", ours.names("localhost"), ends=ENDED)
    time = HubTime(tmp_path / "hub_time.json", WrongClock(AT.timestamp() - YEARS_S))
    time.heard(ENDED.timestamp() + 1)
    async with echo_server(server_context(serving(profile, old, ours.ca))) as server:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            await posted(server.url, _client(profile, ours, time))


@pytest.mark.parametrize("profile", ["intl", "gm"])
async def test_enrolment_asks_by_ca_and_name_alone(tmp_path: Path, profile: str) -> None:
    """It has no certificate and no clock yet; another CA's hub, or another name, still gets nothing."""
    ours, others = authority(tmp_path, kind_of(profile)), authority(tmp_path, kind_of(profile), "others")
    old = ours.issue("hub", ours.names("localhost"), ends=ENDED)
    async with echo_server(server_context(serving(profile, old, None))) as server:
        bare = timeless_context(profile=profile, ca_file=ours.ca, server_name="")
        assert (await posted(server.url, bare))[0] == b"hello"
        for ca, name in ((others.ca, ""), (ours.ca, "another.example")):
            wrong = timeless_context(profile=profile, ca_file=ca, server_name=name)
            with pytest.raises((aiohttp.ClientConnectorCertificateError, ssl.SSLError)):
                await posted(server.url, wrong)


def test_the_hubs_word_is_the_floor_of_later_boots_and_goes_on_within_one(tmp_path: Path) -> None:
    """Time from a clock that was set back would let an ended certificate in, or never renew one."""
    file, clock = tmp_path / "hub_time.json", WrongClock(TODAY_S - YEARS_S)
    HubTime(file, clock).heard(TODAY_S)
    clock.mono_s += 3_600
    assert HubTime(file, clock).now_s() == TODAY_S + 3_600
    assert HubTime(file, clock).machine_ahead_s == -YEARS_S - 3_600
    clock.boot, clock.mono_s = "boot-2", 5.0
    assert HubTime(file, clock).now_s() == TODAY_S
    clock.wall_s = TODAY_S + 86_400
    assert HubTime(file, clock).now_s() == TODAY_S + 86_400
    file.write_bytes(b"{")
    assert HubTime(file, clock).now_s() == clock.wall_s


def test_a_machine_that_is_late_again_after_each_stop_takes_the_hubs_fresh_word(tmp_path: Path) -> None:
    """Its floor is when it was last seen: the time that it stood still is missing, each time more."""
    file, clock = tmp_path / "hub_time.json", WrongClock(TODAY_S - 90)
    time = HubTime(file, clock)
    time.told(TODAY_S)
    assert time.now_s() == TODAY_S
    clock.wall_s = TODAY_S  # what watches the file has set it
    kept = file.read_bytes()
    clock.mono_s, clock.wall_s = clock.mono_s + 60, clock.wall_s + 60
    time.told(TODAY_S + 62)
    assert file.read_bytes() == kept, "the way of a message is no wrong clock, and a disk wears out"
    clock.wall_s -= 60
    time.told(TODAY_S + 60)
    assert file.read_bytes() != kept, "the machine's clock alone is behind"
