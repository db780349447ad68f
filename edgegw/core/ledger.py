"""The double-entry ledger: one function decides one transfer, everything else calls it.

Owns TigerBeetle's rules over a `State`, with the statuses and the precedence of its 0.16 reference pages
create_accounts and create_transfers: idempotency before limits, two-phase transfers with timeouts, balancing,
closing, linked chains. Where its pages and its own tests differ (a void on a closed account), the tests win.

Leaves out: the tables (`edgegw.core.state`), `imported` events (refused with `reserved_flag`), storage, the
clock, and every rule that is not bookkeeping. The caller owns time: `at_ns` must rise from call to call.

In the bodies, `t` is the requested transfer, `e` the existing one with its id, `p` the pending one it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from edgegw.core.model import (
    AMOUNT_MAX,
    AT_NS_MAX,
    ID_MAX,
    Account,
    AccountFlags,
    Balance,
    CreateAccountStatus,
    CreateTransferStatus,
    PendingStatus,
    Transfer,
    TransferFlags,
)
from edgegw.core.state import History, State

__all__ = [
    "Applied",
    "History",
    "State",
    "apply",
    "create_accounts",
    "create_transfers",
    "due",
    "expire",
    "expire_transfer",
    "move",
    "restore_hold",
]

NS_PER_S: Final = 1_000_000_000

# Plain integers: combining IntFlag members would cost more than the rest of a decision.
_LINKED: Final = int(TransferFlags.LINKED)
_PENDING: Final = int(TransferFlags.PENDING)
_POST: Final = int(TransferFlags.POST_PENDING_TRANSFER)
_VOID: Final = int(TransferFlags.VOID_PENDING_TRANSFER)
_BALANCING_DEBIT: Final = int(TransferFlags.BALANCING_DEBIT)
_BALANCING_CREDIT: Final = int(TransferFlags.BALANCING_CREDIT)
_BALANCING: Final = _BALANCING_DEBIT | _BALANCING_CREDIT
_CLOSING_DEBIT: Final = int(TransferFlags.CLOSING_DEBIT)
_CLOSING_CREDIT: Final = int(TransferFlags.CLOSING_CREDIT)
_CLOSING: Final = _CLOSING_DEBIT | _CLOSING_CREDIT
_RESOLVING: Final = _POST | _VOID
_TRANSFER_FLAGS_UNKNOWN: Final = ~(_LINKED | _PENDING | _RESOLVING | _BALANCING | _CLOSING)

_DEBITS_LIMITED: Final = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
_CREDITS_LIMITED: Final = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
_CLOSED: Final = int(AccountFlags.CLOSED)
_ACCOUNT_FLAGS_UNKNOWN: Final = ~(
    int(AccountFlags.LINKED) | _DEBITS_LIMITED | _CREDITS_LIMITED | int(AccountFlags.HISTORY) | _CLOSED
)

_EMPTY: Final = Balance()


class Applied(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of a transfer; `amount_minor` is what it moved (`exists`: what the first did), else 0."""

    status: CreateTransferStatus
    amount_minor: int


S = CreateTransferStatus
_CREATED: Final = S.created  # reaching a member through its class costs a tenth of a payment
_REFUSED: Final = {status: Applied(status=status, amount_minor=0) for status in CreateTransferStatus}
_RESOLVED: Final = {
    PendingStatus.none: S.pending_transfer_not_pending,
    PendingStatus.posted: S.pending_transfer_already_posted,
    PendingStatus.voided: S.pending_transfer_already_voided,
    PendingStatus.expired: S.pending_transfer_expired,
}

Result = TypeVar("Result")


