"""The page in the branch: what the machine is, how far it is, and a field for a claim that is typed or
scanned.

Plain HTTP, because the machine has no certificate yet; a claim that is read on the way is good for one
machine all the same, and the centre hears of a second use. So the page says where else to put it. It has no
script. A form counts only with the word that this process put into it, and only under the machine's own
address, so that no other site speaks through the browser of somebody in the branch. Sizes and times are
bounded, and how often one address may ask.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from html import escape
from typing import Final

import msgspec
from aiohttp import web

from edgegw.core.enrolment import CLAIM_BYTES_MAX
from edgegw.first_boot import about
from edgegw.first_boot.sources import PAGE_SOURCE, Found, read_claim
from edgegw.first_boot.work import State

FORM_BYTES_MAX: Final = 4 * CLAIM_BYTES_MAX
"""A claim as a form encodes it, three characters for many of its own."""
BODY_S_MAX: Final = 10.0
CONNECTIONS_MAX: Final = 128
"""A browser opens a few. Somebody who opens more than all ends their own, not the machine's way to a hub."""
VIEWS_BURST: Final = 60
VIEWS_PER_S: Final = 10.0
FORMS_BURST: Final = 10
FORMS_PER_S: Final = 0.2
ADDRESSES_MAX: Final = 1_024
"""A branch's machines many times over."""
REFRESH_S: Final = 3

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STYLE: Final = """
:root { color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif; }
body { max-width: 42rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
.state { border: 3px solid; border-radius: .4rem; padding: .6rem 1rem; }
.state strong { font-size: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
textarea { width: 100%; min-height: 9rem; font: .9rem monospace; box-sizing: border-box; }
button { font: inherit; padding: .5rem 1.2rem; margin-top: .6rem; }
:focus-visible { outline: 3px solid; outline-offset: 2px; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TITLES: Final = {
    "waiting": "Waits for a claim",
    "asking": "Asks the centre",
    "enrolled": "Enrolled; the box starts",
    "ready": "Serving",
    "stuck": "Needs a person",
}


class Rate:
    """How often something may happen."""

    def __init__(self, *, burst: int, per_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_s, self._now_s = burst, per_s, now_s
        self._left, self._at_s = float(burst), now_s()

    def take(self) -> bool:
        """Whether it may once more."""
        now_s = self._now_s()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Rates:
    """How often each address may do something; the machine itself always may. The address that was silent
    for the longest gives way to a new one."""

    def __init__(self, *, burst: int, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._held: OrderedDict[str, Rate] = OrderedDict()

    def take(self, remote: str) -> bool:
        """Whether this address may once more."""
        if is_this_machine(remote):
            return True
        rate = self._held.pop(remote, None) or Rate(burst=self._burst, per_s=self._per_s)
        self._held[remote] = rate
        if len(self._held) > ADDRESSES_MAX:
            self._held.popitem(last=False)
        return rate.take()


class Page:
    """What a browser sees of a first boot."""

    def __init__(
        self, *, state: Callable[[], State], offer: Callable[[Found], None], give_up: Callable[[], None]
    ) -> None:
        self._state = state
        self._offer = offer
        self._give_up = give_up
        self._word = secrets.token_urlsafe(24)
        self._views = Rates(burst=VIEWS_BURST, per_s=VIEWS_PER_S)
        self._forms = Rates(burst=FORMS_BURST, per_s=FORMS_PER_S)
        self.seen_at_s = float("-inf")
        """When a browser last asked, monotonic."""

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=FORM_BYTES_MAX, middlewares=[self._guarded])
        app.router.add_get("/", self._view)
        app.router.add_get("/state", self._told)
        app.router.add_post("/claim", self._claim)
        app.router.add_post("/give-up", self._given_up)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer who came to this machine itself, and not too often."""
        if not is_own_name(request.host):
            said = "This machine answers under its address alone."
            return web.Response(status=421, text=said, headers=_HEADERS)
        if not self._views.take(request.remote or ""):
            return web.Response(status=429, text="Too often; wait a second.", headers=_HEADERS)
        try:
            answer = await handler(request)
        except web.HTTPException as problem:
            problem.headers.update(_HEADERS)
            raise
        answer.headers.update(_HEADERS)
        return answer

    async def _view(self, _: web.Request) -> web.Response:
        self.seen_at_s = time.monotonic()
        return web.Response(text=self._shown(self._state()), content_type="text/html")

    async def _told(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._state()), content_type="application/json")

    async def _claim(self, request: web.Request) -> web.Response:
        form = await self._form(request)
        found = read_claim(PAGE_SOURCE, form.get("claim", "").encode())
        if found.claim is None:
            said = f"Not taken: {found.problem}."
            return web.Response(status=400, text=self._shown(self._state(), said), content_type="text/html")
        if self._state().state not in ("waiting", "asking"):
            raise web.HTTPConflict(text="This machine takes no claim now.")
        self._refuse_brought()
        self._offer(found)
        raise web.HTTPSeeOther("/")

    async def _given_up(self, request: web.Request) -> web.Response:
        await self._form(request)
        self._refuse_brought()
        self._give_up()
        raise web.HTTPSeeOther("/")

    def _refuse_brought(self) -> None:
        """Anybody in the branch can reach this page, and would make the machine a box of a hub of his own."""
        if self._state().is_brought:
            raise web.HTTPConflict(
                text="The claim at hand was brought to the machine itself, and nothing from the network"
                " takes its place: pull the stick first, or bring another one."
            )

    async def _form(self, request: web.Request) -> dict[str, str]:
        """The fields of a form that this page gave out; raises HTTPException."""
        if not self._forms.take(request.remote or ""):
            raise web.HTTPTooManyRequests(text="Too often; wait a minute.")
        origin = request.headers.get("Origin", "")
        if origin not in ("", f"http://{request.host}"):
            raise web.HTTPForbidden(text="This form is of another site.")
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPUnsupportedMediaType(text="A form is wanted.")
        try:
            async with asyncio.timeout(BODY_S_MAX):
                fields = await request.post()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="The form came too slowly.") from None
        form = {name: value for name, value in fields.items() if isinstance(value, str)}
        if not hmac.compare_digest(form.get("word", "").encode(), self._word.encode()):
            raise web.HTTPForbidden(text="This page is an old one: load it again.")
        return form

    # --- what is shown --------------------------------------------------------------------------------------

    def _shown(self, state: State, said: str = "") -> str:
        """The page; it comes again by itself while nobody can be typing in it."""
        takes = state.state == "waiting"
        again = "" if takes or said else f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(state))
        alert = f'<p role="alert"><strong>{escape(said)}</strong></p>' if said else ""
        is_asking = state.state == "asking" and not state.is_brought
        form = self._claim_form() if takes else self._give_up_form() if is_asking else ""
        return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{again}
