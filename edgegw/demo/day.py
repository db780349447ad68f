"""A branch's day as it really arrives, from a seed: who banks here, and every message of every phase.

The same seed, size and date give the same day, byte for byte. Owns the people and their stories; leaves out
how a step is sent (`client`, `terminal`) and what came of it (`report`).
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from edgegw.demo.mistakes import mistakes
from edgegw.demo.plan import (
    BOX,
    CURRENCY,
    DESK,
    FLOOR_MINOR,
    FOREIGN,
    ONLINE,
    OTHER_BOX,
    PAYMENT_MINOR_MAX,
    PAYROLL,
    STAND_IN_COUNT,
    TILLS,
    Batch,
    Chain,
    Day,
    Item,
    Phase,
    Step,
)

PAYMENTS_MIN: Final = 300
"""A shorter day has no 16 payments in flight when the box is killed."""


def make_day(*, seed: int, payments: int, date: datetime.date) -> Day:
    """The day of this seed with about so many payments; raises ValueError below PAYMENTS_MIN."""
    if payments < PAYMENTS_MIN:
        raise ValueError(f"payments is {payments}; give at least {PAYMENTS_MIN}")
    return _Author(seed=seed, payments=payments, date=date).write()


def _luhn(digits: str) -> str:
    """The digits with their check digit."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if index % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


