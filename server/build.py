"""The composition root: settings in, wired parts out. The only module that knows them all."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from fastapi import FastAPI

from server import __version__
from server.api.app import create_app
from server.api.deps import Parts, ServingInfo
from server.api.front_door import front_door
from server.api.responses.store import ResponseStore, StoreLimits
from server.build_draft import Draft, build_speculator, load_draft
from server.build_graphs import build_graphs, has_graphs
from server.build_limits import check_kv_memory, describe_pool, scheduler_config, short_context
from server.build_observers import Observers
from server.build_parallel import cache_shape, free_everywhere, guarded, rank_threads, start_workers
from server.config import DEFAULT_MODEL, ModelSettings, ServerSettings
from server.engine.async_engine import AsyncEngine
from server.engine.grammar.compiler import Vocabulary
from server.engine.grammar.service import GrammarCompiler
from server.engine.grammar.state import GrammarStates
from server.engine.loop import Executes
from server.engine.schedule.scheduler import Scheduler
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.host.verify import Model
from server.engine.step.kv_cache import allocate_kv, copy_kv
from server.engine.types import SamplingDefaults, SpeculationParams, StepStats
from server.gpu_memory import check_memory_settings, gpu_memory
from server.loading.target import choose_form, load_target, locate_target
from server.machine import (
    cpu_kernels,
    describe_kernels,
    pick_device,
    pick_dtype,
    return_freed_memory,
    total_memory,
)
from server.models.layers import Placement
from server.models.llama import LlamaModel
from server.models.shard import WHOLE
from server.parallel.remote import RemoteCopies, RemoteModel
from server.parallel.workers import Workers
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer, from_hf, load_hf_tokenizer
from server.text.tool_formats import FORMATS
from weights.checkpoint import checkpoint_identity
from weights.generation_config import read_sampling

_STOP_SECONDS = 3.0
"""That a server that ends waits for the step it is in."""

Report = Callable[[str], None]
"""Takes lines of progress for a person."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything a command needs to run a model."""

    name: str
    identity: str
    """Tells checkpoints, precisions and devices apart."""
    precision: str
    """For people: such as `bfloat16`, or `q4_1 and q8_0 weights in bfloat16`."""
    speculation: SpeculationParams
    """For requests that don't say; policy off where there is no draft."""
    vocab_size: int
    """Ids the model knows; the tokenizer's may be fewer."""
    engine: AsyncEngine
    runner: Runner
    """Behind the engine; for measurements that need the model itself. Between requests, from
    whoever sends them, its speculator may be exchanged."""
    speculator: Speculator | None
    grammars: GrammarCompiler
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    default_sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """For requests that don't say."""
    workers: Workers | None = None
    """The other ranks of tensor parallelism."""
    draft: str = "none"
    """For people, as `kernels`."""
    kernels: str = ""

    def close(self) -> None:
        """Ends the processes beside this one; to be called when the engine has stopped. A process
        that exits does it too."""
        if self.workers is not None:
            self.workers.close()


def build_model(
    settings: ModelSettings,
    report: Report,
    observe: Callable[[StepStats], None],
    step_timeout: float | None = None,
) -> LoadedModel:
    """Loads the model and wires the engine; the engine still has to be started.

    Args:
        observe, step_timeout: see `AsyncEngine`.

    Raises:
        StartupError: whatever is wrong with the settings or the checkpoint.
        WorkerDiedError: a process of tensor parallelism ended.
    """
    workers = start_workers(settings, report)
    try:
        return _build_model(settings, report, observe, step_timeout, workers)
    except BaseException:
        if workers is not None:
            workers.close()
        raise


