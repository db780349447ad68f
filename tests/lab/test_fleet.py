"""From plain Debian systems to boxes that pay, by the playbooks alone, over real ssh: three boxes and a hub.

The tests play one after the other on the same machines, as an infrastructure team's year would.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.controller import ANSIBLE, ROOT, TOOLS, Controller
from tests.lab.fleet import Fleet, ssh_options
from tests.lab.skips import FLEET, skip_without
from tests.lab.tills import Till
from tests.lab.wheels import other_version
from tests.processes import edgegw
from tests.waiting import wait_until

BOXES = {"box-1": "10.99.0.11", "box-2": "10.99.0.12", "box-3": "10.99.0.13"}
HOSTS = {"hub": "10.99.0.10", **BOXES}

pytestmark = [pytest.mark.xdist_group("fleet"), pytest.mark.timeout(1_800)]


class Team:
    """What the people have who run the fleet: its machines, the collection, a till's key."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.folder, self.fleet = folder, fleet
        self.controller = Controller.of(fleet, folder)
        self._key = folder / "till.pem"
        public = edgegw("keygen", "client", "--out", str(self._key)).stdout.strip()
        tills = self.tills()
        accounts = [
            {"id": id, "currency": "CNY", "home": till.box}
            for till in tills
            for id in (till.debit, till.credit)
        ]
        site = {
            "bank": "lab",
            "version": 1,
            "currencies": [{"code": "CNY", "numeric": 156}],
            "accounts": accounts,
            "clients": [{"name": "till", "public_key": public, "scopes": ["pay", "read"]}],
            "allowances": [{"currency": "CNY", "share_percent": 80, "account_minor": 900_000}],
        }
        (folder / "site.json").write_text(json.dumps(site))
        rows = "".join(f"opening-{till.debit},core:CNY,{till.debit},1000000\n" for till in tills)
        (folder / "balances.csv").write_text("id,debit_account_id,credit_account_id,amount_minor\n" + rows)

    def tills(self) -> list[Till]:
        """A till at each box. Their tokens live for an hour, the longest that a box takes."""
        words = ("--client", "till", "--key", str(self._key))
        return [
            Till(
                box,
                address,
                edgegw("token", *words, "--box", box).stdout.strip(),
                f"payer-{number}",
                f"shop-{number}",
            )
            for number, (box, address) in enumerate(BOXES.items(), 1)
        ]

    def pay_once(self) -> None:
        """A payment through each box; cleared."""
        for till in self.tills():
            pay = f"Till(*{list(till)!r}).pay({str(self.folder / 'ca.crt')!r}, {secrets.token_hex(16)!r})"
            code = f"import json; from tests.lab.tills import Till; print(json.dumps({pay}))"
            done = self.fleet.run(sys.executable, "-c", code, folder=ROOT)
            assert done.returncode == 0, done.stderr
            status, body = json.loads(done.stdout)
            assert status == 201, body

    def version(self, host: str) -> str:
        """What a machine runs."""
        return Path(self.fleet.on(host, "readlink", "/opt/edgegw/current").stdout.strip()).name


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    skip_without(FLEET)
    if given := os.environ.get("EDGEGW_LAB_HOST"):
        root = Path(given)
    else:
        from firmware import roots

        root = roots.ready("lab-host").path
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "run").mkdir()
    fleet = Fleet(root, folder / "run", HOSTS)
    fleet.start()
    try:
        yield Team(folder, fleet)
    finally:
        fleet.stop()


@pytest.fixture(scope="module")
def release(team: Team) -> Path:
    return team.controller.release(python="3.13")


@pytest.fixture(scope="module")
def wheel(team: Team, release: Path) -> Path:
    return team.controller.wheel_of(release)


@pytest.mark.lab
@pytest.mark.lab_long
def test_plain_servers_become_a_fleet_that_takes_payments(team: Team, release: Path) -> None:
    """Whoever has machines and the collection must come to payments without another hand on a machine."""
    site = ["-e", f"site_file={team.folder / 'site.json'}"]
    team.controller.play("site", *site, release=release)
    posted = team.fleet.run(
        "scp",
        *ssh_options(team.fleet.folder),
        str(team.folder / "balances.csv"),
        f"root@{HOSTS['hub']}:/tmp/",
    )
    assert posted.returncode == 0, posted.stderr
    done = team.fleet.on(
        "hub", "cd /var/lib/edgegw && runuser -u edgegw -- edgegw post /tmp/balances.csv --hub hub.toml"
    )
    assert done.returncode == 0, done.stderr
    ca = team.fleet.on("hub", "cat", "/var/lib/edgegw/secrets/ca-p256.crt").stdout
    (team.folder / "ca.crt").write_text(ca)
    wait_until(lambda: _granted(team), "the boxes to have money", timeout_seconds=120, poll_seconds=1)


def _granted(team: Team) -> bool:
    try:
        team.pay_once()
    except AssertionError:
        return False
    return True


