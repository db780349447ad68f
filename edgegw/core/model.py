"""The words of the ledger: accounts, balances, transfers, and every status a request can be answered with.

Owns the shapes, the flag bits and the two status enumerations, all with the names, bits, numbers and order of
precedence of TigerBeetle's reference (0.16): accounts carry four counters that never mix, transfers are
immutable. Leaves out: the rules (`edgegw.core.ledger`), and TigerBeetle's `imported` events: their flag bit
is refused with `reserved_flag` and their own statuses do not exist here.

Flags are carried as plain integers, because combining `IntFlag` members costs ten times as much as combining
integers; `AccountFlags` and `TransferFlags` name the bits.
"""

from enum import IntEnum, IntFlag
from typing import Final

import msgspec

AMOUNT_MAX: Final = 2**128 - 1
"""The largest amount; a post of this amount posts whatever the pending transfer holds."""

ID_MAX: Final = 2**128 - 1
"""Reserved, like 0: neither an account nor a transfer may have this id."""

AT_NS_MAX: Final = 2**63 - 1
"""The latest time the ledger can name, in nanoseconds since 1970."""


class AccountFlags(IntFlag):
    """The bits of `Account.flags`."""

    LINKED = 1 << 0
    DEBITS_MUST_NOT_EXCEED_CREDITS = 1 << 1
    CREDITS_MUST_NOT_EXCEED_DEBITS = 1 << 2
    HISTORY = 1 << 3
    IMPORTED = 1 << 4
    CLOSED = 1 << 5


class TransferFlags(IntFlag):
    """The bits of `Transfer.flags`."""

    LINKED = 1 << 0
    PENDING = 1 << 1
    POST_PENDING_TRANSFER = 1 << 2
    VOID_PENDING_TRANSFER = 1 << 3
    BALANCING_DEBIT = 1 << 4
    BALANCING_CREDIT = 1 << 5
    CLOSING_DEBIT = 1 << 6
    CLOSING_CREDIT = 1 << 7
    IMPORTED = 1 << 8


class Account(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The part of an account that transfers leave alone (only closing and reopening change `flags`)."""

    id: int
    ledger: int
    code: int
    flags: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    at_ns: int = 0


class Balance(msgspec.Struct, frozen=True, gc=False):
    """The four counters of an account, in minor units; the posted ones only grow."""

    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0


class Transfer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A move of `amount_minor` from the debit to the credit account; `at_ns` is 0 until it is taken."""

    id: int
    debit_account_id: int
    credit_account_id: int
    amount_minor: int
    ledger: int
    code: int
    flags: int = 0
    pending_id: int = 0
    timeout_s: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    at_ns: int = 0


class PendingStatus(IntEnum):
    """What became of a transfer: `none` for one that never was pending, else where its hold stands."""

    none = 0
    pending = 1
    posted = 2
    voided = 3
    expired = 4


class CreateAccountStatus(IntEnum):
    """Why an account was created or not: members in order of precedence, TigerBeetle's names and numbers.

    `reserved_field` and the four `*_must_be_zero` of the counters are never given here, because `Account` has
    no such fields; they keep their names for those who translate.
    """

    created = 0
    ok = 0  # the name up to 0.16; an alias, so that both names look up the same member
    linked_event_failed = 1
    linked_event_chain_open = 2
    timestamp_must_be_zero = 3
    reserved_field = 4
    reserved_flag = 5
    id_must_not_be_zero = 6
    id_must_not_be_int_max = 7
    exists_with_different_flags = 15
    exists_with_different_user_data_128 = 16
    exists_with_different_user_data_64 = 17
    exists_with_different_user_data_32 = 18
    exists_with_different_ledger = 19
    exists_with_different_code = 20
    exists = 21
    flags_are_mutually_exclusive = 8
    debits_pending_must_be_zero = 9
    debits_posted_must_be_zero = 10
    credits_pending_must_be_zero = 11
    credits_posted_must_be_zero = 12
    ledger_must_not_be_zero = 13
    code_must_not_be_zero = 14

    @property
    def transient(self) -> bool:
        """Always false: whether an account can be created does not depend on what other requests did."""
        return False


class CreateTransferStatus(IntEnum):
    """Why a transfer was created or not: members in order of precedence, TigerBeetle's names and numbers."""

    created = 0
    ok = 0  # the name up to 0.16; an alias, so that both names look up the same member
    linked_event_failed = 1
    linked_event_chain_open = 2
    timestamp_must_be_zero = 3
    reserved_flag = 4
    id_must_not_be_zero = 5
    id_must_not_be_int_max = 6
    exists_with_different_flags = 36
    exists_with_different_pending_id = 40
    exists_with_different_timeout = 44
    exists_with_different_debit_account_id = 37
    exists_with_different_credit_account_id = 38
    exists_with_different_amount = 39
    exists_with_different_user_data_128 = 41
    exists_with_different_user_data_64 = 42
    exists_with_different_user_data_32 = 43
    exists_with_different_ledger = 67
    exists_with_different_code = 45
    exists = 46
    id_already_failed = 68
    flags_are_mutually_exclusive = 7
    debit_account_id_must_not_be_zero = 8
    debit_account_id_must_not_be_int_max = 9
    credit_account_id_must_not_be_zero = 10
    credit_account_id_must_not_be_int_max = 11
    accounts_must_be_different = 12
    pending_id_must_be_zero = 13
    pending_id_must_not_be_zero = 14
    pending_id_must_not_be_int_max = 15
    pending_id_must_be_different = 16
    timeout_reserved_for_pending_transfer = 17
    closing_transfer_must_be_pending = 64
    ledger_must_not_be_zero = 19
    code_must_not_be_zero = 20
    debit_account_not_found = 21
    credit_account_not_found = 22
    accounts_must_have_the_same_ledger = 23
    transfer_must_have_the_same_ledger_as_accounts = 24
    pending_transfer_not_found = 25
    pending_transfer_not_pending = 26
    pending_transfer_has_different_debit_account_id = 27
    pending_transfer_has_different_credit_account_id = 28
    pending_transfer_has_different_ledger = 29
    pending_transfer_has_different_code = 30
    exceeds_pending_transfer_amount = 31
    pending_transfer_has_different_amount = 32
    pending_transfer_already_posted = 33
    pending_transfer_already_voided = 34
    pending_transfer_expired = 35
    debit_account_already_closed = 65
    credit_account_already_closed = 66
    overflows_debits_pending = 47
    overflows_credits_pending = 48
    overflows_debits_posted = 49
    overflows_credits_posted = 50
    overflows_debits = 51
    overflows_credits = 52
    overflows_timeout = 53
    exceeds_credits = 54
    exceeds_debits = 55

    @property
    def transient(self) -> bool:
        """True where the answer hangs on the state of the moment: such an id is burned, for ever."""
        return self in _TRANSIENT


_TRANSIENT: Final = frozenset(
    {
        CreateTransferStatus.debit_account_not_found,
        CreateTransferStatus.credit_account_not_found,
        CreateTransferStatus.pending_transfer_not_found,
        CreateTransferStatus.debit_account_already_closed,
        CreateTransferStatus.credit_account_already_closed,
        CreateTransferStatus.exceeds_credits,
        CreateTransferStatus.exceeds_debits,
    }
)
