"""Who looks on while a copy is made."""

from typing import Protocol


class Watch(Protocol):
    """Is told how it goes. What it raises ends the copy, which can be gone on with."""

    def began(self, work: str, rows: int, done: int) -> None:
        """*work* ("Copying", "Verifying") of *rows* rows has begun; *done* of them were done earlier."""

    def advanced(self, rows: int) -> None:
        """So many more rows are done."""

    def ended(self) -> None:
        """What began last has ended."""
