"""Updates of an appliance: the agent in the box, and the repository of releases at the centre.

A release is believed for its TUF metadata (`update.trusted`), carried by `update.bundle` and put into the
other slot by RAUC (`update.rauc`); `update.agent` says when, `update.commit` whether it stays. What the
centre makes is `update.repository`. Nothing here touches the ledger: a rollback takes programs back, never
records.
"""
