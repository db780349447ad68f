"""Who gets how much: answers to asks, allotments for accounts at home, and the boxes' risk accounts.

An **ask** is answered once, by one directive, however often it is repeated. It gives what was asked, and
with it the site's headroom or what the account's allotment there lacks, so that one directive does for both.
Where the centre has less than was asked, but enough with what the same box holds already, it gives what it
has. Where it has not, and other boxes hold enough, they are asked first, and the answer waits for theirs as
long as the asking box said (`hub.recalls`).

An **allotment** is what a box holds unasked of an account that is at home there, or that paid there lately:
an amount, or a share of the account's whole balance where that is less (`core.allowance`). It is filled up
when less than half is left.

A **risk account** is filled up to the site's `box_minor`. What it lacks at the centre is posted from
`capital:<currency>`, the bank's own money, so that every stand-in is backed by a posting.

A net debit **cap** is handed out like money: each box is filled up to its part of what there is, and who
lacks more asks.

Leaves out the moves themselves (`hub.books`) and the log (`hub.directives`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, insert, select

from edgegw.core.accounts import risk_account
from edgegw.core.allowance import (
    DAY_NS,
    grant_minor,
    home_target_minor,
    is_seen,
    lacking_minor,
    seen_target_minor,
)
from edgegw.core.caps import cap_account, cap_accounts, is_cap
from edgegw.core.messages import Ask
from edgegw.core.reasons import Reason
from edgegw.core.settlement import cap_shares
from edgegw.core.site import AllowanceRule, Site
from edgegw.hub.books import Books, Page, capital_account
from edgegw.hub.directives import DirectiveLog
from edgegw.hub.recalls import Recalls, seen_at
from edgegw.hub.schema import account, grant_request

NET_DEBIT_CAP: Final = Reason.NET_DEBIT_CAP.value


def accounts_at_home(connection: Connection, box: str) -> list[str]:
    """The ids of every customer account at home at a box."""
    rows = connection.execute(select(account.c.account_id).where(account.c.home == box, account.c.floor))
    return list(rows.scalars())


class Seen:
    """Which of some accounts at home elsewhere paid at a box lately, by the site's rules."""

    def __init__(
        self, connection: Connection, *, box: str, site: Site, now_ns: int, among: Collection[str] | None
    ) -> None:
        """among: of these accounts; None: of all that there are."""
        days = max((rule.seen_days for rule in site.allowances), default=0)
        self._site = site
        self._now_ns = now_ns
        self._at = seen_at(connection, box, since_ns=now_ns - days * DAY_NS, among=among) if days else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def counts(self, page: Page) -> bool:
        """Whether this account has an allotment there."""
        seen_ns, recalled_ns = self._at.get(page.account_id, (0, 0))
        rule = _rule(self._site, page.currency)
        return is_seen(rule, seen_ns=seen_ns, recalled_ns=recalled_ns, now_ns=self._now_ns)


def accounts_for_grants(box: str, site: Site | None) -> set[str]:
    """What must be open besides the customers' accounts before anything is granted to a box."""
    if site is None:
        return set()
    names = {one.id for one in cap_accounts(site)}
    for rule in site.currencies:
        names |= {risk_account(box, rule.code), capital_account(rule.code)}
    return names


def unanswered(connection: Connection, asks: Sequence[Ask], *, box: str) -> list[Ask]:
    """The asks that have no directive yet; one id counts once."""
    if not asks:
        return []
    known = connection.execute(
        select(grant_request.c.request_id).where(
            grant_request.c.box == box, grant_request.c.request_id.in_([ask.request_id for ask in asks])
        )
    )
    seen = set(known.scalars())
    fresh = []
    for ask in asks:
        if ask.request_id not in seen:
            seen.add(ask.request_id)
            fresh.append(ask)
    return fresh