class _Author:
    """Writes one day."""

    def __init__(self, *, seed: int, payments: int, date: datetime.date) -> None:
        self._random = random.Random(f"{seed}/{payments}")
        self._seed = seed
        self._payments = payments
        self._date = date
        self._number = 0
        self._begin_ms = (
            int(datetime.datetime.combine(date, datetime.time(), datetime.UTC).timestamp()) * 1000
        )
        self._accounts: list[dict[str, str]] = []
        self._opening: dict[str, int] = {}
        self._cards: dict[str, str] = {}
        self._pan_of: dict[str, str] = {}
        self._terminals: list[dict[str, str]] = []
        self._open_the_books()
        self._visitors_in_turn = self._turns(self._visitors)

    # -- people --------------------

    def _account(self, id: str, opening_minor: int, *, home: str = BOX, currency: str = CURRENCY) -> str:
        participant = "" if home == BOX else "other-bank"
        self._accounts.append({"id": id, "currency": currency, "home": home, "participant": participant})
        self._opening[id] = opening_minor
        return id

    def _carded(self, id: str) -> str:
        pan = _luhn(f"622202{len(self._cards):09d}")
        self._cards[pan] = id
        self._pan_of[id] = pan
        return id

    def _open_the_books(self) -> None:
        size = self._payments
        self._customers = [
            self._carded(self._account(f"customer-{n:04d}", 2_000_000))
            for n in range(1, max(40, size // 20) + 1)
        ]
        self._visitors = [
            self._carded(self._account(f"visitor-{n:04d}", 500_000, home=("", OTHER_BOX)[n % 2]))
            for n in range(1, max(30, size // 14) + 1)
        ]
        self._savers = [self._carded(self._account(f"saver-{n:02d}", 10_000_000)) for n in range(1, 13)]
        """At home here with far more money than their allowance."""
        self._poor = [self._account(f"poor-{n}", 0, home="") for n in range(1, 4)]
        self._broke = self._carded(self._account("broke-1", 0))
        self._eager = self._carded(self._account("eager-1", 500_000, home=""))
        self._account("blocked-1", 100_000)
        self._employer = self._account("employer-1", 1_000_000_000)
        self._desk = self._account("cash-desk-1", 100_000_000)
        self._shops = [self._account(f"shop-{n:02d}", 1_000_000) for n in range(1, 13)]
        self._far_shop = self._account("shop-far", 0, home=OTHER_BOX)
        self._travellers = [self._account(f"traveller-{n}", 500_000, currency=FOREIGN) for n in range(1, 6)]
        self._exchange = self._account("exchange-1", 1_000_000, currency=FOREIGN)
        for number in range(2 * len(self._shops)):
            self._terminals.append(
                {
                    "id": f"T{number + 1:07d}",
                    "merchant": f"M{number // 2 + 1:014d}",
                    "credit_account_id": self._shops[number // 2],
                    "currency": CURRENCY,
                }
            )
        self._stans = dict.fromkeys((terminal["id"] for terminal in self._terminals), 0)

    def _turns(self, names: Sequence[str]) -> Iterator[str]:
        """Each name once in a random order, then again: limits per account are met on purpose only."""
        while True:
            yield from self._random.sample(names, len(names))

    # -- steps --------------------

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _id(self, number: int) -> str:
        """A UUIDv7's shape: time-ordered, then random."""
        return f"{self._begin_ms + number:012x}7{self._random.getrandbits(76):019x}"

    def _http(
        self,
        story: str,
        client: str,
        debit: str,
        credit: str,
        amount_minor: int,
        *,
        kind: Literal["payment", "hold"] = "payment",
        currency: str = CURRENCY,
        timeout_s: int = 0,
        stand_in: bool = True,
        expect: str = "",
        repeats: int = 0,
    ) -> Step:
        number = self._next()
        return Step(
            number=number,
            story=story,
            way="http",
            client=client,
            kind=kind,
            id=self._id(number),
            debit=debit,
            credit=credit,
            amount_minor=amount_minor,
            currency=currency,
            timeout_s=timeout_s,
            stand_in=stand_in,
            expect=expect,
            repeats=repeats,
        )

    def _about(
        self,
        story: str,
        original: Step,
        kind: Literal["post", "void", "reversal"],
        *,
        amount_minor: int = 0,
        expect: str = "",
    ) -> Step:
        """A post, void or reversal of an earlier step, by the same client and the same way."""
        number = self._next()
        step = Step(
            number=number,
            story=story,
            way=original.way,
            client=original.client,
            kind=kind,
            id=self._id(number),
            amount_minor=amount_minor,
            currency=original.currency,
            original=original.id,
            expect=expect,
        )
        if original.way == "http":
            return step
        return msgspec.structs.replace(
            step,
            id=original.id,
            pan=original.pan,
            debit=original.debit,
            credit=original.credit,
            amount_minor=amount_minor or original.amount_minor,
            mti="0400" if kind == "reversal" else "0220",
            stan=self._stan(original.client),
            local=original.local,
            original_stan=original.stan,
            original_mti=original.mti,
            field_4_minor=original.amount_minor if kind == "reversal" else amount_minor,
        )

    def _stan(self, terminal: str) -> str:
        self._stans[terminal] += 1
        return f"{self._stans[terminal]:06d}"

    def _card(
        self,
        story: str,
        payer: str,
        amount_minor: int,
        *,
        hold: bool = False,
        repeats: int = 0,
        expect: str = "",
        terminal: dict[str, str] | None = None,
    ) -> Step:
        number = self._next()
        terminal = terminal or self._random.choice(self._terminals)
        moment = datetime.datetime.combine(self._date, datetime.time(8)) + datetime.timedelta(
            milliseconds=500 * number
        )
        return Step(
            number=number,
            story=story,
            way="iso8583",
            client=terminal["id"],
            kind="hold" if hold else "payment",
            id=f"{number:012d}",
            debit=payer,
            credit=terminal["credit_account_id"],
            amount_minor=amount_minor,
            pan=self._pan_of[payer],
            mti="0100" if hold else "0200",
            stan=self._stan(terminal["id"]),
            local=moment.strftime("%m%d%H%M%S"),
            repeats=repeats,
            expect=expect,
        )

    def _small_minor(self) -> int:
        return self._random.randint(500, 6_000)

    def _sometimes(self, chance: float) -> bool:
        return self._random.random() < chance

    # -- stories --------------------

    def _share(self, percent: float) -> int:
        return max(8, round(self._payments * percent / 100))

    def _card_payments(self, count: int) -> list[Chain]:
        """The merchants' street: cards at terminals, now and then sent again, or undone."""
        chains: list[Chain] = []
        for _ in range(count):
            payment = self._card(
                "card",
                self._random.choice(self._customers),
                self._small_minor(),
                repeats=int(self._sometimes(0.04)),
            )
            chain: list[Item] = [payment]
            if self._sometimes(0.04):
                part_minor = 0 if self._sometimes(0.5) else payment.amount_minor // 3
                chain.append(self._about("refund", payment, "reversal", amount_minor=part_minor))
            chains.append(tuple(chain))
        return chains

    def _till_payments(self, count: int) -> list[Chain]:
        """Shops' tills over HTTP: some repeat, some refund whole or in part."""
        chains: list[Chain] = []
        for _ in range(count):
            shop = self._far_shop if self._sometimes(0.03) else self._random.choice(self._shops)
            payment = self._http(
                "till",
                TILLS,
                self._random.choice(self._customers),
                shop,
                self._small_minor(),
                repeats=int(self._sometimes(0.04)),
            )
            chain: list[Item] = [payment]
            if shop != self._far_shop and self._sometimes(0.05):
                part_minor = payment.amount_minor // 2
                chain.append(self._about("refund", payment, "reversal", amount_minor=part_minor))
                if self._sometimes(0.5):
                    chain.append(self._about("refund", payment, "reversal"))
            chains.append(tuple(chain))
        return chains

    def _visits(self, count: int) -> list[Chain]:
        """Payers whose money is elsewhere: by the centre, or at the branch's risk while it is away."""
        chains: list[Chain] = []
        for index in range(count):
            payer = next(self._visitors_in_turn)
            if index % 2:
                chains.append((self._card("visitor", payer, self._small_minor(), expect="cleared"),))
                continue
            shop, amount_minor = self._random.choice(self._shops), self._small_minor()
            chains.append((self._http("visitor", TILLS, payer, shop, amount_minor, expect="cleared"),))
        return chains

    def _salaries(self, count: int) -> Chain:
        """One batch: the employer pays people here and people whose account is elsewhere."""
        people = self._random.sample(self._customers, len(self._customers)) + self._visitors
        steps = [
            self._http(
                "salary",
                PAYROLL,
                self._employer,
                people[index % len(people)],
                self._random.randint(200_000, 800_000),
            )
            for index in range(count)
        ]
        return (Batch(steps=tuple(steps)),)

    def _cash(self, count: int) -> list[Chain]:
        """The cash desk: money in, money out."""
        chains: list[Chain] = []
        for index in range(count):
            customer, amount_minor = (
                self._random.choice(self._customers),
                self._random.randint(10, 40) * 1_000,
            )
            pair = (customer, self._desk) if index % 2 else (self._desk, customer)
            chains.append((self._http("cash", DESK, *pair, amount_minor),))
        return chains

    def _savings(self, count: int) -> list[Chain]:
        """Larger payments of people at home here, beyond their allowance."""
        return [
            (
                self._http(
                    "large",
                    ONLINE,
                    self._savers[index % len(self._savers)],
                    self._random.choice(self._shops),
                    self._random.randint(510_000, 700_000),
                ),
            )
            for index in range(count)
        ]

    def _foreign(self, count: int) -> list[Chain]:
        return [
            (
                self._http(
                    "foreign",
                    DESK,
                    self._random.choice(self._travellers),
                    self._exchange,
                    self._small_minor(),
                    currency=FOREIGN,
                ),
            )
            for _ in range(count)
        ]

    def _holds(self, count: int) -> list[Chain]:
        """Holds over both ways: posted whole, in part, voided, reversed; a second post is refused."""
        chains: list[Chain] = []
        for index in range(count):
            payer, amount_minor = self._random.choice(self._customers), self._small_minor()
            if index % 4 == 3:
                hold = self._card("hold", payer, amount_minor, hold=True)
                chains.append((hold, self._about("hold", hold, "post", amount_minor=amount_minor)))
                continue
            hold = self._http(
                "hold", ONLINE, payer, self._random.choice(self._shops), amount_minor, kind="hold"
            )
            if index % 4 == 0:
                again = self._about("hold", hold, "post", expect="hold_already_posted")
                chains.append((hold, self._about("hold", hold, "post"), again))
            elif index % 4 == 1:
                chains.append((hold, self._about("hold", hold, "post", amount_minor=amount_minor // 2)))
            else:
                again = self._about("hold", hold, "post", expect="hold_already_voided")
                chains.append((hold, self._about("hold", hold, "void"), again))
        return chains

    # -- phases --------------------

    def write(self) -> Day:
        """The whole day, phase after phase, so that ids rise with it."""
        morning = self._morning()
        rush = self._rush()
        silence = self._phase("silence", 48, [*self._mixed(4, visits_percent=50)])
        outage = self._outage()
        afternoon = self._afternoon()
        evening = self._evening()
        outage_steps = sum(1 for _ in outage.steps())
        return Day(
            seed=self._seed,
            payments=self._payments,
            date=self._date,
            accounts=tuple(self._accounts),
            opening=self._opening,
            terminals=tuple(self._terminals),
            cards=self._cards,
            phases=(morning, rush, silence, outage, afternoon, evening),
            kill_after=self._random.randint(outage_steps // 5, outage_steps // 2),
        )

    def _phase(
        self, name: str, concurrency: int, chains: list[Chain], *, first: Sequence[Chain] = ()
    ) -> Phase:
        self._random.shuffle(chains)
        return Phase(name=name, concurrency=concurrency, chains=(*first, *chains))

    def _mixed(self, percent: float, *, visits_percent: int) -> list[Chain]:
        """Tills and cards with a share of visitors."""
        count = self._share(percent)
        visits = count * visits_percent // 100
        tills = (count - visits) // 2
        return [
            *self._visits(visits),
            *self._till_payments(tills),
            *self._card_payments(count - visits - tills),
        ]

    def _morning(self) -> Phase:
        self._expiring = self._http(
            "hold",
            ONLINE,
            self._customers[0],
            self._shops[0],
            5_000,
            kind="hold",
            timeout_s=2,
            expect="cleared",
        )
        self._open_hold = self._http(
            "hold", ONLINE, self._customers[1], self._shops[1], 4_000, kind="hold", expect="cleared"
        )
        first = self._http(
            "till", TILLS, self._customers[2], self._shops[2], 4_200, expect="cleared", repeats=2
        )
        # Not the terminal with a key: an error to a message that names another terminal bears no MAC.
        keyless = self._terminals[-1]
        card = self._card("card", self._customers[3], 4_300, expect="cleared", repeats=1, terminal=keyless)
        chains = [
            *self._card_payments(self._share(15)),
            *self._till_payments(self._share(14)),
            *self._cash(self._share(4)),
            *self._savings(self._share(2)),
            *self._foreign(self._share(1)),
            *self._visits(self._share(5)),
            *self._holds(self._share(2.5)),
            self._salaries(self._share(8)),
            (self._http("broke", TILLS, self._broke, self._shops[3], 900, expect="insufficient_funds"),),
            (self._http("blocked", TILLS, "blocked-1", self._shops[3], 900, expect="account_blocked"),),
            (
                self._http(
                    "large",
                    ONLINE,
                    self._savers[0],
                    self._shops[4],
                    PAYMENT_MINOR_MAX + 1,
                    expect="exceeds_payment_limit",
                ),
            ),
            self._reversed_first(),
        ]
        wrong = mistakes(self._next, self._id, http=first, card=card, pan=next(iter(self._cards)))
        return self._phase(
            "morning", 24, chains, first=((self._expiring,), (self._open_hold,), (first, card, *wrong))
        )

    def _reversed_first(self) -> Chain:
        """A reversal that overtakes its payment: it is kept, and wins."""
        payment = self._http("refund", TILLS, self._customers[4], self._shops[5], 3_300)
        reversal = self._about("refund", payment, "reversal", expect="kept")
        return (reversal, msgspec.structs.replace(payment, expect="already_reversed"))

    def _rush(self) -> Phase:
        return self._phase(
            "rush hour", 96, [*self._mixed(27, visits_percent=10), *self._holds(self._share(0.5))]
        )

    def _outage(self) -> Phase:
        """The line is down; the box is killed in the middle of this."""
        self._late = self._http("visitor", TILLS, self._poor[0], self._shops[6], 4_000, expect="cleared")
        undone = self._http("visitor", TILLS, self._visitors[0], self._shops[7], 2_500)
        payer, shop = self._visitors[1], self._shops[8]
        floor = self._http("visitor", TILLS, payer, shop, FLOOR_MINOR, expect="stand_in_above_floor")
        unwanted = self._http(
            "visitor", TILLS, payer, shop, 1_000, stand_in=False, expect="stand_in_not_wanted"
        )
        held = self._http("hold", ONLINE, payer, shop, 1_000, kind="hold", expect="stand_in_not_offered")
        barred = self._http("broke", TILLS, self._broke, shop, 900, expect="account_barred")
        chains = [
            *self._mixed(max(16.0, 16_000 / self._payments), visits_percent=40),
            (self._late,),
            (undone, self._about("refund", undone, "reversal")),
            (floor,),
            (unwanted,),
            (held,),
            (barred,),
            self._too_eager(),
        ]
        return self._phase("outage", 96, chains)

    def _too_eager(self) -> Chain:
        """One payer again and again, until the branch has stood in for it often enough."""
        shop = self._shops[9]
        steps = [
            self._http("visitor", TILLS, self._eager, shop, 1_000 + number, expect="cleared")
            for number in range(STAND_IN_COUNT)
        ]
        last = self._http("visitor", TILLS, self._eager, shop, 1_500, expect="stand_in_account_limit")
        return (*steps, last)

    def _afternoon(self) -> Phase:
        posted = self._about("hold", self._open_hold, "post", amount_minor=2_500, expect="cleared")
        return self._phase(
            "afternoon",
            64,
            [*self._mixed(10, visits_percent=40), *self._holds(self._share(0.5)), (posted,)],
        )

    def _evening(self) -> Phase:
        expired = self._about("hold", self._expiring, "post", expect="hold_expired")
        return self._phase("evening", 32, [*self._mixed(5, visits_percent=60), (expired,)])
