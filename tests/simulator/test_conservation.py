"""Money is conserved, step by step: hypothesis drives a small fleet and looks for a sequence of ordinary and
bad moments after which the books of hub and boxes are not as they must be (DESIGN §3: 1, 2, 8, 11 and 12).

Fleet, faults and the plain model are the simulator's; here is only which step may come. By default the line
is down but for a meeting now and then, because nearly all of a step's time is the hub's; the slow run has
every step as often as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgegw.core import apply as apply_module
from edgegw.core.book import Book
from edgegw.hub import replay as hub_replay
from edgegw.hub import stand_ins, windows
from edgegw.hub.books import Books
from tests.simulator.seams import open_seams
from tests.simulator.stage import REHEARSAL, Fleet, Play, one_engine
from tests.simulator.world import workplace

EXAMPLES = 500
STEPS = 50
LIABLE = ("merchant", "branch")
PLANT_EXAMPLES = 60
MEETING_STEPS = 20
"""Between two meetings with the hub, by default."""

BOX = st.integers(0, 1)
ACCOUNT = st.integers(0, 4)
EARLIER = st.integers(0, 30)
AMOUNT = st.sampled_from((1, 40, 99, 150, 250, 400, 700))
PART = st.sampled_from((0, 50, 100, 110))
FEW = st.integers(0, 2)


class Offline(RuleBasedStateMachine):
    """Each rule is a step of the stage, after which nothing may be wrong."""

    fleet: Fleet

    def __init__(self) -> None:
        super().__init__()
        self.play: Play | None = None
        self.since = 0

    @initialize()
    def begin(self) -> None:
        self.play = self.fleet.play()

    def teardown(self) -> None:
        if self.play is not None:
            self.play.end()

    def step(self, name: str, *numbers: int) -> None:
        assert self.play is not None
        self.since += 1
        findings = self.play.step(name, *numbers)
        assert not findings, "\n".join(findings)

    # --- clients --------------------------------------------------------------------------------------------

    @rule(box=BOX, payer=ACCOUNT, payee=ACCOUNT, amount=AMOUNT, advice=st.sampled_from((0, 0, 0, 1)))
    def pay(self, box: int, payer: int, payee: int, amount: int, advice: int) -> None:
        self.step("pay", box, payer, payee, amount, advice)

    @rule(box=BOX, payer=ACCOUNT, payee=ACCOUNT)
    def pay_a_little(self, box: int, payer: int, payee: int) -> None:
        self.step("pay", box, payer, payee, 30, 0)

    @rule(box=BOX, payer=ACCOUNT, payee=ACCOUNT, amount=AMOUNT, timeout_s=st.sampled_from((0, 2, 60)))
    def hold(self, box: int, payer: int, payee: int, amount: int, timeout_s: int) -> None:
        self.step("hold", box, payer, payee, amount, timeout_s)

    @rule(number=EARLIER, post=st.booleans(), percent=PART)
    def resolve(self, number: int, post: bool, percent: int) -> None:
        self.step("resolve", number, post, percent)

    @rule(number=EARLIER, percent=PART, advice=st.booleans(), refund=st.booleans())
    def reverse(self, number: int, percent: int, advice: bool, refund: bool) -> None:
        self.step("reverse", number, percent, advice, refund)

    @rule(number=EARLIER, elsewhere=FEW)
    def again(self, number: int, elsewhere: int) -> None:
        self.step("again", number, elsewhere)

    # --- the line, time, people, disasters ------------------------------------------------------------------

    @rule(deciseconds=st.sampled_from((2, 5, 12, 25)))
    def wait(self, deciseconds: int) -> None:
        self.step("wait", deciseconds)

    @precondition(lambda self: self.since >= MEETING_STEPS)
    @rule(box=BOX, payer=ACCOUNT, payee=ACCOUNT, amount=AMOUNT, way=FEW)
    def meet(self, box: int, payer: int, payee: int, amount: int, way: int) -> None:
        self.step("meet", box, payer, payee, amount, way)
        self.since = 0

    @rule(
        what=st.sampled_from(
            (
                "window",
                "window",
                "clock",
                "freeze",
                "close",
                "fund",
                "seal",
                "keep_disk",
                "keep_hub",
                "crash",
                "restart",
            )
        ),
        box=BOX,
        account=ACCOUNT,
        number=FEW,
    )
    def incident(self, what: str, box: int, account: int, number: int) -> None:
        numbers = {
            "clock": (box, (-90_000, 30, 90_000)[number]),
            "freeze": (account, number),
            "close": (account, number % 2),
            "fund": (account, 100 * number + 1),
            "crash": (box, number),
            "restart": (number,),
            "keep_hub": (),
        }
        self.step("crash_hub" if what == "restart" else what, *numbers.get(what, (box,)))

    @precondition(lambda self: self.since >= MEETING_STEPS)
    @rule(what=st.sampled_from(("restore_disk", "clone", "fail_over", "order_epoch")), box=BOX)
    def disaster(self, what: str, box: int) -> None:
        self.step(what, *(() if what == "fail_over" else (box,)))


class Online(Offline):
    """The lines are up as often as not, and whatever can happen may happen at any time."""

    def step(self, name: str, *numbers: int) -> None:
        self.since = MEETING_STEPS
        super().step(name, *numbers)

    @rule(box=BOX, way=FEW)
    def cut(self, box: int, way: int) -> None:
        self.step("cut", box, way)

    @rule(box=BOX)
    def mend(self, box: int) -> None:
        self.step("mend", box)

    @rule()
    def settle(self) -> None:
        self.step("settle")


class Fleets:
    """A fleet for each way in which late declines are borne; opened when it is first asked for, played from
    there each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, Fleet] = {}
        Fleet(folder / "rehearsal", liable="merchant").rehearse(REHEARSAL)

    def of(self, liable: str) -> Fleet:
        """The fleet where this side bears them."""
        if liable not in self._opened:
            self._opened[liable] = Fleet(self._folder / liable, liable=liable)
        return self._opened[liable]

    def close(self) -> None:
        """Give them up."""
        for fleet in self._opened.values():
            fleet.close()


