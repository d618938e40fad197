"""How memory is shared out: KV pool, longest sequence, size of a step.

On a GPU the KV pool gets what weights and steps leave of the share that may be taken; on a CPU a
share of what is free.
"""

from dataclasses import dataclass

import torch

from server.config import ModelSettings
from server.engine.schedule.planner import SchedulerConfig
from server.engine.step.device.capture import MOST_GRAPHS
from server.errors import ConfigError
from server.kernels.triton import ATTENTION_WORKSPACE
from server.loading.machine import total_memory
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.report import Report

_SHORT_CONTEXT = 256
"""Tokens below which most chats get no answer: a template alone may have fifty."""
_SEQUENCES_BY_DEFAULT = 3
"""Full-length sequences that the KV pool holds on a CPU where no size is set."""
_OF_DEVICES = {"cpu": "gpu_memory_utilization", "cuda": "kv_memory_fraction"}
"""Settings that mean nothing on a device."""
_ALIVE = 3
"""Tensors of a layer's widest kind that live at once."""
_LOGITS_ALIVE, _LOGIT_BYTES = 4, 4
"""Where top-k and top-p cut: logits, their softmax, what is kept of them, two masks of bytes."""
_GRAPH_BYTES = 2**23
"""What each takes beside what it computes; not measured."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes of a GPU."""

    total: int
    used: int
    """Taken by weights, drafts, and other programs."""
    steps: int
    """Set aside for what a step computes."""
    graphs: int
    """Set aside for CUDA graphs: what theirs compute, and themselves."""
    utilization: float
    """Share of the total that may be taken."""

    @property
    def kv(self) -> int:
        return max(int(self.total * self.utilization) - self.used - self.steps - self.graphs, 0)

    def __str__(self) -> str:
        gib = {"weights": self.used, "steps": self.steps, "graphs": self.graphs}
        gib["KV cache"] = self.kv
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in gib.items())
        total = self.total / 2**30
        return f"GPU memory: {parts} GiB, together {self.utilization:.0%} of {total:.1f} GiB"


def gpu_memory(
    settings: ModelSettings,
    config: ModelConfig,
    dtype: torch.dtype,
    total: int,
    free: int,
    has_graphs: bool,
) -> GpuMemory:
    """Works out a GPU's shares once the models are loaded.

    Args:
        total, free: bytes of the GPU.
        has_graphs: steps are captured.
    """
    width = max(2 * config.intermediate_size, config.num_heads * config.head_dim)
    row = _ALIVE * (width + 2 * config.hidden_size) * dtype.itemsize
    # Shapes of trees are powers of two.
    tree_rows = settings.max_num_seqs * (1 << (settings.speculation_nodes - 1).bit_length())
    logits = _LOGITS_ALIVE * tree_rows * config.vocab_size * _LOGIT_BYTES
    of_trees = tree_rows * row + logits + ATTENTION_WORKSPACE
    steps = settings.max_num_batched_tokens * row + of_trees
    # Graphs compute in memory of their own.
    graphs = of_trees + MOST_GRAPHS * _GRAPH_BYTES if has_graphs else 0
    return GpuMemory(total, total - free, steps, graphs, settings.gpu_memory_utilization)


def check_memory_settings(settings: ModelSettings, device: torch.device) -> None:
    """Refuses memory settings of the other kind of device.

    Raises:
        ConfigError: a setting was given that this device has no use for.
    """
    name = _OF_DEVICES[device.type]
    if name in settings.model_fields_set:
        other = _OF_DEVICES["cuda" if device.type == "cpu" else "cpu"]
        reason = f"the model runs on {device.type}, where {other} decides"
        raise ConfigError(name, getattr(settings, name), reason)