def apply(state: State, transfer: Transfer, *, at_ns: int) -> Applied:
    """Decide one transfer at `at_ns` and book it if it is `created`; raises ValueError for a negative amount.

    Chains are not its business: it ignores the linked flag, `create_transfers` does not.
    """
    if transfer.at_ns:
        return _REFUSED[S.timestamp_must_be_zero]
    flags = transfer.flags
    if flags:
        flags = int(flags)  # an IntFlag would make every test below slow
        if flags & _TRANSFER_FLAGS_UNKNOWN:
            return _REFUSED[S.reserved_flag]
    transfer_id = transfer.id
    if transfer_id <= 0:
        return _REFUSED[S.id_must_not_be_zero]
    if transfer_id >= ID_MAX:
        return _REFUSED[S.id_must_not_be_int_max]
    if transfer.amount_minor < 0:
        raise ValueError(f"amount_minor is {transfer.amount_minor}: swap the accounts instead of the sign")

    if state.failed.get(transfer_id) is not None:
        return _REFUSED[S.id_already_failed]
    existing = state.transfers.get(transfer_id)
    if existing is None and state.history is not None:
        found = state.history(transfer_id)
        existing = None if found is None else found[0]
    if existing is not None:
        return _exists(state, transfer, flags, existing)

    if flags & _RESOLVING:
        return _resolve(state, transfer, flags, at_ns)
    return _move(state, transfer, flags, at_ns)


def _burn(state: State, transfer_id: int, status: CreateTransferStatus) -> Applied:
    """Refuse with a status that is true only now, and remember that this id was refused."""
    state.failed[transfer_id] = status
    return _REFUSED[status]


def _exists(state: State, t: Transfer, flags: int, e: Transfer) -> Applied:
    """Compare a request with the transfer that has its id: the same, or the first field that differs."""
    status = _first_difference(state, t, flags, e)
    if status is None:
        return Applied(status=S.exists, amount_minor=e.amount_minor)
    return _REFUSED[status]


def _first_difference(state: State, t: Transfer, flags: int, e: Transfer) -> CreateTransferStatus | None:
    # Flags first: they say how the other fields are to be read.
    if flags != e.flags:
        return S.exists_with_different_flags
    if t.pending_id != e.pending_id:
        return S.exists_with_different_pending_id
    if t.timeout_s != e.timeout_s:
        return S.exists_with_different_timeout
    if flags & _RESOLVING:
        p = state.find(t.pending_id)
        if p is None:
            raise LookupError(f"transfer {e.id} resolved {t.pending_id}, but no such transfer is known")
        t = _filled_in(t, flags, p)
    if t.debit_account_id != e.debit_account_id:
        return S.exists_with_different_debit_account_id
    if t.credit_account_id != e.credit_account_id:
        return S.exists_with_different_credit_account_id
    # A balancing request names the most that may move: any amount that covers e's is the same request.
    if t.amount_minor < e.amount_minor or (t.amount_minor > e.amount_minor and not flags & _BALANCING):
        return S.exists_with_different_amount
    if t.user_data_128 != e.user_data_128:
        return S.exists_with_different_user_data_128
    if t.user_data_64 != e.user_data_64:
        return S.exists_with_different_user_data_64
    if t.user_data_32 != e.user_data_32:
        return S.exists_with_different_user_data_32
    if t.ledger != e.ledger:
        return S.exists_with_different_ledger
    if t.code != e.code:
        return S.exists_with_different_code
    return None


def _filled_in(t: Transfer, flags: int, p: Transfer, *, at_ns: int = 0) -> Transfer:
    """Return the post or void `t` with what it left open taken from its pending transfer `p`."""
    everything = 0 if flags & _VOID else AMOUNT_MAX
    return Transfer(
        id=t.id,
        debit_account_id=t.debit_account_id or p.debit_account_id,
        credit_account_id=t.credit_account_id or p.credit_account_id,
        amount_minor=p.amount_minor if t.amount_minor == everything else t.amount_minor,
        ledger=t.ledger or p.ledger,
        code=t.code or p.code,
        flags=flags,
        pending_id=t.pending_id,
        timeout_s=t.timeout_s,
        user_data_128=t.user_data_128 or p.user_data_128,
        user_data_64=t.user_data_64 or p.user_data_64,
        user_data_32=t.user_data_32 or p.user_data_32,
        at_ns=at_ns,
    )


