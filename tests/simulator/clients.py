"""Clients of the boxes: what they send, how they ask again, and a log of every word that went either way.

A client mints an id once and asks with it until it is answered, mostly at the same box. Now and then it
misuses an id, reverses what it has not paid yet, or asks at a box that is not the id's home. Requests are
plain dicts here, as the log keeps them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any, Final

import msgspec

from edgegw.core.records import Request
from edgegw.core.site import Site
from tests.simulator.loop import passed
from tests.simulator.machine import Machine, Said

Plain = dict[str, Any]
PATIENCE_S: Final = 6.0
"""After so long without an answer a client asks again."""
TRIES: Final = 3
"""So often in a row; what is still open is asked again at the end of the run."""
FINAL_CODES: Final = frozenset({"id_reused"})
"""Codes after which asking again with the same content is in vain."""


class Log:
    """All that clients sent and heard."""

    def __init__(self) -> None:
        self.sent: list[Plain] = []
        self.heard: list[Plain] = []

    def send(self, **words: Any) -> int:
        """Note a request that leaves; its number."""
        self.sent.append(words)
        return len(self.sent) - 1

    def hear(self, number: int, at_s: float, said: Said) -> None:
        """Note what came back for it."""
        self.heard.append({"sent": number, "at_s": at_s, "answer": said.answer, "code": said.code})


class Order:
    """Requests that go together, until all are answered."""

    def __init__(self, box: str, requests: list[Plain], *, linked: bool = False) -> None:
        self.box = box
        self.requests = requests
        self.linked = linked
        self.group = ""
        self.done = False


class Client:
    """One client, at home at one box."""

    def __init__(
        self, name: str, home: str, *, chance: Random, site: Site, machines: dict[str, Machine], log: Log
    ) -> None:
        self.name = name
        self.home = home
        self.chance = chance
        self.machines = machines
        self.log = log
        self.site = site
        self.pause_s = 9.0
        self.wandering = 0.0
        """How often it asks again at another box."""
        self.open: list[Order] = []
        """What it has no answer to yet."""
        self._minted = 0
        self._past: list[Plain] = []
        self._holds: list[Plain] = []
        self._later: list[Plain] = []

    # --- asking ---------------------------------------------------------------------------------------------

    async def work(self, requests: int) -> None:
        """Send about so many requests, in orders of different sizes."""
        while requests > 0:
            orders = self._orders(min(requests, self.chance.choice((1, 8, 25, 40, 60))))
            requests -= sum(len(order.requests) for order in orders)
            for order in orders:
                await self._settle(order, tries=TRIES)
            await self._take_note()
            await passed(self.chance.random() * self.pause_s)

    async def _take_note(self) -> None:
        """Acknowledge what has become of its payments; what is not answered is left for the next time."""
        machine = self.machines.get(self.home)
        if machine is None:
            return

        async def noted(gateway: Any) -> None:
            page = await gateway.history.notices(self.name, after=None, limit=100)
            if page.notices:
                await gateway.acknowledge(self.name, by=self.name, up_to=page.notices[-1].record)

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(machine.operate(noted))

    async def ask_again(self) -> None:
        """Ask once more for all that is open."""
        for order in [one for one in self.open if not one.done]:
            await self._settle(order, tries=1)
        self.open = [order for order in self.open if not order.done]

    async def _settle(self, order: Order, *, tries: int) -> None:
        if order not in self.open:
            self.open.append(order)
        for attempt in range(tries):
            box = order.box if order.box in self.machines else self.home
            if attempt and self.chance.random() < self.wandering:
                box = self.chance.choice(sorted(self.machines))
            if await self._asked(order, box):
                order.done = True
                self.open.remove(order)
                return
            await passed(0.2 + self.chance.random())

    async def _asked(self, order: Order, box: str) -> bool:
        """Ask for what an order still lacks; whether it lacks nothing now."""
        loop = asyncio.get_running_loop()
        requests = [request for request in order.requests if order.linked or not request.get("_done")]
        numbers = [
            self.log.send(
                at_s=loop.time(),
                box=box,
                client=self.name,
                request={k: v for k, v in request.items() if k != "_done"},
                group=order.group,
            )
            for request in requests
        ]
        asking = self.machines[box].ask(self.name, [_typed(one) for one in requests], linked=order.linked)
        try:
            async with asyncio.timeout(PATIENCE_S * (0.5 + self.chance.random())):
                said = await asyncio.shield(asking)
        except TimeoutError:
            return False
        for request, number, one in zip(requests, numbers, said, strict=True):
            self.log.hear(number, loop.time(), one)
            if one.answer or one.code in FINAL_CODES:
                request["_done"] = True
        return all(request.get("_done") for request in order.requests)

    def move(self, old: str, new: str) -> None:
        """Ask at another box for what was open at one that is gone."""
        self.home = new if self.home == old else self.home
        for order in self.open:
            order.box = new if order.box == old else order.box

    # --- what to ask ----------------------------------------------------------------------------------------

    def _orders(self, count: int) -> list[Order]:
        if count > 1 and self.chance.random() < 0.06:
            return [self._group()]
        requests = [self._request() for _ in range(count)]
        if self.chance.random() < 0.03:
            requests.append(dict(requests[0]))  # twice in one call: the second joins
        orders = [Order(self.home, requests)]
        if self._past and self.chance.random() < 0.15:
            orders.append(Order(self.home, [dict(self.chance.choice(self._past))]))
        if self._past and self.chance.random() < 0.08:
            reused = dict(self.chance.choice(self._past))
            reused["reference"] = "another"
            orders.append(Order(self.home, [reused]))
        return orders

    def _group(self) -> Order:
        requests = [self._payment(self._mint()) for _ in range(self.chance.randint(2, 4))]
        if self.chance.random() < 0.4:
            held = self._payment(self._mint()) | {"kind": "hold", "timeout_s": 60}
            requests += [held, self._resolution(held)]
        if self._past and self.chance.random() < 0.4:
            requests.append(self._giving_back(self.chance.choice(self._past)))
        order = Order(self.home, requests, linked=True)
        order.group = str(requests[0]["id"])
        return order

    def _request(self) -> Plain:
        draw = self.chance.random()
        if self._later and draw < 0.02:
            return self._later.pop()
        if draw < 0.10 and self._holds:
            hold = self.chance.choice(self._holds)
            if self.chance.random() < 0.6:
                self._holds.remove(hold)
            return self._remember(self._resolution(hold))
        if draw < 0.18 and self._past:
            return self._remember(self._giving_back(self.chance.choice(self._past)))
        if draw < 0.20:
            return self._remember(self._early_reversal())
        if draw < 0.24:
            return self._remember(self._odd())
        if draw < 0.26:
            return self._remember(self._close())
        request = self._payment(self._mint())
        if draw < 0.34:
            request |= {"kind": "hold", "timeout_s": self.chance.choice((0, 0, 2, 15, 60))}
            self._holds.append(request)
        elif draw < 0.37:
            request["advice"] = True
        elif draw < 0.39:
            request["stand_in"] = False
        return self._remember(request)

    def _remember(self, request: Plain) -> Plain:
        self._past.append(dict(request))
        return request

    def _mint(self) -> str:
        self._minted += 1
        return f"{self._minted:016x}{sum(map(ord, self.name)):08x}{self.chance.getrandbits(32):08x}"

    def _payment(self, id: str) -> Plain:
        payer = self.chance.choice(self.site.accounts)
        same = [one for one in self.site.accounts if one.currency == payer.currency and one.id != payer.id]
        payee = self.chance.choice(same or list(self.site.accounts))
        return {
            "kind": "payment",
            "id": id,
            "debit_account_id": payer.id,
            "credit_account_id": payee.id,
            "amount_minor": self.chance.choice((1, 7, 50, 99, 150, 400, 1_000)),
            "currency": payer.currency,
            "card": self.chance.choice(("", f"card-{payer.id}", "card-0")),
            "terminal": self.chance.choice(("", "T1", "T2")),
            "merchant": self.chance.choice(("", "M1")),
            "merchant_pays": self.chance.random() < 0.1,
        }

    def _resolution(self, hold: Plain) -> Plain:
        post = self.chance.random() < 0.6
        amount = self.chance.choice((0, hold["amount_minor"] // 2, hold["amount_minor"] + 5)) if post else 0
        return {
            "kind": "post" if post else "void",
            "id": self._mint(),
            "original_id": hold["id"],
            "amount_minor": amount,
        }

    def _close(self) -> Plain:
        shop = {"merchant": "M1", "terminal": self.chance.choice(("", "T1", "T2"))}
        totals = [{"currency": "CNY", "payments_count": self.chance.randint(1, 3)}]
        return {"kind": "close_batch", "id": self._mint(), **shop, "totals": self.chance.choice(([], totals))}

    def _giving_back(self, paid: Plain) -> Plain:
        given = self._reversal(paid)
        if self.chance.random() < 0.5:
            given |= {"kind": "refund", "advice": False}
        return given

    def _reversal(self, paid: Plain) -> Plain:
        amount = self.chance.choice((0, 0, int(paid.get("amount_minor", 0)) // 2))
        return {
            "kind": "reversal",
            "id": self._mint(),
            "original_id": paid["id"],
            "amount_minor": amount,
            "advice": self.chance.random() < 0.3,
        }

    def _early_reversal(self) -> Plain:
        coming = self._payment(self._mint())
        self._later.append(coming)
        return self._reversal(coming)

    def _odd(self) -> Plain:
        """A request that no sound client sends."""
        request = self._payment(self._mint())
        wrong = self.chance.choice(("debit", "credit", "own", "same", "currency", "unknown"))
        if wrong == "debit":
            request["debit_account_id"] = "nobody"
        elif wrong == "credit":
            request["credit_account_id"] = "nobody"
        elif wrong == "own":
            request["debit_account_id"] = f"risk:{self.home}:CNY"
        elif wrong == "same":
            request["credit_account_id"] = request["debit_account_id"]
        elif wrong == "currency":
            request["currency"] = "EUR" if request["currency"] == "CNY" else "CNY"
        else:
            request["currency"] = "XXX"
        return request


def _typed(request: Plain) -> Request:
    return msgspec.convert({k: v for k, v in request.items() if k != "_done"}, Request)
