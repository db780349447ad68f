"""The books under every order of events that two boxes and a line can make of them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from edgegw.core.messages import Ask
from edgegw.core.records import GrantDirective
from edgegw.hub.books import violations
from tests.hub.places import Place
from tests.hub.simulated_box import SimulatedBox
from tests.hub.world import ALLOTTED, CNY, NORTH, SOUTH, World, a_site

AMOUNTS = st.integers(min_value=1, max_value=300)
BOXES = st.sampled_from((NORTH, SOUTH))
PAYERS = st.sampled_from(("A", "B", "HOME", "FAR"))
SHOP_AT = {NORTH: "SHOP", SOUTH: "FAR"}
TOTAL_MINOR = 3_000


class Branches(RuleBasedStateMachine):
    """Two honest boxes that spend what their own journals give them; a line that repeats and loses."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @initialize()
    def bring_up(self) -> None:
        self.place.start_afresh()
        self.world = World(self.place)
        self.world.publish(a_site(allowances=ALLOTTED))
        for account_id in ("A", "B", "HOME"):
            self.world.fund(account_id, TOTAL_MINOR // 3)
        self.boxes = {name: self.world.box(name) for name in (NORTH, SOUTH)}
        self.applied = {name: len(box.directives) for name, box in self.boxes.items()}
        self.funds = {name: self.granted(box.directives) for name, box in self.boxes.items()}
        self.stood: dict[str, list[tuple[int, str, int]]] = {NORTH: [], SOUTH: []}
        self.asked = 0
        self.boots = 0

    def granted(self, directives: list[object]) -> dict[str, int]:
        funds: dict[str, int] = {}
        for directive in directives:
            if isinstance(directive, GrantDirective):
                funds[directive.account_id] = funds.get(directive.account_id, 0) + directive.amount_minor
        return funds

    @rule(box=BOXES, account_id=PAYERS, amount_minor=AMOUNTS, repeat=st.booleans())
    def ask(self, box: str, account_id: str, amount_minor: int, repeat: bool) -> None:
        """Ask, perhaps again with the same id."""
        self.asked += 0 if repeat else 1
        self.boxes[box].beat(Ask(f"{box}-{self.asked}", account_id, CNY, amount_minor))

    @rule(box=BOXES, outcome=st.sampled_from(("applied", "applied", "returned", "refused")))
    def apply_next(self, box: str, outcome: str) -> None:
        """Journal the next directive, whatever it is; only grants may be returned or refused here."""
        there = self.boxes[box]
        if self.applied[box] == len(there.directives):
            return
        directive = there.directives[self.applied[box]]
        self.applied[box] += 1
        if not isinstance(directive, GrantDirective):
            there.apply(directive)
            self.stood[box] = [one for one in self.stood[box] if one[0] != getattr(directive, "at_seq", -1)]
            return
        there.apply(directive, outcome=outcome)
        if outcome == "applied":
            self.move(box, directive.account_id, -directive.amount_minor)

    @rule(box=BOXES, payer=PAYERS, amount_minor=AMOUNTS)
    def pay(self, box: str, payer: str, amount_minor: int) -> None:
        """Pay a shop at home with what the journal has of the payer."""
        payee = SHOP_AT[box]
        if payer == payee or self.funds[box].get(payer, 0) < amount_minor:
            return
        self.boxes[box].pay(payer, payee, amount_minor)
        self.move(box, payer, amount_minor)
        self.move(box, payee, -amount_minor)

    @rule(box=BOXES, payer=PAYERS, amount_minor=AMOUNTS)
    def stand_in(self, box: str, payer: str, amount_minor: int) -> None:
        """Stand in within the risk allowance."""
        risk = f"risk:{box}:CNY"
        if payer == SHOP_AT[box] or self.funds[box].get(risk, 0) < amount_minor:
            return
        seq = self.boxes[box].stand_in(payer, SHOP_AT[box], amount_minor)
        self.stood[box].append((seq, payer, amount_minor))
        self.move(box, risk, amount_minor)

    @rule(box=BOXES)
    def void_newest_stand_in(self, box: str) -> None:
        """Take a stand-in back that no directive has settled here."""
        there = self.boxes[box]
        settled = {getattr(directive, "at_seq", -1) for directive in there.directives}
        open_ones = [one for one in self.stood[box] if one[0] not in settled]
        if not open_ones:
            return
        seq, _, amount_minor = open_ones[-1]
        self.stood[box].remove(open_ones[-1])
        there.resolve(seq, f"risk:{box}:CNY", SHOP_AT[box], amount_minor, void=True)
        self.move(box, f"risk:{box}:CNY", -amount_minor)

    @rule(box=BOXES, twice=st.booleans())
    def push(self, box: str, twice: bool) -> None:
        """Push what the hub lacks, perhaps twice because the reply was lost."""
        there = self.boxes[box]
        held = there.held
        there.beat()
        if twice and there.held > held:
            there.beat(push=there.package(held, there.held))

    @rule(box=BOXES)
    def restart(self, box: str) -> None:
        """The process starts again and opens with what it has."""
        self.boots += 1
        self.boxes[box].boot = f"boot-{self.boots}"
        self.boxes[box].open()

    def move(self, box: str, account_id: str, amount_minor: int) -> None:
        self.funds[box][account_id] = self.funds[box].get(account_id, 0) - amount_minor

    @invariant()
    def books_are_sound(self) -> None:
        """Nothing is created or lost, honest boxes are never quarantined, and customers' money adds up."""
        if not hasattr(self, "world"):
            return
        with self.world.engine.begin() as connection:
            assert violations(connection) == []
        assert self.world.rows("SELECT box, reason FROM box WHERE state <> 'active'") == []
        assert self.world.rows("SELECT * FROM suspense_item") == []
        total = "SELECT SUM(balance_minor) FROM account WHERE account_id NOT LIKE 'core:%'"
        assert self.world.row(total) == (TOTAL_MINOR,)

    @invariant()
    def hub_and_replica_agree(self) -> None:
        """Outstanding is what the replica says, and the grants that the box has not journalled yet."""
        if not hasattr(self, "world"):
            return
        torn = self.world.rows(
            "SELECT o.box, o.account_id, o.amount_minor FROM outstanding o "
            "JOIN box_balance b ON b.box = o.box AND b.epoch = o.epoch AND b.account_id = o.account_id "
            "WHERE o.amount_minor < b.credits_posted - b.debits_posted"
        )
        assert torn == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for name, box in self.boxes.items():
            settle(box, self.applied[name])
        self.books_are_sound()
        exact = (
            "SELECT o.box, o.account_id, o.amount_minor FROM outstanding o LEFT JOIN box_balance b "
            "ON b.box = o.box AND b.epoch = o.epoch AND b.account_id = o.account_id "
            "WHERE o.amount_minor <> COALESCE(b.credits_posted - b.debits_posted, 0)"
        )
        assert self.world.rows(exact) == []
        assert self.world.rows("SELECT * FROM stand_in WHERE NOT settled") == []
        self.world.hub.close()


def settle(box: SimulatedBox, applied: int) -> None:
    """Let a box journal and push everything that is on its way."""
    box.open()
    while True:
        box.beat()
        for directive in box.directives[applied:]:
            box.apply(directive)
        applied = len(box.directives)
        if box.held == len(box.bodies):
            return


def test_the_books_hold_under_every_order_of_events(place: Place) -> None:
    """Whatever comes first, twice or never: no money is made, lost or spent twice."""
    few = settings(max_examples=6, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: Branches(place), settings=few)  # type: ignore[no-untyped-call]