def _malformed_move(t: Transfer, flags: int) -> CreateTransferStatus | None:
    debit_id = t.debit_account_id
    if debit_id <= 0:
        return S.debit_account_id_must_not_be_zero
    if debit_id >= ID_MAX:
        return S.debit_account_id_must_not_be_int_max
    credit_id = t.credit_account_id
    if credit_id <= 0:
        return S.credit_account_id_must_not_be_zero
    if credit_id >= ID_MAX:
        return S.credit_account_id_must_not_be_int_max
    if credit_id == debit_id:
        return S.accounts_must_be_different
    if t.pending_id:
        return S.pending_id_must_be_zero
    if not flags & _PENDING:
        if t.timeout_s:
            return S.timeout_reserved_for_pending_transfer
        if flags & _CLOSING:
            return S.closing_transfer_must_be_pending
    if t.ledger <= 0:
        return S.ledger_must_not_be_zero
    if t.code <= 0:
        return S.code_must_not_be_zero
    return None


def _move(state: State, t: Transfer, flags: int, at_ns: int) -> Applied:
    """Decide a transfer of one phase, or the pending half of one of two."""
    malformed = _malformed_move(t, flags)
    if malformed is not None:
        return _REFUSED[malformed]
    debit_id, credit_id = t.debit_account_id, t.credit_account_id
    debit_account = state.accounts.get(debit_id)
    if debit_account is None:
        return _burn(state, t.id, S.debit_account_not_found)
    credit_account = state.accounts.get(credit_id)
    if credit_account is None:
        return _burn(state, t.id, S.credit_account_not_found)
    if debit_account.ledger != credit_account.ledger:
        return _REFUSED[S.accounts_must_have_the_same_ledger]
    if t.ledger != debit_account.ledger:
        return _REFUSED[S.transfer_must_have_the_same_ledger_as_accounts]
    amount_minor = t.amount_minor
    if flags & _BALANCING:
        amount_minor = _balancing(state, t, flags)
    status = move(
        state,
        t.id,
        debit_account,
        credit_account,
        amount_minor,
        at_ns=at_ns,
        flags=flags,
        timeout_s=t.timeout_s,
    )
    if status is not _CREATED:
        return _REFUSED[status]
    state.transfers[t.id] = replace(t, flags=flags, amount_minor=amount_minor, at_ns=at_ns)
    if flags & _PENDING:
        state.pendings[t.id] = PendingStatus.pending
        if t.timeout_s:
            state.deadlines.add((at_ns + t.timeout_s * NS_PER_S, at_ns, t.id))
        if flags & _CLOSING_DEBIT:
            _set_closed(state, debit_account, closed=True)
        if flags & _CLOSING_CREDIT:
            _set_closed(state, credit_account, closed=True)
    return Applied(status=_CREATED, amount_minor=amount_minor)


def _balancing(state: State, t: Transfer, flags: int) -> int:
    """What a balancing transfer moves: as much as the accounts allow, at most what it names."""
    debit, credit = state.balances[t.debit_account_id], state.balances[t.credit_account_id]
    amount_minor = t.amount_minor
    if flags & _BALANCING_DEBIT:
        owed_minor = debit.debits_pending + debit.debits_posted
        amount_minor = min(amount_minor, max(0, debit.credits_posted - owed_minor))
    if flags & _BALANCING_CREDIT:
        owned_minor = credit.credits_pending + credit.credits_posted
        amount_minor = min(amount_minor, max(0, credit.debits_posted - owned_minor))
    return amount_minor


