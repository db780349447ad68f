"""Two people at the hub's command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgegw.__main__ import main

SITE = {
    "bank": "testbank",
    "version": 1,
    "currencies": [{"code": "CNY", "numeric": 156}],
    "accounts": [{"id": "alice", "currency": "CNY"}],
}


class Terminal:
    """A hub's folder, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.say("keygen", "hub", "--bank", "testbank", "--out", str(folder / "secrets" / "hub.pem"))
        people = {
            name: self.say("keygen", "operator", "--out", self.key(name)).strip() for name in ("mei", "li")
        }
        self.alone = f'bank = "testbank"\nkey_file = "{folder}/secrets/hub.pem"\n'
        self.listed = self.alone + "".join(
            f'[[operators]]\nname = "{name}"\npublic_key = "{key}"\n' for name, key in people.items()
        )
        (folder / "site.json").write_text(json.dumps(SITE))

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def settings(self, text: str) -> None:
        (self.folder / "hub.toml").write_text(text)

    def say(self, *words: str, code: int = 0) -> str:
        ran = CliRunner().invoke(main, list(words))
        assert ran.exit_code == code, ran.output
        return ran.output

    def hub(self, *words: str, by: str = "", code: int = 0) -> str:
        person = ("--by", by, "--key", self.key(by)) if by else ()
        return self.say(*words, *person, "--hub", str(self.folder / "hub.toml"), code=code)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def test_what_one_person_orders_waits_for_another(terminal: Terminal) -> None:
    """From the settings' publication to a freeze: nothing moves on one word, everything on two."""
    terminal.settings(terminal.listed)
    site = str(terminal.folder / "site.json")
    assert "--by NAME" in terminal.hub("site", "publish", site, code=2)
    assert "order 1 waits" in terminal.hub("site", "publish", site, by="mei")
    assert "another person" in terminal.hub("orders", "approve", "1", by="mei", code=2)
    assert "order: order 1: publish by mei" in terminal.hub("findings")
    assert "version 1 is published" in terminal.hub("orders", "approve", "1", by="li")
    assert "order 2 waits" in terminal.hub("order", "freeze", "alice", "--reason", "court", by="li")
    assert '"account_id":"alice"' in terminal.hub("orders", "show", "2", "--json")
    assert 'freeze account_id="alice" frozen=true by li' in terminal.hub("orders", "list")
    assert "is rejected" in terminal.hub("orders", "reject", "2", "--reason", "no", by="mei")
    listed = json.loads(terminal.hub("orders", "list", "--all", "--json"))
    assert [one["state"] for one in listed] == ["approved", "rejected"]
    assert "is whole" in terminal.hub("orders", "check")


def test_a_bank_without_operators_is_told_that_one_person_was_enough(terminal: Terminal) -> None:
    """The order is done, written down, and nobody is left to believe that two have looked at it."""
    terminal.settings(terminal.alone)
    said = terminal.hub("site", "publish", str(terminal.folder / "site.json"))
    assert "version 1 is published" in said
    assert "one person was enough" in said
    assert "no operators" in terminal.hub("orders", "list")
    assert "is whole" in terminal.hub("orders", "check")
