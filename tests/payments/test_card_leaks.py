"""No byte that a branch writes holds a card number, whatever way in brought it and wherever it stood."""

import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from edgegw.core.site import TerminalRule
from edgegw.demo.card_search import CardSearch, Leak
from edgegw.observe import logs as logs_module
from edgegw.observe.logs import LogFile, set_up_logs
from edgegw.payments import problems, vault_file
from edgegw.payments.http_api import strict
from edgegw.payments.iso8583 import fields, messages
from edgegw.payments.protocols import http
from edgegw.payments.protocols.iso8583 import Options, start
from edgegw.payments.vault import Lookups
from tests import card_leaks
from tests.payments import branch as real
from tests.payments.protocols.iso8583_branch import VAULT_KEY, write_keys
from tests.payments.test_cards import bodies_of, with_vault

SEARCH = CardSearch(card_leaks.NUMBERS)


@pytest.fixture(autouse=True)
def logs(tmp_path: Path) -> Iterator[None]:
    """All logs of this process go to a file beside the ledger, as a box's do."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers, root.level, structlog.get_config()
    file = LogFile(tmp_path / "log/box.jsonl", bytes_max=1 << 24, may_write=lambda _: True)
    set_up_logs(level="debug", stream=io.StringIO(), file=file)
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**configured)


@asynccontextmanager
async def branch_of(folder: Path) -> AsyncIterator[tuple[real.Branch, int, int]]:
    """A branch with a vault and both ways in; their ports. REGISTERED is the pupil's card."""
    async with real.open_branch(folder) as branch, with_vault(branch, folder):
        terminal = TerminalRule(
            id="T0000001", merchant="M00000000000001", credit_account_id=real.BAKER, currency="CNY"
        )
        cards = {Lookups(VAULT_KEY).lookup(card_leaks.REGISTERED): real.PUPIL}
        await branch.use_site(branch.site(2, terminals=(terminal,), cards=cards))
        await branch.grant(real.PUPIL, 1_000)
        await branch.grant(real.BAKER, 1_000)
        server = await start(branch.gateway, Options(port=0, **write_keys(folder)))
        ports = [int(address.rpartition(":")[2]) for address in (branch.url, server.addresses[0])]
        yield branch, ports[0], ports[1]
        await server.stop()


async def driven(branch: real.Branch, http_port: int, iso_port: int, *, numbers: tuple[str, ...]) -> bytes:
    """All ways in with each number; all answers over HTTP, and the metrics at the end.

    A terminal gets back the field 2 that it has sent, as ISO 8583 has it.
    """
    ids = (f"{number:032x}" for number in range(1 << 20, 1 << 30))
    traces = (f"{number:06d}" for number in range(1, 900_000))
    said = b""
    for number in numbers:
        ends = {"payer": real.BAKER, "payee": real.PUPIL}
        requests = card_leaks.http_requests(number, ids, branch.token(), **ends)
        said += await card_leaks.speak_http(http_port, requests)
        answers = await card_leaks.speak_iso(iso_port, card_leaks.iso_frames(number, traces))
        assert b"0210" in answers
    return said + branch.metrics.exposition()[0]


def leaks_of(folder: Path) -> dict[str, list[Leak]]:
    """What is found in the files of a folder."""
    found = {path.name: list(SEARCH.in_file(path)) for path in sorted(folder.rglob("*"))}
    return {name: leaks for name, leaks in found.items() if leaks}


@pytest.mark.parametrize(
    "numbers", [card_leaks.NUMBERS[:1], pytest.param(card_leaks.NUMBERS, marks=pytest.mark.slow)]
)
async def test_no_byte_that_the_branch_writes_or_says_holds_a_card_number(
    tmp_path: Path, numbers: tuple[str, ...]
) -> None:
    """A number in a log is in all its backups; one in the journal is at the hub, and for ever."""
    async with branch_of(tmp_path) as (branch, http_port, iso_port):
        said = await driven(branch, http_port, iso_port, numbers=numbers)
        assert b"622191******2576" in b"".join(bodies_of(branch)), "cards were paid with"
        assert leaks_of(tmp_path) == {}
    assert list(SEARCH.in_bytes(said)) == []
    assert leaks_of(tmp_path) == {}
    assert b'"cleared_by"' in said
    assert (tmp_path / "log/box.jsonl").stat().st_size > 1_000, "wrong messages were told"


PLANTS = {
    "record": (messages, "mask", lambda pan: pan[:7] + "*" * (len(pan) - 11) + pan[-4:]),
    "free text": (strict, "holds_card_number", lambda _text: False),
    "id": (strict, "is_padded_card_number", lambda _text: False),
    "answer": (problems, "mask_card_numbers", lambda text: text),
    "trace": (http, "is_padded_card_number", lambda _text: False),
    "log": (logs_module, "mask_card_numbers", lambda text: text),
    "shown field": (fields, "_SHOWN_OF_LONGER", 11),
    "vault": (vault_file.sm4_gcm, "seal", lambda _key, plaintext, **_: plaintext),
}
QUICK = ("record",)


@pytest.mark.parametrize(
    "plant", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANTS]
)
async def test_a_planted_leak_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    """A search that cannot be red proves nothing when it is green; each channel is planted once."""
    monkeypatch.setattr(*PLANTS[plant])
    if plant == "log":
        monkeypatch.setattr(fields, "SECRET", frozenset())
        monkeypatch.setattr(fields, "_SHOWN_CHARACTERS_MAX", 40)
    async with branch_of(tmp_path) as (branch, http_port, iso_port):
        said = await driven(branch, http_port, iso_port, numbers=card_leaks.NUMBERS[:1])
    assert leaks_of(tmp_path) or list(SEARCH.in_bytes(said)), plant


def test_a_leak_through_the_log_is_found(tmp_path: Path) -> None:
    """Each channel is planted once: here a library that quotes what it got."""
    logging.getLogger("library").warning("got %s", card_leaks.REGISTERED.encode().hex())
    assert set(leaks_of(tmp_path)) == {"box.jsonl"}
