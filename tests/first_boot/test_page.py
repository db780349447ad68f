"""The page in the branch takes a claim from who stands before it, and from nobody else's web site."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import msgspec
import pytest
from click.testing import Result

from edgegw.commands.serving import listening
from edgegw.core.enrolment import CLAIM_BYTES_MAX
from edgegw.first_boot import page as page_module
from edgegw.first_boot.page import Page, is_own_name
from edgegw.first_boot.sources import Found
from edgegw.first_boot.work import State
from tests.centre import centre_of
from tests.processes import edgegw

ASKING = State(state="asking", bank="b1", box="box-1", branch="<b>Harbour</b>", problem="the line is down")


class Browser:
    """A browser in the branch, and what the page did with what it sent."""

    def __init__(self) -> None:
        self.state = State(state="waiting")
        self.offered: list[Found] = []
        self.given_up = 0
        self.page = Page(state=lambda: self.state, offer=self.offered.append, give_up=self._give_up)
        self.address = ""
        self.session = aiohttp.ClientSession()

    @contextlib.asynccontextmanager
    async def from_address(self, address: str) -> AsyncIterator[None]:
        """Another machine of the branch asks."""
        own, connector = self.session, aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector) as self.session:
            yield
        self.session = own

    def _give_up(self) -> None:
        self.given_up += 1

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        """Status and text."""
        async with self.session.get(self.address + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, form: dict[str, str] | bytes, **headers: str) -> tuple[int, str]:
        """Status and text, after no redirection."""
        url = self.address + path
        async with self.session.post(url, data=form, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def word(self) -> str:
        """What the page puts into its forms."""
        found = re.search(r'name="word" value="([^"]+)"', (await self.get())[1])
        assert found is not None
        return found[1]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    browser = Browser()
    place = ("127.0.0.1", 0)
    async with (
        listening(
            browser.page.app(),
            [place],
            name="page",
            option="listen",
            tls=None,
            connections_max=page_module.CONNECTIONS_MAX,
        ) as (served,),
        browser.session,
    ):
        browser.address = f"http://{served}"
        yield browser


async def test_a_claim_that_is_pasted_is_taken(browser: Browser, tmp_path: Path) -> None:
    """No stick at hand: a scanner types it, or a person."""
    async with centre_of(tmp_path) as centre:
        text = centre.claim().read_text()
    form = {"word": await browser.word(), "claim": f"  {text}\r\n"}
    assert (await browser.post("/claim", form, Origin=browser.address))[0] == 303
    (found,) = browser.offered
    assert found.claim is not None
    assert found.claim.box == "box-1"
    assert json.loads(text)["seed"] not in (await browser.get())[1] + (await browser.get("/state"))[1]


async def test_another_site_in_the_same_browser_gives_no_claim(browser: Browser) -> None:
    """A page on the internet that posts to every address of a private network."""
    word = await browser.word()
    good = {"word": word, "claim": "{}"}
    assert (await browser.post("/claim", {"claim": "{}"}))[0] == 403
    assert (await browser.post("/claim", {**good, "word": "guessed"}))[0] == 403
    assert (await browser.post("/claim", good, Origin="https://evil.example"))[0] == 403
    assert (await browser.post("/claim", good, Origin="null"))[0] == 403
    assert (await browser.post("/claim", good, Host="evil.example"))[0] == 421
    assert (await browser.get("/", Host="evil.example"))[0] == 421
    assert (await browser.post("/claim", json.dumps(good).encode(), **{"Content-Type": "text/plain"}))[
        0
    ] == 415
    assert (await browser.post("/give-up", {}))[0] == 403
    assert (browser.offered, browser.given_up) == ([], 0)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("10.0.0.7", True),
        ("10.0.0.7:8090", True),
        ("[fe80::1]:8090", True),
        ("localhost:8090", True),
        ("10.0.0.7.evil.example", False),
        ("evil.example:8090", False),
        ("", False),
    ],
)
def test_only_its_own_address_names_the_machine(host: str, is_own: bool) -> None:
    """A name of somebody's that leads here makes the browser speak for them."""
    assert is_own_name(host) is is_own


async def test_what_is_no_claim_is_told_with_its_mend_and_never_repeated(browser: Browser) -> None:
    """The text that was scanned by mistake may be somebody's password."""
    secret = "correct-horse-battery"
    code, said = await browser.post("/claim", {"word": await browser.word(), "claim": secret})
    assert code == 400
    assert 'role="alert"' in said
    assert "copy the claim again" in said
    assert secret not in said
    assert browser.offered == []


