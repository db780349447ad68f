"""What people write first: aiohttp and SQLite, each request a COMMIT of its own: `python naive.py PORT
DATABASE ACCOUNTS OPENING`. As durable as the product: WAL, synchronous=FULL."""

from __future__ import annotations

import json
import sys

import apsw
from aiohttp import web

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE account(
    id TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0)
) STRICT, WITHOUT ROWID;
CREATE TABLE transfer(
    id TEXT PRIMARY KEY, debit TEXT NOT NULL, credit TEXT NOT NULL, amount INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


def application(path: str, accounts: int, opening_minor: int) -> web.Application:
    """With its database."""
    database = apsw.Connection(path)
    database.execute(TABLES).fetchall()
    with database:
        rows = ((f"a{number:05d}", opening_minor) for number in range(accounts))
        database.executemany("INSERT INTO account VALUES(?, ?)", rows)

    def commit(sent: dict[str, object]) -> None:
        names = ("id", "debit_account_id", "credit_account_id", "amount_minor")
        key, debit, credit, amount = (sent[name] for name in names)
        with database:
            database.execute("INSERT INTO transfer VALUES(?, ?, ?, ?)", (key, debit, credit, amount))
            database.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, debit))
            database.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, credit))

    async def pay(request: web.Request) -> web.Response:
        sent = json.loads(await request.read())
        commit(sent)
        answer = {"id": sent["id"], "outcome": "cleared", "amount_minor": sent["amount_minor"]}
        return web.json_response(answer, status=201)

    made = web.Application()
    made.router.add_post("/v1/payments", pay)
    return made


def main() -> None:
    """Until a signal."""
    port, path, accounts, opening_minor = sys.argv[1:]
    made = application(path, int(accounts), int(opening_minor))
    web.run_app(made, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
