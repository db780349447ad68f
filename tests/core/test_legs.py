"""How a leg is booked: asking the ledger for its balances alone must come out as asking for everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgegw.core import ledger
from edgegw.core.accounts import Known, KnownAccounts, account_key
from edgegw.core.ledger import State
from edgegw.core.legs import PENDING, POST, VOID, book_leg, transfer_of
from edgegw.core.model import Account as LedgerAccount
from edgegw.core.model import AccountFlags, Balance, CreateTransferStatus, TransferFlags
from edgegw.core.records import Account, Leg

MOST_MINOR = 60
NAMES = ("anna", "bert", "carl", "euro", "nobody")
LEDGERS = {"anna": 1, "bert": 1, "carl": 1, "euro": 2}
FLAGS = st.sampled_from(
    (
        0,
        int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
        int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS),
        int(AccountFlags.CLOSED),
    )
)
COUNTERS = st.integers(0, 25)
STATES = st.fixed_dictionaries(
    {name: st.tuples(FLAGS, COUNTERS, COUNTERS, COUNTERS, COUNTERS) for name in LEDGERS}
)
LEGS = st.builds(
    Leg,
    debit_account_id=st.sampled_from(NAMES),
    credit_account_id=st.sampled_from(NAMES),
    amount_minor=st.integers(0, 70),
    flags=st.sampled_from((0, 0, 0, 0, PENDING, POST, VOID, int(TransferFlags.BALANCING_DEBIT), 1 << 12)),
    pending=st.sampled_from(("", "", "", f"{77:032x}")),
    timeout_s=st.sampled_from((0, 0, 0, 5)),
)


def state_of(start: dict[str, tuple[int, int, int, int, int]]) -> State:
    """A ledger of these accounts with a history in which nothing is found."""
    state = State(history=lambda _: None, most_minor=MOST_MINOR)
    for name, (flags, *counters) in start.items():
        key = account_key(name)
        state.accounts[key] = LedgerAccount(id=key, ledger=LEDGERS[name], code=1, flags=flags)
        state.balances[key] = Balance(*counters)
    return state


def known(name: str) -> Known | None:
    """As a book has put it together."""
    if name not in LEDGERS:
        return None
    account = Account(id=name, currency="CNY")
    return Known(account, account_key(name), LEDGERS[name], ("bank", "CNY"), False, True, None, None)


@given(start=STATES, legs=st.lists(LEGS, min_size=1, max_size=6), burned=st.sets(st.integers(1, 6)))
def test_a_leg_that_asks_for_balances_alone_comes_out_otherwise(
    start: dict[str, tuple[int, int, int, int, int]], legs: list[Leg], burned: set[int]
) -> None:
    """Statuses, balances, burned ids, closed accounts and holds are those of the general decision, on layers
    too."""
    quick, general, accounts = state_of(start), state_of(start), KnownAccounts(known)
    for state in (quick, general):
        for number in burned:
            state.failed[number] = CreateTransferStatus.exceeds_credits
    quick, general = quick.overlay(), general.overlay()
    for number, leg in enumerate(legs, 1):
        found = book_leg(quick, leg, accounts, number, at_ns=number, is_new=True)
        wanted = ledger.apply(general, transfer_of(leg, accounts, number), at_ns=number).status
        assert found is wanted
    for name in ("accounts", "balances", "failed", "pendings"):
        assert dict(getattr(quick, name).items()) == dict(getattr(general, name).items()), name


def test_what_is_not_new_is_booked_again() -> None:
    """A leg whose id the ledger may have seen is looked up as any other transfer."""
    nothing = (0, 0, 0, 0, 0)
    state, accounts = state_of(dict.fromkeys(LEDGERS, nothing)), KnownAccounts(known)
    leg = Leg("anna", "bert", 5)
    assert book_leg(state, leg, accounts, 1, at_ns=1, is_new=False) is CreateTransferStatus.created
    assert book_leg(state, leg, accounts, 1, at_ns=2, is_new=False) is CreateTransferStatus.exists
    assert state.balances[account_key("bert")] == Balance(credits_posted=5)
