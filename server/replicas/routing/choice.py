"""Which of several replicas gets a request. A pure function of what is known of them."""

from collections.abc import Sequence
from typing import NamedTuple

OPEN_BLOCKS = 4
"""Blocks of a prompt that are about as much work as a request beside others is for all of them."""
RECENT_BLOCKS = 2
"""Blocks that a recent request counts. Without it, conversations that begin alike would all go
where the first one went, as long as nobody waits there, until that cache is too small for them."""
IMBALANCE = 32
"""Open requests above the least loaded replica with which one gets no more, whatever it knows."""


class Candidate(NamedTuple):
    """What is known of a replica, for one request."""

    num_known: int
    """Leading blocks of the prompt that it has."""
    load: int
    """Requests that are open there."""
    num_blocks: int = 0
    """All blocks that it is known to have."""
    recent: float = 0.0
    """Requests that it got lately; see `RecentRequests`."""


def choose(candidates: Sequence[Candidate], num_blocks: int, imbalance: int) -> int:
    """The index of the replica for which the request is the least work: the blocks that it would
    have to compute, and what it has to do already, in blocks too. Of several, the one with the
    emptiest cache, then the first.

    A replica with more than `imbalance` open requests above the least loaded one gets no more.

    Args:
        candidates: At least one.
        num_blocks: Full blocks of the prompt.
    """
    least = min(candidate.load for candidate in candidates)

    def rank(index: int) -> tuple[float, int, int]:
        num_known, load, in_cache, recent = candidates[index]
        work = num_blocks - num_known + OPEN_BLOCKS * load + RECENT_BLOCKS * recent
        return work, in_cache, index

    fitting = (i for i, each in enumerate(candidates) if each.load - least <= imbalance)
    return min(fitting, key=rank)
