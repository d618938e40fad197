"""What a GPU makes of plain steps, verification and drafting, against what it could do at best.

    python -m bench.gpu [--minutes 8] [--shape llama-2-7b …] [--folder CHECKPOINT] [--json FILE]
    python -m bench.gpu --tiny            the same on a CPU, in seconds; its figures say nothing

Prints each table as it is measured, JSON last. Models have random weights but for --folder's; every
step is captured in a CUDA graph and its replays are timed. Speedups are computed from the measured
times and the paper's acceptance rates: synthetic, as no random model has any acceptance.
"""

import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.gpu.engine import measure_engine
from bench.gpu.models import SHAPES, Pair, kv_shape, loaded_pair, random_pair
from bench.gpu.peers import transformers_rates
from bench.gpu.session import (
    BATCHES,
    CONTEXTS,
    TINY_BATCHES,
    TINY_CONTEXTS,
    Json,
    Session,
    seconds_of,
)
from bench.gpu.steps import measure_draft, measure_steps, measure_verification, show_speedups
from server.cli.terminal import one_line_errors
from server.kernels.dispatch import gpu_kernels
from server.models.layers import Placement

_ROOM = 0.85
"""Share of the memory that is free once a model is loaded, for its KV."""


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
    """Gives unused memory back to the GPU."""
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


if __name__ == "__main__":
    with one_line_errors("bench.gpu"):
        typer.run(main)
