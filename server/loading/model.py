"""From settings to an engine around a loaded model; it still has to be started.

place    target and draft in memory, in the form in which they run
size     KV pool, longest sequence, size of a step
wire     pool, draft's costs, grammars, runner, graphs, engine
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from server.config import ModelSettings
from server.engine.async_engine import AsyncEngine
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.grammar.state import GrammarStates
from server.engine.loop import Executes
from server.engine.outputs import StepStats
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.host.verify import Model
from server.engine.step.kv_cache import CacheShape, allocate_kv, copy_kv
from server.engine.types import SamplingDefaults, SpeculationParams
from server.loading.draft import Draft, build_speculator, load_draft
from server.loading.facts import ModelFacts
from server.loading.graphs import build_graphs, has_graphs
from server.loading.machine import (
    cpu_kernels,
    describe_foreign_kernels,
    describe_kernels,
    pick_device,
    pick_dtype,
)
from server.loading.memory import check_memory_settings, share_memory
from server.loading.ranks import free_everywhere, guarded, rank_threads, start_workers
from server.loading.target import (
    LoadedTarget,
    TargetFiles,
    choose_form,
    describe_backend,
    load_target,
)
from server.loading.text import ModelText, load_text
from server.memory import give_back_memory
from server.models.layers import Placement
from server.models.llama import LlamaModel
from server.models.shard import WHOLE
from server.parallel.remote import RemoteCopies, RemoteModel
from server.parallel.workers import Workers
from server.report import Report
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer
from weights.checkpoint import checkpoint_identity
from weights.model_names import model_name
from weights.quantization import describe_rounded


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything a command needs to run a model."""

    name: str
    identity: str
    """Tells checkpoints, precisions and devices apart."""
    precision: str
    """For people: such as `bfloat16`, or `q4_k and q6_k weights in bfloat16`."""
    speculation: SpeculationParams
    """Values for requests that don't set them; policy off where there is no draft."""
    vocab_size: int
    """Ids the model knows; the tokenizer's may be fewer."""
    limits: SchedulerConfig
    """The sizes of the KV cache and of a step."""
    engine: AsyncEngine
    runner: Runner
    """What the engine runs; for measurements that need the model itself. Its speculator may be
    exchanged while no request is open."""
    speculator: Speculator | None
    grammars: GrammarCompiler
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    default_sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """Values for requests that don't set them."""
    workers: Workers | None = None
    """The other ranks of tensor parallelism."""
    draft: str = "none"
    """The draft's name, for people."""
    kernels: str = ""
    """What computes the model's layers, for people."""

    @property
    def facts(self) -> ModelFacts:
        """What can be said without it."""
        return ModelFacts(
            name=self.name,
            identity=self.identity,
            precision=self.precision,
            kernels=self.kernels,
            draft=self.draft,
            speculation=self.speculation,
            can_speculate=self.speculator is not None,
            vocab_size=self.vocab_size,
            max_model_len=self.engine.max_model_len,
            default_sampling=self.default_sampling,
        )

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
    torch.set_num_threads(rank_threads(settings))
    text = load_text(settings, dtype, report)
    placement = Placement(device, dtype, workers.join() if workers else WHOLE)
    placed = _place(settings, text.files, placement, workers, report)
    give_back_memory()
    report(f"sampling, where a request says nothing: {text.default_sampling}")
    limits = _size(settings, placed, text, report)
    wired = _wire(settings, placed, limits, text, report)
    engine = AsyncEngine(Scheduler(limits), wired.executor, observe, wired.grammars, step_timeout)
    if workers is not None:
        workers.watch(engine.fail)
    return LoadedModel(
        name=text.name,
        identity=placed.identity,
        precision=placed.form,
        speculation=_default_speculation(settings, placed.draft),
        vocab_size=text.files.config.vocab_size,
        limits=limits,
        engine=engine,
        runner=wired.runner,
        speculator=wired.runner.speculator,
        grammars=wired.grammars,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        default_sampling=text.default_sampling,
        workers=workers,
        draft="none" if placed.draft is None else placed.draft.name,
        kernels=placed.kernels,
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """Target and draft in memory, ready to run."""

    target: LlamaModel
    kv_shape: CacheShape
    """The target's KV of a token, on this rank."""
    form: str
    """The format of the target's weights, for people."""
    draft: Draft | None
    workers: Workers | None
    identity: str
    """Identifies the target with its precision, device and threads."""
    kernels: str
    """What computes the target's layers, for people."""
    is_native: bool
    """Whether the target's code is ours. Steps of other code are not captured: it may ask the GPU
    for values in between."""

    @property
    def placement(self) -> Placement:
        return self.target.placement


def _place(
    settings: ModelSettings,
    files: TargetFiles,
    placement: Placement,
    workers: Workers | None,
    report: Report,
) -> _Placed:
    quantization = None
    if workers is None:  # blocks of weights are for the native kernels, which run whole models
        quantization = choose_form(files, placement, settings.quantization)
    target = load_target(files, placement, quantization)
    layers = f"{files.config.num_layers} layers, {target.form} on {placement.device}"
    report(f"loaded {model_name(settings.model)}: {layers}, {describe_backend(files)}")
    for line in describe_rounded(quantization):
        report(line)
    draft = guarded(
        workers, lambda: load_draft(settings, target.parameters, placement, quantization, report)
    )
    model = target.freeze()
    if files.hf is None:
        kernels = describe_kernels(placement, model.is_fused)
    else:
        if files.hf.note:
            report(files.hf.note)
        described = files.hf.scored_in_torch
        kernels = describe_foreign_kernels(placement, described, model.has_threads)
    report(kernels)
    if model.has_threads:
        # After each parallel operation torch's threads spin for milliseconds, on the cores that the
        # native kernels' own threads need; what is left to torch is small.
        torch.set_num_threads(1)
    identity = _identity(target, model, rank_threads(settings), workers)
    if files.hf is not None:
        identity += f"|{files.hf.described}"
    return _Placed(
        model, target.kv_shape, target.form, draft, workers, identity, kernels, files.hf is None
    )


def _identity(
    target: LoadedTarget, model: LlamaModel, num_threads: int, workers: Workers | None
) -> str:
    """Tells checkpoints, forms of weights, kernels, devices, threads and ranks apart."""
    kind = target.quantization and target.quantization.kind
    form = f"{target.form}|{kind}|{_kernels_identity(model)}"
    device = model.placement.device.type
    identity = f"{checkpoint_identity(target.files.folder)}|{form}|{device}|{num_threads} threads"
    return identity + (f"|{workers.size} ranks" if workers else "")


def _size(
    settings: ModelSettings, placed: _Placed, text: ModelText, report: Report
) -> SchedulerConfig:
    config, device, draft = placed.target.config, placed.placement.device, placed.draft
    token_bytes = placed.kv_shape.bytes_per_token
    if draft is not None and draft.shape is not None:
        token_bytes += draft.shape.bytes_per_token
    on_device = placed.is_native and has_graphs(settings, device, draft)
    free = free_everywhere(placed.workers, device)
    limits = share_memory(settings, config, placed.placement, token_bytes, free, on_device, report)
    return replace(
        limits,
        speculates=draft is not None,
        runs_ahead=on_device,
        eos_token_ids=text.eos_ids,
    )


@dataclass(frozen=True, slots=True)
class _Wired:
    """What an engine drives."""

    runner: Runner
    executor: Executes
    """The runner, or what runs steps on the device around it."""
    grammars: GrammarCompiler


def _wire(
    settings: ModelSettings,
    placed: _Placed,
    limits: SchedulerConfig,
    text: ModelText,
    report: Report,
) -> _Wired:
    config, draft, workers = placed.target.config, placed.draft, placed.workers
    device, model = placed.placement.device, placed.target
    caches = allocate_kv(placed.kv_shape, limits.num_allocated_blocks, limits.block_size, device)
    target: Model = model
    if workers is not None:
        workers.tell({"num_blocks": limits.num_blocks, "block_size": limits.block_size})
        target = RemoteModel(model, workers)
    speculator = None
    if draft is not None:
        speculator = build_speculator(
            settings, draft, target, caches, limits, placed.identity, device, report, workers
        )
    vocabulary = text.vocabulary()
    grammars = GrammarCompiler(vocabulary)
    runner = Runner(
        target,
        caches,
        limits.block_size,
        limits.eos_token_ids,
        device,
        speculator,
        GrammarStates(grammars.get, vocabulary, grammars.spilling),
        RemoteCopies(workers) if workers else copy_kv,
    )
    executor: Executes = runner
    if limits.runs_ahead:
        identity = f"{placed.identity}|{draft.identity if draft else None}"
        executor = build_graphs(
            settings, runner, limits, placed.placement, identity, config.hidden_size, report
        )
    return _Wired(runner, executor, grammars)


def _kernels_identity(model: LlamaModel) -> str:
    """Costs and rounding differ between instruction sets. AVX-512 is not named: what was stored
    before there were others was measured with it."""
    kernels = cpu_kernels() if model.has_threads else None
    suffix = "" if kernels in (None, "avx512") else f" {kernels}"
    if model.has_threads and not model.is_fused:
        suffix += " products"
    return f"fused {model.is_fused}{suffix}"


def _default_speculation(settings: ModelSettings, draft: Draft | None) -> SpeculationParams:
    policy = "off" if draft is None else settings.speculation_policy
    return SpeculationParams(policy, settings.speculation_depth, settings.speculation_nodes)
