"""The command line: exit codes that scripts rely on, help that a stranger understands, no traceback for
what an operator mends."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import click
import pytest
from multidict import CIMultiDict
from sqlalchemy import insert

from edgegw.__main__ import main
from edgegw.access.signatures import digest_fits, parse, signature_base
from edgegw.access.signers import keyid_of
from edgegw.commands import ExitCode, exit_code_of
from edgegw.config.hub import load_hub
from edgegw.config.options import SettingsError
from edgegw.errors import Behind, BrokenInvariant, HeadMoved, StorageFull
from edgegw.hub import schema
from edgegw.hub.sqlite import SqliteDatabase
from edgegw.sm.sm2 import PublicKey
from tests.processes import Branch, edgegw

TOO_MANY = "9" * 25
"""More than any column of a database holds."""


def every_command() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The words and the command of each leaf."""

    def walk(
        command: click.Command, words: tuple[str, ...]
    ) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from walk(found, (*words, name))

    return walk(main, ())


COMMANDS = list(every_command())


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_help_ends_well_and_shows_what_to_type(words: tuple[str, ...], command: click.Command) -> None:
    """A stranger has nothing but --help."""
    done = edgegw(*words, "--help")
    assert done.exit_code == 0
    if words not in (("demo",), ("verify",)):
        assert "edgegw " in re.sub(r"^Usage: .*", "", done.stdout), "no example"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (SettingsError("box.toml", ["bank: it is missing"]), ExitCode.USAGE),
        (StorageFull("no room"), ExitCode.CANNOT),
        (Behind("a copy"), ExitCode.CANNOT),
        (HeadMoved("moved"), ExitCode.BROKEN),
        (BrokenInvariant("sums differ"), ExitCode.BROKEN),
        (FileNotFoundError("no such folder"), ExitCode.CANNOT),
        (ValueError("a bug"), ExitCode.BROKEN),
    ],
)
def test_each_kind_of_error_has_its_exit_code(problem: Exception, code: ExitCode) -> None:
    """A supervisor restarts on one code and calls a person on another."""
    assert exit_code_of(problem) is code


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nonsense",), 2, "No such command"),
        (("run", "nowhere.toml"), 2, "it cannot be read"),
        (("hub", "nowhere.toml"), 2, "it cannot be read"),
        (("status", "nowhere.toml"), 2, "it cannot be read"),
        (("token", "--client", "a", "--box", "b", "--key", "nowhere.pem"), 2, "no private key can be read"),
        (("config", "check", "nowhere.toml"), 2, "it cannot be read"),
        (("verify", "journal", "nowhere.journal"), 2, ""),
        (("site", "diff", TOO_MANY, "1"), 2, "not in the range"),
        (("site", "diff", "²", "1"), 2, "²: it cannot be read"),
        (("site", "rollback", TOO_MANY), 2, "not in the range"),
        (("site", "export", TOO_MANY, "site.signed"), 2, "not in the range"),
        (("orders", "approve", TOO_MANY), 2, "not in the range"),
        (("order", "limit", "day", "--off", "--count", "1", "--reason", "x"), 2, "--off takes no values"),
        (("orders", "reject", TOO_MANY, "--reason", "no"), 2, "not in the range"),
        (("order", "seal", "branch-1", TOO_MANY), 2, "not in the range"),
        (("settlement", "accept", "branch-1", TOO_MANY), 2, "not in the range"),
        (("settlement", "report", TOO_MANY), 2, "not in the range"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    """A traceback tells an operator that nobody thought of this."""
    monkeypatch.chdir(tmp_path)
    done = edgegw(*words)
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output


MORE_KEYS = """[mirror]
key_file = "{mirror}"
[[mirror.addresses]]
url = "http://127.0.0.1:9"
[[replica.targets]]
name = "store"
kind = "sftp"
host = "store"
user = "box"
path = "/copies"
host_key_file = "{host}"
private_key_file = "{login}"
[[replica.targets]]
name = "objects"
kind = "s3"
bucket = "copies"
secret_access_key_file = "{secret}"
"""


@pytest.fixture
def branch(tmp_path: Path) -> Branch:
    """Keys, settings and a published site, with nothing running."""
    branch = Branch(tmp_path)
    branch.write_box(("127.0.0.1:9",))
    return branch


def test_settings_are_checked_by_what_is_in_them(branch: Branch) -> None:
    """An operator checks the folder before the restart, not after it."""
    files = [branch.path(name) for name in ("box.toml", "hub.toml", "site.json")]
    said = branch.run("config", "check", *files)
    assert [line.split(": ")[1].split(",")[0] for line in said.splitlines()] == [
        "sound settings of box box-1 of b1",
        "sound settings of the hub of b1",
        "sound settings of a site",
    ]
    branch.run("site", "check", branch.path("site.json"), "--hub", branch.path("hub.toml"))
    Path(files[0]).write_text("bank = 3\n")
    done = edgegw("config", "check", *files)
    assert done.exit_code == ExitCode.USAGE
    assert "bank = 3" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_settings_that_the_hub_would_not_publish_are_not_called_sound(branch: Branch) -> None:
    """Whoever has checked a change by day must not be refused at night; and a check changes nothing."""
    site = json.loads(Path(branch.path("site.json")).read_text())
    site["currencies"].append({"code": "JPY", "numeric": 392})
    file, hub = Path(branch.path("next.json")), ("--hub", branch.path("hub.toml"))
    file.write_text(json.dumps(site | {"version": 2}))
    branch.run("site", "check", str(file), *hub)
    other_account = [site["accounts"][0] | {"currency": "JPY"}, *site["accounts"][1:]]
    unknown_list = [{"name": "x", "of": "card", "digest": "00" * 32, "entries": 1}]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"version": 1}, "raise it"),
        ({"version": 2, "accounts": other_account}, "account alice"),
        ({"version": 2, "lists": unknown_list}, "lists"),
    ]
    for change, said in wrong:
        file.write_text(json.dumps(site | change))
        done = edgegw("site", "check", str(file), *hub)
        assert (done.exit_code, said in done.stderr) == (ExitCode.USAGE, True), done.output
    assert "version 2 " not in branch.run("site", "versions", *hub)


