"""`glidecape bench`: transformers and this server, interleaved in one run; a table, then JSON."""

import asyncio
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import uvloop
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from bench.common.engine import encode_question, load
from bench.common.prompts import PROMPTS
from bench.common.served import Served, Server
from bench.machine.forecast import forecast_json, measure_forecast, print_forecast
from bench.machine.limits import Limits, measure_limits
from bench.machine.speculation import measure_policies, policies_json, print_policies
from bench.machine.transformers_peer import TransformersPeer
from server import __version__
from server.build import build_app
from server.cli.terminal import report
from server.config import ModelSettings, ServerSettings, as_given, load_settings
from server.engine.types import Request, RequestId, SamplingParams
from server.kernels.quantized import bits_per_weight
from server.loading.machine import default_threads, pick_device, pick_dtype
from server.loading.model import LoadedModel
from server.loading.target import choose_form, read_target
from server.models.layers import Placement
from weights.blocks import read_blocks
from weights.locate import locate_model

HIT_RATE = 0.7
"""Share of the oracle draft's trunk tokens that are right."""
MANY = 16
"""Streams of the batched measurement."""


@dataclass(slots=True)
class Figures:
    """Tokens per second, one entry per round."""

    transformers_1: list[float] = field(default_factory=list[float])
    ours_1: list[float] = field(default_factory=list[float])
    ours_many: list[float] = field(default_factory=list[float])
    served_many: list[Served] = field(default_factory=list[Served])
    resident_bytes: int = 0
    """Resident memory after a first batched run."""


def run_suite(
    settings: ModelSettings, new_tokens: int, rounds: int, with_transformers: bool
) -> None:
    """Measures, prints a table, then one JSON line."""
    # First: with native kernels, torch itself has one thread after the model is built.
    limits = measure_limits(weight_bytes(settings))
    app, model = build_app(load_settings(ServerSettings, **as_given(settings)), report)
    # The loop that `glidecape serve` runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_measure(app, model, settings, new_tokens, rounds, with_transformers))
    _print_table(limits, figures)
    result = _as_json(limits, figures, settings, new_tokens)
    if model.speculator is not None:
        forecast = measure_forecast(settings, new_tokens, rounds)
        print_forecast(forecast)
        result |= forecast_json(forecast)
    print(json.dumps(result | _speculation(settings, new_tokens, rounds)))


def _speculation(settings: ModelSettings, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Compares plain decoding with each policy, and prints the table."""
    model = load(settings.model_copy(update={"draft": "ngram"}))
    if model.speculator is None:
        raise RuntimeError("built with a draft, but without a speculator")
    policies = asyncio.run(measure_policies(model, model.speculator, new_tokens, rounds, HIT_RATE))
    print_policies(policies, HIT_RATE)
    return policies_json(policies, HIT_RATE)


async def _measure(
    app: Any, model: LoadedModel, settings: ModelSettings, new_tokens: int, rounds: int,
    with_transformers: bool,
) -> Figures:  # fmt: skip
    figures = Figures()
    async with Server(app) as server:
        await _ours(model, MANY, 16)  # warm-up
        figures.resident_bytes = psutil.Process().memory_info().rss
        peer = _transformers(settings) if with_transformers else None
        for index in range(rounds):
            report(f"round {index + 1} of {rounds} …")
            if peer is not None:  # blocks the loop, which has nothing else to do
                figures.transformers_1.append(peer.tokens_per_second(new_tokens))
            figures.ours_1.append(await _ours(model, 1, new_tokens))
            figures.ours_many.append(await _ours(model, MANY, new_tokens))
            figures.served_many.append(await server.measure(MANY, new_tokens))
        if peer is not None:
            peer.close()
    return figures


async def _ours(model: LoadedModel, streams: int, new_tokens: int) -> float:
    """Tokens per second of greedy answers, without HTTP; prompts included in the time."""

    async def answer(index: int) -> int:
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        request_id = RequestId(f"bench-{time.monotonic_ns()}-{index}")
        request = Request(request_id, encode_question(model, PROMPTS[index]), params)
        return sum([len(output.token_ids) async for output in model.engine.generate(request)])

    started = time.perf_counter()
    counts = await asyncio.gather(*(answer(i) for i in range(streams)))
    return sum(counts) / (time.perf_counter() - started)


def _transformers(settings: ModelSettings) -> TransformersPeer:
    """The same weights in the same precision."""
    dtype = pick_dtype(settings.dtype, pick_device(settings.device))
    folder = model_folder(settings, in_floats=True)
    return TransformersPeer(folder, str(dtype).removeprefix("torch."))


def model_folder(settings: ModelSettings, in_floats: bool = False) -> Path:
    """in_floats: for peers, which know no blocks in a folder."""
    dtype = pick_dtype(settings.dtype, pick_device(settings.device))
    return locate_model(settings.model, settings.cache_dir, dtype, report, in_floats)


def weight_bytes(settings: ModelSettings) -> int:
    """What a step reads of a model whose embedding is its head too."""
    folder, device = model_folder(settings), pick_device(settings.device)
    placement = Placement(device, pick_dtype(settings.dtype, device))
    quantization = choose_form(read_target(folder), placement, settings.quantization)
    files = list(folder.glob("model*.safetensors"))
    if quantization is None:
        kept = read_blocks(folder).weights.values()
        in_floats = sum(math.prod(weight.shape) for weight in kept) * placement.dtype.itemsize
        return sum(file.stat().st_size for file in files) + in_floats
    size = float(sum(weight.blocks.numel() for weight in quantization.stored.values()))
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in quantization.rounded.keys() & set(file.keys()):
                count = math.prod(file.get_slice(name).get_shape())
                size += count * bits_per_weight(quantization.kind) / 8
    return int(size)


def _print_table(limits: Limits, figures: Figures) -> None:
    console = Console(file=sys.stdout, highlight=False)
    console.print(
        f"limit: {limits.bandwidth / 1e9:.1f} GB/s, {limits.weight_bytes / 1e6:.0f} MB of weights "
        f"per step -> at most {limits.steps_per_second:.0f} steps/s"
    )
    base = _median(figures.transformers_1)
    table = Table("system", "streams", "tokens/s", "ratio")
    for name, streams, values in (
        ("transformers generate", 1, figures.transformers_1),
        ("glidecape engine", 1, figures.ours_1),
        ("glidecape engine", MANY, figures.ours_many),
        ("glidecape over HTTP", MANY, [s.tokens_per_second for s in figures.served_many]),
    ):
        if values:
            ratio = f"{_median(values) / base:.2f}" if base else ""
            table.add_row(name, str(streams), f"{_median(values):.1f}", ratio)
    console.print(table)
    share = _median([s.api_share for s in figures.served_many])
    console.print(f"API's share of a step at {MANY} streams: {share:.1%}")
    console.print(f"resident memory: {figures.resident_bytes / 1e6:.0f} MB")


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def _as_json(
    limits: Limits, figures: Figures, settings: ModelSettings, new_tokens: int
) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": settings.model,
        "torch": torch.__version__,
        "threads": settings.threads or default_threads(),
        "new_tokens": new_tokens,
        "bandwidth_gb_s": limits.bandwidth / 1e9,
        "max_steps_per_s": limits.steps_per_second,
        "transformers_1_tok_s": figures.transformers_1,
        "engine_1_tok_s": figures.ours_1,
        f"engine_{MANY}_tok_s": figures.ours_many,
        f"http_{MANY}_tok_s": [s.tokens_per_second for s in figures.served_many],
        "api_share": [s.api_share for s in figures.served_many],
        "resident_mb": figures.resident_bytes / 1e6,
    }