def move(
    state: State,
    transfer_id: int,
    debit_account: Account,
    credit_account: Account,
    amount_minor: int,
    *,
    at_ns: int,
    flags: int = 0,
    timeout_s: int = 0,
) -> CreateTransferStatus:
    """Move an amount, or hold it, from one account to another one of the same ledger, unless a balance or an
    account forbids it.

    This is the part of `apply` that hangs on balances. Whoever calls it has seen to the rest: that the id is
    new and the transfer well formed, and that it is kept where it may be asked for.
    """
    if debit_account.flags & _CLOSED:
        return _burn(state, transfer_id, S.debit_account_already_closed).status
    if credit_account.flags & _CLOSED:
        return _burn(state, transfer_id, S.credit_account_already_closed).status
    balances = state.balances
    debit_id, credit_id = debit_account.id, credit_account.id
    debit, credit = balances[debit_id], balances[credit_id]
    debits_minor = debit.debits_pending + debit.debits_posted + amount_minor
    credits_minor = credit.credits_pending + credit.credits_posted + amount_minor
    most_minor = state.most_minor
    if debits_minor > most_minor or credits_minor > most_minor:
        if most_minor < AMOUNT_MAX:
            return S.overflows_debits if debits_minor > most_minor else S.overflows_credits
        return _overflow(debit, credit, amount_minor, flags)
    if timeout_s and at_ns + timeout_s * NS_PER_S > AT_NS_MAX:
        return S.overflows_timeout
    if debit_account.flags & _DEBITS_LIMITED and debits_minor > debit.credits_posted:
        return _burn(state, transfer_id, S.exceeds_credits).status
    if credit_account.flags & _CREDITS_LIMITED and credits_minor > credit.debits_posted:
        return _burn(state, transfer_id, S.exceeds_debits).status

    # ---- nothing can fail below: only writes ----
    pending_minor, posted_minor = (amount_minor, 0) if flags & _PENDING else (0, amount_minor)
    balances[debit_id] = Balance(
        debit.debits_pending + pending_minor,
        debit.debits_posted + posted_minor,
        debit.credits_pending,
        debit.credits_posted,
    )
    balances[credit_id] = Balance(
        credit.debits_pending,
        credit.debits_posted,
        credit.credits_pending + pending_minor,
        credit.credits_posted + posted_minor,
    )
    return _CREATED


def _overflow(debit: Balance, credit: Balance, amount_minor: int, flags: int) -> CreateTransferStatus:
    """Name the overflow, given that the debits or the credits do not fit into 128 bits together."""
    room_minor = AMOUNT_MAX - amount_minor
    if flags & _PENDING:
        if debit.debits_pending > room_minor:
            return S.overflows_debits_pending
        if credit.credits_pending > room_minor:
            return S.overflows_credits_pending
    if debit.debits_posted > room_minor:
        return S.overflows_debits_posted
    if credit.credits_posted > room_minor:
        return S.overflows_credits_posted
    if debit.debits_pending + debit.debits_posted > room_minor:
        return S.overflows_debits
    return S.overflows_credits


def _set_closed(state: State, account: Account, *, closed: bool) -> None:
    flags = account.flags | _CLOSED if closed else account.flags & ~_CLOSED
    state.accounts[account.id] = replace(account, flags=flags)


def _malformed_resolution(t: Transfer, flags: int) -> CreateTransferStatus | None:
    if flags & _RESOLVING == _RESOLVING or flags & (_PENDING | _BALANCING | _CLOSING):
        return S.flags_are_mutually_exclusive
    if t.pending_id <= 0:
        return S.pending_id_must_not_be_zero
    if t.pending_id >= ID_MAX:
        return S.pending_id_must_not_be_int_max
    if t.pending_id == t.id:
        return S.pending_id_must_be_different
    if t.timeout_s:
        return S.timeout_reserved_for_pending_transfer
    return None


def _misfit(t: Transfer, flags: int, p: Transfer) -> CreateTransferStatus | None:
    """Return why the post or void `t`, filled in from its pending transfer `p`, does not fit, or None."""
    if t.debit_account_id != p.debit_account_id:
        return S.pending_transfer_has_different_debit_account_id
    if t.credit_account_id != p.credit_account_id:
        return S.pending_transfer_has_different_credit_account_id
    if t.ledger != p.ledger:
        return S.pending_transfer_has_different_ledger
    if t.code != p.code:
        return S.pending_transfer_has_different_code
    if t.amount_minor > p.amount_minor:
        return S.exceeds_pending_transfer_amount
    if flags & _VOID and t.amount_minor < p.amount_minor:
        return S.pending_transfer_has_different_amount
    return None


