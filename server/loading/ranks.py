"""Tensor parallelism at start: what is refused, how workers start, and what each of them does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from server.config import ModelSettings, as_given, load_settings
from server.engine.step.kv_cache import allocate_kv
from server.errors import ConfigError
from server.loading.draft import load_draft
from server.loading.machine import default_threads, free_memory, pick_device, pick_dtype
from server.loading.target import load_target, locate_target, read_target
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.shard import Shard
from server.parallel.rank import Rank
from server.parallel.replay import Replayed, replay
from server.parallel.workers import Workers
from server.report import Report, say_nothing

T = TypeVar("T")


def start_workers(settings: ModelSettings, report: Report) -> Workers | None:
    """Starts the workers, which begin to load; None without tensor parallelism.

    Raises:
        StartupError: the model or this machine can't be shared out so, or there is no such model.
    """
    size = settings.tensor_parallel_size
    if size == 1:
        return None
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    files = locate_target(settings, dtype, report)
    if files.hf is not None:
        reason = "transformers' code runs whole models alone; native models can be shared out"
        raise ConfigError("tensor_parallel_size", size, reason)
    check_ranks(settings, files.config, device)
    plain = load_settings(ModelSettings, **as_given(settings))  # without a server's secrets
    workers = Workers(size, device, Work(plain, files.folder, dtype))
    shown = ", ".join(map(str, workers.process_ids))
    kind = "GPUs" if device.type == "cuda" else "processes on the CPU"
    report(f"tensor parallelism over {size} {kind}; workers: {shown}")
    return workers


def check_ranks(settings: ModelSettings, config: ModelConfig, device: torch.device) -> None:
    """Refuses numbers of ranks over which the model or the machine can't be shared out.

    Raises:
        ConfigError: names the setting, and the counts that don't fit.
    """
    size, key = settings.tensor_parallel_size, "tensor_parallel_size"
    heads, kv_heads = config.num_heads, config.num_kv_heads
    if not Shard(0, size).splits_heads(heads, kv_heads):
        fitting = [n for n in range(1, heads + 1) if Shard(0, n).splits_heads(heads, kv_heads)]
        raise ConfigError(
            key,
            size,
            f"the model's {heads} query heads and {kv_heads} KV heads can't be shared out equally; "
            f"sizes that fit: {', '.join(map(str, fitting))}",
        )
    if device.type == "cuda" and size > torch.cuda.device_count():
        raise ConfigError(key, size, f"this machine has {torch.cuda.device_count()} usable GPUs")
    if settings.quantization not in ("auto", "none"):
        reason = f"needs the native kernels, which don't run with {key}={size}"
        raise ConfigError("quantization", settings.quantization, reason)


def rank_threads(settings: ModelSettings) -> int:
    """CPU threads of each rank: the ranks share the machine's."""
    return max(1, (settings.threads or default_threads()) // settings.tensor_parallel_size)


def guarded(workers: Workers | None, run: Callable[[], T]) -> T:
    """Runs something in which ranks wait for one another.

    Raises:
        WorkerDiedError: it failed, and a worker has ended.
    """
    return run() if workers is None else workers.guard(run)


def free_everywhere(workers: Workers | None, device: torch.device) -> int:
    """Bytes that each rank may still take, when all have loaded."""
    free = free_memory(device)
    if workers is None:
        return free
    others = [int(message["free"]) for message in workers.hear()]
    if device.type == "cpu":  # all the same memory
        return min(free, *others) // workers.size
    return min(free, *others)


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker does; travels to its process."""

    settings: ModelSettings
    folder: Path
    """The target's, in Hugging Face layout."""
    dtype: torch.dtype

    def __call__(self, rank: Rank) -> None:
        """Loads this rank's part as `build_model` loads rank 0's, then replays its calls."""
        torch.set_num_threads(rank_threads(self.settings))
        placement = Placement(rank.device, self.dtype, rank.join())
        loaded = load_target(read_target(self.folder), placement)
        draft = load_draft(self.settings, loaded.parameters, placement, None, say_nothing)
        target, kv_shape = loaded.freeze(), loaded.kv_shape
        del loaded
        if target.has_threads:
            torch.set_num_threads(1)  # as on rank 0, which says why
        rank.tell({"free": free_memory(rank.device)})
        pool = rank.hear()
        if pool is None:
            return
        size = pool["num_blocks"], pool["block_size"]
        caches = allocate_kv(kv_shape, *size, rank.device)
        if draft is None or draft.model is None or draft.shape is None:
            replay(rank.pipe, rank.device, Replayed(target, caches))
            return
        own = allocate_kv(draft.shape, *size, rank.device)
        replay(rank.pipe, rank.device, Replayed(target, caches, draft.model, own))
