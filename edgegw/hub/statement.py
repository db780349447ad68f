"""The reports of a settlement cycle: one CSV file with everything, and ISO 20022 camt.053.001.08 with a
statement for each settlement account that the cycle concerns.

Both are made from the database alone and are the same bytes whenever they are asked for. A statement's
opening balance, its entries and its closing balance add up, and the next one opens where this one closes.
Amounts are made from minor units by the currency's exponent, in whole numbers. Leaves out settling
(`hub.settlement`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree as Xml

from sqlalchemy import Connection, and_, func, select

from edgegw.core.journal import sm3
from edgegw.hub.books import settlement_account
from edgegw.hub.schema import (
    clearing_window,
    settlement_cycle,
    settlement_entry,
    settlement_transfer,
    window_position,
)
from edgegw.hub.settlement import COVER, SettlementError

CAMT_NAMESPACE: Final = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
REFERENCE_CHARS_MAX: Final = 35
AMOUNT_DIGITS_MAX: Final = 18
"""Of an ISO 20022 amount."""
_OTHER_DIGITS: Final = {
    0: (
        *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
        *("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
    ),
    3: ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"),
    4: ("CLF", "UYW"),
}
EXPONENTS: Final = {code: digits for digits, codes in _OTHER_DIGITS.items() for code in codes}
"""Digits behind the point where ISO 4217 gives other than two."""

CSV_COLUMNS: Final = (
    "kind",
    "cycle",
    "box",
    "window",
    "business_date",
    "participant",
    "counterparty",
    "currency",
    "amount_minor",
    "reference",
    "state",
)


class Line(NamedTuple):
    """One entry of a statement, minor units; amount_minor is above zero where the account is credited."""

    number: int
    kind: str
    reference: str
    amount_minor: int
    balance_minor: int


class Statement(NamedTuple):
    """One settlement account in one cycle."""

    participant: str
    currency: str
    opening_minor: int
    lines: Sequence[Line]

    @property
    def closing_minor(self) -> int:
        """The balance after the last entry."""
        return self.lines[-1].balance_minor if self.lines else self.opening_minor


class Report(NamedTuple):
    """All that is told of one cycle."""

    cycle: int
    settlement_date: str
    created_ns: int
    windows: Sequence[Any]
    """Box, branch, number, business date, participant, currency, figure."""
    transfers: Sequence[Any]
    """Number, currency, debtor, creditor, amount, and the cycle that posted it."""
    released: Sequence[Any]
    """Older cycles' transfers that this one posted."""
    statements: Sequence[Statement]


def report_of(connection: Connection, cycle: int) -> Report:
    """A cycle's report; raises SettlementError for one that there is not."""
    head = connection.execute(select(settlement_cycle).where(settlement_cycle.c.cycle == cycle)).one_or_none()
    if head is None:
        newest = connection.execute(select(func.max(settlement_cycle.c.cycle))).scalar()
        there = f"the newest is {newest}" if newest else "there is none yet: `edgegw settlement run`"
        raise SettlementError(f"cycle {cycle} is not known here; {there}")
    transfer = settlement_transfer.c
    columns = (
        transfer.cycle,
        transfer.number,
        transfer.currency,
        transfer.debtor,
        transfer.creditor,
        transfer.amount_minor,
        transfer.posted_in,
    )
    own = connection.execute(select(*columns).where(transfer.cycle == cycle).order_by(transfer.number)).all()
    released = connection.execute(
        select(*columns)
        .where(transfer.posted_in == cycle, transfer.cycle != cycle)
        .order_by(transfer.cycle, transfer.number)
    ).all()
    sides = {(one.debtor, one.currency) for one in (*own, *released)}
    sides |= {(one.creditor, one.currency) for one in (*own, *released)}
    return Report(
        cycle,
        head.settlement_date,
        head.created_ns,
        _windows(connection, cycle),
        own,
        released,
        list(_statements(connection, cycle, sides)),
    )


def _windows(connection: Connection, cycle: int) -> Sequence[Any]:
    done, position = clearing_window.c, window_position.c
    return connection.execute(
        select(
            done.box,
            done.branch,
            done.number,
            done.business_date,
            done.state,
            position.participant,
            position.currency,
            (position.net_minor + position.centre_minor).label("amount_minor"),
        )
        .outerjoin(
            window_position,
            and_(
                position.box == done.box,
                position.epoch == done.epoch,
                position.branch == done.branch,
                position.number == done.number,
            ),
        )
        .where(done.cycle == cycle)
        .order_by(done.box, done.epoch, done.branch, done.number, position.participant, position.currency)
    ).all()


def _statements(connection: Connection, cycle: int, sides: set[tuple[str, str]]) -> Iterator[Statement]:
    """Of each account that the cycle's transfers or postings touch, or that waits in them."""
    entry = settlement_entry.c
    names = {settlement_account(*side): side for side in sides}
    touched = select(entry.account_id).where(entry.cycle == cycle).distinct()
    for account_id in connection.execute(touched).scalars():
        _, participant, currency = account_id.split(":")
        names[account_id] = participant, currency
    for account_id, (participant, currency) in sorted(names.items()):
        rows = connection.execute(
            select(entry.number, entry.kind, entry.reference, entry.amount_minor, entry.balance_minor)
            .where(entry.account_id == account_id, entry.cycle == cycle)
            .order_by(entry.number)
        )
        lines = [Line(*row) for row in rows]
        before = connection.execute(
            select(entry.balance_minor)
            .where(entry.account_id == account_id, entry.cycle < cycle)
            .order_by(entry.number.desc())
            .limit(1)
        ).scalar()
        yield Statement(participant, currency, before or 0, lines)


# -- CSV -----------------------------------------------------------------------------------------------------


