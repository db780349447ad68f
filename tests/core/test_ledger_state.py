"""The ledger's state: timestamps, layers, what stays in memory, and errors of the caller."""

import pytest

from edgegw.core.ledger import (
    State,
    apply,
    create_accounts,
    create_transfers,
    due,
    expire,
    expire_transfer,
    restore_hold,
)
from edgegw.core.model import (
    AT_NS_MAX,
    Account,
    AccountFlags,
    Balance,
    CreateAccountStatus,
    CreateTransferStatus,
    PendingStatus,
    Transfer,
    TransferFlags,
)


def ledger_of(*limited: int, history: dict[int, tuple[Transfer, PendingStatus]] | None = None) -> State:
    """Return a ledger with accounts 1 to 4, those in `limited` with debits that must not exceed credits."""
    state = State(history=None if history is None else history.get)
    flags = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
    accounts = [Account(id=n, ledger=1, code=1, flags=flags if n in limited else 0) for n in range(1, 5)]
    assert set(create_accounts(state, accounts, at_ns=100)) == {CreateAccountStatus.created}
    return state


def payment(transfer_id: int, amount_minor: int = 5, **values: int) -> Transfer:
    values = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, **values}
    return Transfer(id=transfer_id, amount_minor=amount_minor, **values)


def test_two_events_of_one_batch_share_a_timestamp() -> None:
    """Each event of a batch has its own time, rising by one to the batch's, refused ones included."""
    state = ledger_of()
    assert [state.accounts[account_id].at_ns for account_id in range(1, 5)] == [97, 98, 99, 100]
    create_transfers(state, [payment(1), payment(2, ledger=0), payment(3)], at_ns=200)
    assert state.transfers[1].at_ns == 198
    assert state.transfers[3].at_ns == 200


def test_a_negative_amount_moves_money_backwards() -> None:
    """No status exists for a negative amount: it is an error of the caller, with field, value and mend."""
    state = ledger_of()
    with pytest.raises(ValueError, match="amount_minor is -5: swap"):
        apply(state, payment(1, -5), at_ns=101)
    assert state.balances[1] == Balance()


def test_a_flag_object_is_kept_instead_of_its_number() -> None:
    """Callers may combine `TransferFlags`; the ledger keeps plain integers, which it can test quickly."""
    state = ledger_of()
    apply(state, payment(1, flags=TransferFlags.PENDING | TransferFlags.CLOSING_DEBIT), at_ns=101)
    assert type(state.transfers[1].flags) is int
    assert type(state.accounts[1].flags) is int


def test_a_refusal_changes_the_state() -> None:
    """A refused transfer leaves balances, transfers and holds alone; only a transient one burns its id."""
    state = ledger_of(1)
    create_transfers(state, [payment(1, 9, debit_account_id=3, credit_account_id=1)], at_ns=101)
    before = {
        name: dict(getattr(state, name).items()) for name in ("accounts", "balances", "transfers", "pendings")
    }
    for refused in (payment(2, 10), payment(3, code=0), payment(1, 10), payment(4, pending_id=1)):
        assert apply(state, refused, at_ns=102).status is not CreateTransferStatus.created
    for name, table in before.items():
        assert dict(getattr(state, name).items()) == table
    assert dict(state.failed.items()) == {2: CreateTransferStatus.exceeds_credits}


def test_a_layer_writes_below_before_it_is_merged() -> None:
    """What is decided on a layer is invisible below until `merge()`, and for ever if the layer is dropped."""
    state = ledger_of(1)
    hold = payment(1, flags=TransferFlags.PENDING, timeout_s=1, debit_account_id=3)
    state.overlay().overlay().accounts.get(1)
    layer = state.overlay()
    assert apply(layer, hold, at_ns=101).status is CreateTransferStatus.created
    assert apply(layer, payment(2), at_ns=102).status is CreateTransferStatus.exceeds_credits
    assert expire(layer, at_ns=10**10) == [1]
    del layer
    assert expire(state, at_ns=10**10) == []
    assert state.find(1) is None
    assert dict(state.failed.items()) == {}
    assert all(balance == Balance() for _, balance in state.balances.items())


def test_a_hold_is_posted_at_its_deadline_because_no_expiry_ran() -> None:
    """A hold can be posted up to the nanosecond before its deadline, whether or not `expire` has run."""
    state = ledger_of()
    deadline_ns = 200 + 10**9
    create_transfers(state, [payment(n, flags=TransferFlags.PENDING, timeout_s=1) for n in (1, 2)], at_ns=201)
    post = TransferFlags.POST_PENDING_TRANSFER
    early = apply(state, payment(3, flags=post, pending_id=1), at_ns=deadline_ns - 1)
    assert early.status is CreateTransferStatus.created
    late = apply(state, payment(4, flags=post, pending_id=2), at_ns=deadline_ns + 1)
    assert late.status is CreateTransferStatus.pending_transfer_expired


