"""A machine that nobody types at becomes a box, whatever is lost on the way; a claim that is no good leaves
nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgegw import app, by_claim
from edgegw.access.places import PlaceAway, PlaceRefuses
from edgegw.access.sealed_key import BEGIN
from edgegw.commands.box import ask, http_tls
from edgegw.commands.first_boot import Readiness, keys_for
from edgegw.commands.running import read_running
from edgegw.commands.settings import protocol_shapes
from edgegw.config.box import BoxSettings, load_box
from edgegw.config.first_settings import first_settings
from edgegw.core.enrolment import Claim
from edgegw.enrolment import certificate_files
from edgegw.first_boot.files import Files
from edgegw.first_boot.sources import PAGE_SOURCE, read_claim
from edgegw.first_boot.work import FirstBoot, State
from edgegw.running import RUNNING_NAME
from tests.centre import Centre, centre_of
from tests.power import Power
from tests.processes import edgegw
from tests.software_tpm import SoftwareTpm, need_tpm
from tests.waiting import until

Pay = Callable[[str, int], Awaitable[tuple[int, dict[str, Any]]]]
PORTS = {"http": {"port": 0}, "line": {"heartbeat_ms": 100, "connect_timeout_ms": 5_000}}


class Machine:
    """An appliance: a folder on its data partition, and a place where a stick is mounted."""

    def __init__(self, folder: Path) -> None:
        self.stick = folder / "stick"
        (folder / "var").mkdir(parents=True)
        self.files = Files(folder / "var")
        self.said: list[State] = []

    def work(self) -> FirstBoot:
        """What its first boot does, from its start."""
        return FirstBoot(
            self.files, stick=self.stick, load=settings_in, keys=lambda _: {}, told=self.said.append
        )

    def plug(self, claim: Path) -> Path:
        """Put a stick with this claim into it."""
        place = self.stick / "edgegw/claim.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(claim, place)
        return place

    @asynccontextmanager
    async def on(self) -> AsyncIterator[FirstBoot]:
        """Switch it on, and pull its plug at the end."""
        work = self.work()
        task = asyncio.create_task(work.run())
        try:
            yield work
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()  # it fails of what ended the work, not of waiting for it

    def left(self) -> set[str]:
        """Every file on its data partition."""
        folder = self.files.folder
        return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def settings_in(path: Path) -> BoxSettings:
    return load_box(path, protocol_shapes()).settings


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[Centre]:
    async with centre_of(tmp_path) as centre:
        yield centre


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgegw.first_boot.work.LOOK_S", 0.01)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


async def test_a_credential_alone_makes_a_machine_a_box_that_pays_when_the_line_is_down(
    tmp_path: Path, centre: Centre, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual machine in a data centre: nobody stands there, and its first grants have to be there too."""
    (tmp_path / "credentials").mkdir()
    claim = centre.claim(settings=PORTS, keep=tmp_path / "credentials/edgegw.claim")
    key = tmp_path / "till.pem"
    centre.fund(edgegw("keygen", "client", "--out", str(key)).stdout.strip())
    token = edgegw("token", "--client", "till", "--box", "box-1", "--key", str(key)).stdout.strip()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(claim.parent))
    async with machine.on() as work:
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
        said = work.state
    assert (said.state, said.whose, said.source) == ("enrolled", "b1/box-1", "credential")
    assert [one.event for one in centre.log() if f" {said.key}," in one.detail] == ["enrolled"]
    assert not (machine.files.folder / "claim.json").exists()
    async with running(machine.files.settings, monkeypatch) as pay:
        assert (await pay(token, 500))[0] == 201
        await centre.close()
        assert (await pay(token, 700))[0] == 201


@asynccontextmanager
async def running(settings: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pay]:
    """The box of these settings, ready, in this process; what pays there from alice to the shop."""
    stop = asyncio.Event()
    monkeypatch.setattr(app, "stop_signal", lambda: stop)
    box = load_box(settings, protocol_shapes())
    task = asyncio.create_task(app.run_box(box))
    asking = Readiness(box)
    try:
        await until((Path(box.settings.data_dir) / RUNNING_NAME).exists, "the box to open")
        async with asyncio.timeout(30):
            while (await asking.why_not())[0]:
                assert not task.done(), task
        said = read_running(Path(box.settings.data_dir))
        assert said is not None
        (address,) = said.addresses["http"]
        tls = http_tls(box)

        async def pay(token: str, amount_minor: int) -> tuple[int, dict[str, Any]]:
            body = {
                "id": secrets.token_hex(16),
                "debit_account_id": "alice",
                "credit_account_id": "shop",
                "amount_minor": amount_minor,
                "currency": "CNY",
            }
            return await ask(address, "POST", "/v1/payments", token=token, body=body, tls=tls)

        yield pay
    finally:
        stop.set()
        await task


