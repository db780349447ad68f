"""A box gets its identity by a claim, once, whatever is lost on the way; whoever stole one gets nothing."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import Result

from edgegw.access.key_files import KeyFileError
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import BoxSettings, load_box
from edgegw.enrolment import certificate_files
from tests.centre import Centre, centre_of
from tests.power import Power
from tests.processes import edgegw


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[Centre]:
    async with centre_of(tmp_path) as centre:
        yield centre


async def command(*words: object, text: str = "") -> Result:
    """Run a command beside the centre's listeners."""
    return await asyncio.to_thread(edgegw, *map(str, words), text=text)


async def enrolled(folder: Path, claim: Path, *words: object) -> Result:
    return await command("enroll", "--config", folder / "box.toml", "--claim", claim, *words)


def settings_in(folder: Path) -> BoxSettings:
    return load_box(folder / "box.toml", protocol_shapes()).settings


@pytest.mark.parametrize("profile", ["intl", "gm"])
async def test_a_claim_alone_makes_a_machine_a_box(tmp_path: Path, profile: str) -> None:
    """What a technician would have to type on a ladder is typed wrongly."""
    async with centre_of(tmp_path, profile) as centre:
        claim = centre.claim()
        os.link(claim, tmp_path / "still-open")
        done = await enrolled(tmp_path / "box", claim)
        assert done.exit_code == 0, done.output
        assert not claim.exists()
        assert set((tmp_path / "still-open").read_bytes()) == {0}
        assert "overwritten and removed" in done.output
        checked = await command("config", "check", tmp_path / "box/box.toml")
        assert checked.exit_code == 0, checked.output
        files = certificate_files(settings_in(tmp_path / "box"))
        assert files.key().public in files.held()
        assert 89 < (files.life().ends_s - centre.now_ns() / 1e9) / 86_400 < 91
        secret = [one for one in (tmp_path / "box/secrets").iterdir() if one.suffix in (".pem", ".key")]
        assert {stat.S_IMODE(one.stat().st_mode) for one in secret} == {0o600}
        again = await enrolled(tmp_path / "box", claim)
        assert (again.exit_code, "nothing is to be done" in again.output) == (0, True)


async def test_a_lost_answer_costs_nothing(tmp_path: Path, centre: Centre) -> None:
    """The claim is used up at the hub, and the box must come to the same certificate all the same."""
    claim = centre.claim()
    centre.lose_replies = 1
    first = await enrolled(tmp_path / "box", claim)
    assert first.exit_code == 3
    assert "give the same command again" in first.output
    assert claim.exists()
    keys = {one.name: one.read_bytes() for one in (tmp_path / "box/secrets").glob("*.key")}
    assert (await enrolled(tmp_path / "box", claim)).exit_code == 0
    assert {one.name: one.read_bytes() for one in (tmp_path / "box/secrets").glob("*.key")} == keys
    assert [one.event for one in centre.log()] == ["claim_made", "enrolled", "enrolled_again"]
    assert centre.generation() == 1


async def test_a_claim_that_was_copied_opens_nothing_a_second_time(tmp_path: Path, centre: Centre) -> None:
    """A photo of the QR code, used an hour later."""
    claim = centre.claim()
    copy = claim.read_bytes()
    assert (await enrolled(tmp_path / "box", claim)).exit_code == 0
    claim.write_bytes(copy)
    thief = await enrolled(tmp_path / "thief", claim)
    assert thief.exit_code == 3
    assert "claim_used" in thief.output
    assert "call the centre now" in thief.output
    assert claim.exists()
    assert [one.event for one in centre.log() if one.alarm] == ["claim_used"]
    assert not (tmp_path / "thief/secrets/box.pem").exists()


async def test_the_right_claim_follows_a_wrong_one_without_a_trace(tmp_path: Path, centre: Centre) -> None:
    """Two claims in one bag: the machine must take the second as if there had been no first."""
    wrong = centre.claim("box-2", branch="Market Square")
    refused = await enrolled(tmp_path / "box", wrong, "--branch", "Harbour Street")
    assert refused.exit_code == 3
    assert "wrong_branch" in refused.output
    assert not (tmp_path / "box/box.toml").exists()
    assert not list((tmp_path / "box/secrets").iterdir())
    right = await enrolled(tmp_path / "box", centre.claim(), "--branch", "Harbour Street")
    assert right.exit_code == 0, right.output


async def test_another_boxs_claim_is_told_to_the_centre(tmp_path: Path, centre: Centre) -> None:
    """A stolen claim that is tried elsewhere must be heard of, not only refused."""
    assert (await enrolled(tmp_path / "box", centre.claim())).exit_code == 0
    other = await enrolled(tmp_path / "box", centre.claim("box-2"))
    assert other.exit_code == 3
    assert "the claim is for b1/box-2, and this is b1/box-1" in other.output
    assert [one.event for one in centre.log() if one.alarm] == ["wrong_box"]


