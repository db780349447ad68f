"""Applying directives is total: what cannot be applied is journalled as refused, and the log moves on."""

from __future__ import annotations

import msgspec
import pytest

from edgegw.core import snapshot
from edgegw.core.apply import apply_directive
from edgegw.core.records import (
    Account,
    ConfirmDirective,
    DirectiveApplied,
    FreezeDirective,
    Leg,
    SiteDirective,
    decode_record,
    encode,
)
from edgegw.core.site import Site
from tests.core.box import SITE, Box, without_clock


def site_with(**fields: object) -> Site:
    """The site's next version, changed."""
    return msgspec.structs.replace(SITE, version=2, **fields)


def published(box: Box, site: Site | None, *, version: int = 2) -> tuple[str, str]:
    """Outcome and reason of a site directive."""
    record = box.direct(SiteDirective, site=site, version=version, digest="11" * 32, bytes=1)
    return record.outcome, record.reason


@pytest.mark.parametrize(
    ("site", "version", "reason"),
    [
        (None, 2, "not to be had"),
        (site_with(bank="other"), 2, "bank 'other'"),
        (site_with(), 3, "does not follow"),
        (SITE, 1, "does not follow"),
        (site_with(accounts=(Account(id="risk:x:CNY", currency="CNY"),)), 2, "reserved"),
        (site_with(accounts=(Account(id="anna", currency="EUR"),)), 2, "cannot change"),
        (site_with(accounts=(Account(id="anna", currency="CNY", floor=False),)), 2, "cannot change"),
    ],
)
def test_an_unsound_bundle_changes_nothing(site: Site | None, version: int, reason: str) -> None:
    """Whole or not at all: the old settings stay in force."""
    box = Box()
    outcome, why = published(box, site, version=version)
    assert outcome == "refused"
    assert reason in why
    assert box.book.site is SITE
    assert box.book.site_version == 1


def test_a_new_version_opens_accounts_and_moves_homes() -> None:
    """Only what changed is in the record, so that replays open the same accounts."""
    box = Box()
    moved = Account(id="away", currency="CNY", home="box-1")
    new = Account(id="cleo", currency="CNY", home="box-1")
    kept = tuple(account for account in SITE.accounts if account.id != "away")
    assert published(box, site_with(accounts=(*kept, moved, new)))[0] == "applied"
    record = box.records[-1]
    assert [account.id for account in record.accounts] == ["away", "cleo"]  # type: ignore[union-attr]
    box.grant("cleo", 5)
    assert box.available("cleo") == 5


def test_a_directive_that_meets_a_fault_of_the_box_is_refused_and_the_next_one_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of ours in one directive must not stop the log: the hub hears which one it was."""
    box = Box()

    def faulty(*_: object) -> None:
        raise KeyError("planted")

    with monkeypatch.context() as planted:
        planted.setattr("edgegw.core.apply._grant", faulty)
        record = box.grant("anna", 7)
    assert (record.outcome, record.legs) == ("refused", ())
    assert record.reason == "it met a fault of the box: KeyError: 'planted'"
    before = box.available("anna")
    box.grant("anna", 5)
    assert box.available("anna") == before + 5


@pytest.mark.parametrize("fault", ["ledger", "program"])
def test_settings_that_are_refused_at_the_last_step_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The record says that nothing has changed, and a start decides by the record."""
    box = Box()
    before = snapshot.dump(box.book)

    def planted(*_: object) -> tuple[Leg, ...]:
        if fault == "program":
            raise KeyError("planted")
        return (Leg("anna", "shop", 1),)

    monkeypatch.setattr("edgegw.core.apply.trimmed", planted)
    new = Account(id="cleo", currency="CNY", home="box-1")
    outcome, _ = published(box, site_with(accounts=(*SITE.accounts, new), blocked=("anna",)))
    assert outcome == "refused"
    assert without_clock(snapshot.dump(box.book)) == without_clock(before)
    assert (box.book.own_site, box.book.blocked) == (SITE, frozenset())


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"gift","v":1}',
        b"\x00garbage",
        b'{"type":"gift",\n"v":1}',
        b'{"type":"gr\xa2nt","v":1}',
        b'{"type":"refuse","v":1,"bank":"b\xa2nk"}',
    ],
)
def test_an_unreadable_directive_is_refused_and_kept(body: bytes) -> None:
    """The bytes stay in the record, which stays one line of JSON; the next directive is applied."""
    box = Box()
    record = apply_directive(box.book, box.stamp(), body, awaited=lambda _: True, sites=lambda _: None)
    line = encode(record)
    assert b"\n" not in line
    kept = decode_record(line)
    assert isinstance(kept, DirectiveApplied)
    assert kept.outcome == "refused"
    assert bytes(kept.directive) in (body, b'"' + body.hex().encode() + b'"')
    assert box.grant("anna", 5).outcome == "applied"


@pytest.mark.parametrize("amount_minor", [-1, 0, 2**63])
def test_a_grant_of_an_amount_that_cannot_be_is_refused_and_blocks_nothing(amount_minor: int) -> None:
    """Raised in the pen, one poisoned grant would come again for ever, and no later one with it."""
    box = Box()
    assert box.grant("anna", amount_minor).outcome == "refused"
    assert box.grant("anna", 5).outcome == "applied"
    assert box.available("anna") == 5


@pytest.mark.parametrize(("epoch", "at_seq"), [(-1, 3), (1, -3), (2**23, 3), (1, 2**40)])
def test_a_word_about_a_place_that_cannot_be_is_refused(epoch: int, at_seq: int) -> None:
    """A ledger file has no row for it, and asking for one raises."""
    box = Box()
    late = {"payer_account_id": "bert", "currency": "CNY", "amount_minor": 5}
    record = box.direct(ConfirmDirective, epoch=epoch, at_seq=at_seq, **late)
    assert record.outcome == "refused"
    assert "unreadable" in record.reason


def test_a_grant_or_freeze_of_an_unknown_account_is_refused() -> None:
    """The hub hears it in the journal and takes the money back."""
    box = Box()
    assert box.grant("nobody", 5).outcome == "refused"
    assert box.grant("anna", 5, currency="EUR").outcome == "refused"
    assert box.direct(FreezeDirective, account_id="nobody", frozen=True, reason="x").outcome == "refused"


def test_a_confirmation_of_what_is_no_stand_in_is_refused() -> None:
    """Neither a place that is not there nor a record of another kind moves money."""
    box = Box()
    for seq in (0, 99):
        fields = {"epoch": 1, "at_seq": seq, "payer_account_id": "anna", "currency": "CNY", "amount_minor": 1}
        assert box.direct(ConfirmDirective, **fields).outcome == "refused"
