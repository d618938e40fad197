"""Blocks that a replica is believed to have in its prefix cache."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

HASH_BYTES = 8
"""Of a block's hash: a wrong guess costs time and nothing else, so that a part is enough."""


def shortened(block_hashes: Iterable[bytes]) -> list[bytes]:
    """What stands for blocks here."""
    return [block_hash[:HASH_BYTES] for block_hash in block_hashes]


class KnownBlocks:
    """What was sent to one replica, and what it has published of itself.

    Args:
        max_blocks: Most that are remembered of what was sent; the ones not seen for longest go.
        stale_seconds: After so long the replica has published what was sent, or has lost it.
    """

    def __init__(self, max_blocks: int, stale_seconds: float) -> None:
        self._sent: OrderedDict[bytes, float] = OrderedDict()
        self._published: frozenset[bytes] = frozenset()
        self._max_blocks = max_blocks
        self._stale_seconds = stale_seconds

    def __len__(self) -> int:
        return max(len(self._sent), len(self._published))

    def add(self, blocks: Sequence[bytes], now: float) -> None:
        """Notes what a request leaves in the replica's cache."""
        for block in reversed(blocks):  # a prompt's end is forgotten before its beginning
            self._sent[block] = now
            self._sent.move_to_end(block)
        while len(self._sent) > self._max_blocks:
            self._sent.popitem(last=False)

    def publish(self, blocks: frozenset[bytes], is_complete: bool, now: float) -> None:
        """Takes what the replica says of itself.

        Args:
            is_complete: It has no others; else these are its latest ones.
        """
        self._published = blocks
        if is_complete:
            oldest = now - self._stale_seconds
            lost = [b for b, sent in self._sent.items() if sent < oldest and b not in blocks]
            for block in lost:
                del self._sent[block]

    def num_leading(self, blocks: Sequence[bytes]) -> int:
        """How many of the first blocks it has."""
        for count, block in enumerate(blocks):
            if block not in self._sent and block not in self._published:
                return count
        return len(blocks)
