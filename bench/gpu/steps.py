"""A model's steps on a GPU: plain decoding, verification of a tree, a drafted token; and what the
paper's acceptance would make of them.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import torch

from bench.gpu.models import BLOCK_SIZE, Pair
from bench.gpu.session import (
    BATCHES,
    CONTEXTS,
    NODES,
    PAPER_CAPE,
    TINY_BATCHES,
    TINY_CONTEXTS,
    TINY_NODES,
    Json,
    Session,
    eager_seconds_of,
    seconds_of,
)
from server.engine.step.inputs import Nodes, StepInputs, build_inputs
from server.kernels.dispatch import kernels_for
from server.kernels.types import Caches, DraftStep

_PAPER = {
    "chain of 5, α 0.60": (0.60, 5),
    "chain of 5, α 0.65": (0.65, 5),
    "chain of 5, α 0.70": (0.70, 5),
}


class Step(NamedTuple):
    """A step of fixed inputs, which can be captured, and one that makes them anew."""

    run: Callable[[], torch.Tensor]
    launch: Callable[[], torch.Tensor]


def step_of(pair: Pair, batch: int, context: int, nodes: int = 1) -> Step | None:
    """A step of `batch` sequences with `nodes` nodes each; None where the pool can't hold it."""
    per_sequence = -(-(context + nodes) // BLOCK_SIZE)
    if batch * per_sequence > pair.num_blocks:
        return None
    blocks = random.Random(0).sample(range(pair.num_blocks), batch * per_sequence)
    device = pair.target.placement.device
    sequences = [
        Nodes(blocks[i * per_sequence : (i + 1) * per_sequence], context, [1] * nodes)
        for i in range(batch)
    ]
    inputs = build_inputs(sequences, BLOCK_SIZE, device)

    def run(inputs: StepInputs = inputs) -> torch.Tensor:
        return pair.target.logits(pair.target(inputs.token_ids, pair.caches, inputs.batch))

    def launch() -> torch.Tensor:
        """Launches a step as the host does where there is no graph, making its inputs anew."""
        return run(build_inputs(sequences, BLOCK_SIZE, device))

    return Step(run, launch)


def measure_steps(
    session: Session, name: str, pair: Pair, bandwidth: float, found: Json
) -> float | None:
    """Plain decoding against the memory that a step has to read; returns a step's seconds, one
    sequence with the shortest context; None where there was no time for it."""
    device, rows, cells = session.device, list[list[str]](), list[Json]()
    contexts = TINY_CONTEXTS if session.tiny else CONTEXTS
    batches = TINY_BATCHES if session.tiny else BATCHES
    for context in contexts:
        for batch in batches:
            step = step_of(pair, batch, context)
            if step is None or not session.has_time(
                f"{batch} x {context}", 0 if session.tiny else 5
            ):
                rows.append([str(context), str(batch), "does not fit", "", "", ""])
                continue
            seconds = seconds_of(step.run, device)
            gap = eager_seconds_of(step.launch, device) - seconds
            least = (pair.weight_bytes + batch * context * pair.kv_bytes) / bandwidth
            cells.append({"context": context, "batch": batch, "seconds": seconds, "eager_gap": gap})
            cells[-1]["roofline_seconds"] = least
            rows.append([str(context), str(batch), f"{seconds * 1e3:.3f}", f"{least / seconds:.0%}",
                         f"{batch / seconds:.0f}", f"{gap * 1e3:.3f}"])  # fmt: skip
    found["steps"] = cells
    columns = ("context", "batch", "ms", "of roofline", "tokens/s", "ms more without a graph")
    session.show(f"{name}: plain step", columns, rows)
    return float(cells[0]["seconds"]) if cells else None


def measure_verification(session: Session, name: str, pair: Pair, found: Json) -> dict[int, float]:
    """Seconds of a step by nodes, one sequence."""
    context = min(TINY_CONTEXTS if session.tiny else CONTEXTS)
    times = dict[int, float]()
    for nodes in TINY_NODES if session.tiny else NODES:
        step = step_of(pair, 1, context, nodes)
        if step is not None:
            times[nodes] = seconds_of(step.run, session.device)
    found["verify_seconds"] = times
    rows = [[str(n), f"{s * 1e3:.3f}", f"{s / times[1]:.2f}"] for n, s in times.items()]
    session.show(
        f"{name}: verification, context {context}", ("nodes", "ms", "of a plain step"), rows
    )
    return times


def measure_draft(session: Session, name: str, pair: Pair, plain: float, found: Json) -> float:
    """Seconds of a drafted token of one sequence, its candidates included."""
    context, device = min(TINY_CONTEXTS if session.tiny else CONTEXTS), session.device
    blocks = list(range(-(-(context + 1) // BLOCK_SIZE)))
    inputs = build_inputs([Nodes(blocks, context, [1])], BLOCK_SIZE, device)
    caches = Caches(pair.draft_caches, pair.caches)
    step = DraftStep(inputs.token_ids, inputs.batch, (context,), None, 1)

    def run() -> object:
        logits = pair.draft.draft(step, caches)
        return kernels_for(logits).top_candidates(logits, 8)

    seconds = seconds_of(run, device)
    found["draft_seconds"] = seconds
    row = [f"{seconds * 1e3:.3f}", f"{seconds / plain:.1%}"]
    session.show(f"{name}: a drafted token", ("ms", "c, of a plain step"), [row])
    return seconds


def show_speedups(
    session: Session, name: str, plain: float, verify: dict[int, float], draft: float, found: Json
) -> None:
    """Shows what the paper's acceptance would give at the measured times of the parts."""
    ways = {
        way: ((1 - alpha ** (depth + 1)) / (1 - alpha), depth + 1, depth)
        for way, (alpha, depth) in _PAPER.items()
    } | {"CaPE, 3.5 tokens a step": PAPER_CAPE}
    speedups = dict[str, float]()
    for way, (tokens, nodes, depth) in ways.items():
        measured = min((n for n in verify if n >= nodes), default=max(verify))
        speedups[way] = tokens * plain / (verify[measured] + depth * draft)
    found["synthetic_speedups"] = speedups
    rows = [[way, f"{value:.2f}"] for way, value in speedups.items()]
    session.show(f"{name}: speedup over our plain step (synthetic)", ("acceptance", "times"), rows)
