"""A hub's database in PostgreSQL for the reconciliation, as the hub's own tests have it."""

from tests.hub.conftest import lender, postgres, server

__all__ = ["lender", "postgres", "server"]
