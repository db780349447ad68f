"""What a mirror makes of an opening: each way in which a box is not what the mirror knows, and no more."""

import pytest

from edgegw.core.exchange import MirrorJudgement, MirrorView, judge_mirror_open
from edgegw.core.messages import LogHead, Open, Verdict
from edgegw.core.records import Mode
from tests.core.authors import BANK, BOX, Author, new_key

KEY = new_key("branch-1/1")
OLD, NEW = Author(KEY, number=1), Author(KEY, number=2)
OLD.append(*(f"old {number}" for number in range(5)))
NEW.append(*(f"new {number}" for number in range(8)))
LOGS = {1: OLD, 2: NEW}


def head(epoch: int, size: int, *, other: bool = False) -> LogHead:
    """So much of an epoch; `other` with another history."""
    root = bytes(32) if other else LOGS[epoch].root(size)
    return LogHead(epoch, size, root if size else b"")


def opening(*heads: LogHead, epoch: int = 2, mode: Mode = Mode.OFFLINE, version: int = 1) -> Open:
    """A box that says that it has these heads."""
    return Open(
        version=version,
        version_oldest=version,
        bank=BANK,
        box=BOX,
        boot="boot",
        epoch=epoch,
        key=KEY.public.text(),
        mode=mode,
        journals=heads,
    )


def judged(message: Open, *held: LogHead, forked: int = 0, superseded: bool = False) -> MirrorJudgement:
    """What a mirror that holds these heads says."""
    view = MirrorView(
        journals={one.number: one for one in held},
        root_at=lambda epoch, size: LOGS[epoch].root(size),
        forked={forked: "seen before"} if forked else {},
        superseded=superseded,
    )
    return judge_mirror_open(message, view)


BOTH = (head(1, 5), head(2, 8))
CASES: dict[str, tuple[Open, tuple[LogHead, ...], Verdict]] = {
    "first contact": (opening(epoch=0), (), Verdict.OK),
    "the same": (opening(*BOTH), BOTH, Verdict.OK),
    "the box is ahead": (opening(*BOTH), (head(1, 5), head(2, 3)), Verdict.OK),
    "a new epoch": (opening(*BOTH), (head(1, 5),), Verdict.OK),
    "an empty box": (opening(epoch=0), BOTH, Verdict.BEHIND),
    "the box has less": (opening(head(1, 5), head(2, 4)), BOTH, Verdict.BEHIND),
    "less of an old epoch": (opening(head(1, 3), head(2, 8)), BOTH, Verdict.BEHIND),
    "an old epoch is missing": (opening(head(2, 8)), BOTH, Verdict.BEHIND),
    "the box says so": (opening(*BOTH, mode=Mode.BEHIND), BOTH, Verdict.BEHIND),
    "another history": (opening(head(1, 5), head(2, 8, other=True)), BOTH, Verdict.FORKED),
    "another history, shorter": (opening(head(1, 5), head(2, 4, other=True)), BOTH, Verdict.FORKED),
    "another history of an old epoch": (opening(head(1, 5, other=True), head(2, 8)), BOTH, Verdict.FORKED),
    "forked rather than behind": (opening(head(1, 3), head(2, 4, other=True)), BOTH, Verdict.FORKED),
    "an older epoch": (opening(head(1, 5), epoch=1), BOTH, Verdict.FENCED),
    "an older epoch, longer": (opening(head(1, 5), epoch=1), (head(1, 2), head(2, 1)), Verdict.FENCED),
    "another wire": (opening(version=99), (), Verdict.VERSION),
}


@pytest.mark.parametrize("name", CASES)
def test_a_box_that_is_not_what_the_mirror_knows_is_found_at_its_first_contact(name: str) -> None:
    """Else a restored or cloned box clears on while the hub cannot be reached."""
    message, held, verdict = CASES[name]
    assert judged(message, *held).verdict is verdict


def test_a_boot_that_has_lost_its_place_does_not_get_it_back() -> None:
    """Two live boots of one ledger would both be told that all is well."""
    assert judged(opening(*BOTH), *BOTH, superseded=True).verdict is Verdict.FENCED


def test_a_fork_names_its_epoch_once_and_bars_no_later_one() -> None:
    """A mirror that told every later epoch of an old fork would stop the branch for ever."""
    found = judged(opening(head(1, 5, other=True), head(2, 8)), *BOTH)
    assert (found.verdict, found.forked_epoch) == (Verdict.FORKED, 1)
    assert judged(opening(head(1, 5, other=True), head(2, 8)), *BOTH, forked=1).verdict is Verdict.OK
    assert judged(opening(*BOTH), *BOTH, forked=2).verdict is Verdict.FORKED


def test_an_epoch_without_records_fences_nobody() -> None:
    """An opening names epochs; only what was written makes the one before it old."""
    assert judged(opening(head(1, 5), epoch=1), head(1, 5), LogHead(2)).verdict is Verdict.OK
