"""A box of the core alone for tests: a book, made-up time, and every record it wrote."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgegw.core.apply import apply_directive
from edgegw.core.book import RECORD_STEP_NS, Book
from edgegw.core.decide import Context, Funding, Rule, Short, Stamp, decide
from edgegw.core.records import (
    Account,
    DirectiveApplied,
    GrantDirective,
    Kind,
    Mode,
    ModeChanged,
    Record,
    Refusal,
    Request,
    SiteDirective,
    Transfer,
    WindowClosed,
    encode,
)
from edgegw.core.site import CurrencyRule, LimitRule, Site, StandInRule

UP = Funding(line_up=True)
GRANTED = Funding(line_up=True, centre="granted")
REFUSED = Funding(line_up=True, centre="refused")
DOWN = Funding(line_up=False, reason="line_down")

SITE = Site(
    bank="demo",
    version=1,
    currencies=(CurrencyRule(code="CNY", numeric=156), CurrencyRule(code="EUR", numeric=978)),
    accounts=(
        Account(id="anna", currency="CNY", home="box-1"),
        Account(id="bert", currency="CNY", home="box-1"),
        Account(id="shop", currency="CNY", home="box-1", participant="shops"),
        Account(id="away", currency="CNY", home="box-2"),
        Account(id="euro", currency="EUR", home="box-1"),
    ),
    limits=(
        LimitRule(name="often", currency="CNY", seconds=60, count=100),
        LimitRule(name="window", currency="CNY", payment_minor=10_000, per="window", amount_minor=50_000),
    ),
    stand_in=(
        StandInRule(
            currency="CNY",
            floor_minor=500,
            account_minor=1_000,
            account_count=3,
            box_minor=2_000,
            offline_seconds_max=3_600,
            split_seconds=0,
        ),
    ),
)


class Box:
    """Decides like the pen does, keeps its records in `records`."""

    def __init__(self, site: Site = SITE, *, rules: Sequence[Rule] = ()) -> None:
        self.book = Book(bank="demo", box="box-1")
        self.rules = rules
        self.records: list[Record] = []
        self.directives = 0
        self.ids = 0
        self.now_ns = 10**18
        digest = "00" * 32
        self.direct(SiteDirective, site=site, version=site.version, digest=digest, bytes=1)

    def stamp(self) -> Stamp:
        """The stamp of the next record."""
        self.now_ns += RECORD_STEP_NS
        return Stamp("demo", "box-1", 1, len(self.records), self.now_ns, self.now_ns, self.now_ns)

    def wait(self, seconds: int) -> None:
        """Let the box's own time go on."""
        self.now_ns += seconds * 10**9

    def direct(
        self, kind: type, *, site: Site | None = None, awaited: bool = False, **fields: object
    ) -> DirectiveApplied:
        """Apply a directive of the hub."""
        head = {
            "v": 1,
            "bank": "demo",
            "box": "box-1",
            "incarnation": 1,
            "seq": self.directives,
            "wall_ns": 0,
        }
        self.directives += 1
        body = encode(kind(**head, **fields))
        record = apply_directive(
            self.book, self.stamp(), body, awaited=lambda _: awaited, sites=lambda _: site
        )
        self.records.append(record)
        return record

    def grant(self, account_id: str, amount_minor: int, currency: str = "CNY") -> DirectiveApplied:
        """Hand an account's money to this box."""
        return self.direct(
            GrantDirective, account_id=account_id, currency=currency, amount_minor=amount_minor
        )

    def mode(self, mode: Mode) -> None:
        """Change the line's mode."""
        record = ModeChanged(**self.stamp().head(), mode=mode, previous=self.book.mode, reason="test")
        self.book.note(record)
        self.records.append(record)

    def close_window(self) -> WindowClosed:
        """Close the open window."""
        record = WindowClosed(
            **self.stamp().head(),
            window=self.book.window,
            business_date="2026-01-01",
            transfers=self.book.window_transfers,
            positions=self.book.net_positions(),
            closed_by="test",
        )
        self.book.note(record)
        self.records.append(record)
        return record

    def ask(
        self, request: Request, funding: Funding = UP, client: str = "till"
    ) -> Transfer | Refusal | Short:
        """Decide a request on a layer, and keep the record when there is one."""
        layer = self.book.overlay()
        decided = decide(Context(layer, self.stamp(), client, request, funding, self.rules))
        if not isinstance(decided, Short):
            layer.note(decided)
            layer.merge()
            self.records.append(decided)
        return decided

    def new_id(self) -> str:
        """An id that was not used yet."""
        self.ids += 1
        return f"{self.ids:032x}"

    def pay(
        self,
        debit: str,
        credit: str,
        amount_minor: int,
        funding: Funding = UP,
        **fields: object,
    ) -> Transfer | Refusal | Short:
        """A payment in CNY under a new id."""
        fields = {"currency": "CNY", "id": self.new_id(), **fields}
        request = Request(
            kind=Kind.PAYMENT,
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=amount_minor,
            **fields,  # type: ignore[arg-type]
        )
        return self.ask(request, funding)

    def hold(
        self, debit: str, credit: str, amount_minor: int, timeout_s: int = 60
    ) -> Transfer | Refusal | Short:
        """A hold in CNY under a new id."""
        request = Request(
            kind=Kind.HOLD,
            id=self.new_id(),
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=amount_minor,
            currency="CNY",
            timeout_s=timeout_s,
        )
        return self.ask(request)

    def about(
        self,
        kind: Kind,
        original_id: str,
        amount_minor: int = 0,
        funding: Funding = UP,
        *,
        advice: bool = False,
    ) -> Transfer | Refusal | Short:
        """A post, void or reversal of an earlier request."""
        request = Request(
            kind=kind,
            id=self.new_id(),
            original_client="till",
            original_id=original_id,
            amount_minor=amount_minor,
            advice=advice,
        )
        return self.ask(request, funding)

    def available(self, account_id: str) -> int:
        """What an account may spend here."""
        return self.book.available(account_id)


def cleared(decided: object) -> Transfer:
    """The record, which must be a cleared one."""
    assert isinstance(decided, Transfer), decided
    return decided


def refused(decided: object) -> str:
    """The code of the refusal that it must be."""
    assert isinstance(decided, Refusal), decided
    return decided.code


def without_clock(image: bytes) -> dict[str, object]:
    """An image of a book without what merely counts records, or tells when there was one."""
    times = ("seq", "at_ns", "wall_ns", "offline_since_ns", "outage_ns")
    return {key: value for key, value in msgspec.json.decode(image).items() if key not in times}