def _resolve(state: State, t: Transfer, flags: int, at_ns: int) -> Applied:
    """Decide the second half of a transfer of two phases: a post or a void."""
    malformed = _malformed_resolution(t, flags)
    if malformed is not None:
        return _REFUSED[malformed]
    p = state.find(t.pending_id)
    if p is None:
        return _burn(state, t.id, S.pending_transfer_not_found)
    if not p.flags & _PENDING:
        return _REFUSED[S.pending_transfer_not_pending]
    t = _filled_in(t, flags, p, at_ns=at_ns)
    misfit = _misfit(t, flags, p)
    if misfit is not None:
        return _REFUSED[misfit]
    status = state.pending_status(p.id)
    if status is not PendingStatus.pending:
        return _REFUSED[_RESOLVED[status]]
    if p.timeout_s and p.at_ns + p.timeout_s * NS_PER_S <= at_ns:
        return _REFUSED[S.pending_transfer_expired]
    # In a closed account a hold can still be voided, but not be posted.
    if flags & _POST:
        if state.accounts[p.debit_account_id].flags & _CLOSED:
            return _burn(state, t.id, S.debit_account_already_closed)
        if state.accounts[p.credit_account_id].flags & _CLOSED:
            return _burn(state, t.id, S.credit_account_already_closed)

    # ---- nothing can fail below: only writes ----
    state.transfers[t.id] = t
    if flags & _POST:
        _release(state, p, PendingStatus.posted, posted_minor=t.amount_minor)
    else:
        _release(state, p, PendingStatus.voided, posted_minor=0)
    if p.timeout_s:
        state.deadlines.note_resolved()
    return Applied(status=_CREATED, amount_minor=t.amount_minor)


def _release(state: State, p: Transfer, status: PendingStatus, *, posted_minor: int) -> None:
    """Take a hold off both accounts, post `posted_minor` of it, and reopen what it had closed."""
    debit, credit = state.balances[p.debit_account_id], state.balances[p.credit_account_id]
    state.pendings[p.id] = status
    state.balances[p.debit_account_id] = Balance(
        debits_pending=debit.debits_pending - p.amount_minor,
        debits_posted=debit.debits_posted + posted_minor,
        credits_pending=debit.credits_pending,
        credits_posted=debit.credits_posted,
    )
    state.balances[p.credit_account_id] = Balance(
        debits_pending=credit.debits_pending,
        debits_posted=credit.debits_posted,
        credits_pending=credit.credits_pending - p.amount_minor,
        credits_posted=credit.credits_posted + posted_minor,
    )
    if p.flags & _CLOSING_DEBIT:
        _set_closed(state, state.accounts[p.debit_account_id], closed=False)
    if p.flags & _CLOSING_CREDIT:
        _set_closed(state, state.accounts[p.credit_account_id], closed=False)


def due(state: State, *, at_ns: int) -> list[Transfer]:
    """Return the holds whose time is up at `at_ns`, earliest deadline first; changes nothing."""
    found = (state.transfers.get(transfer_id) for _, _, transfer_id in state.deadlines.due(at_ns=at_ns))
    return [hold for hold in found if hold is not None and state.is_live(hold.id)]


def expire_transfer(state: State, transfer_id: int) -> bool:
    """Expire one hold, whatever the time; False when it is not live."""
    if not state.is_live(transfer_id):
        return False
    _release(state, state.transfers[transfer_id], PendingStatus.expired, posted_minor=0)
    if state.transfers[transfer_id].timeout_s:
        state.deadlines.note_resolved()
    return True


def expire(state: State, *, at_ns: int) -> list[int]:
    """Expire every hold whose time is up at `at_ns` and return their ids, earliest deadline first."""
    expired = []
    for hold in due(state, at_ns=at_ns):
        _release(state, hold, PendingStatus.expired, posted_minor=0)
        expired.append(hold.id)
    state.deadlines.forget(through_ns=at_ns)
    return expired


def restore_hold(state: State, hold: Transfer) -> None:
    """Put a live hold from a snapshot back; the balances that it reserves are restored by themselves."""
    state.transfers[hold.id] = hold
    state.pendings[hold.id] = PendingStatus.pending
    if hold.timeout_s:
        state.deadlines.add((hold.at_ns + hold.timeout_s * NS_PER_S, hold.at_ns, hold.id))