async def test_an_expired_claim_says_what_to_do(tmp_path: Path, centre: Centre) -> None:
    """The technician stands there, and the centre is a phone call away."""
    claim = centre.claim(hours=1)
    centre.ahead_s += 3_700
    done = await enrolled(tmp_path / "box", claim)
    assert done.exit_code == 3
    assert "claim_expired" in done.output
    assert "Ask the centre for a new claim" in done.output


async def test_a_hub_that_another_key_speaks_for_is_not_believed(tmp_path: Path, centre: Centre) -> None:
    """Whoever has a server's certificate of the CA must not hand out identities."""
    other = centre.key
    claim = centre.claim()
    said = json.loads(claim.read_bytes())
    from edgegw.access.keys import SigningKey
    from edgegw.sm.sm2 import PrivateKey

    said["hub_key"] = SigningKey(other.name, PrivateKey.generate()).public.text()
    claim.write_text(json.dumps(said))
    done = await enrolled(tmp_path / "box", claim)
    assert done.exit_code == 3
    assert "not signed by the hub's pinned key" in done.output
    with pytest.raises(KeyFileError):
        certificate_files(settings_in(tmp_path / "box")).life()


async def test_a_claim_is_scanned_from_a_screen(tmp_path: Path, centre: Centre) -> None:
    """No USB port, or none that the bank allows."""
    text = centre.claim().read_text()
    done = await command("enroll", "--config", tmp_path / "box/box.toml", "--claim", "-", text=text)
    assert done.exit_code == 0, done.output
    assert "destroy the paper or the screen" in done.output
    assert json.loads(text)["seed"] not in done.output


async def test_what_is_no_claim_is_said_without_repeating_it(tmp_path: Path, centre: Centre) -> None:
    """A message with the seed in it ends in somebody's photo."""
    claim = centre.claim()
    text = claim.read_text()
    claim.write_text(text.replace('"format":1', '"format":9'))
    done = await enrolled(tmp_path / "box", claim)
    assert done.exit_code == 2
    assert json.loads(text)["seed"] not in done.output
    assert not (tmp_path / "box").exists()


async def test_an_enrolment_survives_a_clock_that_is_wrong_by_years(
    tmp_path: Path, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first boot: 2015 by the machine's clock, and every certificate of the hub's is still to come."""
    import time

    from edgegw.machine import MachineClock

    years_s = 11 * 365 * 86_400
    monkeypatch.setattr(MachineClock, "wall_ns", lambda _: time.time_ns() - years_s * 10**9)
    done = await enrolled(tmp_path / "box", centre.claim())
    assert done.exit_code == 0, done.output
    assert "clock is 11 years behind the centre's" in done.output
    assert any("s off" in one.detail and "-34689" in one.detail for one in centre.log())


async def test_a_machine_that_was_reset_is_enrolled_anew_and_the_centre_knew(
    tmp_path: Path, centre: Centre
) -> None:
    """A machine that moves to another branch, in one morning."""
    assert (await enrolled(tmp_path / "box", centre.claim())).exit_code == 0
    before = (tmp_path / "box/secrets/device.pub").read_text()
    config = tmp_path / "box/box.toml"
    (tmp_path / "box/secrets/tokens.json").write_bytes(b"the keys of access tokens, which a way in makes")
    reset = await command("factory-reset", "--config", config, "--yes")
    assert reset.exit_code == 0, reset.output
    assert "The centre has revoked this identity" in reset.output
    assert centre.generation() == 0
    assert not [one for one in (tmp_path / "box/secrets").rglob("*") if one.is_file()]
    again = await enrolled(tmp_path / "box", centre.claim())
    assert again.exit_code == 0, again.output
    assert (tmp_path / "box/secrets/device.pub").read_text() != before
    assert centre.generation() == 2
    assert not [one for one in centre.log() if one.alarm]


@pytest.mark.slow
async def test_an_enrolment_that_is_killed_at_any_step_is_finished_by_the_same_command(
    tmp_path: Path, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A technician pulls the plug, and has one claim."""
    power = Power(monkeypatch, "link", "replace", "unlink", "fsync")
    steps = 0
    while True:
        folder, claim = tmp_path / f"box-{steps}", centre.claim(f"box-{steps}")
        with power.fails_after(steps) as outcome:
            await enrolled(folder, claim)
        if not outcome.failed:
            break
        again = await enrolled(folder, claim)
        assert again.exit_code == 0, (steps, again.output)
        assert centre.generation(f"box-{steps}") == 1
        files = certificate_files(settings_in(folder))
        assert files.key().public in files.held()
        steps += 1
    assert steps > 20
    assert not [one for one in centre.log() if one.alarm]
