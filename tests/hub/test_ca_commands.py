"""`edgegw hub ca` as a person types it."""

import json
import subprocess
from pathlib import Path

import pytest

from edgegw.core.enrolment import decode_claim
from tests.hub.test_order_commands import Terminal

ENROLMENT = """
[enrolment]
addresses = ["https://hub.bank:8602"]
certificate_days = 30
claim_hours_max = 48
"""


class Desk(Terminal):
    """A terminal at a hub that enrols."""

    def enrols(self, listed: str) -> None:
        """Write the settings, with people or without."""
        self.settings(listed)
        file = self.folder / "hub.toml"
        file.write_text(file.read_text() + ENROLMENT)

    def ca(self, *words: str, by: str = "", code: int = 0) -> str:
        return self.hub("hub", "ca", *words, by=by, code=code)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_person_sets_up_the_ca_and_makes_a_claim(desk: Desk) -> None:
    """From nothing to the file on the stick, and to a server's certificate that openssl takes."""
    desk.enrols(desk.alone)
    out = desk.folder / "claim.json"
    assert "make one: edgegw hub ca init" in desk.ca("claim", "east", "--out", str(out), code=2)
    assert "BEGIN CERTIFICATE" in desk.ca("init")
    listed = desk.folder / "secrets" / "ca-p256.crl"
    empty = listed.read_bytes()
    assert "exists already" in desk.ca("init", code=2)
    desk.ca("init", "--kind", "sm2")
    (desk.folder / "secrets" / "ca-sm2.crt").unlink()
    assert "BEGIN CERTIFICATE" in desk.ca("init", "--kind", "sm2"), "killed between its two files"
    qr = desk.folder / "claim.svg"
    said = desk.ca("claim", "east", "--branch", "Harbour", "--out", str(out), "--qr", str(qr))
    assert "is good for the first device of east" in said
    claim = decode_claim(out.read_bytes())
    assert (claim.box, claim.branch, len(claim.authorities)) == ("east", "Harbour", 2)
    assert out.stat().st_mode & 0o777 == qr.stat().st_mode & 0o777 == 0o600
    assert claim.seed not in said
    assert claim.seed not in desk.ca("list", "--claims") + desk.ca("log")
    certificate, key = str(desk.folder / "hub.crt"), str(desk.folder / "hub.key")
    for _ in range(2):
        desk.ca("certificate", "--host", "hub.bank", "--out", certificate, "--key-out", key)
    ca = str(desk.folder / "secrets/ca-p256.crt")
    verified = [
        "openssl",
        "verify",
        "-x509_strict",
        "-verify_hostname",
        "hub.bank",
        "-CAfile",
        ca,
        certificate,
    ]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 0
    till = ("--out", str(desk.folder / "till.crt"), "--key-out", str(desk.folder / "till.key"))
    desk.ca("certificate", "--client", "till", *till)
    verified = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", ca, till[1]]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 0
    assert "sound settings" in desk.say("config", "check", str(desk.folder / "hub.toml"))
    assert "0 revoked" in desk.ca("crl", "--out", str(desk.folder / "ca.crl"))
    [server] = json.loads(desk.ca("list", "--json"))[-1]["certificates"][-1:]
    desk.ca("revoke", "--serial", server["serial"], "--reason", "leaked")
    assert listed.read_bytes() != empty
    assert "1 revoked" in desk.ca("crl", "--out", str(desk.folder / "ca.crl"))
    desk.ca("claim", "--withdraw", claim.id)
    assert "withdrawn" in desk.ca("list", "--claims")


def test_the_settings_in_a_claim_are_checked_at_the_centre(desk: Desk) -> None:
    """What is mistyped here is found out on a ladder otherwise."""
    desk.enrols(desk.alone)
    desk.ca("init")
    hub = desk.folder / "hub.toml"
    files = 'profile = "intl"\ncertificate_file = "hub.crt"\nkey_file = "hub.key"\n'
    more = f'line = ["https://hub.bank:8600"]\n[enrolment.tls]\n{files}[tls]\n{files}client_ca_file = "ca"\n'
    hub.write_text(hub.read_text() + more)
    part, out = desk.folder / "part.toml", desk.folder / "claim.json"
    for wrong, said in (
        ("[http]\nprt = 1\n", "prt"),
        ("[hub]\nkey = 'mine'\n", "[hub]"),
        ("data_dir = '/tmp'\n", "tables"),
        ("[http\n", "TOML"),
    ):
        part.write_text(wrong)
        assert said in desk.ca("claim", "east", "--settings", str(part), "--out", str(out), code=2)
        assert not out.exists()
    part.write_text("[http]\nport = 9443\n")
    desk.ca("claim", "east", "--settings", str(part), "--out", str(out))
    assert decode_claim(out.read_bytes()).settings == {"http": {"port": 9443}}
    assert "give another name" in desk.ca("claim", "east", "--out", str(out), code=2)


def test_a_claim_that_is_refused_leaves_no_file(desk: Desk) -> None:
    """Nobody carries a stick to a branch that the hub knows nothing of."""
    desk.enrols(desk.alone)
    desk.ca("init")
    out = desk.folder / "claim.json"
    for words, said in (
        (("east", "--replaces"), "leave --replaces out"),
        (("east", "--hours", "49"), "claim_hours_max = 48"),
        (("East!",), "a box's name"),
    ):
        assert said in desk.ca("claim", *words, "--out", str(out), code=2)
        assert not out.exists()


def test_a_device_is_replaced_by_two_people_and_revoked_by_one(desk: Desk) -> None:
    """Whoever takes a branch over is let in by two; whoever stops a thief need not wait for a second."""
    key, box = str(desk.folder / "device.pem"), "north"
    public = desk.say("keygen", "box", "--bank", "testbank", "--box", box, "--out", key).strip()
    desk.enrols(desk.listed + f'[boxes]\n{box} = "{public}"\n')
    desk.ca("init")
    out = desk.folder / "claim.json"
    assert "order 1 waits" in desk.ca("claim", box, "--replaces", "--out", str(out), by="mei")
    assert desk.ca("list", "--claims") == "no claims\n"
    assert "is good for a device in the place" in desk.hub("orders", "approve", "1", by="li")
    assert decode_claim(out.read_bytes()).id in desk.ca("list", "--claims")
    assert "order 2 waits" in desk.ca("claim", "east", "--out", str(desk.folder / "first.json"), by="mei")
    assert "is revoked" in desk.ca("revoke", box, "--reason", "stolen", by="mei")
    assert "revoked (stolen)" in desk.ca("list")
    assert "--by" in desk.ca("log", "--seen", "1", code=2), "nobody silences an alarm in another's name"
    assert "0 alarms were looked at" in desk.ca("log", "--seen", "1", by="mei")


def test_a_backup_of_no_database_is_none(desk: Desk) -> None:
    """A file that a night's job takes for the backup, and a fault that names nothing."""
    desk.enrols(desk.alone)
    out = desk.folder / "backup.db"
    assert "there is no" in desk.hub("hub", "backup", "--out", str(out), code=3)
    assert not list(desk.folder.glob("backup*"))
    desk.ca("init")
    desk.ca("list", "--claims")
    assert "bytes" in desk.hub("hub", "backup", "--out", str(out))
    assert out.stat().st_size > 0