def create_transfers(state: State, transfers: Sequence[Transfer], *, at_ns: int) -> list[Applied]:
    """Decide a batch in order, linked chains as a whole; the i-th of n is taken at `at_ns - n + i + 1`."""
    first_ns = at_ns - len(transfers) + 1

    def decide(layer: State, index: int) -> Applied:
        transfer = transfers[index]
        applied = apply(layer, transfer, at_ns=first_ns + index)
        if layer is not state and applied.status.transient:
            # The chain's layer is thrown away; that its culprit's id is burned must outlive it.
            state.failed[transfer.id] = applied.status
        return applied

    return _in_chains(
        state,
        [bool(int(transfer.flags) & _LINKED) for transfer in transfers],
        decide,
        created=lambda applied: applied.status is S.created,
        failed=_REFUSED[S.linked_event_failed],
        chain_open=_REFUSED[S.linked_event_chain_open],
    )


def create_accounts(state: State, accounts: Sequence[Account], *, at_ns: int) -> list[CreateAccountStatus]:
    """Create a batch in order, linked chains as a whole; the i-th of n is created at `at_ns - n + i + 1`."""
    first_ns = at_ns - len(accounts) + 1
    return _in_chains(
        state,
        [bool(int(account.flags) & _LINKED) for account in accounts],
        lambda layer, index: _create_account(layer, accounts[index], at_ns=first_ns + index),
        created=lambda status: status is CreateAccountStatus.created,
        failed=CreateAccountStatus.linked_event_failed,
        chain_open=CreateAccountStatus.linked_event_chain_open,
    )


def _in_chains(
    state: State,
    linked: Sequence[bool],
    decide: Callable[[State, int], Result],
    *,
    created: Callable[[Result], bool],
    failed: Result,
    chain_open: Result,
) -> list[Result]:
    """Decide events in order; those that are linked to their successor stand or fall together with it."""
    results: list[Result] = []
    while (start := len(results)) < len(linked):
        if not linked[start]:
            results.append(decide(state, start))
            continue
        end = start + 1  # one past the chain; its last event is the first that is not linked
        while end < len(linked) and linked[end - 1]:
            end += 1
        is_open = linked[end - 1]
        layer = state.overlay()
        chain: list[Result] = []
        for index in range(start, end - 1 if is_open else end):
            chain.append(decide(layer, index))
            if not created(chain[-1]):
                break
        if not is_open and len(chain) == end - start and created(chain[-1]):
            layer.merge()
            results += chain
            continue
        answers = [failed] * (end - start)
        if chain and not created(chain[-1]):
            answers[len(chain) - 1] = chain[-1]
        if is_open:
            answers[-1] = chain_open
        results += answers
    return results


def _create_account(state: State, account: Account, *, at_ns: int) -> CreateAccountStatus:
    flags = int(account.flags)
    if account.at_ns:
        return CreateAccountStatus.timestamp_must_be_zero
    if flags & _ACCOUNT_FLAGS_UNKNOWN:
        return CreateAccountStatus.reserved_flag
    if account.id <= 0:
        return CreateAccountStatus.id_must_not_be_zero
    if account.id >= ID_MAX:
        return CreateAccountStatus.id_must_not_be_int_max
    existing = state.accounts.get(account.id)
    if existing is not None:
        return _account_exists(account, flags, existing)
    if flags & _DEBITS_LIMITED and flags & _CREDITS_LIMITED:
        return CreateAccountStatus.flags_are_mutually_exclusive
    if account.ledger <= 0:
        return CreateAccountStatus.ledger_must_not_be_zero
    if account.code <= 0:
        return CreateAccountStatus.code_must_not_be_zero

    # ---- nothing can fail below: only writes ----
    state.accounts[account.id] = replace(account, flags=flags, at_ns=at_ns)
    state.balances[account.id] = _EMPTY
    return CreateAccountStatus.created


def _account_exists(account: Account, flags: int, existing: Account) -> CreateAccountStatus:
    if flags != existing.flags:
        return CreateAccountStatus.exists_with_different_flags
    if account.user_data_128 != existing.user_data_128:
        return CreateAccountStatus.exists_with_different_user_data_128
    if account.user_data_64 != existing.user_data_64:
        return CreateAccountStatus.exists_with_different_user_data_64
    if account.user_data_32 != existing.user_data_32:
        return CreateAccountStatus.exists_with_different_user_data_32
    if account.ledger != existing.ledger:
        return CreateAccountStatus.exists_with_different_ledger
    if account.code != existing.code:
        return CreateAccountStatus.exists_with_different_code
    return CreateAccountStatus.exists
