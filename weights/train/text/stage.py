"""Stage 1 of `glidecape train` around the engine: how much of it, its progress, its end."""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from server.config import ModelSettings
from server.engine.outputs import StepStats
from server.engine.step.kv_cache import CacheShape
from server.errors import ConfigError
from server.loading.machine import free_memory, pick_device, pick_dtype
from server.loading.model import LoadedModel, build_model
from server.loading.target import locate_target
from server.models.config import ModelConfig
from server.report import Report
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer, from_hf, load_hf_tokenizer
from weights.train.progress import reporter, text_bar
from weights.train.text.generate import (
    TEXT_FILE,
    GenerationConfig,
    Progress,
    Recorder,
    generate_text,
)
from weights.train.text.prompts import Prompt, prompt_encoder, read_prompts, usable_template
from weights.train.text.samples import read_samples
from weights.train.text.self_prompts import user_header
from weights.train.text.store import TextStore
from weights.train.text.target import TextTarget
from weights.train.work_folder import StageClock, WorkFolder

TEXT_SECONDS = "text_seconds"
"""Note in the work folder: time of this stage, over all runs."""
_CONTEXT = 2048
"""Longest prompt and answer; longer prompts are skipped."""
_TYPICAL_PROMPT = 160
"""Tokens; with the longest answer, what a request takes of the KV pool."""
_CONCURRENCY_CPU, _CONCURRENCY_GPU = 32, 256
"""On a CPU, arithmetic is used up by 32 rows: more of them give the same tokens per second, and a
kill loses more answers that were being given."""


