"""What deciding works with: what a decision is made from, what it may be, and the small steps that every kind
of request takes. Pure.

Leaves out the kinds themselves: payments and holds (`core.decide`), and what becomes of them
(`core.resolution`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypedDict, Unpack

import msgspec

from edgegw.core.accounts import centre_account
from edgegw.core.book import Book
from edgegw.core.caps import charged
from edgegw.core.limits import Refused
from edgegw.core.model import CreateTransferStatus
from edgegw.core.reasons import Reason
from edgegw.core.records import (
    ClearedBy,
    Counted,
    HeadFields,
    Leg,
    MerchantBatch,
    Refusal,
    Request,
    Transfer,
    Undone,
    place_text,
    transfer_id,
)

_CREATED: Final = CreateTransferStatus.created  # reaching a member through its class is a call of a function
VERSION: Final = 1
"""Of the records that are written here."""

Rule = Callable[[Book, str, Request, int], Refused | None]
"""A rule: (book, client, request, at_ns) -> a refusal or None. Pure."""


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """What a record names first: who, where in the log, when."""

    bank: str
    box: str
    epoch: int
    seq: int
    at_ns: int
    wall_ns: int
    mono_ns: int

    def head(self) -> HeadFields:
        """The first fields of a record."""
        return {
            "v": VERSION,
            "bank": self.bank,
            "box": self.box,
            "epoch": self.epoch,
            "seq": self.seq,
            "at_ns": self.at_ns,
            "wall_ns": self.wall_ns,
            "mono_ns": self.mono_ns,
        }


class Funding(msgspec.Struct, frozen=True):
    """How the gateway found the centre for this request."""

    line_up: bool
    centre: str = ""
    """`granted`, `refused` or `timeout` once it was asked, "" before."""
    reason: str = ""
    """Why the line counts as down, for the record: `line_down` or `centre_timeout`."""
    asked: Mapping[str, Funding] = {}
    """The same for net debit caps for which the centre was asked, and for the accounts of a linked group."""

    def of(self, account_id: str) -> Funding:
        """What holds for a member of a group that this account pays."""
        payer = self.asked.get(account_id)
        return self if payer is None else msgspec.structs.replace(payer, asked=self.asked)

    def of_cap(self, account_id: str) -> Funding:
        """What holds for a cap, which is asked for beside the money."""
        return self.asked.get(account_id) or Funding(line_up=self.line_up)


class Short(msgspec.Struct, frozen=True):
    """The allowance of account_id does not cover amount_minor: ask the centre for at least that and decide
    again."""

    account_id: str
    currency: str
    amount_minor: int


class Context(msgspec.Struct, frozen=True, gc=False):
    """All that a decision is made from."""

    book: Book
    stamp: Stamp
    client: str
    request: Request
    funding: Funding
    rules: Sequence[Rule]

    def asking(self, account_id: str) -> Context:
        """The same with what the centre said of this account, where it was asked for it."""
        return msgspec.structs.replace(self, funding=self.funding.of(account_id))


Decided = Transfer | Refusal | Short


class Further(TypedDict, total=False):
    """What the record of a cleared request says where it is no plain payment."""

    reason: str
    original: str
    counted: Counted | None
    batch: MerchantBatch | None
    undone: Undone | None


def clearing(
    c: Context, cleared_by: ClearedBy, legs: tuple[Leg, ...], **further: Unpack[Further]
) -> Transfer:
    """The record of a cleared request whose legs are booked already."""
    stamp = c.stamp
    record = Transfer(  # from 16 words on, Python makes a dict of them first, which takes four times as long
        v=VERSION,
        bank=stamp.bank,
        box=stamp.box,
        epoch=stamp.epoch,
        seq=stamp.seq,
        at_ns=stamp.at_ns,
        wall_ns=stamp.wall_ns,
        mono_ns=stamp.mono_ns,
        window=c.book.window,
        client=c.client,
        request=c.request,
        cleared_by=cleared_by,
        legs=legs,
    )
    return msgspec.structs.replace(record, **further) if further else record


def refuse(
    stamp: Stamp, client: str, request: Request, code: Reason, detail: str, *, original: str = ""
) -> Refusal:
    """The record of a refusal; changes nothing else. original: the place of the kept reversal that won."""
    return Refusal(
        **stamp.head(),
        client=client,
        request=request,
        code=code.value,
        detail=detail,
        original=original,
    )


def refusing(c: Context, code: Reason, detail: str) -> Refusal:
    """The record of this request's refusal."""
    kept = c.book.reversed_by(c.client, c.request.id) if code is Reason.ALREADY_REVERSED else None
    return refuse(c.stamp, c.client, c.request, code, detail, original=kept or "")


def booking(
    c: Context,
    cleared_by: ClearedBy,
    legs: tuple[Leg, ...],
    *,
    payer: str = "",
    **further: Unpack[Further],
) -> Transfer | Refusal:
    """The record of a cleared request whose legs are booked here with what they move of net debit caps, or of
    the ledger's own refusal. payer: who pays in the end, where the branch stands in."""
    book, stamp = c.book, c.stamp
    if book.caps:
        legs = (*legs, *charged(book, legs, payer=payer))
    status = book.post(legs, epoch=stamp.epoch, seq=stamp.seq, at_ns=stamp.at_ns)
    if status is not _CREATED:
        return refusing(c, Reason.LEDGER_REFUSED, status.name)
    return clearing(c, cleared_by, legs, **further)


def sent_home(book: Book, account_id: str, amount_minor: int) -> tuple[Leg, ...]:
    """The leg that gives the right to money back to the centre when its account is homed elsewhere."""
    known = book.known[account_id]
    if known is None:
        raise KeyError(account_id)
    if known.stays:
        return ()
    return (Leg(account_id, centre_account(known.account.currency), amount_minor),)


def shortage(c: Context, account_id: str, amount_minor: int) -> Short | None:
    """Ask the centre, if it can still be asked for this request; again, when others spent what it granted."""
    if c.funding.line_up and c.funding.centre in ("", "granted"):
        return Short(account_id, c.book.accounts[account_id].currency, amount_minor)
    return None


def unfunded(c: Context, account_id: str) -> Refusal:
    """The refusal of what neither box nor centre covers."""
    available = c.book.available(account_id)
    return refusing(
        c,
        Reason.INSUFFICIENT_FUNDS,
        f"{account_id} has {available} minor units here; the centre gives no more",
    )


def first_leg(record: Transfer) -> int:
    """The id of a record's first leg, the one that may be pending."""
    return transfer_id(epoch=record.epoch, seq=record.seq, leg=0)


def place_of_record(record: Transfer) -> str:
    """Its `epoch/seq`."""
    return place_text(epoch=record.epoch, seq=record.seq)


SUSPENSE: Final = "suspense"
"""Why an advice that nothing covers was booked all the same."""
