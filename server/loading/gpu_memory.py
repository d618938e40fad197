"""How a GPU's memory is shared out: what weights and steps leave is the KV cache's."""

from dataclasses import dataclass

import torch

from server.config import ModelSettings
from server.errors import ConfigError
from server.kernels.triton import ATTENTION_WORKSPACE
from server.models.config import ModelConfig

_OF_DEVICES = {"cpu": "gpu_memory_utilization", "cuda": "kv_memory_fraction"}
"""Settings that mean nothing there."""
_ALIVE = 3
"""Tensors of a layer's widest kind that live at once, and of logits."""
_LOGIT_BYTES = 4
_GRAPHS, _GRAPH_BYTES = 64, 2**23
"""How many are kept at a time, about, and what each takes beside what it computes; not measured."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes of a GPU."""

    total: int
    used: int
    """By weights, drafts, and other programs."""
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
    """To be called when the models are loaded.

    Args:
        total, free: bytes of the GPU.
        has_graphs: steps are captured.
    """
    width = max(2 * config.intermediate_size, config.num_heads * config.head_dim)
    row = _ALIVE * (width + 2 * config.hidden_size) * dtype.itemsize
    tree_rows = settings.max_num_seqs * settings.speculation_nodes
    logits = _ALIVE * tree_rows * config.vocab_size * _LOGIT_BYTES
    of_trees = tree_rows * row + logits + ATTENTION_WORKSPACE
    steps = settings.max_num_batched_tokens * row + of_trees
    # Graphs compute in memory of their own.
    graphs = of_trees + _GRAPHS * _GRAPH_BYTES if has_graphs else 0
    return GpuMemory(total, total - free, steps, graphs, settings.gpu_memory_utilization)


def check_memory_settings(settings: ModelSettings, device: torch.device) -> None:
    """
    Raises:
        ConfigError: a setting was given that this device has no use for.
    """
    name = _OF_DEVICES[device.type]
    if name in settings.model_fields_set:
        other = _OF_DEVICES["cuda" if device.type == "cpu" else "cpu"]
        reason = f"the model runs on {device.type}, where {other} decides"
        raise ConfigError(name, getattr(settings, name), reason)
