"""The ledger's rules as tables of lines, each played in every way in which the ledger can be driven."""

import pytest

from edgegw.core.model import CreateAccountStatus, CreateTransferStatus
from tests.core.ledger_table import WAYS, Bench, statuses

ACCOUNTS = """
    account 7 u128=70 u64=71 u32=72 ledger=3 code=4 = created

    # One fault less in every line: what is refused first hides the rest.
    account 0 at_ns=1 flags=64 debits_limited credits_limited ledger=0 code=0 = timestamp_must_be_zero
    account 0 flags=64 debits_limited credits_limited ledger=0 code=0 = reserved_flag
    account 0 imported ledger=0 code=0 = reserved_flag
    account 0 debits_limited credits_limited ledger=0 code=0 = id_must_not_be_zero
    account max debits_limited credits_limited ledger=0 code=0 = id_must_not_be_int_max
    account 7 debits_limited credits_limited ledger=0 code=0 = exists_with_different_flags
    account 7 closed ledger=0 code=0 = exists_with_different_flags
    account 7 u128=1 u64=1 u32=1 ledger=0 code=0 = exists_with_different_user_data_128
    account 7 u128=70 u64=1 u32=1 ledger=0 code=0 = exists_with_different_user_data_64
    account 7 u128=70 u64=71 u32=1 ledger=0 code=0 = exists_with_different_user_data_32
    account 7 u128=70 u64=71 u32=72 ledger=0 code=0 = exists_with_different_ledger
    account 7 u128=70 u64=71 u32=72 ledger=3 code=0 = exists_with_different_code
    account 7 u128=70 u64=71 u32=72 ledger=3 code=4 = exists
    account 8 debits_limited credits_limited ledger=0 code=0 = flags_are_mutually_exclusive
    account 8 debits_limited ledger=0 code=0 = ledger_must_not_be_zero
    account 8 credits_limited code=0 = code_must_not_be_zero
    account 8 debits_limited history = created
    account 9 closed = created

    balance 7 0 0 0 0
    balance 8 0 0 0 0
    balance 9 0 0 0 0 closed
"""

ACCOUNT_CHAINS = """
    account 1 = created
    # The third event of this chain fails on the first, and both are gone afterwards.
    account 2 linked = linked_event_failed
    account 3 linked = linked_event_failed
    account 2 linked = exists
    account 4 = linked_event_failed
    account 2 = created
    account 2 linked = exists_with_different_flags
    account 3 = linked_event_failed
    account 3 linked = created
    account 4 = created
    account 5 linked = linked_event_failed
    account 1 linked = exists_with_different_flags
    account 6 linked = linked_event_chain_open

    account 5 linked = linked_event_failed
    account 6 linked = linked_event_chain_open

    account 5 linked = linked_event_chain_open

    account 5 = created
    account 6 = created
"""

