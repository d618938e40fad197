"""Measures what target and draft cost on this machine, for the `auto` policy."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from server.engine.drafters.drafter import Committed, Drafter, EarlyStop
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.costs import CostCurve, StepCosts, monotone
from server.engine.step.inputs import Nodes, build_inputs
from server.engine.step.model import Model
from server.engine.types import BlockId, Request, RequestId, SamplingParams
from server.kernels.tree import LayerCache

VERIFY_ROWS = (1, 2, 4, 8, 16, 32, 64)
DRAFT_ROWS = (1, 4, 16)
_CONTEXT = 128
_DRAFT_DEPTH = 4
"""Length of the chains that are timed. What a draft costs once per chain is spread over so many
tokens, as it is when serving."""
_ROUNDS, _MOST_ROUNDS, _SECONDS = 3, 8, 1.0
"""Rounds over all sizes: more than three as long as they have taken less than a second."""
_CHECKED_ROWS = 8
_TOLERANCE = 1.3
"""Factor by which the ratio of a larger step's time to that of one row may have changed."""


class Profiled(NamedTuple):
    """What is measured: a target over an empty pool."""

    model: Model
    caches: Sequence[LayerCache]
    block_size: int
    device: torch.device

    @property
    def blocks(self) -> list[BlockId]:
        """Blocks of a made-up sequence. In a small pool they repeat: what they hold doesn't
        matter."""
        num_needed = -(-(_CONTEXT + max(VERIFY_ROWS)) // self.block_size)
        return [BlockId(i % len(self.caches[0].keys)) for i in range(num_needed)]

    def verify(self, rows: int) -> torch.Tensor:
        """Runs a step of so many rows and returns its hidden states."""
        nodes = Nodes(self.blocks, _CONTEXT, [1] * rows)
        inputs = build_inputs([nodes], self.block_size, self.device)
        hidden = self.model(inputs.token_ids, self.caches, inputs.batch)
        self.model.logits(hidden)
        return hidden


@torch.inference_mode()
def measure_costs(target: Profiled, drafter: Drafter) -> StepCosts:
    """Runs both models on made-up tokens; to be called before serving."""
    sequences = [_sequence(i, target.blocks) for i in range(max(DRAFT_ROWS))]
    hidden = target.verify(1)[0]
    drafter.commit([Committed(sequence, (), _CONTEXT, hidden) for sequence in sequences])

    def draft(rows: int) -> None:
        drafter.draft(sequences[:rows], [_DRAFT_DEPTH] * rows, EarlyStop.never(rows))

    chains = _curve(draft, DRAFT_ROWS)
    per_token = tuple(seconds / _DRAFT_DEPTH for seconds in chains.seconds)
    costs = StepCosts(_curve(target.verify, VERIFY_ROWS), CostCurve(chains.rows, per_token))
    for sequence in sequences:
        drafter.forget(sequence.request_id)
    return costs


@torch.inference_mode()
def still_hold(costs: StepCosts, target: Profiled) -> bool:
    """Whether costs measured earlier still hold. The machine may have been busy then, or may be
    another one now; either changes the ratios of costs. Looks at two points."""
    one, more = _least_seconds(target.verify, (1, _CHECKED_ROWS))
    then = costs.verify(_CHECKED_ROWS) / costs.verify(1)
    return 1 / _TOLERANCE <= more / one / then <= _TOLERANCE


def _sequence(index: int, blocks: Sequence[BlockId]) -> PlannedSequence:
    tokens = [1] * (_CONTEXT + 1)
    # All of it is prompt: what would be an answer, prompt lookup may keep among the recent ones.
    request = Request(RequestId(f"profile-{index}"), tuple(tokens), SamplingParams(max_tokens=1))
    return PlannedSequence(request, tokens, _CONTEXT, 1, blocks, max_nodes=5, max_depth=4)


def _curve(run: Callable[[int], object], rows: tuple[int, ...]) -> CostCurve:
    return monotone(rows, _least_seconds(run, rows))


def _least_seconds(run: Callable[[int], object], rows: Sequence[int]) -> list[float]:
    """Other work on the machine makes a run longer, never shorter. All sizes are run in turn, so
    that they have had the machine's better moments alike: what matters is how they compare."""
    run(rows[0])  # warm-up
    times = [list[float]() for _ in rows]
    began = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= _ROUNDS and time.perf_counter() - began > _SECONDS:
            break
        for count, seconds in zip(rows, times, strict=True):
            seconds.append(_seconds(run, count))
    return list(map(min, times))


def _seconds(run: Callable[[int], object], rows: int) -> float:
    _wait_for_gpu()
    started = time.perf_counter()
    run(rows)
    _wait_for_gpu()
    return time.perf_counter() - started


def _wait_for_gpu() -> None:
    """Waits for what was launched: a launch returns before it has run."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