def test_keys_and_secrets_that_settings_name_are_opened_by_the_check(branch: Branch) -> None:
    """A path with a slip passes the check, and is found on the day of the fire."""
    key = branch.path("secrets/device.pub")
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    wrong = {
        "known-hosts": f"store {host_key.export_public_key().decode()}",
        "host.pub": host_key.export_public_key().decode(),
        "locked": host_key.export_private_key("pkcs8-pem", passphrase="p" * 8).decode(),
        "login": host_key.export_private_key().decode(),
        "empty": "\n",
        "secret": "s3cret\n",
        "mirror.pub": Path(key).read_text()[:-9],
    }
    for name, text in wrong.items():
        Path(branch.path(name)).write_text(text)

    def faults_with(**files: str) -> list[str]:
        branch.more = MORE_KEYS.format(
            **{"mirror": key, "host": "host.pub", "login": "login", "secret": "secret"} | files
        )
        branch.write_box(("127.0.0.1:9",))
        said = edgegw("config", "check", branch.path("box.toml"))
        assert said.exit_code == (ExitCode.USAGE if said.stderr else ExitCode.OK)
        prefix = f"{branch.path('box.toml')}: "
        return [line.removeprefix(prefix) for line in said.stderr.splitlines()]

    assert faults_with() == []
    for files, fault in (
        ({"mirror": "none.pub"}, "mirror.key_file = {}none.pub: cannot be read (No such file"),
        ({"mirror": "mirror.pub"}, "mirror.key_file = {}mirror.pub: "),
        ({"host": "none"}, "replica.targets[store].host_key_file = {}none: it cannot be read (No such file"),
        ({"host": "known-hosts"}, "replica.targets[store].host_key_file = {}known-hosts: it is no OpenSSH"),
        ({"login": "locked"}, "replica.targets[store].private_key_file = {}locked: it has a passphrase"),
        ({"login": "host.pub"}, "replica.targets[store].private_key_file = {}host.pub: it is no private key"),
        ({"secret": "empty"}, "replica.targets[objects].secret_access_key_file = {}empty: it has 0 lines"),
    ):
        (found,) = faults_with(**files)
        assert found.startswith(fault.format(f"{branch.folder}/")), (found, fault)
        assert "; " in found, "what mends it"


