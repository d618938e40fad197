"""Decides what each step computes: admission, chunked prefill, preemption, finishing.

Continuous batching with one rule: a sequence's computed count catches up with its token count,
under a token budget per step. Decoding sequences come first, then prompts already begun, then
newcomers. When blocks run out the sequence served last gives up its own and is recomputed later.
Holds ints, never tensors; does not know what a model is.
"""

from dataclasses import dataclass

from server.engine.blocks import BlockPool
from server.engine.outcome import append_tokens
from server.engine.plan import PlannedSequence, StepPlan, StepResult
from server.engine.recorder import Recorder
from server.engine.sequence import Sequence, Timings, WaitingQueue
from server.engine.types import FinishReason, Request, RequestId, RequestOutput, StepStats


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of the scheduler; see `server/config.py` for their meaning to a user."""

    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool
    eos_token_ids: frozenset[int]


class Scheduler:
    """Owns all sequences and their blocks. `schedule` and `update` alternate.

    Raises:
        ValueError: the pool can't hold one sequence of max_model_len tokens; with that, the
            sequence served first can always go on, so the engine never stalls.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        if config.num_blocks * config.block_size < config.max_model_len:
            raise ValueError("the KV pool is smaller than one sequence of max_model_len")
        self.config = config
        self.pool = BlockPool(config.num_blocks, config.prefix_caching)
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self.recorder = Recorder()
        self._by_id: dict[RequestId, Sequence] = {}
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def add(self, request: Request, now: float) -> None:
        """Queues a request; now in monotonic seconds.

        Raises:
            ValueError: the prompt is empty or leaves no room for a token, or the id is taken.
        """
        if not 0 < len(request.prompt_token_ids) < self.config.max_model_len:
            raise ValueError(f"a prompt of {len(request.prompt_token_ids)} tokens can't be served")
        if request.request_id in self._by_id:
            raise ValueError(f"request id {request.request_id!r} is taken")
        sequence = Sequence(request, self._num_arrivals, Timings(arrival=now))
        self._num_arrivals += 1
        self._by_id[request.request_id] = sequence
        self.waiting.push(sequence)

    def finish(self, request_id: RequestId, reason: FinishReason, now: float) -> None:
        """Ends a request and frees its blocks; nothing if it has ended already."""
        sequence = self._by_id.pop(request_id, None)
        if sequence is None:
            return
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.release_blocks(self.pool)
        self.recorder.ended(sequence, reason, now)

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None if nothing waits or runs."""
        return _StepPlanner(self, now).plan() if self._by_id else None

    def update(self, plan: StepPlan, result: StepResult, now: float) -> list[RequestOutput]:
        """Commits what the step did; one output per sequence that got tokens."""
        outputs = list[RequestOutput]()
        for planned in plan.sequences:
            sequence = self._by_id[planned.request.request_id]
            did = result[planned.request.request_id]
            sequence.num_computed += did.num_committed
            output = append_tokens(
                sequence, did, self.config.eos_token_ids, self.config.max_model_len
            )
            sequence.publish_full_blocks(self.pool, self.config.block_size)
            if output is None:
                continue
            outputs.append(output)
            self.recorder.tokens(sequence, len(output.token_ids), now)
            if output.finish_reason is not None:
                self.finish(output.request_id, output.finish_reason, now)
        return outputs

    def take_stats(self, plan: StepPlan | None, seconds: float) -> StepStats:
        """What happened since the last call; see `Recorder.take`."""
        return self.recorder.take(
            plan, len(self.running), len(self.waiting), self.pool.usage, seconds
        )

    def check_integrity(self) -> None:
        """Raises RuntimeError if blocks leaked or are held by nobody."""
        self.pool.check_integrity([s.block_ids for s in self._by_id.values()])


class _StepPlanner:
    """Builds one plan: what `Scheduler.schedule` accumulates on the way."""

    def __init__(self, scheduler: Scheduler, now: float) -> None:
        self.scheduler = scheduler
        self.config = scheduler.config
        self.pool = scheduler.pool
        self.now = now
        self.budget = scheduler.config.max_num_batched_tokens
        self.planned: dict[RequestId, PlannedSequence] = {}
        self.num_preemptions = 0
        self.queries = 0
        self.hits = 0

    def plan(self) -> StepPlan:
        running = sorted(self.scheduler.running, key=lambda s: (not s.is_decoding, s.order))
        for sequence in running:
            self._continue(sequence)
        # Where running sequences had to give way, a newcomer would only push the next one out.
        while self.num_preemptions == 0 and self._admit_next():
            pass
        return StepPlan(tuple(self.planned.values()), self.num_preemptions, self.queries, self.hits)

    def _continue(self, sequence: Sequence) -> None:
        """Plans a running sequence, preempting others where blocks are short."""
        num_nodes = min(sequence.num_pending, self.budget)
        if sequence not in self.scheduler.running or num_nodes == 0:
            return  # preempted by an earlier one, or the budget is used up
        while not self._reserve(sequence, num_nodes):
            victim = max(self.scheduler.running, key=lambda s: s.order)
            self._preempt(victim)
            if victim is sequence:
                return
        self._add(sequence, num_nodes)

    def _admit_next(self) -> bool:
        """Admits the first of the queue if there is room; False when admission is over."""
        sequence = self.scheduler.waiting.peek()
        if sequence is None or self.budget == 0:
            return False
        while not self._has_room(sequence):
            # A newcomer never pushes out its equals, only those less urgent.
            victim = max(self.scheduler.running, key=lambda s: s.order, default=None)
            if victim is None or victim.request.priority <= sequence.request.priority:
                return False
            self._preempt(victim)
        self.scheduler.waiting.pop()
        self.scheduler.running.append(sequence)
        self._acquire_prefix(sequence)
        if sequence.timings.first_scheduled is None:
            sequence.timings.first_scheduled = self.now
        num_nodes = min(sequence.num_pending, self.budget)
        if not self._reserve(sequence, num_nodes):
            raise RuntimeError("admitted a sequence without room for it")
        self._add(sequence, num_nodes)
        return True

    def _has_room(self, sequence: Sequence) -> bool:
        """A seat, and blocks for all its tokens (cached ones counted as needed: they may be
        among the free), with one to spare per running sequence, so that admission does not
        cause preemption at once."""
        limit = min(self.config.max_num_seqs, self.config.max_num_batched_tokens)
        running = len(self.scheduler.running)
        needed = -(-len(sequence.token_ids) // self.config.block_size)
        if running == 0:
            return needed <= self.pool.num_free
        return running < limit and needed + running <= self.pool.num_free

    def _acquire_prefix(self, sequence: Sequence) -> None:
        """Takes over cached blocks of the longest known prefix, leaving at least one token to
        compute: the step must yield the next token's logits."""
        if not self.config.prefix_caching:
            sequence.num_cached_tokens = sequence.num_cached_tokens or 0
            return
        block_size = self.config.block_size
        sequence.extend_hashes(block_size)
        usable = (len(sequence.token_ids) - 1) // block_size
        for content in sequence.block_hashes[:usable]:
            block_id = self.pool.acquire_cached(content)
            if block_id is None:
                break
            sequence.block_ids.append(block_id)
        sequence.num_published = len(sequence.block_ids)
        sequence.num_computed = len(sequence.block_ids) * block_size
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
        self.scheduler.running.remove(victim)
        victim.release_blocks(self.pool)
        self.scheduler.waiting.push(victim)
        self.num_preemptions += 1

    def _add(self, sequence: Sequence, num_nodes: int) -> None:
        self.budget -= num_nodes
        self.planned[sequence.request.request_id] = PlannedSequence(
            sequence.request,
            sequence.token_ids,
            sequence.num_computed,
            num_nodes,
            sequence.block_ids,
        )