PRECEDENCE = """
    account 1 = created
    account 2 ledger=2 = created
    account 3 = created
    account 4 debits_limited = created
    account 5 credits_limited = created
    account 6 closed = created

    set 1 30 50 0 0
    set 3 0 0 40 70
    set 4 6 max-600 0 max-500
    set 5 0 max-900 8 max-1000

    # A second before the end of time is the last moment that a timeout can name.
    clock max-5s

    transfer 0 0>0 9 at_ns=1 flags=512 pending pending_id=1 ledger=0 code=0 = timestamp_must_be_zero
    transfer 0 0>0 9 flags=512 pending pending_id=1 ledger=0 code=0 = reserved_flag
    transfer 0 0>0 9 imported pending pending_id=1 ledger=0 code=0 = reserved_flag
    transfer 0 0>0 9 pending pending_id=1 ledger=0 code=0 = id_must_not_be_zero
    transfer max 0>0 9 pending pending_id=1 ledger=0 code=0 = id_must_not_be_int_max
    transfer 1 0>0 9 pending pending_id=1 ledger=0 code=0 = debit_account_id_must_not_be_zero
    transfer 1 max>0 9 pending pending_id=1 ledger=0 code=0 = debit_account_id_must_not_be_int_max
    transfer 1 8>0 9 pending pending_id=1 ledger=0 code=0 = credit_account_id_must_not_be_zero
    transfer 1 8>max 9 pending pending_id=1 ledger=0 code=0 = credit_account_id_must_not_be_int_max
    transfer 1 8>8 9 pending pending_id=1 ledger=0 code=0 = accounts_must_be_different
    transfer 1 8>9 9 timeout_s=1 closing_debit pending_id=1 ledger=0 code=0 = pending_id_must_be_zero
    transfer 1 8>9 9 timeout_s=1 closing_debit ledger=0 code=0 = timeout_reserved_for_pending_transfer
    transfer 1 8>9 9 closing_debit ledger=0 code=0 = closing_transfer_must_be_pending
    transfer 1 8>9 9 closing_credit ledger=0 code=0 = closing_transfer_must_be_pending
    transfer 1 8>9 9 pending ledger=0 code=0 = ledger_must_not_be_zero
    transfer 1 8>9 9 pending ledger=9 code=0 = code_must_not_be_zero
    transfer 1 8>9 9 pending ledger=9 = debit_account_not_found
    transfer 1 1>3 9 = id_already_failed
    transfer 2 1>9 9 pending ledger=9 = credit_account_not_found
    transfer 2 1>3 9 = id_already_failed
    transfer 3 1>2 9 pending ledger=9 = accounts_must_have_the_same_ledger
    transfer 3 6>1 9 pending ledger=9 = transfer_must_have_the_same_ledger_as_accounts
    transfer 10 6>3 max = debit_account_already_closed
    transfer 10 1>3 9 = id_already_failed
    transfer 11 1>6 max = credit_account_already_closed
    transfer 11 1>3 9 = id_already_failed
    transfer 3 1>3 max-29 pending = overflows_debits_pending
    transfer 3 1>3 max-39 pending = overflows_credits_pending
    transfer 3 1>3 max-49 pending = overflows_debits_posted
    transfer 3 1>3 max-29 = overflows_debits_posted
    transfer 3 1>3 max-69 pending = overflows_credits_posted
    transfer 3 1>3 max-79 pending = overflows_debits
    transfer 3 1>3 max-109 pending = overflows_credits
    transfer 3 4>5 200 pending timeout_s=6 = overflows_timeout
    transfer 3 4>5 200 pending timeout_s=5 = overflows_timeout
    transfer 3 4>5 95 pending timeout_s=4 = exceeds_credits
    transfer 3 1>3 9 = id_already_failed
    transfer 4 4>5 93 = exceeds_debits
    transfer 4 1>3 9 = id_already_failed

    balance 1 30 50 0 0
    balance 3 0 0 40 70
    balance 4 6 max-600 0 max-500
    balance 5 0 max-900 8 max-1000

    transfer 5 4>5 92 pending timeout_s=4 = created moves 92
    transfer 6 4>5 0 = created moves 0
    transfer 7 4>5 1 = exceeds_debits
    transfer 8 4>1 2 = created
    transfer 9 4>1 1 = exceeds_credits

    balance 4 98 max-598 0 max-500
    balance 5 0 max-900 100 max-1000
"""

IDEMPOTENCY = """
    account 1 = created
    account 2 = created
    account 3 = created

    transfer 5 1>2 100 pending timeout_s=9 code=2 u128=70 u64=71 u32=72 = created

    # One difference less in every line; none of them is judged by any later rule.
    transfer 5 3>3 7 pending_id=9 timeout_s=8 ledger=0 code=0 = exists_with_different_flags
    transfer 5 3>3 7 pending closing_debit pending_id=9 timeout_s=8 code=0 = exists_with_different_flags
    transfer 5 3>3 7 pending pending_id=9 timeout_s=8 ledger=0 code=0 = exists_with_different_pending_id
    transfer 5 3>3 7 pending timeout_s=8 ledger=0 code=0 = exists_with_different_timeout
    transfer 5 3>3 7 pending timeout_s=9 ledger=0 code=0 = exists_with_different_debit_account_id
    transfer 5 1>3 7 pending timeout_s=9 ledger=0 code=0 = exists_with_different_credit_account_id
    transfer 5 1>2 99 pending timeout_s=9 ledger=0 code=0 = exists_with_different_amount
    transfer 5 1>2 max pending timeout_s=9 ledger=0 code=0 = exists_with_different_amount
    transfer 5 1>2 100 pending timeout_s=9 ledger=0 code=0 = exists_with_different_user_data_128
    transfer 5 1>2 100 pending timeout_s=9 ledger=0 code=0 u128=70 = exists_with_different_user_data_64
    transfer 5 1>2 100 pending timeout_s=9 ledger=0 code=0 u128=70 u64=71 = exists_with_different_user_data_32
    transfer 5 1>2 100 pending timeout_s=9 ledger=0 u128=70 u64=71 u32=72 = exists_with_different_ledger
    transfer 5 1>2 100 pending timeout_s=9 code=0 u128=70 u64=71 u32=72 = exists_with_different_code
    transfer 5 1>2 100 pending timeout_s=9 code=2 u128=70 u64=71 u32=72 = exists moves 100

    balance 1 100 0 0 0
    balance 2 0 0 100 0
"""