@pytest.mark.parametrize(("file", "option"), [("hub.toml", "key_file"), ("box.toml", "device_key_file")])
def test_a_private_key_that_is_not_there_is_said_by_the_check(branch: Branch, file: str, option: str) -> None:
    """The process would say so only at its next start."""
    shutil.rmtree(branch.path("secrets"))
    Path(branch.path("secrets")).mkdir()
    said = edgegw("config", "check", branch.path(file))
    assert said.exit_code == ExitCode.USAGE
    assert f"{option} = {branch.path('secrets/')}" in said.stderr


def test_the_same_settings_do_not_differ_and_a_mere_number_is_said(branch: Branch) -> None:
    """An operator who is told of another number looks for a version that is not there."""
    hub, site = ("--hub", branch.path("hub.toml")), branch.folder / "site.json"
    assert branch.run("site", "diff", "1", str(site), *hub) == "no difference\n"
    site.write_text(json.dumps(json.loads(site.read_text()) | {"version": 2}))
    assert branch.run("site", "diff", "1", str(site), *hub) == "no difference but the version's number\n"


@pytest.mark.parametrize(
    ("of", "whose"),
    [
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "5b1c"),
        ("terminal", "4111-1111-1111-1111"),
        ("terminal", "té"),
        ("merchant", "x" * 65),
    ],
)
def test_a_block_that_no_payment_would_meet_is_refused(of: str, whose: str) -> None:
    """Whoever orders it believes a stolen card barred; and a card number stays out of every journal."""
    done = edgegw("order", "block", of, whose, "--reason", "stolen")
    assert (done.exit_code, "Invalid value for ID" in done.stderr) == (ExitCode.USAGE, True)
    assert whose not in done.output


def test_a_list_with_a_card_number_or_a_wrong_name_is_refused(branch: Branch) -> None:
    """Boxes would keep it, and refuse the settings that it is pasted into."""
    ids, hub = branch.folder / "cards.txt", ("--of", "card", "--hub", branch.path("hub.toml"))
    ids.write_text(f"{'a' * 64}\n\n4111 1111 1111 1111\n")
    done = edgegw("site", "list", "hot", str(ids), *hub)
    assert (done.exit_code, "line 3: it looks like a card number" in done.stderr) == (ExitCode.USAGE, True)
    ids.write_text(f"{'a' * 64}\n")
    done = edgegw("site", "list", 'hot "cards"', str(ids), *hub)
    assert (done.exit_code, "NAME: 'hot \"cards\"'" in done.stderr) == (ExitCode.USAGE, True)
    assert 'name = "hot"\n' in branch.run("site", "list", "hot", str(ids), *hub)


