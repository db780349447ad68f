"""Applying the hub's directives at the box: total, in order, each one journalled as applied, returned or
refused (DESIGN §3.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from edgegw.core.accounts import (
    centre_account,
    is_own,
    receivable_account,
    recourse_account,
    risk_account,
    suspense_account,
)
from edgegw.core.book import REFUSED, Book
from edgegw.core.caps import cap_accounts, charged, resolved, trimmed
from edgegw.core.counts import measures_of
from edgegw.core.decide import Stamp
from edgegw.core.legs import POST, VOID
from edgegw.core.model import CreateTransferStatus
from edgegw.core.records import (
    UNREADABLE,
    Account,
    BlockDirective,
    CloseDirective,
    ConfirmDirective,
    DeclineDirective,
    Directive,
    DirectiveApplied,
    GrantDirective,
    Leg,
    LimitDirective,
    Measure,
    Mode,
    RecallDirective,
    SiteDirective,
    Transfer,
    decode_directive,
    place_text,
    transfer_id,
)
from edgegw.core.site import Site
from edgegw.core.site_format import used_format_of

APPLIED: Final = "applied"
RETURNED: Final = "returned"

Sites = Callable[[str], Site | str | None]
"""The site of a digest, if its bundle was fetched and is sound; else what is wrong with it, where that is
known."""

Awaited = Callable[[str], bool]
"""Whether somebody still waits for the grant of this request id."""


class Effect(msgspec.Struct, frozen=True):
    """What a directive does here."""

    outcome: str
    reason: str = ""
    legs: tuple[Leg, ...] = ()
    accounts: tuple[Account, ...] = ()
    counted: tuple[Measure, ...] = ()
    has_calendar: bool = False
    """Whether the site that it puts in force closes windows by a calendar."""


def apply_directive(
    book: Book, stamp: Stamp, body: bytes, *, awaited: Awaited, sites: Sites
) -> DirectiveApplied:
    """Change the book as the directive says and return the record of it; what cannot be applied is
    refused, never raised, and changes nothing."""
    layer = book.overlay()
    try:
        effect = _effect(layer, decode_directive(body), awaited, sites)
        layer.open_accounts(effect.accounts)
        status = layer.post(effect.legs, epoch=stamp.epoch, seq=stamp.seq, at_ns=stamp.at_ns)
        if status is not CreateTransferStatus.created:
            effect = Effect(REFUSED, f"the ledger says {status.name}")
    except msgspec.MsgspecError as error:
        effect = Effect(REFUSED, f"unreadable: {error}")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
        # A fault of this program: the log moves on and the hub hears of it, else it would ask for ever.
        effect = Effect(REFUSED, f"it met a fault of the box: {type(fault).__name__}: {fault}")
    if effect.outcome != REFUSED:
        layer.merge()
    record = DirectiveApplied(
        **stamp.head(),
        window=book.window,
        directive=_verbatim(body),
        outcome=effect.outcome,
        reason=effect.reason,
        legs=effect.legs,
        accounts=effect.accounts,
        cut_off_ns=_counts_from_ns(book, stamp, body) if effect.has_calendar else 0,
        counted=effect.counted,
    )
    book.note(record)
    return record


def _counts_from_ns(book: Book, stamp: Stamp, body: bytes) -> int:
    """Since when a site's cut-offs count here: whatever was due before has been closed. The first calendar
    of an epoch takes the hub's word for the time too, because a new box may have no clock yet."""
    if book.cut_off_ns:
        return max(book.cut_off_ns, stamp.wall_ns)
    return max(stamp.wall_ns, decode_directive(body).wall_ns)


def _verbatim(body: bytes) -> msgspec.Raw:
    """The directive as it goes into the record; bytes that are no line of JSON go in as a string of hex
    digits."""
    try:
        msgspec.json.decode(body)
    except UNREADABLE:
        return msgspec.Raw(msgspec.json.encode(body.hex()))
    return msgspec.Raw(msgspec.json.encode(body.hex()) if b"\n" in body else body)


def original_of(directive: Directive) -> str:
    """The place of the stand-in that a confirmation or late decline is about, else ""."""
    if isinstance(directive, ConfirmDirective | DeclineDirective):
        return place_text(epoch=directive.epoch, seq=directive.at_seq)
    return ""


def _effect(book: Book, directive: Directive, awaited: Awaited, sites: Sites) -> Effect:
    if isinstance(directive, GrantDirective):
        return _grant(book, directive, awaited)
    if isinstance(directive, ConfirmDirective | DeclineDirective):
        return _late_word(book, directive)
    if isinstance(directive, SiteDirective):
        return _site(book, directive, sites)
    if isinstance(directive, RecallDirective | CloseDirective):
        return _given_back(book, directive)
    if isinstance(directive, BlockDirective | LimitDirective):
        return Effect(APPLIED)
    if directive.account_id not in book.accounts:
        return Effect(REFUSED, f"account {directive.account_id} is not known here")
    return Effect(APPLIED)


def _grant(book: Book, directive: GrantDirective, awaited: Awaited) -> Effect:
    account = book.accounts.get(directive.account_id)
    if account is None or account.currency != directive.currency:
        return Effect(REFUSED, f"account {directive.account_id} in {directive.currency} is not known here")
    centre = centre_account(directive.currency)
    leg = Leg(centre, directive.account_id, directive.amount_minor)
    if directive.request_id and not awaited(directive.request_id):
        back = Leg(directive.account_id, centre, directive.amount_minor)
        return Effect(RETURNED, "nobody waits for it any more", (leg, back))
    return Effect(APPLIED, "", (leg,))


