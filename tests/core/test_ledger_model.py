"""The ledger against a slow and plain model of itself, over random histories."""

from __future__ import annotations

import copy
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgegw.core.ledger import Applied, State, create_accounts, create_transfers, expire
from edgegw.core.model import AMOUNT_MAX, Account, AccountFlags, PendingStatus, Transfer, TransferFlags
from tests.core.ledger_model import NS_PER_S, Model

ACCOUNTS = [
    Account(id=1, ledger=1, code=1),
    Account(id=2, ledger=1, code=1),
    Account(id=3, ledger=1, code=1, flags=int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)),
    Account(id=4, ledger=1, code=1, flags=int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)),
    Account(id=5, ledger=1, code=1, flags=int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)),
]
F = TransferFlags
SIDES = st.permutations([1, 2, 3, 4, 5, 6]).map(lambda order: (order[0], order[1]))  # there is no account 6
MOVES = st.sampled_from([F(0), F(0), F.PENDING, F.PENDING, F.BALANCING_DEBIT, F.BALANCING_CREDIT | F.PENDING])
CLOSINGS = st.sampled_from([F.CLOSING_DEBIT | F.PENDING, F.CLOSING_CREDIT | F.PENDING])
RESOLUTIONS = st.sampled_from([F.POST_PENDING_TRANSFER, F.VOID_PENDING_TRANSFER])
AMOUNTS = st.integers(0, 40)
TIMEOUTS = st.sampled_from([0, 0, 1, 2, 3])

Event = tuple[Transfer, int]