def test_publishing_and_posting_again_change_nothing(branch: Branch) -> None:
    """Scripts are run twice; money must not be."""
    hub = ("--hub", branch.path("hub.toml"))
    branch.run("site", "publish", branch.path("site.json"), *hub)
    assert branch.run("post", branch.path("balances.csv"), *hub) == "0 posted, 2 were there already\n"
    changed = Path(branch.path("balances.csv")).read_text().replace("alice,200000", "alice,300000")
    Path(branch.path("balances.csv")).write_text(changed)
    refused = edgegw("post", branch.path("balances.csv"), *hub)
    assert refused.exit_code == ExitCode.USAGE
    assert "opening-alice exists with amount_minor 200000" in refused.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "its first line must be id,debit_account_id"),
        (
            "id,debit_account_id,credit_account_id,amount_minor\nx,core:CNY,alice,1.5\n",
            "line 2: amount_minor",
        ),
        ("id,debit_account_id,credit_account_id,amount_minor\nx,core:CNY,alice\n", "line 2: amount_minor"),
        ("id,debit_account_id,credit_account_id,amount_minor\n,core:CNY,alice,1\n", "line 2: id is ''"),
        (
            "id,debit_account_id,credit_account_id,amount_minor\nx,core:\0,alice,1\n",
            "line 2: debit_account_id",
        ),
        ("id,debit_account_id,credit_account_id,amount_minor\nx,core:CNY,nobody,1\n", "nobody is unknown"),
    ],
)
def test_a_wrong_posting_names_its_line(branch: Branch, text: str, said: str) -> None:
    """Half a file of opening balances is worse than none."""
    Path(branch.path("wrong.csv")).write_text(text)
    done = edgegw("post", branch.path("wrong.csv"), "--hub", branch.path("hub.toml"))
    assert done.exit_code == ExitCode.USAGE
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,amount\n", "is no exported journal"),
        ('{"edgegw_journal":1,"origin":"edgegw/b1/box-9/1","from":0}\n', "b1/box-9 is no box of this hub"),
        ('{"edgegw_journal":1,"origin":"edgegw/b1/box-1/7","from":0}\n', "epoch 7 of box-1 was not issued"),
    ],
)
def test_a_file_that_is_no_journal_of_ours_is_not_taken_in(branch: Branch, text: str, said: str) -> None:
    """Whatever an operator is handed, only what a box has signed reaches the books."""
    Path(branch.path("some.journal")).write_text(text)
    done = edgegw("order", "take-journal", branch.path("some.journal"), "--hub", branch.path("hub.toml"))
    assert done.exit_code == ExitCode.USAGE
    assert said in done.stderr


def test_what_waits_for_a_person_is_listed_with_the_next_command(branch: Branch) -> None:
    """Nobody reads a database by hand at three in the morning."""
    hub = ("--hub", branch.path("hub.toml"))
    assert branch.run("findings", *hub) == "nothing waits for a person\n"
    assert branch.run("findings", "--json", *hub) == ""
    database = SqliteDatabase(Path(load_hub(Path(branch.path("hub.toml"))).database_file))
    loss = insert(schema.loss).values(
        box="box-1", epoch=2, log="journal", seq=7, leg=0, account_id="alice", amount_minor=40
    )
    database.transact(lambda c: c.execute(loss))
    database.close()
    told = "loss: box-1 epoch 2 journal 7, alice, 40 CNY minor units: alice was short of it"
    assert branch.run("findings", *hub).startswith(told)
    (line,) = branch.run("findings", "--json", *hub).splitlines()
    assert json.loads(line)["next"].startswith("edgegw post FILE with id loss:box-1/2/journal/7.0, ")
    posting = "id,debit_account_id,credit_account_id,amount_minor\nloss:{},capital:CNY,risk:box-1:CNY,40\n"
    for name, code in (("box-1/2/journal/8.0", ExitCode.USAGE), ("box-1/2/journal/7.0", ExitCode.OK)):
        Path(branch.path("good.csv")).write_text(posting.format(name))
        branch.run("post", branch.path("good.csv"), *hub, code=code)
    assert branch.run("findings", *hub) == "nothing waits for a person\n"


