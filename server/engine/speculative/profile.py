"""Measures what target and draft cost on this machine, for the `auto` policy."""

import time
from collections.abc import Callable, Sequence

import torch

from server.engine.inputs import Nodes, build_inputs
from server.engine.plan import PlannedSequence
from server.engine.runner import Model
from server.engine.speculative.cost import CostCurve, StepCosts, monotone
from server.engine.speculative.drafter import Committed, Drafter, EarlyStop
from server.engine.types import BlockId, Request, RequestId, SamplingParams
from server.kernels.tree import LayerCache

VERIFY_ROWS = (1, 2, 4, 8, 16, 32, 64)
DRAFT_ROWS = (1, 4, 16)
_CONTEXT = 128
_REPETITIONS = 3


@torch.inference_mode()
def measure_costs(
    model: Model,
    drafter: Drafter,
    caches: Sequence[LayerCache],
    block_size: int,
    device: torch.device,
) -> StepCosts:
    """Runs both models on made-up tokens over an empty pool; to be called before serving."""
    num_needed = -(-(_CONTEXT + max(VERIFY_ROWS)) // block_size)
    # A small pool's blocks come up again: what they hold doesn't matter here.
    blocks = [BlockId(i % len(caches[0].keys)) for i in range(num_needed)]

    def verify(rows: int) -> torch.Tensor:
        inputs = build_inputs([Nodes(blocks, _CONTEXT, [1] * rows)], block_size, device)
        hidden = model(inputs.token_ids, caches, inputs.batch)
        model.logits(hidden)
        return hidden

    sequences = [_sequence(i, blocks) for i in range(max(DRAFT_ROWS))]
    hidden = verify(1)[0]
    drafter.commit([Committed(sequence, (), _CONTEXT, hidden) for sequence in sequences])

    def draft(rows: int) -> None:
        drafter.draft(sequences[:rows], [1] * rows, EarlyStop.never(rows))

    costs = StepCosts(_curve(verify, VERIFY_ROWS), _curve(draft, DRAFT_ROWS))
    for sequence in sequences:
        drafter.forget(sequence.request.request_id)
    return costs


def _sequence(index: int, blocks: Sequence[BlockId]) -> PlannedSequence:
    request = Request(RequestId(f"profile-{index}"), (1,), SamplingParams(max_tokens=1))
    tokens = [1] * (_CONTEXT + 1)
    return PlannedSequence(request, tokens, _CONTEXT, 1, blocks, max_nodes=2, max_depth=1)


def _curve(run: Callable[[int], object], rows: tuple[int, ...]) -> CostCurve:
    run(rows[0])  # warm-up
    return monotone(rows, [_seconds(run, count) for count in rows])


def _seconds(run: Callable[[int], object], rows: int) -> float:
    times = list[float]()
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        run(rows)
        times.append(time.perf_counter() - started)
    return min(times)  # whatever else the machine did meanwhile made it longer, never shorter
