"""From settings to an engine around a loaded model; it still has to be started.

place    target and draft in memory, in the form in which they run
size     KV pool, longest sequence, size of a step
wire     pool, draft's costs, grammars, runner, graphs, engine
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from server.config import ModelSettings
from server.engine.async_engine import AsyncEngine
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.grammar.states import GrammarStates
from server.engine.loop import Executes
from server.engine.outputs import StepStats
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import allocate_kv, copy_kv
from server.engine.step.model import Model
from server.engine.types import SpeculationParams
from server.loading.draft import build_speculator
from server.loading.facts import ModelFacts
from server.loading.graphs import build_graphs, has_graphs
from server.loading.machine import (
    pick_device,
    pick_dtype,
)
from server.loading.memory import check_memory_settings, share_memory
from server.loading.place import Placed, place
from server.loading.ranks import free_everywhere, rank_threads, start_workers
from server.loading.text import ModelText, load_text
from server.memory import give_back_memory
from server.models.layers import Placement
from server.models.shard import WHOLE
from server.parallel.remote import RemoteCopies, RemoteModel
from server.parallel.workers import Workers
from server.report import Report
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything a command needs to run a model."""

    facts: ModelFacts
    limits: SchedulerConfig
    """The sizes of the KV cache and of a step."""
    engine: AsyncEngine
    runner: Runner
    """What the engine runs; for what needs the model itself. While no request is open, its
    speculator may be exchanged and its forward observed."""
    grammars: GrammarCompiler
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    workers: Workers | None
    """The other ranks of tensor parallelism."""

    @property
    def speculator(self) -> Speculator | None:
        return self.runner.speculator

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
    placed = place(settings, text.files, placement, workers, report)
    give_back_memory()
    report(f"sampling, where a request says nothing: {text.default_sampling}")
    limits = _size(settings, placed, text, report)
    wired = _wire(settings, placed, limits, text, report)
    engine = AsyncEngine(Scheduler(limits), wired.executor, observe, wired.grammars, step_timeout)
    if workers is not None:
        workers.watch(engine.fail)
    facts = _facts(settings, placed, text, engine.max_model_len)
    return LoadedModel(
        *(facts, limits, engine, wired.runner, wired.grammars),
        *(text.tokenizer, text.chat_template, workers),
    )


def _facts(
    settings: ModelSettings, placed: Placed, text: ModelText, max_model_len: int
) -> ModelFacts:
    draft = placed.draft
    policy = "off" if draft is None else settings.speculation_policy
    speculation = policy, settings.speculation_depth, settings.speculation_nodes
    return ModelFacts(
        name=text.name,
        identity=placed.identity,
        precision=placed.form,
        kernels=placed.kernels,
        draft="none" if draft is None else draft.name,
        speculation=SpeculationParams(*speculation),
        can_speculate=draft is not None,
        vocab_size=text.files.config.vocab_size,
        max_model_len=max_model_len,
        default_sampling=text.default_sampling,
    )


def _size(
    settings: ModelSettings, placed: Placed, text: ModelText, report: Report
) -> SchedulerConfig:
    config, device, draft = placed.target.config, placed.placement.device, placed.draft
    token_bytes = placed.token_bytes
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
    placed: Placed,
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