def csv_of(report: Report) -> bytes:
    """The report as CSV (UTF-8, a header line): windows with their figures, transfers with their state, and
    each account's statement. Amounts are minor units; a statement's are above zero where it is credited."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for row in _csv_rows(report):
        writer.writerow({"cycle": report.cycle, **row})
    return text.getvalue().encode()


def _csv_rows(report: Report) -> Iterator[dict[str, object]]:
    for one in report.windows:
        yield {
            "kind": "window",
            "box": one.box,
            "window": one.number,
            "business_date": one.business_date,
            "participant": one.participant or "",
            "currency": one.currency or "",
            "amount_minor": 0 if one.amount_minor is None else one.amount_minor,
            "reference": f"branch {one.branch}" if one.branch else "",
            "state": one.state,
        }
    for one in (*report.released, *report.transfers):
        yield {
            "kind": "transfer",
            "participant": one.debtor,
            "counterparty": one.creditor,
            "currency": one.currency,
            "amount_minor": one.amount_minor,
            "reference": f"{one.cycle}/{one.number}",
            # As the cycle left it: a later one's statement has what left the queue since.
            "state": f"posted in {one.posted_in}" if 0 < one.posted_in <= report.cycle else "queued",
        }
    for statement in report.statements:
        about = {"participant": statement.participant, "currency": statement.currency}
        yield {"kind": "opening", "amount_minor": statement.opening_minor, **about}
        for line in statement.lines:
            about_line = {"amount_minor": line.amount_minor, "reference": line.reference, "state": line.kind}
            yield {"kind": "entry", **about, **about_line}
        yield {"kind": "closing", "amount_minor": statement.closing_minor, **about}


# -- camt.053 ------------------------------------------------------------------------------------------------


def camt_of(report: Report) -> bytes:
    """The report as a camt.053.001.08 document; raises SettlementError where there is no statement, and for
    an amount that it cannot carry."""
    if not report.statements:
        raise SettlementError(
            f"cycle {report.cycle} moved nothing between participants, so there is no statement: its CSV has"
            " the windows"
        )
    document = Xml.Element("Document", xmlns=CAMT_NAMESPACE)
    root = Xml.SubElement(document, "BkToCstmrStmt")
    digest = sm3(csv_of(report)).hex()
    created = _moment(report.created_ns)
    _fill(root, {"GrpHdr": {"MsgId": f"STL{report.cycle:010}-{digest[:16]}", "CreDtTm": created}})
    for number, statement in enumerate(report.statements, 1):
        _add_statement(root, report, statement, number=number, created=created)
    Xml.indent(document)
    return bytes(Xml.tostring(document, encoding="UTF-8", xml_declaration=True)) + b"\n"


def _add_statement(
    root: Xml.Element, report: Report, statement: Statement, *, number: int, created: str
) -> None:
    found = Xml.SubElement(root, "Stmt")
    _fill(
        found,
        {
            "Id": f"STL{report.cycle:010}-{number}",
            "ElctrncSeqNb": str(report.cycle),
            "CreDtTm": created,
            "Acct": {
                "Id": {"Othr": {"Id": statement.participant, "SchmeNm": {"Prtry": "SETTLEMENT"}}},
                "Ccy": statement.currency,
            },
        },
    )
    for code, balance_minor in (("OPBD", statement.opening_minor), ("CLBD", statement.closing_minor)):
        balance = Xml.SubElement(found, "Bal")
        _fill(balance, {"Tp": {"CdOrPrtry": {"Cd": code}}})
        _add_amount(balance, balance_minor, statement.currency)
        _fill(balance, {"Dt": {"Dt": report.settlement_date}})
    for line in statement.lines:
        _add_entry(found, report, statement.currency, line)


def _add_entry(found: Xml.Element, report: Report, currency: str, line: Line) -> None:
    entry = Xml.SubElement(found, "Ntry")
    _fill(entry, {"NtryRef": str(line.number)})
    _add_amount(entry, line.amount_minor, currency)
    family = "RCDT" if line.amount_minor > 0 else "ICDT"
    date = {"Dt": report.settlement_date}
    reference = "".join(one if one.isprintable() else "?" for one in line.reference)
    _fill(
        entry,
        {
            "Sts": {"Cd": "BOOK"},
            "BookgDt": date,
            "ValDt": date,
            "AcctSvcrRef": reference[:REFERENCE_CHARS_MAX] or "?",
            "BkTxCd": {"Domn": {"Cd": "PMNT", "Fmly": {"Cd": family, "SubFmlyCd": "BOOK"}}},
            "AddtlNtryInf": f"{'cover' if line.kind == COVER else 'settlement'} {reference}",
        },
    )


def _add_amount(parent: Xml.Element, signed_minor: int, currency: str) -> None:
    amount = Xml.SubElement(parent, "Amt", Ccy=currency)
    amount.text = decimal_of(abs(signed_minor), currency)
    _fill(parent, {"CdtDbtInd": "DBIT" if signed_minor < 0 else "CRDT"})


def _fill(parent: Xml.Element, tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        child = Xml.SubElement(parent, name)
        if isinstance(value, str):
            child.text = value
        else:
            _fill(child, value)


def decimal_of(amount_minor: int, currency: str) -> str:
    """An amount of minor units, zero or above, in the currency's own unit: 1050 of CNY is 10.50. Raises
    SettlementError beyond 18 digits."""
    if len(str(amount_minor)) > AMOUNT_DIGITS_MAX:
        raise SettlementError(f"{amount_minor} minor units of {currency}: camt.053 carries 18 digits at most")
    digits = EXPONENTS.get(currency, 2)
    if not digits:
        return str(amount_minor)
    whole, part = divmod(amount_minor, 10**digits)
    return f"{whole}.{part:0{digits}}"


def _moment(at_ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_ns // 1_000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