@pytest.fixture(scope="module")
def fleets() -> Iterator[Fleets]:
    """What the plays of this file begin with."""
    with open_seams(), workplace() as folder, one_engine():
        found = Fleets(folder)
        yield found
        found.close()


def conserved(machine: type[Offline], fleet: Fleet, *, examples: int, shrinks: bool = True) -> None:
    """Let hypothesis look for a sequence of steps after which something is wrong."""
    played = type(machine.__name__, (machine,), {"fleet": fleet})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        played,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def moments(problem: BaseException) -> str:
    """What was wrong, and after which steps."""
    inner = problem.exceptions if isinstance(problem, BaseExceptionGroup) else ()
    return "\n".join([str(problem), *map(moments, inner)])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("liable", LIABLE)
def test_no_sequence_of_steps_creates_or_destroys_money(fleets: Fleets, liable: str) -> None:
    """Outages, retries, grants, returns, late declines, epochs, clones and fail-overs in any order."""
    conserved(Offline, fleets.of(liable), examples=EXAMPLES // len(LIABLE))


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("liable", LIABLE)
def test_money_is_conserved_while_lines_come_and_go(fleets: Fleets, liable: str) -> None:
    """The same with the hub in as many steps as not."""
    conserved(Online, fleets.of(liable), examples=EXAMPLES // len(LIABLE))


# --- faults planted in the product, which must be named -----------------------------------------------------


@contextmanager
def granted_twice() -> Iterator[None]:
    """A box books a grant as two."""
    grant = apply_module._grant

    def twice(*arguments: Any) -> Any:
        effect = grant(*arguments)
        return (
            msgspec.structs.replace(effect, legs=effect.legs * 2) if effect.outcome == "applied" else effect
        )

    with patch.object(apply_module, "_grant", twice):
        yield


@contextmanager
def return_lost() -> Iterator[None]:
    """The hub forgets what a box gives back."""
    with patch.object(Books, "give_back", lambda *_: 0):
        yield


@contextmanager
def floor_one_below() -> Iterator[None]:
    """A box takes an account's last minor unit twice."""
    available, opened = Book.available, Book.open_accounts

    def without_floor(book: Book, accounts: Any) -> None:
        opened(book, tuple(msgspec.structs.replace(account, floor=False) for account in accounts))

    with (
        patch.object(Book, "available", lambda book, account_id: available(book, account_id) + 1),
        patch.object(Book, "open_accounts", without_floor),
    ):
        yield


@contextmanager
def window_not_counted() -> Iterator[None]:
    """A box's window leaves its newest legs out of its positions."""
    with patch.object(Book, "_note_positions", lambda *_: None):
        yield


@contextmanager
def recount_one_sided() -> Iterator[None]:
    """The hub counts what participants pay, and not what they receive."""
    add = windows.Window.add

    def debits_alone(window: Any, side: Any, amount_minor: int) -> None:
        if amount_minor < 0:
            add(window, side, amount_minor)

    with patch.object(windows.Window, "add", debits_alone):
        yield


@contextmanager
def confirmed_for_nothing() -> Iterator[None]:
    """The hub confirms a stand-in and leaves the payer its money."""
    with (
        patch.object(stand_ins, "post_stand_in", lambda *_, **__: ""),
        patch.object(hub_replay, "post_stand_in", lambda *_, **__: "", create=True),
    ):
        yield


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (granted_twice, "grant did applied"),
        (return_lost, "outstanding"),
        (floor_one_below, "the model never does"),
        (window_not_counted, "has positions"),
        (recount_one_sided, "positions of window"),
        (confirmed_for_nothing, "its clients were told"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_in_the_money_is_named_after_the_step_that_shows_it(
    plant: Callable[[], AbstractContextManager[None]], words: str, fleets: Fleets
) -> None:
    """Each invariant is broken once in the product itself."""
    fleet = fleets.of("merchant")  # opened while all is sound
    with plant(), pytest.raises(BaseException) as problem:
        conserved(Offline, fleet, examples=PLANT_EXAMPLES, shrinks=False)
    assert words in moments(problem.value)