def test_items_in_suspense_are_worked_off_by_commands(branch: Branch, tmp_path: Path) -> None:
    """Listed with who must act, shown with steps, exported, parked; a posting that names one closes it."""
    hub = ("--hub", branch.path("hub.toml"))
    assert branch.run("suspense", "list", *hub) == "nothing is in suspense\n"
    assert branch.run("receivables", *hub) == "nothing is owed to any branch\n"
    database = SqliteDatabase(Path(load_hub(Path(branch.path("hub.toml"))).database_file))
    item = {"box": "box-1", "epoch": 1, "detail": "planted", "currency": "CNY", "amount_minor": 5}
    item |= {"owner": "bank", "reason": "identity_conflict", "state": "open", "reference": ""}
    item |= {"at_ns": 1, "steps": 0, "raised_ns": 0}
    database.transact(
        lambda c: c.execute(insert(schema.suspense_item), [item | {"seq": seq} for seq in (7, 8)])
    )
    database.close()
    assert branch.run("suspense", "list", *hub).startswith("box-1/1/7: open for ")
    branch.run("suspense", "park", "box-1/1/7", "--by", "M. Li", "--reason", "both agreed", *hub)
    shown = json.loads(branch.run("suspense", "show", "box-1/1/7", "--json", *hub))
    assert [(step["by"], step["action"], step["detail"]) for step in shown["steps"]] == [
        ("M. Li", "park", "both agreed")
    ]
    posting = tmp_path / "posting.csv"
    rows = "id,debit_account_id,credit_account_id,amount_minor\n{},core:CNY,alice,5\n"
    posting.write_text(rows.format("suspense:box-1/1/8"))
    assert branch.run("post", str(posting), *hub).startswith("1 posted")
    assert branch.run("post", str(posting), *hub).startswith("0 posted")
    states = {
        one["item"]: one["state"]
        for one in map(json.loads, branch.run("suspense", "list", "--all", "--json", *hub).splitlines())
    }
    assert states == {"box-1/1/7": "parked", "box-1/1/8": "closed"}
    exported = tmp_path / "items.csv"
    branch.run("suspense", "export", str(exported), *hub)
    assert exported.read_text().splitlines()[1].startswith("box-1/1/7,parked,bank,identity_conflict,planted")
    assert [json.loads(line)["kind"] for line in branch.run("findings", "--json", *hub).splitlines()] == [
        "parked"
    ]


def test_a_key_is_never_overwritten(branch: Branch) -> None:
    """A device key that is gone takes its ledger's future with it."""
    pem = Path(branch.path("secrets/device.pem"))
    before = pem.read_bytes()
    done = edgegw("keygen", "box", "--bank", "b1", "--box", "box-1", "--out", str(pem))
    assert done.exit_code == ExitCode.USAGE
    assert pem.read_bytes() == before
    vault = branch.path("vault.key")
    branch.run("keygen", "vault", "--out", vault)
    branch.run("keygen", "vault", "--out", vault, code=2)


def test_a_request_is_signed_by_hand(branch: Branch) -> None:
    """What is printed is what the box checks: the key of keygen verifies the signature over the base."""
    pem, body = branch.path("till-sm2.pem"), Path(branch.path("pay.json"))
    body.write_bytes(b"{}")
    public = PublicKey(base64.b64decode(edgegw("keygen", "client", "--sm2", "--out", pem).output))
    asked = ("--client", "till", "--box", "b-1", "--key", pem)
    address = "http://127.0.0.1:8443/v1/payments?x=1"
    for options, challenge in (((), ""), (("--challenge", "box.abc"), "box.abc")):
        done = edgegw("sign", *asked, "--body", str(body), *options, "POST", address)
        headers = CIMultiDict(line.split(": ", 1) for line in done.output.splitlines())
        signed = parse(headers, has_body=True)
        assert signed is not None
        assert (signed.keyid, signed.tag) == (keyid_of("till", public), "edgegw:b-1")
        assert not challenge or signed.nonce == challenge
        base = signature_base(
            signed.components,
            signed.parameters,
            method="POST",
            authority="127.0.0.1:8443",
            path="/v1/payments",
            query="x=1",
            headers=headers,
        )
        assert public.verify(base, signed.signature)
        assert digest_fits(headers, b"{}")
    assert "Content-Digest" not in edgegw("sign", *asked, "GET", address).output
    assert edgegw("sign", *asked, "GET", "127.0.0.1:8443").exit_code == ExitCode.USAGE
    assert edgegw("sign", *asked[:4], "GET", address).exit_code == ExitCode.USAGE


