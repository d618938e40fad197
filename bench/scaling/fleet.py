"""The simulated replicas, and a prompt as they see it."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.scaling.costs import Costs
from bench.scaling.prefix_cache import ChainId, Holders, PrefixCache, ReplicaIndex


@dataclass(frozen=True, slots=True)
class Prompt:
    """Full blocks of a prompt: first those of a system prompt, then the conversation's own."""

    system: ChainId
    own: ChainId
    num_system_blocks: int
    num_blocks: int
    num_tokens: int

    def known_by(self, cache: PrefixCache) -> int:
        """Leading blocks that a replica has."""
        known = cache.count(self.system)
        if known >= self.num_system_blocks:
            known = self.num_system_blocks + cache.count(self.own)
        return min(known, self.num_blocks)

    def put_in(self, cache: PrefixCache) -> None:
        """A replica has all of it from now on."""
        num_own = max(self.num_blocks - self.num_system_blocks, 0)
        cache.use((self.system, self.num_system_blocks), (self.own, num_own))


class Fleet:
    """Replicas by index. What is asked of all at once is in arrays: there may be thousands."""

    def __init__(self, size: int, costs: Costs) -> None:
        self.size = size
        self.loads: NDArray[np.int64] = np.zeros(size, np.int64)
        """Open requests of each."""
        self.holders = Holders()
        """What is in all of the caches."""
        indices = map(ReplicaIndex, range(size))
        self.caches = [PrefixCache(costs.num_blocks, index, self.holders) for index in indices]
        self.free_at = [0.0] * size
        """Second in which each begins the next prompt."""

    def change(self, replica: ReplicaIndex, prompt: Prompt, by: int) -> None:
        """A request with this prompt was opened (1) or closed (-1) there."""
        prompt.put_in(self.caches[replica])
        self.loads[replica] += by


def smallest(
    values: NDArray[np.float64] | NDArray[np.int64], among: Collection[ReplicaIndex] | None = None
) -> ReplicaIndex:
    """The replica with the smallest value, of several the first.

    Args:
        among: At least one; None for all.
    """
    if among is None:
        return ReplicaIndex(int(values.argmin()))
    places = np.fromiter(sorted(among), np.int64, len(among))
    return ReplicaIndex(int(places[values[places].argmin()]))
