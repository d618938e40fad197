"""A request while it is in the engine: its tokens, how many are computed, and its blocks."""

import heapq
from dataclasses import dataclass, field

from server.engine.outputs import SpeculationSummary, TokenLogprobs
from server.engine.schedule.blocks import BlockHash, BlockPool, chain_hash, root_hash
from server.engine.types import BlockId, Request


@dataclass(slots=True)
class Timings:
    """Monotonic seconds; None until it happened."""

    arrival: float
    first_scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of one request and the blocks that hold their KV.

    Intervals over `token_ids`:

        [0, num_prompt_tokens)            prompt
        [num_prompt_tokens, len)          output
        [0, num_computed)                 committed: KV is in the blocks and final
        [num_computed, len)               pending: input of the next steps (one token in decoding)
    """

    request: Request
    arrival_index: int
    timings: Timings
    token_ids: list[int] = field(default_factory=list[int])
    num_computed: int = 0
    block_ids: list[BlockId] = field(default_factory=list[BlockId])
    block_hashes: list[BlockHash] = field(default_factory=list[BlockHash])
    """Hashes of the leading full blocks; grows with them."""
    num_published: int = 0
    """Leading blocks already offered to the prefix cache."""
    num_cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache at first admission."""
    speculation: SpeculationSummary | None = None
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    """Logprobs of the prompt's tokens from the second on, as far as known. A preemption keeps
    them."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether only the last token is pending, whose KV the next step writes."""
        return self.num_pending == 1

    @property
    def num_reusable(self) -> int:
        """Number of leading tokens whose KV may be taken from the prefix cache. At least one token
        must be computed, since the step has to yield the next token's logits. Tokens whose logits
        give the prompt's logprobs must be computed once too."""
        reusable = len(self.token_ids) - 1
        if self.request.params.prompt_logprobs is not None:
            known = len(self.prompt_logprobs)
            reusable = reusable if known == self.num_prompt_tokens - 1 else known
        return reusable

    def scored(self, num_nodes: int) -> range:
        """The next nodes whose logits give prompt logprobs that are asked for and not yet known."""
        if self.request.params.prompt_logprobs is None:
            return range(0)
        first = max(len(self.prompt_logprobs) - self.num_computed, 0)
        return range(first, min(num_nodes, self.num_prompt_tokens - 1 - self.num_computed))

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sequences by who is served first."""
        return (self.request.priority, self.arrival_index)

    @property
    def _root(self) -> BlockHash:
        return root_hash(self.request.cache_salt)

    def extend_hashes(self, block_size: int) -> None:
        """Brings `block_hashes` up to the last full block of `token_ids`."""
        parent = self.block_hashes[-1] if self.block_hashes else self._root
        for end in range(
            (len(self.block_hashes) + 1) * block_size, len(self.token_ids) + 1, block_size
        ):
            parent = chain_hash(parent, self.token_ids[end - block_size : end])
            self.block_hashes.append(parent)

    def publish_full_blocks(self, pool: BlockPool, block_size: int) -> None:
        """Offers newly filled, committed blocks to the prefix cache."""
        full = min(self.num_computed, len(self.token_ids)) // block_size
        if full > self.num_published:
            self.extend_hashes(block_size)
            for index in range(self.num_published, full):
                pool.publish(self.block_ids[index], self.block_hashes[index])
            self.num_published = full

    def trim_blocks(self, pool: BlockPool, block_size: int) -> None:
        """Gives back blocks beyond the pending tokens: a proposal's slots that were not needed."""
        needed = -(-len(self.token_ids) // block_size)
        if len(self.block_ids) > needed:
            pool.release(self.block_ids[needed:])
            del self.block_ids[needed:]

    def release_blocks(self, pool: BlockPool) -> None:
        """Gives all blocks back: nothing is computed then. Published blocks may be found again."""
        pool.release(self.block_ids)
        self.block_ids = []
        self.num_computed = 0
        self.num_published = 0


class WaitingQueue:
    """Sequences that wait, in `Sequence.order`: the first one is served next."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, sequence: Sequence) -> None:
        heapq.heappush(self._heap, (sequence.order, sequence))

    def peek(self) -> Sequence | None:
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Sequence:
        return heapq.heappop(self._heap)[1]

    def remove(self, sequence: Sequence) -> None:
        self._heap = [entry for entry in self._heap if entry[1] is not sequence]
        heapq.heapify(self._heap)