<title>{escape(_TITLES[state.state])}: edgegw</title><style>{_STYLE}</style></head>
<body><main><h1>edgegw, first boot</h1>
<div class="state" role="status"><strong>{escape(_TITLES[state.state])}</strong>{_detail(state)}</div>{alert}
{form}<h2>This machine</h2><dl>{facts}</dl><p><a href="/">Load this page again</a></p></main></body></html>
"""

    def _claim_form(self) -> str:
        return f"""<h2>Give it a claim</h2>
<p>Plug in the stick, and load this page again; or type, paste or scan the claim's text here. What is typed
here crosses the branch's network unencrypted: use the stick, or a cable of your own, where others use it.</p>
<form method="post" action="/claim" autocomplete="off"><input type="hidden" name="word" value="{self._word}">
<label for="claim">The claim's text</label>
<textarea id="claim" name="claim" required maxlength="{CLAIM_BYTES_MAX}" spellcheck="false"></textarea>
<button type="submit">Enrol this machine</button></form>
"""

    def _give_up_form(self) -> str:
        return f"""<form method="post" action="/give-up">
<input type="hidden" name="word" value="{self._word}">
<p>Only if the centre says so: another claim has to be made then, it may be one with --replaces.</p>
<button type="submit">Give this claim up</button></form>
"""


def _detail(state: State) -> str:
    lines = []
    if state.state == "asking":
        tries = f"; try {state.tries}" if state.tries else ""
        lines.append(f"for {state.whose}, {state.branch or 'no branch'}{tries}")
    if state.state in ("enrolled", "ready"):
        device = f", device {state.device} of this box" if state.device else ""
        lines.append(f"{state.whose}, {state.branch or 'no branch'}{device}")
    return "".join(f"<p>{escape(line)}</p>" for line in (*lines, state.problem, state.hint) if line)


def _facts(state: State) -> list[tuple[str, str]]:
    facts = [
        ("Serial number", about.serial() or "its firmware tells none"),
        ("Device key", state.key or "made with the claim"),
        (
            "Keys lie in",
            {"tpm2": "the TPM", "files": "files, open: there is no TPM"}.get(state.keys_place, ""),
        ),
        ("Versions", about.versions()),
        ("Addresses", ", ".join(about.addresses()) or "none: check the cable"),
        ("Clock", about.clock() + _off(state.clock_ahead_s)),
    ]
    return [(name, text) for name, text in facts if text]


def _off(ahead_s: int) -> str:
    if abs(ahead_s) <= 60:
        return ""
    return f", {abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'} the centre's: set it"


def is_this_machine(remote: str) -> bool:
    """Whether a request comes from the machine itself, as from the look at an image on trial."""
    try:
        return ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine: an address, or its own name. Another name that leads here is
    somebody's trick to make a browser speak for them."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower().partition(".")[0]
        return name.lower() in ("localhost", own, f"{own}.local")
    return True
