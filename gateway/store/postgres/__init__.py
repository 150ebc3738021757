"""The shared store: one PostgreSQL, through asyncpg, for as many nodes as there are."""

from gateway.store.postgres.migration import Inspection, inspect, migrate
from gateway.store.postgres.store import PostgresStore

__all__ = ["Inspection", "PostgresStore", "inspect", "migrate"]