def answer(
    connection: Connection,
    books: Books,
    log: DirectiveLog,
    ask: Ask,
    recalls: Recalls,
    *,
    box: str,
    site: Site,
    seen: Seen,
) -> None:
    """Answer one ask with a grant or a refusal, or not yet, while other boxes are asked; its account must be
    open in the books if it exists."""
    page = books.draw(ask.account_id)
    reason = _why_not(page, ask)
    granted_minor = 0
    if page is not None and not reason:
        lacking = lacking_minor(
            asked_minor=ask.amount_minor,
            available_minor=page.available_minor,
            outstanding_minor=page.outstanding_minor,
        )
        if lacking and ask.patience_ms and recalls.ask_others(page, key=ask.request_id, wanted_minor=lacking):
            return
        if lacking:
            reason = NET_DEBIT_CAP if is_cap(page.account_id) else "insufficient_funds"
    if page is None or reason:
        seq = log.refuse(
            request_id=ask.request_id, account_id=ask.account_id, currency=ask.currency, reason=reason
        )
    else:
        granted_minor = grant_minor(
            None if is_cap(page.account_id) else _rule(site, page.currency),
            asked_minor=ask.amount_minor,
            available_minor=page.available_minor,
            outstanding_minor=page.outstanding_minor,
            balance_minor=page.balance_minor,
            target_minor=_target(page, box=box, site=site, seen=seen),
        )
        books.grant(page.account_id, granted_minor)
        seq = log.grant(
            account_id=page.account_id,
            currency=page.currency,
            amount_minor=granted_minor,
            request_id=ask.request_id,
        )
    connection.execute(
        insert(grant_request).values(
            box=box,
            request_id=ask.request_id,
            incarnation=log.incarnation,
            directive_seq=seq,
            account_id=ask.account_id,
            amount_minor=granted_minor,
        )
    )


def _why_not(page: Page | None, ask: Ask) -> str:
    if page is None or not (page.floor or is_cap(page.account_id)):
        return "account_not_found"
    if page.currency != ask.currency:
        return "currency_mismatch"
    if page.closed:
        return "account_closed"
    if page.frozen:
        return "account_frozen"
    if ask.amount_minor <= 0:
        return "amount_not_positive"
    return ""


def allot(
    books: Books, log: DirectiveLog, *, box: str, site: Site, seen: Seen, wanted: Collection[str]
) -> None:
    """Fill up every open account that has less than half of its allotment left at the box, but for those that
    are wanted elsewhere.

    A visitor's account from which another box draws right now is passed over: this one does not wait for it.
    """
    for page in books.pages():
        if not page.floor or page.account_id in wanted:
            continue
        target = _target(page, box=box, site=site, seen=seen)
        if 2 * page.outstanding_minor >= target or not page.available_minor:
            continue
        if books.draw(page.account_id, waits=page.home == box) is None or page.frozen or page.closed:
            continue
        amount_minor = min(page.available_minor, target - page.outstanding_minor)
        if amount_minor > 0:
            books.grant(page.account_id, amount_minor)
            log.grant(account_id=page.account_id, currency=page.currency, amount_minor=amount_minor)


def _target(page: Page, *, box: str, site: Site, seen: Seen) -> int:
    """What the box is to hold unasked of an account."""
    if is_cap(page.account_id):
        shares = cap_shares(site)
        return next((shares[side] for side in shares if cap_account(*side) == page.account_id), 0)
    rule = _rule(site, page.currency)
    if page.home == box:
        return home_target_minor(rule, balance_minor=page.balance_minor)
    if seen.counts(page):
        return seen_target_minor(rule, balance_minor=page.balance_minor)
    return 0


def _rule(site: Site, currency: str) -> AllowanceRule | None:
    return next((rule for rule in site.allowances if rule.currency == currency), None)


def share_caps(books: Books, log: DirectiveLog, *, site: Site, wanted: Collection[str]) -> None:
    """Fill the box's shares of net debit caps up to its even part, where less than half of that is left
    there and the centre has any, but for those that are wanted elsewhere.

    A cap from which another box draws right now is passed over, as in `allot`: every push moves caps, and
    this one holds other accounts by now. Whoever lacks more asks.
    """
    for (participant, currency), share_minor in cap_shares(site).items():
        page = books.page(cap_account(participant, currency))
        if page is None or 2 * page.outstanding_minor >= share_minor or page.available_minor <= 0:
            continue
        if page.account_id in wanted:
            continue
        if books.draw(page.account_id, waits=False) is None:
            continue
        amount_minor = min(page.available_minor, share_minor - page.outstanding_minor)
        if amount_minor > 0:
            books.grant(page.account_id, amount_minor)
            log.grant(account_id=page.account_id, currency=currency, amount_minor=amount_minor)


def top_up_risk(books: Books, log: DirectiveLog, *, box: str, site: Site) -> None:
    """Fill the box's risk accounts up to the site's `box_minor`, from capital where the centre has too
    little."""
    for rule in site.stand_in:
        risk = books.page(risk_account(box, rule.currency))
        lacking_minor = 0 if risk is None else rule.box_minor - risk.outstanding_minor
        if risk is None or lacking_minor <= 0:
            continue
        books.draw(risk.account_id)
        if risk.available_minor < lacking_minor:
            books.move_at_centre(
                debit=capital_account(rule.currency),
                credit=risk.account_id,
                amount_minor=lacking_minor - risk.available_minor,
            )
        books.grant(risk.account_id, lacking_minor)
        log.grant(account_id=risk.account_id, currency=rule.currency, amount_minor=lacking_minor)
