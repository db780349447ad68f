"""`edgegw oauth` as a person at the branch types it, beside the box's own file."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgegw.__main__ import main
from edgegw.access.token_store import STORE_NAME, Assertion, Family, TokenStore
from edgegw.commands.limit_orders import id_fault

SETTINGS = """
bank = "demo-bank"
box = "branch-1"
[hub]
key = "x"
[[hub.addresses]]
url = "http://127.0.0.1:9"
[http]
port = 0
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "box.toml"
    path.write_text(SETTINGS)
    (tmp_path / "data").mkdir()
    return path


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["oauth", *arguments])


def a_family(settings: Path) -> Family:
    now_s = int(time.time())
    store = TokenStore(settings.parent / "data" / STORE_NAME)
    family = Family(
        id="f" * 32,
        client="till",
        client_key="k",
        epoch=1,
        scopes=("pay",),
        made_s=now_s,
        expires_s=now_s + 900,
    )
    store.begin(family, b"digest", Assertion("till", "1", now_s + 900), now_s=now_s)
    store.close()
    return family


def test_a_person_at_the_branch_sees_and_revokes_without_the_line(settings: Path) -> None:
    """A lost till must be out at once, not when the line is back."""
    family = a_family(settings)
    listed = json.loads(ran("list", str(settings), "--json").output)
    assert [one["id"] for one in listed["families"]] == [family.id]
    assert "digest" not in json.dumps(listed)
    assert ran("revoke", str(settings), "--token", family.id, "--reason", "lost").exit_code == 0
    assert ran("block", "till", str(settings), "--reason", "key stolen").exit_code == 0
    listed = json.loads(ran("list", str(settings), "--json").output)
    assert listed["families"][0]["ended"] == "revoked: lost"
    assert {one["of"] for one in listed["revocations"]} == {"token", "blocked"}
    assert "key stolen" in ran("list", str(settings)).output
    assert ran("block", "till", str(settings), "--off").output == "till speaks again\n"
    assert "was not blocked" in ran("block", "till", str(settings), "--off").output


def test_what_is_revoked_is_said_exactly(settings: Path) -> None:
    """A slip must not revoke everything, or nothing."""
    a_family(settings)
    for arguments in ((), ("--all", "--client", "till")):
        assert ran("revoke", str(settings), *arguments, "--reason", "x").exit_code == 2
    assert ran("block", "till", str(settings)).exit_code == 2
    assert ran("revoke", str(settings), "--all", "--reason", "fire").output == "revoked: all\n"
    assert "Clients ask for new tokens" in ran("reset-clock", str(settings)).output
    assert json.loads(ran("list", str(settings), "--json").output)["families"] == []


def test_a_box_that_never_ran_is_told_apart(settings: Path) -> None:
    """An empty list would read as: nobody has a token."""
    result = ran("list", str(settings))
    assert result.exit_code != 0


def test_a_token_whose_id_has_digits_like_a_card_s_can_be_blocked() -> None:
    """One random id in hundreds has them, and its thief would have been safe."""
    number = "4111111111111111"
    assert id_fault("token", number + "abcdef0123456789") == ""
    assert "card number" in id_fault("token", number)
