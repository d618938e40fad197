"""Block pool of the KV cache: reference counts, and reuse of blocks by content."""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence

from server.engine.types import BlockId

BlockHash = bytes
"""Identifies a full block's content and everything before it: a hash chain."""

ROOT_HASH: BlockHash = b""


def chain_hash(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    """Hash of a full block that follows the block hashed `parent`.

    Cryptographic, 128 bits: a collision would hand one user's context to another.
    """
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


def root_hash(salt: str | None) -> BlockHash:
    """Where a sequence's chain begins; nothing is found across different salts."""
    if salt is None:
        return ROOT_HASH
    return hashlib.blake2b(salt.encode(), digest_size=16, person=b"cache salt").digest()


class BlockPool:
    """Hands out blocks by number.

    A block is *held* (references > 0) or *free*. A free block may still carry a published
    content: it can be held again by `acquire_cached` until `allocate` takes it for something new.
    Free blocks are taken least recently used first, those without content before those with.
    """

    def __init__(self, num_blocks: int, prefix_caching: bool) -> None:
        self.num_blocks = num_blocks
        self.prefix_caching = prefix_caching
        self._references = [0] * num_blocks
        self._hashes: dict[BlockId, BlockHash] = {}
        self._cached: dict[BlockHash, BlockId] = {}
        # An ordered dict, not a deque: acquire_cached removes from the middle in O(1).
        self._free: OrderedDict[BlockId, None] = OrderedDict(
            (BlockId(i), None) for i in range(num_blocks)
        )

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of blocks held, 0..1."""
        return 1.0 - len(self._free) / self.num_blocks

    def allocate(self) -> BlockId:
        """A block for one writer, its old content forgotten.

        Raises:
            IndexError: none is free; callers check `num_free` first.
        """
        if not self._free:
            raise IndexError("no free KV block")
        block_id, _ = self._free.popitem(last=False)
        content = self._hashes.pop(block_id, None)
        if content is not None:
            del self._cached[content]
        self._references[block_id] = 1
        return block_id

    def acquire_cached(self, content: BlockHash) -> BlockId | None:
        """Holds the block with this content, if there is one; it must not be written."""
        block_id = self._cached.get(content)
        if block_id is None:
            return None
        if self._references[block_id] == 0:
            del self._free[block_id]
        self._references[block_id] += 1
        return block_id

    def cached_contents(self) -> list[BlockHash]:
        """All contents that can be found; the one published last is last. Callable from any thread:
        the copy is one instruction of Python's."""
        return list(self._cached)

    def num_held(self, contents: Sequence[BlockHash]) -> int:
        """How many of the leading blocks with these contents somebody holds: to hold them too
        takes nothing from the free ones."""
        count = 0
        for content in contents:
            block_id = self._cached.get(content)
            if block_id is None or self._references[block_id] == 0:
                break
            count += 1
        return count

    def publish(self, block_id: BlockId, content: BlockHash) -> None:
        """Makes a full, committed block findable; from now on nobody may write it.

        If another block has the same content already (two requests computed it side by side),
        that one stays the one to be found.
        """
        if self.prefix_caching and content not in self._cached and block_id not in self._hashes:
            self._cached[content] = block_id
            self._hashes[block_id] = content

    def release(self, block_ids: Sequence[BlockId]) -> None:
        """Gives up one reference of each, given in sequence order.

        The end of a sequence is queued for reuse before its beginning: a beginning is likelier to
        be asked for again, and useless blocks after a lost one would not be found anyway.
        """
        for block_id in reversed(block_ids):
            if self._references[block_id] < 1:
                raise RuntimeError(f"KV block {block_id} released while free")
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                self._free[block_id] = None
                self._free.move_to_end(block_id, last=block_id in self._hashes)

    def num_released_by(self, tables: Sequence[Sequence[BlockId]]) -> int:
        """How many blocks would become free if these tables were released."""
        counts = Counter(block_id for table in tables for block_id in table)
        return sum(n == self._references[block_id] for block_id, n in counts.items())

    def check_integrity(self, held: Sequence[Sequence[BlockId]] = ()) -> None:
        """Raises RuntimeError if the bookkeeping contradicts itself or the given block tables."""
        counts = [0] * self.num_blocks
        for table in held:
            for block_id in table:
                counts[block_id] += 1
        if counts != self._references:
            wrong = [i for i, n in enumerate(counts) if n != self._references[i]]
            raise RuntimeError(f"reference counts differ from block tables at blocks {wrong[:8]}")
        if {i for i, n in enumerate(counts) if n == 0} != set(self._free):
            raise RuntimeError("free list and reference counts disagree")
        if {content: i for i, content in self._hashes.items()} != self._cached:
            raise RuntimeError("content index and block contents disagree")
