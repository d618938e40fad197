"""What a replica's prefix cache holds, in numbers alone.

A conversation's blocks are a chain behind those of its system prompt, and the engine drops the end
of a chain before its beginning (`BlockPool.release`). So what is cached of a chain is always its
beginning, and two counts say all: blocks of the system prompt, and of the conversation.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NewType

ChainId = NewType("ChainId", int)
"""A system prompt's blocks, or those that a conversation adds to them."""

ReplicaIndex = NewType("ReplicaIndex", int)


class Holders:
    """Which replicas have how many blocks of a chain; of all replicas."""

    def __init__(self) -> None:
        self._blocks: dict[ChainId, dict[ReplicaIndex, int]] = {}

    def of(self, chain: ChainId) -> Mapping[ReplicaIndex, int]:
        return self._blocks.get(chain, {})

    def total(self) -> int:
        """Blocks in all caches together."""
        return sum(sum(holders.values()) for holders in self._blocks.values())

    def set(self, chain: ChainId, replica: ReplicaIndex, num_blocks: int) -> None:
        if num_blocks:
            self._blocks.setdefault(chain, {})[replica] = num_blocks
            return
        holders = self._blocks[chain]
        del holders[replica]
        if not holders:
            del self._blocks[chain]


class PrefixCache:
    """A bounded cache of one replica, least recently used first out.

    Args:
        num_blocks: Its size.
        holders: Is kept up to date.
    """

    def __init__(self, num_blocks: int, replica: ReplicaIndex, holders: Holders) -> None:
        self.num_blocks = num_blocks
        self.num_used = 0
        self._replica = replica
        self._holders = holders
        self._chains: OrderedDict[ChainId, int] = OrderedDict()

    def count(self, chain: ChainId) -> int:
        """Blocks that are cached of a chain."""
        return self._chains.get(chain, 0)

    def use(self, system: tuple[ChainId, int], own: tuple[ChainId, int]) -> None:
        """Holds that many blocks of a system prompt and of a conversation behind it. What was not
        used for longest makes room; of both the system prompt stays longer."""
        for chain, num_blocks in (own, system):
            had = self._chains.get(chain, 0)
            if num_blocks > had:
                self.num_used += num_blocks - had
                self._set(chain, num_blocks)
            if had or num_blocks:
                self._chains.move_to_end(chain)
        while self.num_used > self.num_blocks:
            self._drop(self.num_used - self.num_blocks)

    def _drop(self, most: int) -> None:
        """Drops up to so many blocks from the end of the chain that was not used for longest."""
        chain = next(iter(self._chains))
        had = self._chains[chain]
        dropped = min(had, most)
        self.num_used -= dropped
        self._set(chain, had - dropped)

    def _set(self, chain: ChainId, num_blocks: int) -> None:
        if num_blocks:
            self._chains[chain] = num_blocks
        else:
            del self._chains[chain]
        self._holders.set(chain, self._replica, num_blocks)
