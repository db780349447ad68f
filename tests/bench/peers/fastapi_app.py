"""FastAPI on asyncpg: a payment as one call of `pay` (transfer.sql), or as the statements that people write.

Run by uvicorn from `.venv-bench`; PAY_DSN names the database, PAY_STYLE is `call` or `statements`, PAY_POOL
the connections of one worker.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Payment(BaseModel):
    """As a till sends it."""

    id: UUID
    debit_account_id: str
    credit_account_id: str
    amount_minor: int
    currency: str
    terminal: str = ""
    reference: str = ""


class Paid(BaseModel):
    """The answer."""

    id: str
    outcome: str
    amount_minor: int


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """A pool of connections while it serves."""
    size = int(os.environ["PAY_POOL"])
    async with asyncpg.create_pool(os.environ["PAY_DSN"], min_size=size, max_size=size) as pool:
        application.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def by_one_call(payment: Payment, payer: int, payee: int) -> str:
    """All of it in the database."""
    outcome: str = await app.state.pool.fetchval(
        "SELECT pay($1, $2, $3, $4)", payment.id, payer, payee, payment.amount_minor
    )
    return outcome


async def by_statements(payment: Payment, payer: int, payee: int) -> str:
    """The key, both accounts locked in order, funds, both balances: one transaction."""
    amount = payment.amount_minor
    async with app.state.pool.acquire() as connection, connection.transaction():
        known = await connection.fetchrow(
            "SELECT debit, credit, amount FROM transfer WHERE id = $1", payment.id
        )
        if known is not None:
            return "repeat" if tuple(known) == (payer, payee, amount) else "conflict"
        rows = await connection.fetch(
            "SELECT id, balance FROM account WHERE id = ANY($1) ORDER BY id FOR UPDATE", [payer, payee]
        )
        if {row["id"]: row["balance"] for row in rows}[payer] < amount:
            return "refused"
        await connection.execute(
            "INSERT INTO transfer(id, debit, credit, amount) VALUES ($1, $2, $3, $4)",
            payment.id,
            payer,
            payee,
            amount,
        )
        await connection.execute("UPDATE account SET balance = balance - $2 WHERE id = $1", payer, amount)
        await connection.execute("UPDATE account SET balance = balance + $2 WHERE id = $1", payee, amount)
    return "cleared"


_pay = {"call": by_one_call, "statements": by_statements}[os.environ["PAY_STYLE"]]


@app.post("/v1/payments", status_code=201)
async def pay(payment: Payment) -> Paid:
    """One payment."""
    payer, payee = int(payment.debit_account_id[1:]), int(payment.credit_account_id[1:])
    outcome = await _pay(payment, payer, payee)
    if outcome not in ("cleared", "repeat"):
        raise HTTPException(409, outcome)
    return Paid(id=payment.id.hex, outcome=outcome, amount_minor=payment.amount_minor)
