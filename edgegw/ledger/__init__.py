"""The embedded ledger: one SQLite file for both logs and what derives from them (DESIGN §8)."""
