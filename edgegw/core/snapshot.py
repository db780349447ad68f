"""A book as bytes and back: what a start loads instead of replaying a whole journal. The digest of the
bytes is a record."""

from __future__ import annotations

import msgspec

from edgegw.core import ledger
from edgegw.core.accounts import account_key
from edgegw.core.book import Book, History
from edgegw.core.counts import Count, LimitChange, StandIn, Stood
from edgegw.core.journal import sm3
from edgegw.core.legs import LEG_CODE, PENDING
from edgegw.core.merchants import OpenBatch
from edgegw.core.model import Balance
from edgegw.core.model import Transfer as LedgerTransfer
from edgegw.core.records import UNREADABLE, Account, Durability, Measure, Mode
from edgegw.core.standing import Standing


class BookImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every table of a book, sorted, so that equal books give equal bytes. A later field has a default that
    is left out, so that the digests of older journals stay what they are."""

    bank: str
    box: str
    epoch: int
    seq: int
    at_ns: int
    mode: Mode
    mode_reason: str
    offline_since_ns: int
    site_digest: str
    site_version: int
    window: int
    window_transfers: int
    accounts: list[tuple[Account, int, int, int, int]]
    """Account, debits pending, debits posted, credits pending, credits posted."""
    holds: list[tuple[str, int, int, str, str, int, int]]
    """Transfer id (hex), amount, ledger, debit and credit account (hex), timeout in seconds, at_ns."""
    barred: list[tuple[str, str]]
    frozen: list[tuple[str, str]]
    kept: list[tuple[str, str, str]]
    positions: list[tuple[str, str, int]]
    stand_ins: list[tuple[str, StandIn]]
    stood: list[tuple[str, str, str, Stood]]
    """Account, card, terminal, merchant or branch; whose; currency."""
    durability: Durability = Durability.LOCAL
    business_date: str = ""
    cut_off_ns: int = 0
    standing: Standing = Standing()
    closed: list[tuple[str, str]] = []
    blocked: list[tuple[str, str, str]] = []
    changed: list[tuple[str, str, LimitChange]] = []
    clock_suspect: bool = False
    counts: list[tuple[str, str, Count]] = []
    """The sums for limits that still count: the measure's key, whose."""
    day: str = ""
    day_window: int = 1
    measures: tuple[Measure, ...] = ()
    month_window: int = 1
    outage_ns: int = 0
    wall_ns: int = 0
    batches: list[tuple[str, str, OpenBatch]] = []


def dump(book: Book) -> bytes:
    """The image of a base book as JSON, the same bytes for the same state."""
    return msgspec.json.encode(
        BookImage(
            bank=book.bank,
            box=book.box,
            epoch=book.epoch,
            seq=book.seq,
            at_ns=book.at_ns,
            mode=book.mode,
            mode_reason=book.mode_reason,
            offline_since_ns=book.offline_since_ns,
            site_digest=book.site_digest,
            site_version=book.site_version,
            window=book.window,
            window_transfers=book.window_transfers,
            accounts=_accounts(book),
            holds=_holds(book),
            barred=sorted(book.barred.items()),
            frozen=sorted(book.frozen.items()),
            kept=sorted((client, id_, place) for (client, id_), place in book.kept.items()),
            positions=sorted((who, currency, net) for (who, currency), net in book.positions.items() if net),
            stand_ins=sorted(
                ((f"{place:032x}", row) for place, row in book.stand_ins.items()), key=lambda row: row[0]
            ),
            stood=sorted(((*key, row) for key, row in book.tally.stood.items()), key=lambda row: row[:3]),
            durability=book.durability,
            business_date=book.business_date,
            cut_off_ns=book.cut_off_ns,
            standing=book.standing,
            closed=sorted(book.closed.items()),
            blocked=sorted((*key, reason) for key, reason in book.tally.blocked.items()),
            changed=sorted(
                ((*key, change) for key, change in book.tally.changed.items()), key=lambda row: row[:2]
            ),
            clock_suspect=book.clock_suspect,
            counts=book.tally.living(book.at_ns),
            day=book.tally.day,
            day_window=book.tally.day_window,
            measures=book.tally.measures,
            month_window=book.tally.month_window,
            outage_ns=book.tally.outage_ns,
            wall_ns=book.wall_ns,
            batches=sorted(
                ((*key, batch) for key, batch in book.batches.items()), key=lambda row: (row[0], row[1])
            ),
        )
    )


