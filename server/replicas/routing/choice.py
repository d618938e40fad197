"""Which of several replicas gets a request. A pure function of what is known of them."""

from collections.abc import Sequence
from typing import NamedTuple

MIN_SHARE = 0.25
"""Of a prompt's blocks, below which a replica that has them is no better than another: what all
conversations begin with must not bring them all to one replica."""

BLOCKS_PER_REQUEST = 2
"""Known blocks that outweigh an open request more."""


class Candidate(NamedTuple):
    """What is known of a replica, for one request."""

    num_known: int
    """Leading blocks of the prompt that it has."""
    load: int
    """Requests that are open there."""
    num_blocks: int = 0
    """All blocks that it is known to have."""


def choose(candidates: Sequence[Candidate], num_blocks: int, imbalance: int) -> int:
    """The index of the replica with the longest known prefix; of those that know as much, the one
    with the least load, then the one with the emptiest cache, then the first.

    A replica with more than `imbalance` open requests above the least loaded one gets no more, and
    with a short prefix fewer are enough: it must be worth the wait.

    Args:
        candidates: At least one.
        num_blocks: Full blocks of the prompt.
    """
    least = min(candidate.load for candidate in candidates)

    def worth(candidate: Candidate) -> int:
        """Known blocks, as far as they count."""
        known, excess = candidate.num_known, candidate.load - least
        is_worth_it = excess <= min(imbalance, known // BLOCKS_PER_REQUEST)
        return known if is_worth_it and known >= MIN_SHARE * num_blocks else 0

    def rank(index: int) -> tuple[int, int, int, int]:
        candidate = candidates[index]
        return -worth(candidate), candidate.load, candidate.num_blocks, index

    return min(range(len(candidates)), key=rank)