def _given_back(book: Book, directive: RecallDirective | CloseDirective) -> Effect:
    """What of an account goes back to the centre: live holds keep their cover."""
    account = book.accounts.get(directive.account_id)
    if account is None or account.currency != directive.currency:
        return Effect(REFUSED, f"account {directive.account_id} in {directive.currency} is not known here")
    free_minor = max(0, book.available(account.id))
    if isinstance(directive, RecallDirective):
        back_minor = min(free_minor, directive.amount_minor)
        reason = f"{directive.reason}: {back_minor} of {directive.amount_minor} minor units"
    else:
        back_minor, reason = free_minor if directive.closed else 0, directive.reason
    legs = (Leg(account.id, centre_account(account.currency), back_minor),) if back_minor else ()
    return Effect(APPLIED, reason, legs)


def _late_word(book: Book, directive: ConfirmDirective | DeclineDirective) -> Effect:
    hold_id = transfer_id(epoch=directive.epoch, seq=directive.at_seq, leg=0)
    original = book.at(original_of(directive))
    if not isinstance(original, Transfer) or not original.legs:
        return Effect(REFUSED, f"record {original_of(directive)} is not a stand-in of this box")
    if not book.ledger.is_live(hold_id):
        return Effect(REFUSED, "already_voided")
    held = original.legs[0]
    post = Leg(held.debit_account_id, held.credit_account_id, held.amount_minor, POST, f"{hold_id:032x}")
    if isinstance(directive, DeclineDirective) and directive.liable == "merchant":
        back = Leg(held.credit_account_id, risk_account(book.box, directive.currency), held.amount_minor)
        freed = resolved(book, original, flag=VOID, amount_minor=held.amount_minor)
        return Effect(APPLIED, directive.reason, (post, back, *freed))
    payee = book.accounts[held.credit_account_id]
    legs = [post]
    if not book.homed_here(payee):
        legs.append(Leg(payee.id, centre_account(payee.currency), held.amount_minor))
    if isinstance(directive, ConfirmDirective):
        legs += resolved(book, original, flag=POST, amount_minor=held.amount_minor)
    else:  # the branch has paid, and not the payer
        paid = Leg(held.debit_account_id, held.credit_account_id, held.amount_minor)
        legs += resolved(book, original, flag=VOID, amount_minor=held.amount_minor)
        legs += charged(book, (paid,))
    return Effect(APPLIED, "", tuple(legs))


def _site(book: Book, directive: SiteDirective, sites: Sites) -> Effect:
    if (directive.version, directive.digest) == (book.site_version, book.site_digest):
        return Effect(APPLIED, "it is in force already", trimmed(book), counted=book.tally.measures)
    site = sites(directive.digest)
    if not isinstance(site, Site):
        why = f": {site}" if site else ""
        return Effect(REFUSED, f"bundle {directive.digest} is not to be had or not sound{why}")
    if site.bank != book.bank:
        return Effect(REFUSED, f"bundle is for bank {site.bank!r}, this box belongs to {book.bank!r}")
    if site.version != directive.version or not _follows(book, site):
        return Effect(REFUSED, f"version {site.version} does not follow version {book.site_version}")
    lists = [rule for rule in site.lists or () if rule.digest not in book.held_lists]
    if lists:
        return Effect(REFUSED, f"list {lists[0].name} is not to be had")
    wanted = list(site.accounts)
    for rule in site.currencies:
        wanted += own_accounts(book.box, rule.code)
    wanted += cap_accounts(site)
    reserved = next((account.id for account in site.accounts if is_own(account)), None)
    if reserved is not None:
        return Effect(REFUSED, f"account id {reserved!r} is reserved for the books' own accounts")
    opened = tuple(account for account in wanted if book.accounts.get(account.id) != account)
    changed = next(
        (a.id for a in opened if a.id in book.accounts and not _same_money(book.accounts[a.id], a)), None
    )
    if changed is not None:
        return Effect(REFUSED, f"account {changed!r} cannot change its currency or floor")
    before = book.own_site
    book.use_site(site, held_to=before if book.mode is Mode.OFFLINE else None)
    has_calendar = site.calendar is not msgspec.UNSET
    # What binds beside it goes when the line is up, and the settings before it may come again.
    counted = measures_of(book.site, book.own_site, before)
    return Effect(APPLIED, "", trimmed(book), opened, counted, has_calendar=has_calendar)


def _follows(book: Book, site: Site) -> bool:
    """Whether it is newer: a higher version, or of the same one what this program can read and an older one
    could not."""
    if site.version != book.site_version or book.own_site is None:
        return site.version > book.site_version
    return used_format_of(msgspec.json.encode(site)) > used_format_of(msgspec.json.encode(book.own_site))


def _same_money(old: Account, new: Account) -> bool:
    return old.currency == new.currency and old.floor == new.floor


def own_accounts(box: str, currency: str) -> tuple[Account, ...]:
    """The books' own accounts of one currency at a box; of these only the risk account has a floor."""
    return (
        Account(id=centre_account(currency), currency=currency, home=box, floor=False),
        Account(id=risk_account(box, currency), currency=currency, home=box, floor=True),
        Account(id=suspense_account(box, currency), currency=currency, home=box, floor=False),
        Account(id=receivable_account(box, currency), currency=currency, home=box, floor=False),
        Account(id=recourse_account(box, currency), currency=currency, home=box, floor=False),
    )