@pytest.mark.lab
def test_a_second_run_changes_nothing(team: Team, release: Path) -> None:
    """A playbook that always changes something hides the day on which something has changed."""
    site = ["-e", f"site_file={team.folder / 'site.json'}"]
    assert team.controller.play("site", *site, release=release).changed == dict.fromkeys(HOSTS, 0)


@pytest.mark.lab_long
def test_check_mode_changes_nothing_and_finds_nothing_to_change(team: Team, release: Path) -> None:
    """Who asks what a run would do gets an answer, and no run."""
    site = ["-e", f"site_file={team.folder / 'site.json'}", "--check"]
    assert team.controller.play("site", *site, release=release).changed == dict.fromkeys(HOSTS, 0)


@pytest.mark.lab_long
def test_a_bad_canary_stops_the_rollout_and_goes_back(team: Team, release: Path, wheel: Path) -> None:
    """The whole fleet must not learn what one box could have told."""
    broken = {"edgegw/app.py": b'"""A build that does not start."""\nraise SystemExit("broken build")\n'}
    bad = team.controller.release(python="3.13", wheel=other_version(wheel, "0.1.0+1", team.folder, broken))
    words = [
        "-e",
        f"update_release={bad}",
        "-e",
        f"update_record={team.folder / 'record'}",
        "-e",
        "update_health_s=20",
    ]
    before = team.version("box-1")
    said = team.controller.play("update", *words, release=release, code=2).said
    assert "the canary is not well there: box-1: rolled_back" in said
    assert [team.version(box) for box in BOXES] == [before] * 3
    assert team.fleet.on("box-2", "ls", "/opt/edgegw/0.1.0+1").returncode != 0
    again = team.controller.play("update", *words, release=release, code=2)
    assert "its rollout was stopped at" in again.said
    team.pay_once()


@pytest.mark.lab_long
def test_a_good_rollout_goes_through_while_payments_go_on_and_records_who_was_away(
    team: Team, release: Path, wheel: Path
) -> None:
    """Ansible forgets whom it could not reach, and an update during the day must cost no payment."""
    good = team.controller.release(python="3.13", wheel=other_version(wheel, "0.1.0+2", team.folder))
    words = ["-e", f"update_release={good}", "-e", f"update_record={team.folder / 'record'}"]
    tills = subprocess.Popen(
        team.fleet.command(
            [
                sys.executable,
                "-m",
                "tests.lab.tills",
                str(team.folder / "ca.crt"),
                str(team.folder / "answers"),
            ],
            folder=ROOT,
        ),
        stdin=subprocess.PIPE,
        text=True,
    )
    assert tills.stdin is not None
    tills.stdin.write(json.dumps([till._asdict() for till in team.tills()[:2]]) + "\n")
    tills.stdin.flush()
    team.fleet.cut("box-3", connected=False)
    try:
        more = ["-e", "update_unreachable_percent_max=50"]
        said = team.controller.play("update", *words, *more, release=release, code=2).said
    finally:
        team.fleet.cut("box-3", connected=True)
        tills.stdin.close()
        tills.wait(60)
    assert "box-3 (unreachable" in said
    assert [team.version(box) for box in BOXES] == ["0.1.0+2", "0.1.0+2", "0.1.0"]
    record = json.loads((team.folder / "record" / "0.1.0+2" / "box-3.json").read_text())
    assert record["outcome"] == "unreachable"
    for box in ("box-1", "box-2"):
        answers = [json.loads(line) for line in (team.folder / f"answers.{box}").read_text().splitlines()]
        cleared = [one["id"] for one in answers if one["status"] in (200, 201)]
        assert len(cleared) > 10, answers[-3:]
        assert len(cleared) == len(set(cleared))
        # Nothing but the pause of its own restart.
        assert {one["status"] for one in answers} <= {0, 201, 200, 503}
        assert answers[-1]["status"] in (200, 201)
    team.controller.play("update", *words, release=release)
    assert team.version("box-3") == "0.1.0+2"
    team.pay_once()


@pytest.mark.lab_long
def test_what_the_boxes_can_prove_is_fetched_and_holds(team: Team, release: Path) -> None:
    """An audit that looks at nothing finds nothing."""
    folder = team.folder / "audits"
    team.controller.play("audit", "-e", f"audit_folder={folder}", release=release)
    for box in BOXES:
        verdict = json.loads((folder / f"{box}.json").read_text())
        assert verdict["journal"]["well"] is True
        assert verdict["hub"] == {"well": True, "breaks": []}
        assert verdict["checkpoint"]


@pytest.mark.lab_long
def test_the_collection_passes_the_linter_at_its_strictest() -> None:
    """What the linter refuses, somebody else's fleet trips over."""
    subprocess.run([str(ROOT / ".ci" / "setup-ansible")], check=True, timeout=600)
    path = f"{TOOLS}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(TOOLS / "ansible-lint"), "--offline", "--strict"],
        cwd=ANSIBLE,
        env={**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "production" in done.stdout + done.stderr
