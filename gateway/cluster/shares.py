"""How the buckets are shared out. Pure: every node works it out for itself, and all of those that see the same agree."""

from collections.abc import Collection, Sequence

from gateway.model import BUCKETS


def fair_shares(node_ids: Collection[str]) -> dict[str, int]:
    """How many buckets each node should have: all the same, and the first ones by id one more when it does not come out even."""
    if not node_ids:
        return {}
    each, left_over = divmod(BUCKETS, len(node_ids))
    return {node_id: each + (place < left_over) for place, node_id in enumerate(sorted(node_ids))}


def surplus(held: Collection[int], share: int) -> Sequence[int]:
    """Which of *held* a node gives back to come down to its share: always the highest, so that the others stay where they are."""
    return sorted(held)[share:]


def shortfall(held: int, share: int, free: int) -> int:
    """How many of the *free* buckets a node with *held* takes to come up to its share."""
    return max(0, min(share - held, free))