class LedgerHistories(RuleBasedStateMachine):
    """Plays one history on a base, on layers over a base with a history, and on the model."""

    @initialize()
    def open(self) -> None:
        self.now_ns = len(ACCOUNTS)
        self.next_id = 1
        self.model = Model({account.id: account for account in ACCOUNTS})
        self.base = State()
        self.archive: dict[int, tuple[Transfer, PendingStatus]] = {}
        self.lean = State(history=self.archive.get)
        self.batches: list[tuple[list[Transfer], int, list[str]]] = []
        self.expiries: list[tuple[int, int]] = []  # (batches played before, at_ns)
        for state in (self.base, self.lean):
            create_accounts(state, ACCOUNTS, at_ns=self.now_ns)

    def on_a_layer(self, act: Callable[[State], list[Applied] | list[int]]) -> list[Applied] | list[int]:
        """Act on a layer that is thrown away, then on one that is merged, as a batch that was retried."""
        act(self.lean.overlay())
        layer = self.lean.overlay()
        result = act(layer)
        for transfer_id, transfer in layer.transfers.items():
            self.archive[transfer_id] = (transfer, layer.pending_status(transfer_id))
        layer.merge()
        return result

    def play(self, transfers: list[Transfer]) -> list[str]:
        """Decide a batch everywhere, compare, and return the names of the statuses."""
        self.now_ns += len(transfers)
        now_ns = self.now_ns
        given = create_transfers(self.base, transfers, at_ns=now_ns)
        assert given == self.on_a_layer(lambda layer: create_transfers(layer, transfers, at_ns=now_ns))
        names = [applied.status.name for applied in given]
        self.batches.append((transfers, now_ns, names))
        return names

    def fresh(self, sides: tuple[int, int], amount: int, flags: TransferFlags, timeout: int = 0) -> Transfer:
        self.next_id += 1
        return Transfer(
            id=self.next_id,
            debit_account_id=sides[0],
            credit_account_id=sides[1],
            amount_minor=amount,
            ledger=1,
            code=1,
            flags=int(flags),
            timeout_s=timeout if flags & F.PENDING else 0,
        )

    def single(self, transfer: Transfer) -> None:
        names = self.play([transfer])
        assert names == [self.model.decide(transfer, self.now_ns)]
        taken = self.model.taken(transfer.id)
        assert taken is None or self.base.transfers[transfer.id].amount_minor == taken.amount

    @rule(sides=SIDES, amount=AMOUNTS, flags=MOVES, timeout=TIMEOUTS)
    def move(self, sides: tuple[int, int], amount: int, flags: TransferFlags, timeout: int) -> None:
        self.single(self.fresh(sides, amount, flags, timeout))

    @rule(sides=SIDES, flags=CLOSINGS, timeout=TIMEOUTS)
    def close(self, sides: tuple[int, int], flags: TransferFlags, timeout: int) -> None:
        self.single(self.fresh(sides, 0, flags, timeout))

    @rule(
        back=st.integers(0, 6),
        flags=RESOLUTIONS,
        amount=st.sampled_from([0, 0, 3, 20, AMOUNT_MAX, AMOUNT_MAX]),
    )
    def resolve(self, back: int, flags: TransferFlags, amount: int) -> None:
        holds = [taken.request.id for taken in self.model.log if taken.fate != "none"]
        pending_id = holds[-1 - back] if back < len(holds) else self.next_id + 100
        self.next_id += 1
        self.single(
            Transfer(
                id=self.next_id,
                debit_account_id=0,
                credit_account_id=0,
                amount_minor=amount,
                ledger=0,
                code=0,
                flags=int(flags),
                pending_id=pending_id,
            )
        )

    @rule(links=st.lists(st.tuples(SIDES, AMOUNTS, MOVES), min_size=2, max_size=4), is_open=st.booleans())
    def chain(self, links: list[tuple[tuple[int, int], int, TransferFlags]], is_open: bool) -> None:
        last = len(links) - 1
        transfers = [
            self.fresh(sides, amount, flags | (F.LINKED if at < last or is_open else F(0)))
            for at, (sides, amount, flags) in enumerate(links)
        ]
        first_ns = self.now_ns + 1
        undone = copy.deepcopy(self.model)
        expected = []
        for at, transfer in enumerate(transfers):
            if at == last and is_open:
                expected.append("linked_event_chain_open")
                break
            expected.append(self.model.decide(transfer, first_ns + at))
            if expected[-1] != "created":
                break
        if expected[-1] != "created":
            undone.burned = self.model.burned  # an id that failed for a reason of the moment stays burned
            self.model = undone
            culprit = len(expected) - 1
            whole = ["linked_event_failed"] * len(transfers)
            whole[culprit] = expected[-1]
            if is_open:
                whole[-1] = "linked_event_chain_open"
            expected = whole
        assert self.play(transfers) == expected

    @rule(seconds=st.sampled_from([0, 1, 2]))
    def wait_and_expire(self, seconds: int) -> None:
        self.now_ns += seconds * NS_PER_S + 1
        now_ns = self.now_ns
        expired = expire(self.base, at_ns=now_ns)
        assert expired == self.on_a_layer(lambda layer: expire(layer, at_ns=now_ns))
        assert expired == self.model.expire(now_ns)
        self.expiries.append((len(self.batches), now_ns))

    @precondition(lambda self: self.batches)
    @rule(back=st.integers(0, 30))
    def send_again(self, back: int) -> None:
        """Whatever was created exists, whatever was refused for a reason of the moment stays refused."""
        transfers, _, names = self.batches[-1 - back % len(self.batches)]
        for transfer, name in zip(transfers, names, strict=True):
            if name in ("created", "exists"):
                alone = transfer if not transfer.flags & F.LINKED else None
                assert alone is None or self.play([alone]) == ["exists"]
            elif transfer.id in self.model.burned and not transfer.flags & F.LINKED:
                assert self.play([transfer]) == ["id_already_failed"]

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        totals = [0, 0, 0, 0]
        for account in ACCOUNTS:
            balance = self.base.balances[account.id]
            assert balance == self.lean.balances[account.id]
            counters = (
                balance.debits_pending,
                balance.debits_posted,
                balance.credits_pending,
                balance.credits_posted,
            )
            assert counters == self.model.sums(account.id)
            totals = [total + counter for total, counter in zip(totals, counters, strict=True)]
            if account.flags & AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS:
                assert counters[0] + counters[1] <= counters[3]
            if account.flags & AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS:
                assert counters[2] + counters[3] <= counters[1]
            for state in (self.base, self.lean):
                is_closed = bool(state.accounts[account.id].flags & AccountFlags.CLOSED)
                assert is_closed == self.model.closed(account.id)
        assert totals[0] == totals[2]
        assert totals[1] == totals[3]

    @invariant()
    def memory_holds_live_holds_only(self) -> None:
        if hasattr(self, "model"):
            live = {taken.request.id for taken in self.model.log if taken.fate == "pending"}
            assert {transfer_id for transfer_id, _ in self.lean.transfers.items()} == live
            assert {transfer_id for transfer_id, _ in self.lean.pendings.items()} == live

    def teardown(self) -> None:
        """Playing the same events again on an empty ledger gives the same ledger."""
        if not hasattr(self, "model"):
            return
        again = State()
        create_accounts(again, ACCOUNTS, at_ns=len(ACCOUNTS))
        expiries = iter([*self.expiries, (-1, 0)])
        due = next(expiries)
        for count in range(len(self.batches) + 1):
            while due[0] == count:
                expire(again, at_ns=due[1])
                due = next(expiries)
            if count < len(self.batches):
                transfers, at_ns, names = self.batches[count]
                given = create_transfers(again, transfers, at_ns=at_ns)
                assert [applied.status.name for applied in given] == names
        for name in ("accounts", "balances", "transfers", "pendings", "failed"):
            assert getattr(again, name) == getattr(self.base, name)


TestLedgerHistories = LedgerHistories.TestCase
TestLedgerHistories.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