@pytest.fixture
def strangers(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the loopback's addresses one alone is the machine's own: the others are the branch's. Nobody gets
    anything back while a slow test runs."""
    monkeypatch.setattr(page_module, "is_this_machine", "127.0.0.1".__eq__)
    browser.page._views = page_module.Rates(burst=page_module.VIEWS_BURST, per_s=0.0)
    browser.page._forms = page_module.Rates(burst=page_module.FORMS_BURST, per_s=0.0)


@pytest.mark.usefixtures("strangers")
async def test_sizes_and_rates_are_bounded(browser: Browser) -> None:
    """It listens in a network where anybody may be."""
    word = await browser.word()
    form = {"word": word, "claim": "x" * (8 * CLAIM_BYTES_MAX)}
    async with browser.from_address("127.0.0.2"):
        assert (await browser.post("/claim", form))[0] == 413
        codes = [(await browser.post("/claim", {"word": word, "claim": "x"}))[0] for _ in range(12)]
        assert codes[0] == 400
        assert codes[-1] == 429
        codes = [(await browser.get())[0] for _ in range(page_module.VIEWS_BURST + 20)]
        assert codes[-1] == 429
    assert browser.offered == []


@pytest.mark.usefixtures("strangers")
async def test_who_asks_too_often_shuts_out_neither_the_technician_nor_a_trial(browser: Browser) -> None:
    """The one rate was everybody's: a scanner in the branch kept the technician from the page, and the image
    on trial of a machine that has not enrolled was left, because its page did not answer."""
    word = await browser.word()
    bad = {"word": word, "claim": "x"}
    async with browser.from_address("127.0.0.2"):
        assert [(await browser.post("/claim", bad))[0] for _ in range(12)][-1] == 429
        assert [(await browser.get())[0] for _ in range(page_module.VIEWS_BURST + 20)][-1] == 429
    async with browser.from_address("127.0.0.3"):
        assert (await browser.get())[0] == 200
        assert (await browser.post("/claim", bad))[0] == 400
    for _ in range(page_module.VIEWS_BURST + 20):
        assert (await browser.get("/state"))[0] == 200, "the machine itself is not counted"


def test_addresses_that_come_and_go_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has many addresses must not fill the memory."""
    monkeypatch.setattr(page_module, "ADDRESSES_MAX", 3)
    rates = page_module.Rates(burst=1, per_s=0.0)
    assert [rates.take(f"10.0.0.{n}") for n in (1, 2, 3, 1)] == [True, True, True, False]
    assert rates.take("10.0.0.4")
    assert not rates.take("10.0.0.1"), "it has asked since"
    assert rates.take("10.0.0.2"), "it was silent for the longest"


@pytest.mark.parametrize(
    ("remote", "is_own"),
    [("127.0.0.1", True), ("::1", True), ("10.0.0.7", False), ("fe80::1%eth0", False), ("", False)],
)
def test_only_the_loopback_is_this_machine(remote: str, is_own: bool) -> None:
    """What is never counted must not be the branch."""
    assert page_module.is_this_machine(remote) is is_own


async def test_what_others_have_written_is_shown_as_text(browser: Browser) -> None:
    """A branch's name comes from a claim, and a claim from whoever pastes one."""
    browser.state = ASKING
    _, said = await browser.get()
    assert "&lt;b&gt;Harbour&lt;/b&gt;" in said
    assert "<b>" not in said
    assert "the line is down" in said


class Outline(HTMLParser):
    """What of a page a screen reader goes by, and what would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.labelled: set[str | None] = set()
        self.fields: set[str | None] = set()
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.labelled |= {given["for"]} if "for" in given else set()
        if tag == "textarea" or (tag == "input" and given.get("type") != "hidden"):
            self.fields.add(given.get("id"))
        self.foreign += [str(given[name]) for name in ("src", "href") if name in given and given[name] != "/"]


@pytest.mark.parametrize("state", [State(state="waiting"), ASKING, State(state="ready", bank="b1", box="b")])
async def test_everybody_can_use_it_and_nothing_of_it_comes_from_elsewhere(
    browser: Browser, state: State
) -> None:
    """A technician with a screen reader, in a network without the internet."""
    browser.state = state
    outline = Outline()
    async with browser.session.get(browser.address) as answer:
        outline.feed(await answer.text())
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in outline.tags
    assert outline.foreign == []
    assert outline.fields == outline.labelled
    assert {"main", "h1", "title"} <= set(outline.tags)


async def test_it_does_not_reload_under_who_is_typing(browser: Browser) -> None:
    """Half a claim that is gone is typed again, with a mistake."""
    assert "http-equiv" not in (await browser.get())[1]
    browser.state = ASKING
    assert 'http-equiv="refresh"' in (await browser.get())[1]
    word = await browser.word()
    assert (await browser.post("/give-up", {"word": word}))[0] == 303
    assert browser.given_up == 1


async def test_who_is_only_on_the_network_cannot_replace_what_was_brought(
    browser: Browser, tmp_path: Path
) -> None:
    """The page is for everybody in the branch; the stick is in a technician's hand."""
    async with centre_of(tmp_path) as centre:
        form = {"word": await browser.word(), "claim": centre.claim().read_text()}
    browser.state = msgspec.structs.replace(ASKING, is_brought=True)
    assert "/give-up" not in (await browser.get())[1]
    for path in ("/claim", "/give-up"):
        status, said = await browser.post(path, form)
        assert (status, "pull the stick first" in said) == (409, True)
    assert (browser.offered, browser.given_up) == ([], 0)


def asked(folder: Path, *words: str) -> Result:
    return edgegw("first-boot", "--status", "--folder", str(folder), "--state", str(folder / "state"), *words)


def test_the_state_is_told_to_who_asks_at_the_machine(tmp_path: Path) -> None:
    """A script that waits for a hundred boxes reads an exit code."""
    done = asked(tmp_path)
    assert (done.exit_code, "no first boot runs" in done.output) == (3, True)
    (tmp_path / "state").write_text('{"state":"asking","bank":"b1","box":"box-1","tries":3}')
    done = asked(tmp_path)
    assert (done.exit_code, "asks the centre for b1/box-1, try 3" in done.output) == (1, True)
    assert json.loads(asked(tmp_path, "--json").stdout)["state"] == "asking"


async def test_connections_that_say_nothing_do_not_pile_up(browser: Browser) -> None:
    """A machine in the branch could take every descriptor: no page, no stick, no enrolment."""
    host, _, port = browser.address.removeprefix("http://").rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(page_module.CONNECTIONS_MAX + 50)]
    assert (await browser.get())[0] == 200
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            assert await silent[0][0].read() == b""
    for _, writer in silent:
        writer.close()
