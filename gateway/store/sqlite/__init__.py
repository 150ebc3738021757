"""The embedded store: one SQLite file, one connection that writes and checkpoints, and readers that only read."""

from gateway.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