def _accounts(book: Book) -> list[tuple[Account, int, int, int, int]]:
    rows = []
    for account_id, account in sorted(book.accounts.items(), key=lambda row: row[0]):
        b = book.ledger.balances[account_key(account_id)]
        rows.append((account, b.debits_pending, b.debits_posted, b.credits_pending, b.credits_posted))
    return rows


def _holds(book: Book) -> list[tuple[str, int, int, str, str, int, int]]:
    rows = []
    for hold_id, hold in book.ledger.transfers.items():
        if book.ledger.is_live(hold_id):
            debit, credit = f"{hold.debit_account_id:032x}", f"{hold.credit_account_id:032x}"
            rows.append(
                (f"{hold_id:032x}", hold.amount_minor, hold.ledger, debit, credit, hold.timeout_s, hold.at_ns)
            )
    return sorted(rows)


def digest(image: bytes) -> str:
    """The SM3 of an image, as the `snapshot` record carries it."""
    return sm3(image).hex()


def load(image: bytes, *, history: History | None) -> Book:
    """A base book from its image; raises msgspec.DecodeError when the bytes are not one."""
    try:
        return _book_of(msgspec.json.decode(image, type=BookImage), history)
    except (*UNREADABLE, ValueError, KeyError) as problem:
        raise msgspec.DecodeError(f"no image of a book: {problem}") from None


def _book_of(i: BookImage, history: History | None) -> Book:
    book = Book(bank=i.bank, box=i.box, history=history)
    book.epoch, book.seq, book.at_ns = i.epoch, i.seq, i.at_ns
    book.mode, book.mode_reason, book.offline_since_ns = i.mode, i.mode_reason, i.offline_since_ns
    book.site_digest, book.site_version = i.site_digest, i.site_version
    book.window, book.window_transfers = i.window, i.window_transfers
    book.durability = i.durability
    book.business_date, book.cut_off_ns = i.business_date, i.cut_off_ns
    book.standing = i.standing
    book.frozen = dict(i.frozen)
    book.closed = dict(i.closed)
    book.open_accounts(tuple([row[0] for row in i.accounts]))  # last: from here on accounts are looked at
    for account, debits_pending, debits_posted, credits_pending, credits_posted in i.accounts:
        book.ledger.balances[account_key(account.id)] = Balance(
            debits_pending=debits_pending,
            debits_posted=debits_posted,
            credits_pending=credits_pending,
            credits_posted=credits_posted,
        )
    for hold_id, amount_minor, number, debit, credit, timeout_s, at_ns in i.holds:
        ledger.restore_hold(
            book.ledger, _hold(hold_id, amount_minor, number, debit, credit, timeout_s, at_ns)
        )
    book.barred = dict(i.barred)
    book.batches = {(merchant, terminal): batch for merchant, terminal, batch in i.batches}
    book.kept = {(client, id_): place for client, id_, place in i.kept}
    book.positions = {(who, currency): net for who, currency, net in i.positions}
    book.stand_ins = {int(place, 16): row for place, row in i.stand_ins}
    book.clock_suspect, book.wall_ns = i.clock_suspect, i.wall_ns
    tally = book.tally
    tally.stood = {(of, whose, currency): row for of, whose, currency, row in i.stood}
    tally.counts = {(key, whose): row for key, whose, row in i.counts}
    tally.blocked = {(of, whose): reason for of, whose, reason in i.blocked}
    tally.blocks = len(i.blocked)
    tally.changed = {(name, whose): change for name, whose, change in i.changed}
    tally.changes = len(i.changed)
    tally.measure(i.measures)
    tally.outage_ns = i.outage_ns
    tally.day, tally.window, tally.day_window, tally.month_window = (
        i.day,
        i.window,
        i.day_window,
        i.month_window,
    )
    return book


def _hold(
    hold_id: str, amount_minor: int, number: int, debit: str, credit: str, timeout_s: int, at_ns: int
) -> LedgerTransfer:
    return LedgerTransfer(
        id=int(hold_id, 16),
        debit_account_id=int(debit, 16),
        credit_account_id=int(credit, 16),
        amount_minor=amount_minor,
        ledger=number,
        code=LEG_CODE,
        flags=PENDING,
        timeout_s=timeout_s,
        at_ns=at_ns,
    )