def share_memory(
    settings: ModelSettings,
    config: ModelConfig,
    placement: Placement,
    token_bytes: int,
    free: int,
    has_graphs: bool,
    report: Report,
) -> SchedulerConfig:
    """Shares out what is free when the models are loaded, and reports how.

    Args:
        config: The target's.
        token_bytes: KV of one token, the target's and the draft's.
        free: Bytes.
        has_graphs: Steps are captured.

    Raises:
        ConfigError: there is too little memory for what is asked.
    """
    check_kv_memory(settings, free)
    on_cpu = placement.device.type == "cpu"
    if not on_cpu:
        total = total_memory(placement.device)
        memory = gpu_memory(settings, config, placement.dtype, total, free, has_graphs)
        report(str(memory))
        free = memory.kv
    limits = scheduler_config(settings, config, token_bytes, free, on_cpu=on_cpu)
    report(describe_pool(limits, token_bytes))
    if warning := short_context(limits, config):
        report(warning)
    return limits


def scheduler_config(
    settings: ModelSettings, config: ModelConfig, token_bytes: int, free: int, on_cpu: bool
) -> SchedulerConfig:
    """Sizes the KV pool and with it the longest sequence.

    Args:
        token_bytes: KV of one token, the target's and the draft's.
        free: bytes left after the models are loaded; on a GPU those of the KV cache.

    Raises:
        ConfigError: the pool can't hold one sequence of the asked max_model_len.
    """
    wanted_len = settings.max_model_len or config.max_position
    if wanted_len > config.max_position:
        reason = f"the model was trained for {config.max_position} positions"
        raise ConfigError("max_model_len", wanted_len, reason)
    block_bytes = token_bytes * settings.block_size
    blocks_per_sequence = -(-wanted_len // settings.block_size)
    if settings.kv_memory is not None:
        num_blocks = settings.kv_memory // block_bytes
    else:
        num_blocks = free // block_bytes
        if on_cpu:  # memory that a user's other programs want too
            num_blocks = int(free * settings.kv_memory_fraction) // block_bytes
            num_blocks = min(num_blocks, _SEQUENCES_BY_DEFAULT * blocks_per_sequence)
    held = num_blocks * settings.block_size
    if held < min(wanted_len, 2 * settings.block_size) or (settings.max_model_len or 0) > held:
        reason = f"the KV cache holds {held} tokens, fewer than a sequence of {wanted_len} needs"
        if settings.kv_memory is None and not on_cpu:
            raise ConfigError("gpu_memory_utilization", settings.gpu_memory_utilization, reason)
        raise ConfigError("kv_memory", settings.kv_memory or "auto", reason)
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=settings.block_size,
        max_model_len=min(wanted_len, held),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        prefix_caching=settings.prefix_caching != "off",
    )


def short_context(limits: SchedulerConfig, config: ModelConfig) -> str | None:
    """A warning where the KV cache leaves too little of the model's context to be of use."""
    if limits.max_model_len >= min(_SHORT_CONTEXT, config.max_position):
        return None
    return (
        f"warning: a prompt and its answer have {limits.max_model_len} tokens together, too few "
        f"for most; the model was trained for {config.max_position:,} (--kv-memory, "
        "--max-model-len)"
    )


def check_kv_memory(settings: ModelSettings, free: int) -> None:
    """Checks that what is asked for the KV cache is there.

    Args:
        free: bytes left after the models are loaded.

    Raises:
        ConfigError: more is asked for than there is.
    """
    wanted = settings.kv_memory
    if wanted is not None and wanted > free:
        reason = f"{wanted / 2**30:,.1f} GiB are asked for, {free / 2**30:,.1f} GiB are free"
        raise ConfigError("kv_memory", wanted, reason)


def describe_pool(limits: SchedulerConfig, token_bytes: int) -> str:
    """The KV pool in numbers, for people."""
    tokens = limits.num_blocks * limits.block_size
    mebibytes = tokens * token_bytes / 2**20
    full = tokens / limits.max_model_len
    return (
        f"KV cache: {mebibytes:,.0f} MiB = {tokens:,} tokens = {full:.1f} sequences of "
        f"{limits.max_model_len:,} tokens"
    )