TWO_PHASES = """
    account 1 = created
    account 2 = created
    account 3 = created

    transfer 1 1>2 15 = created
    transfer 2 1>2 15 pending timeout_s=1000 = created
    transfer 3 1>2 15 pending timeout_s=50 = created
    transfer 4 1>2 15 pending timeout_s=1 = created
    transfer 5 1>2 7 pending code=6 u128=70 u64=71 u32=72 = created
    transfer 6 1>2 2 pending = created
    transfer 7 1>2 1 pending = created

    balance 1 55 15 0 0
    balance 2 0 0 55 15

    # Shape: one fault less in every line.
    transfer 100 8>9 16 pending post void timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 post void timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 pending post timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 pending void timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 post balancing_debit timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 void balancing_credit timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 post closing_debit timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 void closing_credit timeout_s=1 ledger=6 code=7 = flags_are_mutually_exclusive
    transfer 100 8>9 16 void timeout_s=1 ledger=6 code=7 = pending_id_must_not_be_zero
    transfer 100 8>9 16 void timeout_s=1 pending_id=max ledger=6 code=7 = pending_id_must_not_be_int_max
    transfer 100 8>9 16 void timeout_s=1 pending_id=100 ledger=6 code=7 = pending_id_must_be_different
    transfer 100 8>9 16 void timeout_s=1 pending_id=99 ledger=6 code=7 = timeout_reserved_for_pending_transfer
    transfer 100 8>9 16 void pending_id=99 ledger=6 code=7 = pending_transfer_not_found
    transfer 100 1>2 16 = id_already_failed

    after 1s

    # Fit to the pending transfer.
    transfer 101 8>9 16 void pending_id=1 ledger=6 code=7 = pending_transfer_not_pending
    transfer 101 8>9 16 void pending_id=4 ledger=6 code=7 = pending_transfer_has_different_debit_account_id
    transfer 101 1>9 16 void pending_id=4 ledger=6 code=7 = pending_transfer_has_different_credit_account_id
    transfer 101 1>2 16 void pending_id=4 ledger=6 code=7 = pending_transfer_has_different_ledger
    transfer 101 1>2 16 void pending_id=4 code=7 = pending_transfer_has_different_code
    transfer 101 1>2 16 void pending_id=4 = exceeds_pending_transfer_amount
    transfer 101 1>2 max void pending_id=4 = exceeds_pending_transfer_amount
    transfer 101 1>2 16 post pending_id=4 = exceeds_pending_transfer_amount
    transfer 101 1>2 14 void pending_id=4 = pending_transfer_has_different_amount
    transfer 101 1>2 14 post pending_id=4 = pending_transfer_expired
    transfer 101 1>2 15 void pending_id=4 = pending_transfer_expired

    # Posted in part, voided, and each only once.
    transfer 102 1>2 13 post pending_id=2 u128=80 u64=81 u32=82 = created moves 13
    transfer 103 1>2 13 post pending_id=2 = pending_transfer_already_posted
    transfer 103 1>2 15 void pending_id=2 = pending_transfer_already_posted
    transfer 103 0>0 0 void pending_id=3 ledger=0 code=0 = created moves 15
    transfer 104 1>2 15 void pending_id=3 = pending_transfer_already_voided
    transfer 104 1>2 15 post pending_id=3 = pending_transfer_already_voided

    # The same post again, and posts that only look like it.
    transfer 102 1>2 13 void pending_id=2 = exists_with_different_flags
    transfer 102 1>2 13 post pending_id=3 = exists_with_different_pending_id
    transfer 102 1>2 13 post pending_id=2 timeout_s=1 = exists_with_different_timeout
    transfer 102 3>3 12 post pending_id=2 = exists_with_different_debit_account_id
    transfer 102 1>3 12 post pending_id=2 = exists_with_different_credit_account_id
    transfer 102 1>2 12 post pending_id=2 = exists_with_different_amount
    transfer 102 1>2 15 post pending_id=2 = exists_with_different_amount
    transfer 102 1>2 0 post pending_id=2 = exists_with_different_amount
    transfer 102 1>2 max post pending_id=2 = exists_with_different_amount
    transfer 102 1>2 13 post pending_id=2 = exists_with_different_user_data_128
    transfer 102 1>2 13 post pending_id=2 u128=80 = exists_with_different_user_data_64
    transfer 102 1>2 13 post pending_id=2 u128=80 u64=81 = exists_with_different_user_data_32
    transfer 102 1>2 13 post pending_id=2 u128=80 u64=81 u32=82 ledger=9 = exists_with_different_ledger
    transfer 102 1>2 13 post pending_id=2 u128=80 u64=81 u32=82 code=9 = exists_with_different_code
    transfer 102 0>0 13 post pending_id=2 u128=80 u64=81 u32=82 ledger=0 code=0 = exists moves 13
    transfer 103 1>2 15 void pending_id=3 = exists
    transfer 103 1>2 0 void pending_id=3 = exists
    transfer 103 1>2 14 void pending_id=3 = exists_with_different_amount

    # What a post leaves open comes from its pending transfer; all of it is `max`, nothing of it is 0.
    transfer 105 0>0 8 post pending_id=5 ledger=0 code=0 = exceeds_pending_transfer_amount
    transfer 105 0>0 max-1 post pending_id=5 ledger=0 code=0 = exceeds_pending_transfer_amount
    transfer 105 0>0 max post pending_id=5 ledger=0 code=0 = created moves 7
    transfer 105 0>0 max post pending_id=5 ledger=0 code=0 = exists moves 7
    transfer 105 1>2 7 post pending_id=5 code=6 u128=70 u64=71 u32=72 = exists
    transfer 105 1>2 6 post pending_id=5 code=6 = exists_with_different_amount
    transfer 106 0>0 0 post pending_id=6 ledger=0 code=0 = created moves 0
    transfer 106 0>0 0 post pending_id=6 ledger=0 code=0 = exists
    transfer 106 0>0 max post pending_id=6 ledger=0 code=0 = exists_with_different_amount

    expire 4
    expire

    transfer 107 1>2 15 post pending_id=4 = pending_transfer_expired

    balance 1 1 35 0 0
    balance 2 0 0 1 35

    kept 102 13
    kept 103 15
    kept 105 7
    kept 106 0
    kept 107 none
    kept 5 7
"""

