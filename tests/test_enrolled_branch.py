"""Whole boxes in process with identities of the hub's: one is revoked, one replaced, one copied."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgegw import app
from edgegw.access.sealed_key import BEGIN
from edgegw.commands.box import ask
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import load_box
from edgegw.config.first_settings import first_settings
from edgegw.core.enrolment import decode_claim
from edgegw.enrolment import certificate_files
from edgegw.running import RUNNING_NAME
from tests.centre import BOX, DAY_S, Centre, centre_of
from tests.processes import LINE, edgegw
from tests.software_tpm import SoftwareTpm, need_tpm
from tests.waiting import until

Json = dict[str, Any]


class RunningBox:
    """A box in a folder, run in this process."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self.token = folder, token
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run it as `edgegw run` does."""
        self._stop = stop = asyncio.Event()
        monkeypatch.setattr(app, "stop_signal", lambda: stop)
        self._task = asyncio.create_task(app.run_box(load_box(self.folder / "box.toml", protocol_shapes())))

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Json]:
        """Ask it over HTTP."""
        running = json.loads((self.folder / "data" / RUNNING_NAME).read_bytes())
        (address,) = running["addresses"]["http"]
        return await ask(address, method, path, token=self.token, body=body)

    async def status(self) -> Json:
        """What /v1/status says."""
        return (await self.call("GET", "/v1/status"))[1]

    async def pay(self, amount_minor: int) -> tuple[int, Json]:
        """Pay from bob to the shop."""
        body = {
            "id": secrets.token_hex(16),
            "debit_account_id": "bob",
            "credit_account_id": "shop",
            "amount_minor": amount_minor,
            "currency": "CNY",
        }
        return await self.call("POST", "/v1/payments", body)

    async def is_in(self, *modes: str, epoch: int = 1) -> None:
        """Wait until it is in one of these modes."""
        await until((self.folder / "data" / RUNNING_NAME).exists, "the box to open")
        async with asyncio.timeout(60):
            while True:
                said = await self.status()
                if said.get("mode") in modes and said.get("epoch") == epoch:
                    return
                assert self._task is not None
                assert not self._task.done(), self._task


class Town:
    """A centre, a till, and the boxes that a test enrols."""

    def __init__(self, folder: Path, centre: Centre) -> None:
        self.folder, self.centre = folder, centre
        key = folder / "till.pem"
        public = edgegw("keygen", "client", "--out", str(key)).stdout.strip()
        self.token = edgegw("token", "--client", "till", "--box", BOX, "--key", str(key)).stdout.strip()
        centre.claim()
        centre.fund(public)
        self.boxes: list[RunningBox] = []

    async def box(self, name: str, *, replaces: bool = False) -> RunningBox:
        """A machine that is enrolled and does not run yet."""
        config = self.folder / name / "box.toml"
        claim = self.centre.claim(replaces=replaces)
        done = await asyncio.to_thread(edgegw, "enroll", "--config", str(config), "--claim", str(claim))
        assert done.exit_code == 0, done.output
        config.write_text(config.read_text().replace("[http]\n", f"{LINE}[http]\nport = 0\n"))
        return self.of(config.parent)

    def of(self, folder: Path) -> RunningBox:
        """The box of a folder."""
        box = RunningBox(folder, self.token)
        self.boxes.append(box)
        return box


@pytest.fixture(params=["intl"])
async def town(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    async with centre_of(tmp_path, request.param) as centre:
        town = Town(tmp_path, centre)
        yield town
        for box in town.boxes:
            await box.stop()


async def test_a_revoked_box_hears_it_and_clears_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stolen box that goes on paying is the thief's money press."""
    box = await town.box("north")
    box.start(monkeypatch)
    await box.is_in("active")
    assert (await box.pay(500))[0] == 201
    said = (await box.status())["certificate"]
    assert (said["state"], 89 < said["days_left"] < 91) == ("well", True)
    town.centre.revoke()
    await box.is_in("fenced")
    assert (await box.pay(500))[0] == 503
    said = await box.status()
    assert (said["clears"], "revoked" in said["mode_reason"]) == (False, True)
    assert "ended_device_speaks" in [one.event for one in town.centre.log() if one.alarm]