async def test_a_stick_is_empty_once_it_is_used(centre: Centre, machine: Machine) -> None:
    """It goes back into the technician's bag, with what could enrol another machine."""
    on_stick = machine.plug(centre.claim(settings=PORTS))
    os.link(on_stick, machine.stick / "still-open")
    async with machine.on():
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
    assert not on_stick.exists()
    assert set((machine.stick / "still-open").read_bytes()) == {0}
    assert settings_in(machine.files.settings).box == "box-1"


async def test_a_stick_that_cannot_be_emptied_is_told_of(
    centre: Centre, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write-protected stick keeps the secret: somebody has to break it."""
    on_stick = machine.plug(centre.claim(settings=PORTS))
    monkeypatch.setattr(by_claim, "destroy_claim", lambda _: "Read-only file system")
    async with machine.on() as work:
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
        assert (work.state.problem, work.state.hint) == ("Read-only file system", "Destroy the stick.")
    assert on_stick.exists()


async def test_a_claim_that_is_refused_leaves_no_trace_and_the_next_one_is_taken(
    centre: Centre, machine: Machine
) -> None:
    """Two claims in one bag: the machine takes the second as if there had been no first."""
    machine.plug(centre.claim(hours=1, settings=PORTS))
    centre.ahead_s += 3_700
    async with machine.on() as work:
        await until(lambda: "claim_expired" in work.state.problem, "the claim to be refused")
        assert work.state.state == "waiting"
        assert "new claim" in work.state.hint
        assert machine.left() == set()
        tried = len(centre.log())
        machine.plug(centre.claim(settings=PORTS))
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
    assert [one.event for one in centre.log()[tried:]] == ["claim_withdrawn", "claim_made", "enrolled"]


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"\0" * 400, b'{"format":1}', b"x" * 4_000, b"[" * 3_000],
    ids=["empty", "cut", "zeroes", "lacking", "long", "deep"],
)
async def test_what_is_no_claim_changes_nothing(machine: Machine, broken: bytes, tmp_path: Path) -> None:
    """A stick that was pulled out while it was written."""
    (tmp_path / "broken").write_bytes(broken)
    machine.plug(tmp_path / "broken")
    async with machine.on() as work:
        work.offer(read_claim(PAGE_SOURCE, broken))
        await until(lambda: "claim" in work.state.problem, "it to be told")
        assert (work.state.state, machine.left()) == ("waiting", set())


async def test_a_claim_whose_settings_are_wrong_is_told_before_anything_is_asked(
    centre: Centre, machine: Machine
) -> None:
    """The centre has mistyped, and the technician can read it out on the telephone."""
    for wrong, said in (
        ({"http": {"prt": 1}}, "prt"),
        ({"hub": {"key": "mine"}}, "[hub]"),
        ({"http": {"port": None}}, "null"),
        ({"spoken": {"host": "x"}}, "spoken"),
    ):
        machine.plug(centre.claim(settings=wrong))
        async with machine.on() as work:
            await until(lambda: said in work.state.problem, f"{said} to be told")  # noqa: B023
            assert (work.state.state, machine.left()) == ("waiting", set())
    assert "enrolled" not in [one.event for one in centre.log()]


async def test_a_line_that_is_down_is_waited_for_over_a_power_cut(centre: Centre, machine: Machine) -> None:
    """The provider comes on Thursday; the technician left on Tuesday, with the stick."""
    stick = machine.plug(centre.claim(settings=PORTS))
    await centre.close()
    async with machine.on() as work:
        await until(lambda: "does not answer" in work.state.problem, "it to be told")
        assert work.state.state == "asking"
        assert "Check cable" in work.state.hint
        assert "object at" not in work.state.problem
        keys = {name for name in machine.left() if name.startswith("secrets/")}
    stick.unlink()
    await centre.open()
    async with machine.on():
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
    assert keys <= machine.left()
    assert centre.generation() == 1


async def test_a_lost_answer_costs_nothing(
    centre: Centre, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is used up at the hub, and the machine must come to its certificate all the same."""
    monkeypatch.setattr("edgegw.first_boot.work.RETRY_S_MIN", 0.01)
    centre.lose_replies = 2
    machine.plug(centre.claim(settings=PORTS))
    async with machine.on() as work:
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
        assert work.state.state == "enrolled"
    assert [one.event for one in centre.log()] == ["claim_made", "enrolled", *["enrolled_again"] * 2]


async def test_a_claim_that_leads_nowhere_gives_way_to_another(
    centre: Centre, machine: Machine, tmp_path: Path
) -> None:
    """The centre has moved since it was made; nobody wants to flash the machine for that."""
    nowhere = centre.claim(addresses=("https://127.0.0.1:9",), settings=PORTS)
    stick = machine.plug(nowhere)
    async with machine.on() as work:
        await until(lambda: "does not answer" in work.state.problem, "it to be told")
        stick.rename(tmp_path / "pulled")
        await until(lambda: not work.state.is_brought, "it to see that the stick is gone")
        work.offer(read_claim(PAGE_SOURCE, centre.claim(settings=PORTS).read_bytes()))
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
        assert work.state.source == "page"


async def test_a_claim_on_a_stick_gives_way_to_nothing_from_the_network(
    centre: Centre, machine: Machine, tmp_path: Path
) -> None:
    """A stranger in the branch has a hub of his own, and a claim of it that bears the box's name."""
    body = centre.claim(addresses=("https://127.0.0.1:9",), settings=PORTS).read_bytes()
    (tmp_path / "slow.json").write_bytes(body)
    machine.plug(tmp_path / "slow.json")
    foreign = read_claim(PAGE_SOURCE, centre.claim(settings=PORTS).read_bytes())
    async with machine.on() as work:
        await until(lambda: work.state.tries > 0 and work.state.is_brought, "the stick's to be tried")
        work.offer(foreign)
        work.give_up()
        await until(lambda: work._offered is None and not work._is_given_up, "both to be heard")
        assert (work.state.state, work.state.source) == ("asking", "stick")
    async with machine.on() as work:  # the plug was pulled
        await until(lambda: work.state.is_brought, "the stick's claim to be at hand again")
        work.offer(foreign)
        await until(lambda: work._offered is None, "it to be heard")
        assert work.state.state == "asking"
    assert not machine.files.is_done


async def test_a_claim_that_is_given_up_leaves_no_trace(centre: Centre, machine: Machine) -> None:
    """A person at the page has spoken with the centre."""
    body = centre.claim(addresses=("https://127.0.0.1:9",)).read_bytes()
    async with machine.on() as work:
        work.offer(read_claim(PAGE_SOURCE, body))
        await until(lambda: work.state.tries > 0 and work.state.problem != "", "it to be tried")
        work.give_up()
        await until(lambda: work.state.state == "waiting", "it to be given up")
        assert machine.left() == set()


async def test_the_credential_of_a_machine_that_was_reset_raises_no_alarm(
    tmp_path: Path, centre: Centre, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual machine hands the same claim in at every start; a used one is what the centre takes for a
    theft."""
    claim = centre.claim(settings=PORTS, keep=tmp_path / "edgegw.claim")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    async with machine.on():
        await until(lambda: machine.files.is_done, "the machine to be enrolled")
    done = await asyncio.to_thread(edgegw, "factory-reset", "--config", str(machine.files.settings), "--yes")
    assert done.exit_code == 0, done.output
    assert machine.left() == {"spent-claims.json"}
    assert claim.exists()
    async with machine.on() as work:
        await until(lambda: "used by this machine before" in work.state.problem, "it to be told")
        machine.plug(centre.claim(settings=PORTS))
        await until(lambda: machine.files.is_done, "the machine to be enrolled anew")
    assert centre.generation() == 2
    assert not [one for one in centre.log() if one.alarm]


async def test_a_new_machine_takes_a_dead_ones_place(
    centre: Centre, machine: Machine, tmp_path: Path
) -> None:
    """The disk is gone, and the branch opens at nine: the same page, another claim."""
    for device, one in enumerate((machine, Machine(tmp_path / "new")), start=1):
        one.plug(centre.claim(settings=PORTS, replaces=device > 1))
        async with one.on() as work:
            await until(partial(Path.exists, one.files.settings), "the machine to be enrolled")
            assert (work.state.device, centre.generation()) == (device, device)
    assert not [event for event in centre.log() if event.alarm]


async def test_a_ledger_without_settings_is_never_enrolled_over(centre: Centre, machine: Machine) -> None:
    """Somebody has deleted box.toml: what was paid there is still only there."""
    (machine.files.folder / "data").mkdir()
    (machine.files.folder / "data/ledger.db").write_bytes(b"payments")
    machine.plug(centre.claim(settings=PORTS))
    async with machine.on() as work:
        await until(lambda: work.state.state == "stuck", "it to be told")
    assert machine.left() == {"data/ledger.db"}


@pytest.mark.slow
async def test_the_plug_may_be_pulled_at_any_step(
    tmp_path: Path, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The technician switches off what shows nothing yet, and has one claim."""
    power = Power(monkeypatch, "link", "replace", "rename", "unlink", "fsync")
    for steps in itertools.count():
        machine = Machine(tmp_path / f"machine-{steps}")
        machine.plug(centre.claim(f"box-{steps}", settings=PORTS))
        with power.fails_after(steps) as outcome:
            await machine.work().run()
        if not outcome.failed:
            break
        async with machine.on() as work:
            await until(lambda: machine.files.is_done, f"step {steps} to be got over")  # noqa: B023
            assert work.state.state in ("enrolled", "waiting")
        assert centre.generation(f"box-{steps}") == 1
        files = certificate_files(settings_in(machine.files.settings))
        assert files.key().public in files.held()
        assert not [one for one in machine.left() if "claim.json" in one]
    assert steps > 30
    assert not [one for one in centre.log() if one.alarm]


@pytest.mark.slow
async def test_a_tpm_that_is_there_seals_the_keys_and_a_reset_ends_what_was_copied(
    centre: Centre, tmp_path: Path
) -> None:
    """A disk that is pulled out, or was copied before the machine was sold, must not speak for the box."""
    need_tpm()
    tpm = SoftwareTpm(tmp_path / "chip")
    machine = Machine(tmp_path / "machine")
    claim = centre.claim(settings=PORTS)
    work = FirstBoot(
        machine.files,
        stick=machine.stick,
        load=settings_in,
        keys=lambda claim: keys_for(claim, tpm=tpm.tcti),
        told=machine.said.append,
    )
    machine.plug(claim)
    await work.run()
    assert work.state.keys_place == "tpm2"
    for name in ("device.pem", "checkpoint.pem", "webhook.pem", "box.key"):
        assert (machine.files.folder / "secrets" / name).read_bytes().startswith(BEGIN), name
    slot = (machine.files.folder / "secrets/box-1.kek.tpm2").read_bytes()
    place = tpm.place()
    assert place.open(slot)
    done = await asyncio.to_thread(edgegw, "factory-reset", "--config", str(machine.files.settings), "--yes")
    assert done.exit_code == 0, done.output
    with pytest.raises(PlaceRefuses):
        place.open(slot)
    tpm.stop()


def test_keys_lie_in_files_only_where_there_is_no_tpm_or_the_centre_says_so(tmp_path: Path) -> None:
    """A TPM that does not answer must not be passed over in silence."""
    plain = claim_with({})
    assert keys_for(plain, tpm=f"device:{tmp_path}/none") == {}
    (tmp_path / "tpm").touch()
    with pytest.raises(PlaceAway):
        keys_for(plain, tpm=f"device:{tmp_path}/tpm")
    assert keys_for(claim_with({"keys": {"place": "files"}}), tpm=f"device:{tmp_path}/tpm") == {}


def claim_with(settings: dict[str, dict[str, object]]) -> Claim:
    return Claim(
        format=1,
        id="0" * 32,
        bank="b1",
        box="box-1",
        addresses=("https://127.0.0.1:9",),
        profile="intl",
        line=("https://127.0.0.1:9",),
        hub_key="none",
        expires_at_s=0,
        seed="",
        settings=settings,
    )


def test_any_label_and_setting_makes_settings_that_can_be_read(tmp_path: Path) -> None:
    """A control character that somebody pasted is no reason to drive to the branch."""
    odd = "".join(map(chr, range(0x80))) + "é中\N{PILE OF POO}"
    made = msgspec.structs.replace(
        claim_with({"odd table.": {"a b": odd, "deep": {"list": [1, {"x": [True, 2.5]}]}}}), branch=odd[-64:]
    )
    read = tomllib.loads(first_settings(made, keys={"place": "tpm2", "tpm2": {"tcti": odd}}, for_branch=True))
    assert read["enrolment"]["branch"] == odd[-64:]
    assert read["odd table."] == made.settings["odd table."]
    assert read["keys"]["tpm2"]["tcti"] == odd
    assert read["http"] == {
        "host": "0.0.0.0",  # noqa: S104 - a text
        "tls": {"profile": "intl", "certificate_file": "secrets/box.pem", "key_file": "secrets/box.key"},
    }


async def test_settings_of_a_newer_program_are_told_and_left_as_they_are(
    centre: Centre, machine: Machine
) -> None:
    """An image on trial began to enrol, and was left: the older one ended at each start, with no page."""
    await centre.close()
    machine.plug(centre.claim())
    async with machine.on() as work:
        await until(lambda: work.state.state == "asking" and work.state.tries > 0, "it to ask")
    draft = machine.files.draft
    draft.write_text(draft.read_text() + "[an_option_of_tomorrow]\n")
    before = machine.left()
    async with machine.on() as work:
        await until(lambda: work.state.state == "stuck", "it to be told")
        assert "an_option_of_tomorrow" in work.state.problem
        assert "on a stick" in work.state.hint
    assert before <= machine.left()
    draft.write_text(draft.read_text().removesuffix("[an_option_of_tomorrow]\n"))
    async with machine.on() as work:
        await until(lambda: work.state.state == "asking", "it to go on")