def test_a_key_pinned_under_another_box_is_refused(branch: Branch) -> None:
    """A box whose key stands under another's name would be cosigned as that one."""
    hub = Path(branch.path("hub.toml"))
    hub.write_text(hub.read_text().replace("\nbox-1 = ", "\nbox-2 = "))
    done = edgegw("post", branch.path("balances.csv"), "--hub", str(hub))
    assert done.exit_code == ExitCode.USAGE
    assert "boxes.box-2: the key is b1/box-1's" in done.stderr


def test_a_ledger_that_is_not_there_cannot_be_read(branch: Branch) -> None:
    """An empty report would look like an empty branch."""
    for words in (("status",), ("ledger", "check"), ("journal", "export", "--output", branch.path("j"))):
        done = edgegw(*words, branch.path("box.toml"))
        assert done.exit_code == ExitCode.CANNOT, words
        assert "there is no ledger" in done.stderr
        assert "hint: " in done.stderr
    assert not Path(branch.path("j")).exists()


def test_a_directory_is_checked_with_the_hub_key_only(branch: Branch) -> None:
    """A ledger that vouches for itself vouches for whoever wrote it."""
    Path(branch.path("data")).mkdir()
    done = edgegw("ledger", "check", branch.path("data"))
    assert done.exit_code == ExitCode.USAGE
    assert "--hub-key is missing" in done.stderr


def test_window_close_needs_a_running_box(branch: Branch) -> None:
    """A window that nobody closed must not look closed."""
    done = edgegw("window", "close", branch.path("box.toml"), "--date", "2026-03-02")
    assert done.exit_code == ExitCode.CANNOT


def test_card_numbers_become_tokens_and_are_not_repeated_in_errors(branch: Branch) -> None:
    """The site's settings hold tokens; a number that is mistyped must not end in a terminal's scrollback."""
    vault = branch.path("vault.key")
    branch.run("keygen", "vault", "--out", vault)
    done = edgegw("card-lookup", "--vault-key", vault, text="6222020000000000006\n")
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    wrong = edgegw("card-lookup", "--vault-key", vault, text="62220200x00000000006\n")
    assert wrong.exit_code == ExitCode.USAGE
    assert "62220200" not in wrong.output


def test_status_of_a_box_that_has_run_is_read_from_its_ledger(branch: Branch) -> None:
    """How far a dead box had come is asked for when it is dead."""
    branch.start_hub()
    branch.start_box()
    assert branch.box is not None
    running = json.loads(branch.run("status", branch.path("box.toml"), "--json", "--token", branch.token))
    assert (running["running"], running["ready"], running["epoch"]) == (True, True, 1)
    assert running["box_says"]["box"] == "box-1"
    closed = branch.run(
        "window", "close", branch.path("box.toml"), "--date", "2026-03-02", "--token", branch.token, "--json"
    )
    assert json.loads(closed)["window"] == 1
    branch.end()
    dead = json.loads(branch.run("status", branch.path("box.toml"), "--json", code=ExitCode.CANNOT))
    assert (dead["running"], dead["epoch"], dead["window"]) == (False, 1, 2)
    assert dead["journal_size"] >= running["journal_size"]
    assert "edgegw run" in dead["hint"]
    people = branch.run("status", branch.path("box.toml"), code=ExitCode.CANNOT)
    assert "not running" in people


def test_a_bug_is_not_taken_for_a_finding(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 says that a check found something: a crash of the check must not look like that."""

    def crash(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("edgegw.commands.ledger._place", crash)
    done = edgegw("ledger", "check", branch.path("box.toml"))
    assert done.exit_code == ExitCode.BROKEN
    assert "RuntimeError: planted" in done.stderr
