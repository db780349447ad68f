"""The report: every check by its name, what it found, and the day's figures; a table for people, or JSON.

Leaves out the checks themselves (`checks`) and what is read for them (`evidence`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from edgegw.demo import checks
from edgegw.demo.card_search import CardSearch
from edgegw.demo.checks import Evidence
from edgegw.demo.evidence import read_box, read_day, read_hub
from edgegw.demo.plan import BOX
from edgegw.demo.workplace import Workplace

FINDINGS_MAX: Final = 20
"""Of each check, so many are told in JSON; the number is of all."""
SHOWN_MAX: Final = 4
"""And so many on a terminal."""
FINDING_CHARACTERS_MAX: Final = 600


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check's result."""

    name: str
    what: str
    holds: bool
    count: int
    findings: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed, and what the exit code comes from."""

    ok: bool
    directory: str
    lost: int
    doubled: int
    checks: tuple[Check, ...]
    troubles: tuple[str, ...]
    figures: dict[str, Any]


class _Rule(NamedTuple):
    name: str
    what: str
    find: Callable[[Evidence], Iterator[str]]


RULES: Final = (
    _Rule("lost", "every answer is in the box's ledger and at the hub, unchanged", checks.lost),
    _Rule("doubled", "no request moved money more often than it was answered", checks.doubled),
    _Rule("repeats", "every repeat got the first answer's bytes", checks.repeats),
    _Rule("sums", "debits equal credits, windows hold every transfer once", checks.unbalanced),
    _Rule("hub", "available + outstanding = balance, the replica is a replay", checks.hub_unsound),
    _Rule("balances", "every account has what the answers say, at hub and box", checks.wrong_balances),
    _Rule("shares", "5 % by each way to fund, none by the centre in the outage", checks.too_few),
    _Rule("modes", "every change of the line is a record with its reason", checks.modes_untold),
    _Rule("kill", "16 requests or more in flight at the kill, all answered", checks.badly_killed),
    _Rule("late decline", "it is posted, and told to the merchant", checks.late_word_untold),
    _Rule("mistakes", "wrong messages got clear errors and left no trace", checks.mistakes_taken),
    _Rule("plan", "every answer is one that the day allows", checks.unplanned),
    _Rule("expiry", "the hold that nobody posted expired", checks.expired_never),
    _Rule("logs", "box and hub have the same log, cosigned to its end", checks.heads_apart),
)


def judge(
    place: Workplace, *, pans: Iterable[str], troubles: Iterable[str], figures: dict[str, Any]
) -> Report:
    """The report on a directory whose processes have ended."""
    evidence = Evidence(
        read_day(place.answers), read_box(place.ledger), read_hub(place.hub_database, box=BOX)
    )
    results = [_check(rule.name, rule.what, rule.find(evidence)) for rule in RULES]
    results.append(_check("card numbers", "none is in a database, a log or the journal", _leaks(place, pans)))
    verified = figures.pop("verified", {})
    results.append(
        _check("verifier", "the stand-alone verifier agrees, with the keys alone", _refuted(verified))
    )
    told = tuple(troubles)
    found = {result.name: result for result in results}
    return Report(
        ok=all(result.holds for result in results) and not told,
        directory=str(place.directory),
        lost=found["lost"].count,
        doubled=found["doubled"].count,
        checks=tuple(results),
        troubles=told,
        figures=_figures(evidence) | figures,
    )


def _check(name: str, what: str, findings: Iterator[str]) -> Check:
    shown = [finding[:FINDING_CHARACTERS_MAX] for finding in islice(findings, FINDINGS_MAX)]
    count = len(shown) + sum(1 for _ in findings)
    return Check(name=name, what=what, holds=not count, count=count, findings=tuple(shown))


def _leaks(place: Workplace, pans: Iterable[str]) -> Iterator[str]:
    """Card numbers in what box and hub wrote. The demo's share long beginnings, so parts of them say
    nothing."""
    search = CardSearch(pans, parts=False)
    for path in sorted(place.directory.rglob("*")):
        if path.name.startswith("ledger.reserve") or path == place.answers:
            continue
        for leak in islice(search.in_file(path), FINDINGS_MAX):
            yield f"{path} holds a card number that ends in {leak.ends_in} as {leak.form}"


def _refuted(verified: dict[str, Any]) -> Iterator[str]:
    if not verified:
        yield "nothing was verified: the demo did not come so far"
        return
    for name in ("journal", "ledger"):
        code, said = verified[name]
        if code:
            yield f"{name}: exit code {code}: {said}"
    for code, said in verified["receipts"]:
        if code:
            yield f"receipt: exit code {code}: {said}"
    if not verified["receipts"]:
        yield "no receipt was verified"


def _figures(evidence: Evidence) -> dict[str, Any]:
    first = evidence.day.first.values()
    stories = Counter(answer.story for answer in first)
    killed = evidence.day.event("killed")
    return {
        "requests": len(evidence.day.first),
        "payments": sum(1 for answer in first if answer.kind == "payment"),
        "over_http": sum(1 for answer in first if answer.way == "http"),
        "over_iso8583": sum(1 for answer in first if answer.way == "iso8583"),
        "cleared_by": checks.shares(evidence.day),
        "refused": dict(Counter(answer.code for answer in first if answer.outcome == "refused")),
        "stories": dict(stories),
        "repeats": len(evidence.day.again),
        "mistakes": len(evidence.day.mistakes),
        "in_flight_at_kill": 0 if killed is None else len(killed.numbers),
        "late_declines": sum(1 for told in evidence.day.told if told.outcome == "declined"),
        "confirmed": sum(1 for told in evidence.day.told if told.outcome == "confirmed"),
        "records": len(evidence.box.records),
    }


def show(report: Report, console: Console) -> None:
    """The tables."""
    figures = report.figures
    day = Table(title="The day", show_header=False, title_justify="left")
    cleared = figures["cleared_by"]
    total = sum(cleared.values()) or 1
    day.add_row("requests", f"{figures['over_http']} over HTTP, {figures['over_iso8583']} over ISO 8583")
    day.add_row(
        "payments cleared by", ", ".join(f"{way} {n} ({100 * n / total:.0f} %)" for way, n in cleared.items())
    )
    day.add_row("refused", ", ".join(f"{code} {count}" for code, count in sorted(figures["refused"].items())))
    day.add_row("in flight at the kill", str(figures["in_flight_at_kill"]))
    day.add_row("repeats, wrong messages", f"{figures['repeats']}, {figures['mistakes']}")
    day.add_row("records in the journal", str(figures["records"]))
    if "sync_seconds" in figures:
        day.add_row("sync after the outage", f"{figures['sync_seconds']} s")
    console.print(day)
    table = Table(title="The checks", title_justify="left")
    for column in ("check", "what must hold", "result"):
        table.add_column(column)
    for check in report.checks:
        result = "[green]holds[/]" if check.holds else f"[red]{check.count} found[/]"
        table.add_row(check.name, check.what, result)
    console.print(table)
    for trouble in report.troubles:
        console.print(f"trouble: {trouble}", style="red", markup=False)
    for check in report.checks:
        for finding in check.findings[:SHOWN_MAX]:
            console.print(f"{check.name}: {finding}", markup=False, soft_wrap=True)
    verdict = "every check holds" if report.ok else "NOT every check holds"
    console.print(f"lost {report.lost}, doubled {report.doubled}: {verdict}", style="bold")
