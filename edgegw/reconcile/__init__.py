"""Reconciliation: boxes' journals, the hub and the bank core's own list compared three ways, offline.

`classes` says what a difference can be, `journals`, `centre` and `core_file` read the three sides, `records`
says what a record means here, `workspace` keeps it all in a SQLite file of the auditor's, the modules
`matching_*` find the breaks there in SQL, `report` tells them. No side is written to. Runs in a process of
its own (DESIGN §8).
"""