def _build_model(
    settings: ModelSettings,
    report: Report,
    observe: Callable[[StepStats], None],
    step_timeout: float | None,
    workers: Workers | None,
) -> LoadedModel:
    device = pick_device(settings.device)
    check_memory_settings(settings, device)
    dtype = pick_dtype(settings.dtype, device)
    num_threads = rank_threads(settings)
    torch.set_num_threads(num_threads)
    files = locate_target(settings.model, settings.cache_dir, dtype, report)
    config = files.config
    said = read_sampling(files.folder, settings.model, settings.generation_config)
    sampling = SamplingDefaults(**said)  # pyright: ignore[reportArgumentType]  # top_k is whole
    hf_tokenizer = load_hf_tokenizer(files.folder)
    tokenizer = from_hf(hf_tokenizer)
    placement = Placement(device, dtype, workers.join() if workers else WHOLE)
    quantization = None
    if workers is None:  # blocks of weights are for the native kernels, which run whole models
        quantization = choose_form(files, placement, settings.quantization)
    loaded = load_target(files, placement, quantization)
    model, precision = loaded.model, loaded.form
    name = model_name(settings.model)
    report(f"loaded {name}: {config.num_layers} layers, {precision} on {device}")
    report(f"sampling, where a request says nothing: {sampling}")
    draft = guarded(workers, lambda: load_draft(settings, model, placement, quantization, report))
    loaded.freeze()
    return_freed_memory()
    kernels = "torch kernels: the native ones run whole models alone"
    if workers is None:
        kernels = describe_kernels(device, model.is_fused)
    report(kernels)
    if model.is_fused and (draft is None or draft.is_native):
        # After each parallel operation torch's threads spin for milliseconds, on the cores that the
        # native kernels' own threads need; what is left to torch is small.
        torch.set_num_threads(1)

    shape = cache_shape(config, placement)
    token_bytes = shape.bytes_per_token
    if draft is not None and draft.shape is not None:
        token_bytes += draft.shape.bytes_per_token
    free = free_everywhere(workers, device)
    check_kv_memory(settings, free)
    on_device = has_graphs(settings, device, draft)
    if device.type == "cuda":
        memory = gpu_memory(settings, config, dtype, total_memory(device), free, on_device)
        report(str(memory))
        free = memory.kv
    limits = scheduler_config(settings, config, token_bytes, free, on_cpu=device.type == "cpu")
    limits = replace(limits, speculates=draft is not None, runs_ahead=on_device)
    if tokenizer.eos_id is not None:
        limits = replace(limits, eos_token_ids=limits.eos_token_ids | {tokenizer.eos_id})
    report(describe_pool(limits, token_bytes))
    if warning := short_context(limits, config):
        report(warning)
    caches = allocate_kv(shape, limits.num_allocated_blocks, limits.block_size, device)
    target: Model = model
    if workers is not None:
        workers.tell({"num_blocks": limits.num_blocks, "block_size": limits.block_size})
        target = RemoteModel(model, workers)
    form = f"{precision}|{quantization and quantization.kind}|{_kernels_identity(model)}"
    identity = f"{checkpoint_identity(files.folder)}|{form}|{device.type}|{num_threads} threads"
    identity += f"|{workers.size} ranks" if workers else ""
    speculator = None
    if draft is not None:
        speculator = build_speculator(
            settings, draft, target, caches, limits, identity, device, report, workers
        )
    grammars = GrammarCompiler(_vocabulary(tokenizer, config.vocab_size, limits.eos_token_ids))
    states = GrammarStates(grammars.get, limits.eos_token_ids)
    runner = Runner(
        target,
        caches,
        limits.block_size,
        limits.eos_token_ids,
        device,
        speculator,
        states,
        RemoteCopies(workers) if workers else copy_kv,
    )
    executor: Executes = runner
    if on_device:
        what = f"{identity}|{draft.identity if draft else None}"
        executor = build_graphs(
            settings, runner, limits, placement, what, config.hidden_size, report
        )
    engine = AsyncEngine(Scheduler(limits), executor, observe, grammars, step_timeout)
    if workers is not None:
        workers.watch(engine.fail)
    return LoadedModel(
        name=name,
        identity=identity,
        precision=precision,
        speculation=_default_speculation(settings, draft),
        vocab_size=config.vocab_size,
        engine=engine,
        runner=runner,
        speculator=speculator,
        grammars=grammars,
        tokenizer=tokenizer,
        chat_template=ChatTemplate(hf_tokenizer, name),
        default_sampling=sampling,
        workers=workers,
        draft="none" if draft is None else draft.name,
        kernels=kernels,
    )