EXTREMES = """
    account 1 = created
    account 2 = created

    # The largest amount there is, held and posted whole.
    transfer 1 1>2 max pending = created
    transfer 2 1>2 1 = overflows_debits
    transfer 2 1>2 1 pending = overflows_debits_pending
    transfer 3 1>2 max post pending_id=1 = created
    transfer 3 1>2 max post pending_id=1 = exists
    transfer 4 1>2 0 = created
    transfer 5 1>2 1 = overflows_debits_posted
    transfer 6 2>1 max balancing_debit = created moves max

    balance 1 0 max 0 max
    balance 2 0 max 0 max
"""

EXPIRY = """
    account 1 = created
    account 2 = created

    transfer 9 1>2 10 pending = created
    transfer 8 1>2 11 pending timeout_s=3 = created
    transfer 7 1>2 12 pending timeout_s=2 = created
    transfer 6 1>2 13 pending timeout_s=2 = created
    transfer 5 1>2 14 pending timeout_s=1 = created
    transfer 4 1>2 15 pending timeout_s=1 = created

    # Transfer 5 was taken one nanosecond before transfer 4, which is taken now.
    after 999999998ns
    expire
    after 1ns
    expire 5
    after 1ns
    expire 4
    expire
    balance 1 46 0 0 0

    transfer 20 1>2 0 void pending_id=6 = created

    after 5s
    expire 7 8
    balance 1 10 0 0 0
    balance 2 0 0 10 0

    transfer 21 1>2 12 post pending_id=7 = pending_transfer_expired
    transfer 22 1>2 13 post pending_id=6 = pending_transfer_already_voided
    transfer 23 1>2 10 post pending_id=9 = created

    balance 1 0 10 0 0
"""