@dataclass(frozen=True, slots=True)
class TextPlan:
    """What the stage is asked for."""

    num_tokens: int
    """Response tokens, those of earlier runs included."""
    deadline: float | None
    """Monotonic seconds; None for no limit."""
    concurrency: int | None
    """Most requests in flight; None for the device's default."""
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Source:
    """The target's own files and the user's prompts, checked; no weights are loaded."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate | None
    prompts: Sequence[Prompt]


def read_source(
    settings: ModelSettings, prompts: Path | None, report: Report, *, writes: bool
) -> Source:
    """Reads everything that may be wrong with what the user gave, before any work.

    Args:
        writes: whether text is to be written; if not, prompts are not needed.

    Raises:
        CheckpointError: the model or the prompts can't be read; names file and line.
        UnsupportedModelError: the model or its template can't be used.
        ConfigError: there are no prompts, and the target can't write any.
    """
    dtype = pick_dtype(settings.dtype, pick_device(settings.device))
    files = locate_target(settings, dtype, report)
    hf_tokenizer = load_hf_tokenizer(files.folder)
    tokenizer = from_hf(hf_tokenizer)
    template = usable_template(ChatTemplate(hf_tokenizer, settings.model))
    given = read_prompts(prompts, template) if prompts is not None else []
    if writes and not given:
        if template is None:
            reason = (
                "the target has no chat template, so it can't write prompts itself; give a file"
            )
            raise ConfigError("prompts", None, reason)
        user_header(template, tokenizer)
    return Source(files.folder, files.config, tokenizer, template, given)


def count_given(paths: Sequence[Path], source: Source) -> int:
    """Tokens to learn from in the user's own text.

    Raises:
        CheckpointError: a file can't be read; names the line.
    """
    prompt_ids = prompt_encoder(source.tokenizer, source.template)
    samples = read_samples(paths, prompt_ids, source.config.vocab_size, _CONTEXT)
    return sum(sample.num_labels for sample in samples)


def write_text(
    settings: ModelSettings,
    source: Source,
    work: WorkFolder,
    plan: TextPlan,
    console: Console,
    recording: Callable[[], Callable[[LoadedModel], Recorder] | None] | None = None,
) -> None:
    """Loads the engine, writes text into the work folder, and lets go of the engine's memory;
    nothing if there is enough text already.

    Args:
        recording: called before the engine is loaded; what it gives, if anything, makes what is
            told of every answer. The engine finds no prefixes then, so that it computes all of
            every prompt.

    Raises:
        ConfigError: the memory doesn't hold the target's KV cache.
        CheckpointError: a file of the work folder is broken, or the disk is full.
        EngineDeadError: the engine crashed.
    """
    report, began = reporter(console), time.monotonic()
    with closing(TextStore(work.path / TEXT_FILE)) as store:
        if store.num_tokens >= plan.num_tokens:
            report(f"text: {store.num_tokens:,} tokens are there already")
            return
    sized, concurrency = size_engine(settings, source, plan)
    record = None if recording is None else recording()
    if record is not None:
        sized = sized.model_copy(update={"prefix_caching": "off"})
    model = build_model(sized, report, _ignore)
    recorder = None if record is None else record(model)
    seconds = None if plan.deadline is None else max(plan.deadline - time.monotonic(), 1.0)
    config = GenerationConfig(plan.num_tokens, seconds, concurrency, plan.max_new_tokens, plan.seed)
    report(f"writing text, {concurrency} answers at once")
    clock = StageClock(work, TEXT_SECONDS, began)
    try:
        with text_bar(console, config.num_tokens, seconds) as show:

            def both(progress: Progress) -> None:
                show(progress)
                clock.tick()

            done = asyncio.run(_run(model, source, work.path, config, both, recorder))
        report(_summary(done))
    finally:
        clock.note()
        del model, recorder
        gc.collect()  # the engine's parts know each other; training needs their memory


def _summary(done: Progress) -> str:
    line = (
        f"text: {done.num_answers:,} answers, {done.num_tokens:,} tokens; "
        f"{done.tokens_per_second:.0f} tokens/s"
    )
    if done.num_skipped:
        line += f"; {done.num_skipped:,} not given, their prompts leave no room for them"
    return line


async def _run(
    model: LoadedModel,
    source: Source,
    folder: Path,
    config: GenerationConfig,
    show: Callable[[Progress], None],
    recorder: Recorder | None,
) -> Progress:
    target = TextTarget(model.engine, source.tokenizer, source.template)
    model.engine.start()
    try:
        return await generate_text(target, source.prompts, folder, config, show, recorder)
    finally:
        await model.engine.stop()


def size_engine(
    settings: ModelSettings, source: Source, plan: TextPlan
) -> tuple[ModelSettings, int]:
    """How many answers at once, and a KV cache that holds them.

    A request is counted with a prompt of `_TYPICAL_PROMPT` tokens and the longest answer; where
    prompts are longer, the engine preempts.
    """
    device = pick_device(settings.device)
    config = source.config
    dtype = pick_dtype(settings.dtype, device)
    sizes = config.num_layers, config.num_kv_heads, config.head_dim
    shape = CacheShape(*sizes, dtype, config.kv_shapes)
    longest = min(settings.max_model_len or _CONTEXT, config.max_position)
    typical = min(_TYPICAL_PROMPT + plan.max_new_tokens, longest) * shape.bytes_per_token
    free = max(free_memory(device) - _weight_bytes(source.folder), 0)
    kv_memory = settings.kv_memory or int(free * settings.kv_memory_fraction)
    most = plan.concurrency or (_CONCURRENCY_CPU if device.type == "cpu" else _CONCURRENCY_GPU)
    concurrency = max(1, min(most, kv_memory // typical))
    block_bytes = settings.block_size * shape.bytes_per_token
    least = -(-longest // settings.block_size) * block_bytes
    sized: dict[str, object] = {
        "draft": "none",
        "max_model_len": longest,
        "kv_memory": min(kv_memory, max(concurrency * typical, least)),
        "max_num_seqs": concurrency,
        # Room for new prompts beside a full batch of decoding requests.
        "max_num_batched_tokens": max(settings.max_num_batched_tokens, 4 * concurrency),
    }
    return settings.model_copy(update=sized), concurrency


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _ignore(stats: StepStats) -> None:
    """Drops the stats of steps: there are no metrics here."""
