"""The audit export: a box's journal as a SQLite file of plain tables that carries its own proofs.

`tables` says what the file holds, `rows` what a record becomes, `database` writes it. `edgegw/verifier.py`
proves such a file and shares no code with this. Runs in a process of its own, never in a box's: it writes
with another copy of SQLite than the ledger's (DESIGN §8).
"""