CHAINS = """
    account 1 debits_limited = created
    account 2 = created
    account 3 credits_limited = created

    set 1 0 0 0 20

    transfer 1 1>2 15 linked = linked_event_failed
    transfer 2 1>2 5 ledger=0 = ledger_must_not_be_zero
    transfer 3 1>2 15 = created
    # Inside a chain the second move sees the first, and both are undone with the third.
    transfer 4 2>1 10 linked = linked_event_failed
    transfer 5 1>2 15 linked pending timeout_s=1 = linked_event_failed
    transfer 5 1>2 15 linked pending timeout_s=1 = exists
    transfer 6 1>2 1 = linked_event_failed

    balance 1 0 15 0 20
    balance 2 0 0 0 15
    kept 1 none
    kept 2 none
    kept 4 none
    kept 5 none
    after 2s
    expire

    # The culprit's id is burned although its chain is undone; its companions' are free.
    transfer 7 2>1 3 linked = linked_event_failed
    transfer 8 1>2 9 linked = exceeds_credits
    transfer 9 1>2 1 = linked_event_failed
    transfer 8 1>2 1 = id_already_failed
    transfer 7 2>1 3 = created
    transfer 9 1>2 1 = created

    # A hold can be made and voided inside one chain, to enforce a limit for a moment.
    transfer 10 1>2 1 linked = created
    transfer 11 2>3 0 linked pending = created
    transfer 12 2>3 0 pending_id=11 void = created

    transfer 20 1>2 1 linked = linked_event_failed
    transfer 21 1>2 1 linked = linked_event_failed
    transfer 22 1>2 1 linked = linked_event_chain_open

    transfer 20 9>2 1 linked = debit_account_not_found
    transfer 21 1>2 1 linked = linked_event_failed
    transfer 22 1>2 1 linked = linked_event_chain_open

    transfer 22 1>2 1 linked = linked_event_chain_open

    # Replayed, the chain answers with the first `exists`.
    transfer 10 1>2 1 linked = exists
    transfer 11 2>3 0 linked pending = linked_event_failed
    transfer 12 2>3 0 pending_id=11 void = linked_event_failed

    balance 1 0 17 0 23
    balance 2 0 3 0 17
"""

BALANCING = """
    account 1 debits_limited = created
    account 2 credits_limited = created
    account 3 = created
    account 4 = created
    account 5 debits_limited = created

    set 1 1 0 0 10
    set 2 0 10 2 0
    set 4 0 0 0 6

    transfer 1 1>3 3 balancing_debit = created moves 3
    transfer 2 1>3 13 balancing_debit = created moves 6
    transfer 3 1>3 5 balancing_debit = created moves 0
    transfer 4 3>2 3 balancing_credit = created moves 3
    transfer 5 3>2 max balancing_credit = created moves 5
    transfer 6 3>2 1 balancing_credit = created moves 0
    # An account without a limit is balanced all the same, and never further than to zero.
    transfer 7 4>3 2 balancing_debit pending = created moves 2
    transfer 8 4>3 9 balancing_debit balancing_credit = created moves 0
    transfer 9 4>3 9 balancing_debit = created moves 4
    transfer 10 2>4 9 balancing_debit = created moves 0
    transfer 15 4>3 9 balancing_debit = created moves 0
    # Balanced on the other side only, a limit is a limit.
    transfer 11 5>3 9 balancing_credit = created moves 0
    transfer 12 5>2 0 balancing_credit = created moves 0
    transfer 13 1>3 4 = exceeds_credits
    transfer 14 3>2 4 = exceeds_debits

    # The same request again: any amount that covers what moved.
    transfer 2 1>3 6 balancing_debit = exists moves 6
    transfer 2 1>3 max balancing_debit = exists moves 6
    transfer 2 1>3 5 balancing_debit = exists_with_different_amount
    transfer 5 3>2 5 balancing_credit = exists
    transfer 5 3>2 4 balancing_credit = exists_with_different_amount

    balance 1 1 9 0 10
    balance 2 0 10 2 8
    balance 4 2 4 0 6
    kept 2 6

    # Posting a hold that was balanced.
    transfer 20 4>3 max post pending_id=7 = created moves 2
"""

BALANCING_WITH_LIMITS = """
    account 1 debits_limited = created
    account 2 = created
    account 3 credits_limited = created
    account 4 = created

    set 1 0 0 0 4
    set 2 0 6 0 0
    set 3 0 4 0 0
    set 4 0 0 0 6

    # Clamped by one account only, the other one's limit still refuses.
    transfer 1 1>2 10 balancing_credit = exceeds_credits
    transfer 2 1>2 10 balancing_debit = created moves 4
    transfer 3 4>3 10 balancing_debit = exceeds_debits
    transfer 4 4>3 10 balancing_credit = created moves 4
    transfer 5 4>2 10 balancing_debit balancing_credit = created moves 2
"""