def _vocabulary(tokenizer: Tokenizer, size: int, eos_ids: frozenset[int]) -> Vocabulary:
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return Vocabulary(size, tokenizer.token_bytes, tokenizer.special_ids, eos_ids, encode)


def _kernels_identity(model: LlamaModel) -> str:
    """Costs and rounding differ between instruction sets. AVX-512 is not named: what was stored
    before there were others was measured with it."""
    kernels = cpu_kernels() if model.is_fused else None
    suffix = "" if kernels in (None, "avx512") else f" {kernels}"
    return f"fused {model.is_fused}{suffix}"


def _default_speculation(settings: ModelSettings, draft: Draft | None) -> SpeculationParams:
    policy = "off" if draft is None else settings.speculation_policy
    return SpeculationParams(policy, settings.speculation_depth, settings.speculation_nodes)


def build_app(settings: ServerSettings, report: Report) -> tuple[FastAPI, LoadedModel]:
    """The HTTP app around a model; its lifespan starts and stops the engine.

    Raises:
        StartupError: as `build_model`.
    """
    door = front_door(settings)  # before the seconds that loading takes
    name = settings.served_model_name or model_name(settings.model)
    observers = Observers(settings, name)
    model = build_model(settings, report, observers.record, settings.step_timeout)
    observers.start_log(settings, model.tokenizer)
    info = ServingInfo(
        model_name=name,
        vocab_size=model.vocab_size,
        created=int(time.time()),
        version=__version__,
        system_fingerprint=_fingerprint(model),
        default_sampling=model.default_sampling,
        sse_ping_seconds=settings.sse_ping_seconds,
        drops_other_tools=settings.other_tools == "drop",
        salts_by_key=settings.prefix_caching != "shared",
        can_speculate=model.speculator is not None,
        default_speculation=model.speculation,
    )
    observers.metrics.describe_server(_facts(model))
    if settings.tool_parser != "auto":
        model.chat_template.tool_format = FORMATS[settings.tool_parser]
    kept = StoreLimits(
        max_responses=settings.max_stored_responses,
        max_bytes=settings.stored_responses_memory,
        seconds_to_live=3600 * settings.stored_responses_hours,
    )
    parts = Parts(
        model.engine,
        model.tokenizer,
        model.chat_template,
        observers.metrics,
        info,
        model.grammars,
        response_store=ResponseStore(kept),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        model.engine.start()
        yield
        if await model.engine.stop(_STOP_SECONDS):
            model.close()
        elif model.workers is not None:
            model.workers.kill()  # it waits for the step that hangs
        await asyncio.to_thread(observers.close)

    return create_app(parts, door, lifespan), model


def _facts(model: LoadedModel) -> dict[str, str]:
    """What serves here, for the status page and for dashboards."""
    return {
        "version": __version__,
        "draft": model.draft,
        "policy": model.speculation.policy,
        "precision": model.precision,
        "kernels": model.kernels,
    }


def _fingerprint(model: LoadedModel) -> str:
    """Changes when the same seed might give other tokens: weights, precision, device, version."""
    what = f"{__version__}|{torch.__version__}|{model.identity}"
    return "fp_" + hashlib.blake2b(what.encode(), digest_size=6).hexdigest()


def model_name(model: str) -> str:
    """What a model is called in answers: a file's stem, a folder's name, a hub id as it is."""
    if model == DEFAULT_MODEL:
        return model
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        return path.stem
    return path.resolve().name if path.exists() else model
