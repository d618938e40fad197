"""What a GPU makes of plain steps, verification and drafting, against what it could do at best.

    python -m bench.gpu [--minutes 8] [--shape llama-2-7b …] [--folder CHECKPOINT] [--json FILE]
    python -m bench.gpu --tiny            the same on a CPU, in seconds; its figures say nothing

Prints each table as it is measured, JSON last. Models have random weights but for --folder's; every
step is captured in a CUDA graph and its replays are timed. Speedups are computed from the measured
times and the paper's acceptance rates: synthetic, as no random model has any acceptance.
"""

import gc
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from bench.gpu_engine import measure_engine
from bench.gpu_models import BLOCK_SIZE, SHAPES, Pair, kv_shape, loaded_pair, random_pair
from bench.gpu_peers import transformers_rates
from bench.gpu_session import (
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
from server.cli.terminal import one_line_errors
from server.engine.step.inputs import Nodes, StepInputs, build_inputs
from server.kernels.dispatch import gpu_kernels, kernels_for
from server.models.layers import Placement

_ROOM = 0.85
"""Of the memory that is free once a model is loaded, for its KV."""
_PAPER = {
    "chain of 5, α 0.60": (0.60, 5),
    "chain of 5, α 0.65": (0.65, 5),
    "chain of 5, α 0.70": (0.70, 5),
}


def main(
    minutes: Annotated[
        float, typer.Option(help="Sections that would take longer are left out.")
    ] = 8,
    shape: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A checkpoint in Hugging Face layout.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also here.")] = None,
    tiny: Annotated[bool, typer.Option(help="A tiny model on the CPU.")] = False,
) -> None:
    """Measure this GPU."""
    if not tiny and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU; --tiny runs everything on the CPU")
    names = shape or [name for name in SHAPES if (name == "tiny") == tiny]
    if unknown := [name for name in names if name not in SHAPES]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is none of {', '.join(SHAPES)}", param_hint="shape"
        )
    device = torch.device("cpu" if tiny else "cuda")
    session = Session(device, time.monotonic() + 60 * minutes, tiny)
    try:
        _measure_all(session, names, folder)
    finally:  # what was measured before a failure is not lost
        print(json.dumps(session.results))
        if json_file is not None:
            json_file.write_text(json.dumps(session.results, indent=1), encoding="utf-8")


def _measure_all(session: Session, names: Sequence[str], folder: Path | None) -> None:
    bandwidth = measure_ceilings(session)
    placement = Placement(session.device, torch.float32 if session.tiny else torch.bfloat16)
    loads: dict[str, Callable[[], Pair]] = {}
    if folder is not None:
        loads[folder.name] = lambda: loaded_pair(folder, placement, 64 * 640)
    for name in names:
        loads[name] = lambda name=name: random_pair(
            SHAPES[name], placement, _tokens_that_fit(session, name, placement)
        )
    for name, load in loads.items():
        if session.has_time(name, 0 if session.tiny else 60):
            try:
                _measure(session, name, load, bandwidth)
            except torch.OutOfMemoryError as error:
                session.console.print(f"{name}: {error}")
            _free(session)


def _free(session: Session) -> None:
    """Gives memory of what is no longer used back to the GPU."""
    gc.collect()
    if session.device.type == "cuda":
        torch.cuda.empty_cache()


def measure_ceilings(session: Session) -> float:
    """Copy bandwidth and a product's rate; returns bytes per second, read and written."""
    size = 2**22 if session.tiny else 2**32
    source = torch.ones(size // 4, device=session.device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / seconds_of(lambda: target.copy_(source), session.device)
    n, dtype = (256, torch.float32) if session.tiny else (8192, torch.bfloat16)
    a = torch.ones(n, n, device=session.device, dtype=dtype)
    rate = 2 * n**3 / seconds_of(lambda: a @ a, session.device)
    on_gpu = session.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    kernels = gpu_kernels() if on_gpu else "torch"
    session.results |= {"device": name, "kernels": kernels, "torch": torch.__version__}
    session.results |= {"copy_bytes_per_s": bandwidth, "product_flops": rate}
    figures = [f"{bandwidth / 1e9:.0f} GB/s", f"{rate / 1e12:.2f} T/s"]
    session.show(f"{name}, {kernels} kernels", ("copy", f"product, {dtype}"), [figures])
    return bandwidth


def _tokens_that_fit(session: Session, name: str, placement: Placement) -> int:
    config = SHAPES[name]
    wanted = max(BATCHES) * (max(CONTEXTS) + 64)
    if session.tiny:
        return max(TINY_BATCHES) * (max(TINY_CONTEXTS) + 512)
    free, _ = torch.cuda.mem_get_info()
    layer = 3 * config.hidden_size * config.intermediate_size + 4 * config.hidden_size**2
    tables = 3 * config.vocab_size * config.hidden_size
    # The draft is a layer more, and its glimpse half a one.
    weights = ((config.num_layers + 2) * layer + tables) * placement.dtype.itemsize
    per_token = kv_shape(config, placement.dtype).bytes_per_token
    per_token += per_token // config.num_layers
    return min(wanted, int(_ROOM * (free - weights)) // per_token)


def _measure(session: Session, name: str, load: Callable[[], Pair], bandwidth: float) -> None:
    pair = load()
    config = pair.target.config
    found: Json = {"weight_bytes": pair.weight_bytes}
    session.results[name] = found
    plain = measure_steps(session, name, pair, bandwidth, found)
    if plain is None:
        return
    verify = measure_verification(session, name, pair, found)
    draft = measure_draft(session, name, pair, plain, found)
    measure_engine(session, name, pair, found)
    show_speedups(session, name, plain, verify, draft, found)
    del pair  # transformers needs its memory
    _free(session)
    if session.has_time(f"{name}, transformers", 0 if session.tiny else 60):
        rates = transformers_rates(config, session.device, 4 if session.tiny else 64)
        found["transformers_tok_s"] = rates
        rows = [[way, f"{rate:.1f}", f"{1 / plain / rate:.2f}"] for way, rate in rates.items()]
        session.show(
            f"{name}: transformers, one stream", ("way", "tokens/s", "our plain / it"), rows
        )


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
        """As the host does where there is no graph, its inputs included."""
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
    caches = (pair.draft_caches, pair.caches)

    def run() -> object:
        logits = pair.draft.draft(inputs.token_ids, *caches, inputs.batch, (context,), None, 1)
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


if __name__ == "__main__":
    with one_line_errors("bench.gpu"):
        typer.run(main)