CLOSING = """
    account 1 = created
    account 2 = created
    account 3 = created

    transfer 1 1>2 15 = created
    transfer 2 1>2 6 pending = created
    transfer 3 1>2 4 pending timeout_s=1 = created
    transfer 4 1>2 0 closing_debit = closing_transfer_must_be_pending
    transfer 4 1>2 0 closing_debit pending = created
    transfer 4 1>2 0 closing_debit pending = exists
    transfer 5 1>2 5 = debit_account_already_closed
    transfer 5 1>2 5 = id_already_failed
    transfer 6 2>1 5 = credit_account_already_closed
    transfer 7 1>3 0 closing_debit pending = debit_account_already_closed

    balance 1 10 15 0 0 closed
    balance 2 0 0 10 15

    # In a closed account a hold can be voided and can expire, but cannot be posted.
    transfer 10 1>2 6 post pending_id=2 = debit_account_already_closed
    transfer 10 1>2 6 void pending_id=2 = id_already_failed
    transfer 11 1>2 6 void pending_id=2 = created
    transfer 12 1>2 0 post pending_id=4 = debit_account_already_closed

    after 1s
    expire 3
    balance 1 0 15 0 0 closed

    # Voiding what closed the account reopens it.
    transfer 13 1>2 0 void pending_id=4 = created
    transfer 13 1>2 0 void pending_id=4 = exists
    transfer 14 1>2 5 = created

    balance 1 0 20 0 0

    # Closing the credit account until a timeout.
    transfer 20 1>2 9 pending = created
    transfer 21 1>2 3 closing_credit pending timeout_s=2 = created
    transfer 22 1>2 9 post pending_id=20 = credit_account_already_closed
    transfer 23 1>2 1 = credit_account_already_closed

    balance 2 0 0 12 20 closed
    after 2s
    expire 21
    balance 2 0 0 9 20

    # Both at once.
    transfer 30 1>2 0 closing_debit closing_credit pending = created
    transfer 31 1>3 1 = debit_account_already_closed
    transfer 32 3>2 1 = credit_account_already_closed
    transfer 33 3>2 1 closing_credit pending = credit_account_already_closed

    # A chain that closes and fails leaves the account open.
    transfer 40 0>0 0 void pending_id=30 ledger=0 code=0 = created
    transfer 41 1>3 0 linked closing_debit pending = linked_event_failed
    transfer 42 1>3 1 = debit_account_already_closed

    balance 1 9 20 0 0
    balance 2 0 0 9 20
    balance 3 0 0 0 0
"""

TABLES = {
    "accounts": ACCOUNTS,
    "chains of accounts": ACCOUNT_CHAINS,
    "precedence": PRECEDENCE,
    "idempotency": IDEMPOTENCY,
    "two phases": TWO_PHASES,
    "extremes": EXTREMES,
    "expiry": EXPIRY,
    "chains": CHAINS,
    "balancing": BALANCING,
    "balancing with limits": BALANCING_WITH_LIMITS,
    "closing": CLOSING,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_rule_answers_otherwise_than_its_table(table: str, way: str) -> None:
    """Every line of every table gets its status, on the base, on layers and with a history."""
    Bench(way).play(table)


def test_a_status_that_no_table_provokes() -> None:
    """Every status that the ledger can give is expected by some line: none is named but untested."""
    unreachable = {"reserved_field"} | {
        f"{side}_{phase}_must_be_zero" for side in ("debits", "credits") for phase in ("pending", "posted")
    }
    given = set().union(*(statuses(table, "account") for table in TABLES.values()))
    assert given == {status.name for status in CreateAccountStatus} - unreachable
    given = set().union(*(statuses(table, "transfer") for table in TABLES.values()))
    assert given == {status.name for status in CreateTransferStatus}


def test_a_transient_refusal_that_does_not_burn_its_id() -> None:
    """Exactly the refusals that hang on the state of the moment are transient; no account's refusal is."""
    assert {status.name for status in CreateTransferStatus if status.transient} == {
        "debit_account_not_found",
        "credit_account_not_found",
        "pending_transfer_not_found",
        "debit_account_already_closed",
        "credit_account_already_closed",
        "exceeds_credits",
        "exceeds_debits",
    }
    assert not any(status.transient for status in CreateAccountStatus)


def test_both_names_of_success_are_one_status() -> None:
    """The reference says `ok` up to 0.16 and `created` later: they must never differ."""
    assert CreateTransferStatus["ok"] is CreateTransferStatus["created"]
    assert CreateAccountStatus["ok"] is CreateAccountStatus["created"]
