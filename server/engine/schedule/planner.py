"""Decides what one step computes: admission, chunked prefill, preemption, slots for proposals.

Continuous batching with one rule: a sequence's computed count catches up with its token count,
under a token budget per step. Decoding sequences come first, then prompts: by priority, and of
equals those already begun before newcomers. When blocks run out the sequence served last gives up
its own and is recomputed later. Holds ints, never tensors.
"""

from dataclasses import dataclass, replace

from server.engine.schedule.blocks import BlockHash, BlockPool
from server.engine.schedule.plan import PlannedSequence, StepPlan
from server.engine.schedule.sequence import Sequence, WaitingQueue
from server.engine.types import RequestId


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of the scheduler; see `server/config.py` for their meaning to a user."""

    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool
    eos_token_ids: frozenset[int] = frozenset()
    speculates: bool = False
    """Whether there is a drafter: decoding sequences then get slots for proposals."""
    runs_ahead: bool = False
    """Whether a step may be launched before the results of the one before it are read. Decoding
    sequences then get slots for both, and keep them while no other sequence needs them."""

    @property
    def num_allocated_blocks(self) -> int:
        """Blocks of the pool, with one that no sequence gets: padding rows write there."""
        return self.num_blocks + self.runs_ahead


class StepPlanner:
    """Builds one plan. Moves sequences between running and waiting, and gives and takes blocks.

    Args:
        running, waiting, pool: the scheduler's own; changed.
        now: monotonic seconds.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        running: list[Sequence],
        waiting: WaitingQueue,
        pool: BlockPool,
        now: float,
    ) -> None:
        self.config = config
        self.running = running
        self.waiting = waiting
        self.pool = pool
        self.now = now
        self.budget = config.max_num_batched_tokens
        self.planned: dict[RequestId, PlannedSequence] = {}
        self.num_preemptions = 0
        self.blocks_are_short = False
        self.queries = 0
        self.hits = 0

    def plan(self) -> StepPlan:
        if self.config.runs_ahead:
            self._give_back_ahead()
        running = sorted(self.running, key=lambda s: s.order)
        for sequence in running:
            if sequence.is_decoding:
                self._continue(sequence)
        for sequence in running:
            if not sequence.is_decoding:
                self._admit(more_urgent_than=sequence)
                self._continue(sequence)
        self._admit()
        if self.config.speculates:
            self._reserve_proposals()
        if self.config.runs_ahead:
            self._reserve_ahead()
        return StepPlan(tuple(self.planned.values()), self.num_preemptions, self.queries, self.hits)

    def _reserve_proposals(self) -> None:
        """Reserves slots for proposed tokens, only from blocks that no other sequence needs."""
        for sequence in self.running:
            request_id = sequence.request.request_id
            planned = self.planned.get(request_id)
            # Not at the first token: a draft may need the target's hidden state at the prompt's
            # end.
            if planned is None or not sequence.is_decoding or sequence.num_output_tokens == 0:
                continue
            depth, nodes = self._proposal_limits(sequence)
            free_slots = self.pool.num_free * self.config.block_size
            held = len(sequence.block_ids) * self.config.block_size - sequence.num_computed
            nodes = min(nodes, held + free_slots)
            if depth > 0 and nodes > 1 and self._reserve(sequence, nodes):
                self.planned[request_id] = replace(planned, max_nodes=nodes, max_depth=depth)

    def _reserve_ahead(self) -> None:
        """Reserves slots for the step after this one, if there are enough."""
        for sequence in self.running:
            planned = self.planned.get(sequence.request.request_id)
            if planned is not None and sequence.is_decoding:
                self._reserve(sequence, 2 * planned.max_nodes)

    def _give_back_ahead(self) -> None:
        """Takes slots ahead back where blocks may be short: for what runs, or for the next one."""
        waiting = self.waiting.peek()
        wanted = sum(-(-s.num_pending // self.config.block_size) + 1 for s in self.running)
        if waiting is not None:
            wanted += -(-len(waiting.token_ids) // self.config.block_size)
        if self.pool.num_free < wanted:
            for sequence in self.running:
                sequence.trim_blocks(self.pool, self.config.block_size)

    def _proposal_limits(self, sequence: Sequence) -> tuple[int, int]:
        """Depth and nodes that the request allows, given how many tokens it can still emit."""
        request = sequence.request
        if request.speculation.policy == "off":
            return 0, 1
        # A path of depth d yields up to d + 1 tokens.
        tokens_left = request.params.max_tokens - sequence.num_output_tokens
        context_left = self.config.max_model_len - len(sequence.token_ids)
        depth = min(tokens_left, context_left) - 1
        if request.speculation.max_depth is not None:
            depth = min(depth, request.speculation.max_depth)
        return depth, request.speculation.max_nodes

    def _continue(self, sequence: Sequence) -> None:
        """Plans a running sequence, preempting others where blocks are short."""
        num_nodes = min(sequence.num_pending, self.budget)
        if sequence not in self.running or num_nodes == 0:
            return  # preempted by an earlier one, or the budget is used up
        while not self._reserve(sequence, num_nodes):
            victim = max(self.running, key=lambda s: s.order)
            self._preempt(victim)
            self.blocks_are_short = True
            if victim is sequence:
                return
        self._add(sequence, num_nodes)

    def _admit(self, more_urgent_than: Sequence | None = None) -> None:
        """Admits the queue's first sequences as long as there is room.

        Where running sequences had to give way for lack of blocks, nobody is admitted: a newcomer
        would only push the next one out.
        """
        while not self.blocks_are_short and (sequence := self.waiting.peek()) is not None:
            if more_urgent_than is not None and (
                sequence.request.priority >= more_urgent_than.request.priority
            ):
                return
            if not self._has_room(sequence) and not self._make_room(sequence):
                return
            self.waiting.pop()
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        self.running.append(sequence)
        self._acquire_prefix(sequence)
        if sequence.timings.first_scheduled is None:
            sequence.timings.first_scheduled = self.now
        num_nodes = min(sequence.num_pending, self.budget)
        if not self._reserve(sequence, num_nodes):
            raise RuntimeError("admitted a sequence without room for it")
        self._add(sequence, num_nodes)

    def _has_room(self, sequence: Sequence) -> bool:
        num_free = self.pool.num_free + self._num_shared(sequence)
        return self._fits(sequence, len(self.running), num_free, self.budget)

    def _num_shared(self, sequence: Sequence) -> int:
        """Number of its prefix's blocks that running sequences hold: it can share them for free."""
        if not self.config.prefix_caching:
            return 0
        return self.pool.num_held(self._reusable_hashes(sequence))

    def _reusable_hashes(self, sequence: Sequence) -> list[BlockHash]:
        sequence.extend_hashes(self.config.block_size)
        return sequence.block_hashes[: sequence.num_reusable // self.config.block_size]

    def _fits(self, sequence: Sequence, num_running: int, num_free: int, budget: int) -> bool:
        """Whether there is a place, budget, and blocks for all its tokens. Cached blocks that no
        sequence holds count as needed, since they are among the free ones. One block per running
        sequence must be left over, so that admission does not cause preemption at once."""
        seats = min(self.config.max_num_seqs, self.config.max_num_batched_tokens)
        needed = -(-len(sequence.token_ids) // self.config.block_size)
        return budget > 0 and num_running < seats and needed + num_running <= num_free

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempts less urgent sequences, the least urgent first. Preempts none where even all of
        them would not make room."""
        less_urgent = sorted(
            (s for s in self.running if s.request.priority > sequence.request.priority),
            key=lambda s: s.order,
        )
        blocks = self.pool.num_free + self.pool.num_released_by([s.block_ids for s in less_urgent])
        budget = self.budget + sum(
            self.planned[s.request.request_id].num_nodes
            for s in less_urgent
            if s.request.request_id in self.planned
        )
        if not self._fits(sequence, len(self.running) - len(less_urgent), blocks, budget):
            return False
        while not self._has_room(sequence):
            self._preempt(less_urgent.pop())
        return True

    def _acquire_prefix(self, sequence: Sequence) -> None:
        """Takes over cached blocks of the longest known prefix that need not be computed."""
        if not self.config.prefix_caching:
            sequence.num_cached_tokens = sequence.num_cached_tokens or 0
            return
        for content in self._reusable_hashes(sequence):
            block_id = self.pool.acquire_cached(content)
            if block_id is None:
                break
            sequence.block_ids.append(block_id)
        sequence.num_published = len(sequence.block_ids)
        sequence.num_computed = len(sequence.block_ids) * self.config.block_size
        if sequence.num_cached_tokens is None:  # not when it comes back from a preemption
            sequence.num_cached_tokens = sequence.num_computed
            self.queries += len(sequence.token_ids)
            self.hits += sequence.num_computed

    def _reserve(self, sequence: Sequence, num_nodes: int) -> bool:
        """Extends the block table to cover num_nodes more slots, or changes nothing."""
        slots = sequence.num_computed + num_nodes
        missing = -(-slots // self.config.block_size) - len(sequence.block_ids)
        if missing > self.pool.num_free:
            return False
        sequence.block_ids.extend(self.pool.allocate() for _ in range(missing))
        return True

    def _preempt(self, victim: Sequence) -> None:
        """Takes a sequence out of the step and back to the queue, to be recomputed."""
        planned = self.planned.pop(victim.request.request_id, None)
        if planned is not None:
            self.budget += planned.num_nodes
        self.running.remove(victim)
        victim.release_blocks(self.pool)
        self.waiting.push(victim)
        self.num_preemptions += 1

    def _add(self, sequence: Sequence, num_nodes: int) -> None:
        self.budget -= num_nodes
        self.planned[sequence.request.request_id] = PlannedSequence(
            sequence.request,
            sequence.token_ids,
            sequence.num_computed,
            num_nodes,
            sequence.block_ids,
            scored=sequence.scored(num_nodes),
        )