@pytest.mark.slow
@pytest.mark.parametrize("town", ["intl", "gm"], indirect=True)
async def test_after_an_outage_longer_than_the_certificate_lived_the_box_renews_and_then_has_its_line(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's listener takes no ended certificate, and the box believes by its own time that it is good."""
    town.centre.ahead_s = -200 * DAY_S
    box = await town.box("north")
    town.centre.ahead_s = 0
    before = certificate_files(load_box(box.folder / "box.toml", protocol_shapes()).settings).life()
    assert before.ends_s < town.centre.now_ns() / 1e9
    box.start(monkeypatch)
    await box.is_in("active")
    assert (await box.pay(500))[0] == 201
    said = (await box.status())["certificate"]
    assert (said["state"], said["days_left"] > 89) == ("well", True)
    assert [one.event for one in town.centre.log()][-2:] == ["enrolled", "renewed"]


@pytest.mark.slow
@pytest.mark.parametrize("town", ["intl", "gm"], indirect=True)
async def test_new_hardware_takes_over_with_the_next_epoch_and_the_old_is_fenced(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old machine may still run in somebody's car: one branch, one box that clears."""
    old = await town.box("old")
    old.start(monkeypatch)
    await old.is_in("active")
    assert (await old.pay(700))[0] == 201
    new = await town.box("new", replaces=True)
    assert town.centre.generation() == 2
    await old.is_in("fenced")
    assert (await old.pay(700))[0] == 503
    new.start(monkeypatch)
    await new.is_in("active", epoch=2)
    assert (await new.pay(300))[0] == 201
    await old.is_in("fenced")
    alarms = [one.event for one in town.centre.log() if one.alarm]
    assert alarms == ["ended_device_speaks"]


@pytest.mark.slow
@pytest.mark.parametrize("town", ["intl", "gm"], indirect=True)
@pytest.mark.parametrize("copied_while", ["it was off", "it ran"])
async def test_of_a_box_and_its_copied_disk_the_second_to_speak_is_fenced_at_first_contact(
    town: Town, monkeypatch: pytest.MonkeyPatch, copied_while: str
) -> None:
    """Keys, certificates, ledger and anchor are the same: only the order of arrival tells them apart."""
    box = await town.box("one")
    box.start(monkeypatch)
    await box.is_in("active")
    assert (await box.pay(700))[0] == 201
    if copied_while == "it was off":
        await box.stop()
    shutil.copytree(box.folder, town.folder / "two", ignore=shutil.ignore_patterns(RUNNING_NAME))
    copy = town.of(town.folder / "two")
    copy.start(monkeypatch)
    if copied_while == "it was off":
        await copy.is_in("active")
        assert (await copy.pay(300))[0] == 201
        box = town.of(box.folder)
        box.start(monkeypatch)
        await box.is_in("behind")
        assert (await copy.pay(100))[0] == 201
        assert (await box.pay(300))[0] == 503
    else:
        # To the hub it looks as a restart does, so who opened last goes on and the other hears it at once;
        # what that one has written since makes two histories, and those are for a person. A copy that was
        # torn from a file in use is behind.
        stopped = ("behind", "fenced", "forked")
        await copy.is_in("active", *stopped)
        if (await copy.status())["mode"] == "active":
            await box.is_in(*stopped)
        assert 503 in {(await one.pay(300))[0] for one in (box, copy)}


@pytest.mark.slow
@pytest.mark.parametrize(("town", "place"), [("intl", "tpm2"), ("gm", "passphrase")], indirect=["town"])
async def test_where_a_place_is_chosen_no_key_of_an_enrolled_box_lies_open(
    town: Town, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A disk that is pulled out must not speak for the box, by TLS neither."""
    folder = town.folder / "sealed"
    (folder / "secrets").mkdir(parents=True)
    tpm = None
    more = '[keys.passphrase]\npassphrase_file = "words"\n'
    if place == "tpm2":
        need_tpm()
        tpm = SoftwareTpm(town.folder / "chip")
        more = f'[keys.tpm2]\ntcti = "{tpm.tcti}"\n'
    (folder / "words").write_text("correct horse battery staple")
    (folder / "words").chmod(0o600)
    town.centre.ahead_s = -64 * DAY_S
    claim, config = town.centre.claim(), folder / "box.toml"
    text = first_settings(decode_claim(claim.read_bytes().strip()), keys={"place": place})
    config.write_text(text.replace("[http]\n", f"{more}{LINE}[http]\nport = 0\n"))
    words = ("enroll", "--config", str(config), "--claim", str(claim))
    done = await asyncio.to_thread(edgegw, *words)
    assert done.exit_code == 0, done.output
    town.centre.ahead_s = 0
    box = town.of(folder)
    box.start(monkeypatch)
    await box.is_in("active")
    await until(lambda: "renewed" in [one.event for one in town.centre.log()], "the box to renew")
    assert (await box.pay(500))[0] == 201
    for name in ("device.pem", "checkpoint.pem", "webhook.pem", "box.key"):
        assert (folder / "secrets" / name).read_bytes().startswith(BEGIN), name
    await box.stop()
    listed = await asyncio.to_thread(edgegw, "keys", "list", str(config), "--json")
    found = {line["purpose"]: line["place"] for line in json.loads(listed.stdout)}
    assert found["tls"] == place
    checked = await asyncio.to_thread(edgegw, "config", "check", str(config))
    assert checked.exit_code == 0, checked.output
    if tpm is not None:
        tpm.stop()
