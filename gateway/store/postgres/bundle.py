"""Statements that may wait, run as one: each becomes a WITH query of its own, which saves a round trip for each. Pure."""

from collections.abc import Collection, Mapping
from typing import Any

from gateway.store.postgres.connection import PARAMETER, Parameters, Statement, compiled


class Piece:
    """Named statements that share their parameters. All pieces of a bundle see what was there before the first of them, so
    one that *reads* or *writes* rows which another has changed cannot join it; one that *adds* rows can."""

    def __init__(
        self,
        *names: str,
        adds: Collection[str] = (),
        writes: Collection[str] = (),
        reads: Collection[str] = (),
    ) -> None:
        self.names = names
        self.adds = frozenset(adds)
        self.writes = frozenset(writes)
        self.reads = frozenset(reads)


class Bundle:
    """Pieces with their parameters."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Piece, Parameters]] = []
        self._names: set[str] = set()
        self._changed: set[str] = set()
        self._looked_at: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def takes(self, piece: Piece) -> bool:
        """Whether *piece* may join, as far as what is in the bundle is concerned."""
        return not ((piece.reads | piece.writes) & self._changed) and self._names.isdisjoint(piece.names)

    def stands_before(self, *, reads: Collection[str] = (), writes: Collection[str] = ()) -> bool:
        """Whether it has to be run before a statement of its own that reads or writes rows of these tables."""
        return not (self._changed.isdisjoint((*reads, *writes)) and self._looked_at.isdisjoint(writes))

    def add(self, piece: Piece, parameters: Parameters) -> None:
        self.pieces.append((piece, parameters))
        self._names.update(piece.names)
        self._changed |= piece.adds | piece.writes
        self._looked_at |= piece.reads


class Bundler:
    """Makes statements of bundles; remembers those that it has made, of which a program needs few."""

    def __init__(self, sql: Mapping[str, Statement]) -> None:
        self._sql = sql
        self._known: dict[tuple[tuple[str, ...], ...], Statement] = {}

    def statement(self, bundle: Bundle) -> tuple[str, list[Any]]:
        """One statement for the whole bundle, which tells the transaction's number; with its values."""
        names = tuple(piece.names for piece, _ in bundle.pieces)
        statement = self._known.get(names)
        if statement is None:
            statement = self._known[names] = compiled(self._composed(names))
        values = {
            f"p{place}_{name}": value for place, (_, parameters) in enumerate(bundle.pieces) for name, value in parameters.items()
        }
        return statement.sql, statement.values(values)

    def _composed(self, names: tuple[tuple[str, ...], ...]) -> str:
        parts = []
        for place, piece in enumerate(names):
            own = rf":p{place}_\1"  # each piece has parameters of its own
            parts += [f"{name} AS ({PARAMETER.sub(own, self._sql[name].written)})" for name in piece]
        return f"{'WITH ' if parts else ''}{', '.join(parts)} SELECT pg_current_xact_id()::text"
