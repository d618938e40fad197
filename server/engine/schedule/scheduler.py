"""Owns all sequences and their blocks: takes requests in, commits what steps did, ends requests.

What a step computes is decided in `planner.py`. Holds ints, never tensors; does not know what a
model is.
"""

from server.engine.outputs import RequestOutput, StepSpeculationStats, StepStats
from server.engine.schedule.blocks import BlockPool
from server.engine.schedule.outcome import append_tokens, given_up
from server.engine.schedule.plan import StepPlan, StepResult
from server.engine.schedule.planner import SchedulerConfig, StepPlanner
from server.engine.schedule.recorder import Recorder
from server.engine.schedule.sequence import Sequence, Timings, WaitingQueue
from server.engine.types import FinishReason, Request, RequestId


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
        self._held: dict[RequestId, list[Sequence]] = {}
        """Sequences that are not queued yet, because the request under whose id they stand is still
        computing the prompt that they share with it."""
        self.recorder = Recorder()
        self._by_id: dict[RequestId, Sequence] = {}
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def add(self, request: Request, now: float) -> None:
        """Queues a request. Times are monotonic seconds.

        Raises:
            ValueError: the prompt is empty or leaves no room for a token, or the id is taken.
        """
        if not request.fits(self.config.max_model_len):
            raise ValueError(f"a prompt of {len(request.prompt_token_ids)} tokens can't be served")
        if request.request_id in self._by_id:
            raise ValueError(f"request id {request.request_id!r} is taken")
        sequence = Sequence(request, self._num_arrivals, Timings(arrival=now))
        self._num_arrivals += 1
        self._by_id[request.request_id] = sequence
        leader = self._by_id.get(request.shares_prompt_with) if request.shares_prompt_with else None
        if leader is not None and leader.timings.first_token is None and self.pool.prefix_caching:
            self._held.setdefault(leader.request.request_id, []).append(sequence)
        else:
            self.waiting.push(sequence)

    def finish(
        self,
        request_id: RequestId,
        reason: FinishReason,
        now: float,
        grammar_exceeded: str | None = None,
    ) -> None:
        """Ends a request and frees its blocks. Does nothing if it has ended already."""
        sequence = self._by_id.pop(request_id, None)
        if sequence is None:
            return
        if sequence in self.running:
            self.running.remove(sequence)
        elif not self._remove_held(sequence):
            self.waiting.remove(sequence)
        self._let_go(request_id)
        sequence.release_blocks(self.pool)
        self.recorder.ended(sequence, reason, now, grammar_exceeded)

    def _remove_held(self, sequence: Sequence) -> bool:
        held = self._held.get(sequence.request.shares_prompt_with or RequestId(""), [])
        if sequence not in held:
            return False
        held.remove(sequence)
        return True

    def _let_go(self, leader: RequestId) -> None:
        """Queues the sequences that waited for this request to compute their prompt."""
        for sequence in self._held.pop(leader, ()):
            self.waiting.push(sequence)

    def finish_all(self, reason: FinishReason, now: float) -> None:
        """Ends every request."""
        for request_id in list(self._by_id):
            self.finish(request_id, reason, now)

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None if nothing waits or runs."""
        if not self._by_id:
            return None
        return StepPlanner(self.config, self.running, self.waiting, self.pool, now).plan()

    def update(self, plan: StepPlan, result: StepResult, now: float) -> list[RequestOutput]:
        """Commits what the step did; one output per sequence that got tokens."""
        outputs = list[RequestOutput]()
        for planned in plan.sequences:
            sequence = self._by_id[planned.request_id]
            did = result.sequences[planned.request_id]
            if did.grammar_exceeded is not None:
                outputs.append(given_up(sequence, did.grammar_exceeded))
                self.finish(planned.request_id, "error", now, did.grammar_exceeded)
                continue
            sequence.num_computed += did.num_committed
            sequence.prompt_logprobs.extend(did.prompt_logprobs)
            output = append_tokens(
                sequence,
                did,
                self.config.eos_token_ids,
                self.config.max_model_len,
                result.seconds,
            )
            sequence.publish_full_blocks(self.pool, self.config.block_size)
            if not self.config.runs_ahead:
                sequence.trim_blocks(self.pool, self.config.block_size)
            if output is None:
                continue
            outputs.append(output)
            self._let_go(output.request_id)
            self.recorder.tokens(sequence, len(output.token_ids), now)
            if output.finish_reason is not None:
                self.finish(output.request_id, output.finish_reason, now)
        return outputs

    def take_stats(
        self,
        plan: StepPlan | None,
        seconds: float,
        speculation: StepSpeculationStats | None = None,
    ) -> StepStats:
        """What happened since the last call.

        Args:
            plan: the plan of the step that ran; None if requests only ended.
            seconds: the step's duration.
        """
        return StepStats(
            num_running=len(self.running),
            num_waiting=len(self.waiting) + sum(map(len, self._held.values())),
            kv_usage=self.pool.usage,
            num_preemptions=plan.num_preemptions if plan else 0,
            prefix_cache_queries=plan.prefix_cache_queries if plan else 0,
            prefix_cache_hits=plan.prefix_cache_hits if plan else 0,
            step_seconds=seconds,
            speculation=speculation,
            **self.recorder.take(),
        )

    def check_idle(self) -> None:
        """Raises RuntimeError if blocks leaked; to be called where no request is open. Says less
        than `check_integrity`, and takes no time."""
        num_leaked = self.pool.num_blocks - self.pool.num_free
        if num_leaked:
            raise RuntimeError(f"{num_leaked} KV blocks are held though no request is open")

    def check_integrity(self) -> None:
        """Raises RuntimeError if blocks leaked or are held by nobody."""
        self.pool.check_integrity([s.block_ids for s in self._by_id.values()])
