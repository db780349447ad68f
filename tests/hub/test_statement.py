"""camt.053 as a strict receiver reads it: the elements in the schema's order, each once unless it may repeat,
every text within its type, whatever stands in a posting's id."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

import pytest

from edgegw.hub.settlement import SettlementError
from edgegw.hub.statement import CAMT_NAMESPACE, Line, Report, Statement, camt_of

TEXT_35, TEXT_500 = r"(?s).{1,35}", r"(?s).{1,500}"
DATE = r"\d{4}-\d{2}-\d{2}"
MOMENT = DATE + r"T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z"
ACCOUNT = r"(?s).{1,34}"
SCHEMA: dict[str, str | list[str]] = {
    "Document": ["BkToCstmrStmt"],
    "BkToCstmrStmt": ["GrpHdr", "Stmt+"],
    "GrpHdr": ["MsgId", "CreDtTm"],
    "Stmt": ["Id", "ElctrncSeqNb", "CreDtTm", "Acct", "Bal+", "Ntry*"],
    "Acct": ["Id", "Ccy"],
    "Acct/Id": ["Othr"],
    "Othr": ["Id", "SchmeNm"],
    "Othr/Id": ACCOUNT,
    "SchmeNm": ["Prtry"],
    "Bal": ["Tp", "Amt", "CdtDbtInd", "Dt"],
    "Tp": ["CdOrPrtry"],
    "CdOrPrtry": ["Cd"],
    "CdOrPrtry/Cd": r"OPBD|CLBD",
    "Bal/Dt": ["Dt"],
    "Dt/Dt": DATE,
    "Ntry": [
        *("NtryRef", "Amt", "CdtDbtInd", "Sts", "BookgDt", "ValDt"),
        *("AcctSvcrRef", "BkTxCd", "AddtlNtryInf"),
    ],
    "Sts": ["Cd"],
    "Sts/Cd": r"BOOK",
    "BookgDt": ["Dt"],
    "BookgDt/Dt": DATE,
    "ValDt": ["Dt"],
    "ValDt/Dt": DATE,
    "BkTxCd": ["Domn"],
    "Domn": ["Cd", "Fmly"],
    "Domn/Cd": r"PMNT",
    "Fmly": ["Cd", "SubFmlyCd"],
    "Fmly/Cd": r"RCDT|ICDT",
    "SubFmlyCd": r"BOOK",
    "MsgId": TEXT_35,
    "CreDtTm": MOMENT,
    "Stmt/Id": TEXT_35,
    "ElctrncSeqNb": r"\d{1,18}",
    "Ccy": r"[A-Z]{3}",
    "Prtry": TEXT_35,
    "Amt": r"(?=.{1,19}\Z)\d+(\.\d{1,5})?",
    "CdtDbtInd": r"CRDT|DBIT",
    "NtryRef": TEXT_35,
    "AcctSvcrRef": TEXT_35,
    "AddtlNtryInf": TEXT_500,
}
"""The part of camt.053.001.08 that we write: by an element's name, behind its parent's where one name means
two things, what it holds: its elements in order, or its text."""

DIGITS = {"CNY": 2, "JPY": 0, "KWD": 3, "CLF": 4}


def check(node: Xml.Element, parent: str = "") -> None:
    """Raise AssertionError at the first element that a validating receiver would refuse."""
    name = node.tag.removeprefix(f"{{{CAMT_NAMESPACE}}}")
    holds = SCHEMA.get(f"{parent}/{name}", SCHEMA.get(name))
    assert holds is not None, f"{parent}/{name} is not of the schema"
    if isinstance(holds, str):
        assert len(node) == 0
        assert re.fullmatch(holds, node.text or ""), f"{parent}/{name} = {node.text!r}"
    else:
        kinds = "".join(f"{child.tag.partition('}')[2]} " for child in node)
        order = "".join(f"({one.rstrip('+*')} )" + (one[-1] if one[-1] in "+*" else "") for one in holds)
        assert re.fullmatch(order, kinds), f"{parent}/{name} holds {kinds}"
        for child in node:
            check(child, name)
    currency = node.get("Ccy")
    assert (currency is not None) == (name == "Amt")
    if currency is not None:
        assert len((node.text or "").partition(".")[2]) == DIGITS[currency]


def report(*statements: Statement, cycle: int = 1, created_ns: int = 1_763_600_000_123_000_000) -> Report:
    return Report(cycle, "2026-11-20", created_ns, [], [], [], statements)


def line(reference: str, amount_minor: int = 5) -> Line:
    return Line(1, "cover", reference, amount_minor, amount_minor)


@pytest.mark.parametrize(
    "told",
    [
        report(Statement("city", "CNY", 0, [Line(1, "transfer", "1/1", -180, -180)])),
        report(Statement("A" * 34, "JPY", -5, [line("x" * 128)]), Statement("b", "KWD", 123_456, [])),
        report(Statement("c", "CLF", 1, [line("9/9", -1)]), cycle=2**31 - 1, created_ns=1),
        report(Statement("city", "CNY", 0, [line(" <&>\"' é中😀\x00\x07\ufffe")])),
        report(Statement("city", "CNY", 0, [line("")])),
        report(Statement("city", "KWD", 10**18 - 1, [line("1/1", 1 - 10**18)])),
    ],
    ids=["plain", "long", "last", "odd", "nameless", "large"],
)
def test_a_validating_receiver_takes_the_statement(told: Report) -> None:
    """The schema's own validator says the same of these documents; it is not part of this tree."""
    check(Xml.fromstring(camt_of(told)))  # noqa: S314 - our own bytes


def test_an_amount_that_no_receiver_could_read_is_refused() -> None:
    """Rather than cut short: a statement that lies is worse than none."""
    with pytest.raises(SettlementError, match="18 digits"):
        camt_of(report(Statement("city", "CNY", 10**18, [])))