def test_a_deadline_lies_beyond_the_end_of_time() -> None:
    """The last deadline that the ledger can name is taken, the next nanosecond is refused."""
    state, flags, at_ns = ledger_of(), TransferFlags.PENDING, AT_NS_MAX - 10**9
    assert apply(state, payment(1, flags=flags, timeout_s=1), at_ns=at_ns).status.name == "created"
    refused = apply(state, payment(2, flags=flags, timeout_s=1), at_ns=at_ns + 1)
    assert refused.status is CreateTransferStatus.overflows_timeout


def test_a_hold_that_is_expired_one_by_one_is_released_twice() -> None:
    """`due` only looks; `expire_transfer` releases a live hold once and refuses whatever is not one."""
    state = ledger_of()
    holds = [payment(n, flags=TransferFlags.PENDING, timeout_s=4 - n) for n in (1, 2, 3)]
    create_transfers(state, [*holds, payment(4)], at_ns=200)
    layer = state.overlay()
    assert [hold.id for hold in due(layer, at_ns=2 * 10**9 + 200)] == [3, 2]
    assert expire_transfer(layer, 3)
    assert not expire_transfer(layer, 3)
    assert not expire_transfer(layer, 4)
    assert not expire_transfer(layer, 5)
    layer.merge()
    assert state.balances[1] == Balance(debits_pending=10, debits_posted=5)
    assert [hold.id for hold in due(state, at_ns=10**10)] == [2, 1]
    assert len(state.deadlines) == 2


def test_a_restored_hold_never_expires() -> None:
    """A hold put back from a snapshot is live, keeps its deadline, and can be resolved once."""
    state, again = ledger_of(), ledger_of()
    create_transfers(state, [payment(1, flags=TransferFlags.PENDING, timeout_s=1)], at_ns=200)
    restore_hold(again, state.transfers[1])
    for account_id in (1, 2):
        again.balances[account_id] = state.balances[account_id]
    assert expire(again, at_ns=200 + 10**9 - 1) == []
    assert expire(again, at_ns=200 + 10**9) == [1]
    assert again.balances[1] == again.balances[2] == Balance()


def test_memory_keeps_what_history_can_find() -> None:
    """With a history, a merge leaves only live holds in memory; resolved ones go with their deadlines."""
    archive: dict[int, tuple[Transfer, PendingStatus]] = {}
    state = ledger_of(history=archive)
    for batch in range(200):
        layer = state.overlay()
        hold, at_ns = 10 * batch + 1, 1000 * batch + 500
        apply(layer, payment(hold, flags=TransferFlags.PENDING, timeout_s=60), at_ns=at_ns)
        apply(layer, payment(hold + 1), at_ns=at_ns + 1)
        if batch:
            void = payment(hold + 2, 0, flags=TransferFlags.VOID_PENDING_TRANSFER, pending_id=hold - 10)
            assert apply(layer, void, at_ns=at_ns + 2).status is CreateTransferStatus.created
        archive |= {taken.id: (taken, layer.pending_status(taken.id)) for _, taken in layer.transfers.items()}
        layer.merge()
    assert [key for key, _ in state.transfers.items()] == [1991]
    assert [key for key, _ in state.pendings.items()] == [1991]
    assert len(state.deadlines) < 130
    assert apply(state.overlay(), payment(2), at_ns=10**9).status is CreateTransferStatus.exists
    again = payment(5000, flags=TransferFlags.POST_PENDING_TRANSFER, pending_id=1)
    assert (
        apply(state.overlay(), again, at_ns=10**9).status
        is CreateTransferStatus.pending_transfer_already_voided
    )
    assert expire(state, at_ns=10**12) == [1991]
    assert len(state.deadlines) == 0


def test_an_expired_hold_that_the_base_still_indexes_is_expired_again() -> None:
    """An expiry on a layer, once merged, takes its deadlines out of every level below."""
    state = ledger_of()
    layer = state.overlay()
    apply(layer, payment(1, flags=TransferFlags.PENDING, timeout_s=1), at_ns=101)
    layer.merge()
    outer = state.overlay()
    inner = outer.overlay()
    apply(inner, payment(2, flags=TransferFlags.PENDING, timeout_s=5), at_ns=102)
    assert expire(inner, at_ns=2 * 10**9) == [1]
    apply(inner, payment(3, flags=TransferFlags.PENDING, timeout_s=1), at_ns=103)  # a clock that went back
    inner.merge()
    outer.merge()
    assert len(state.deadlines) == 2
    assert expire(state, at_ns=10 * 10**9) == [3, 2]


def test_a_base_is_merged() -> None:
    """Merging a state that is no layer is an error of the caller that says what to merge instead."""
    with pytest.raises(ValueError, match="overlay"):
        State().merge()
