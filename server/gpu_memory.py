"""How a GPU's memory is shared out: what weights and steps leave is the KV cache's."""

from dataclasses import dataclass

import torch

from server.config import ModelSettings
from server.errors import ConfigError
from server.models.config import ModelConfig

_OF_DEVICES = {"cpu": "gpu_memory_utilization", "cuda": "kv_memory_fraction"}
"""Settings that mean nothing there."""
_ALIVE = 3
"""Tensors of a layer's widest kind that live at once, and of logits."""
_LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes of a GPU."""

    total: int
    used: int
    """By weights, drafts, and other programs."""
    steps: int
    """Set aside for what a step computes."""
    utilization: float
    """Share of the total that may be taken."""

    @property
    def kv(self) -> int:
        return max(int(self.total * self.utilization) - self.used - self.steps, 0)

    def __str__(self) -> str:
        gib = {"weights": self.used, "steps": self.steps, "KV cache": self.kv}
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in gib.items())
        total = self.total / 2**30
        return f"GPU memory: {parts} GiB, together {self.utilization:.0%} of {total:.1f} GiB"


def gpu_memory(
    settings: ModelSettings, config: ModelConfig, dtype: torch.dtype, total: int, free: int
) -> GpuMemory:
    """To be called when the models are loaded.

    Args:
        total, free: bytes of the GPU.
    """
    rows = settings.max_num_batched_tokens + settings.max_num_seqs * settings.speculation_nodes
    width = max(2 * config.intermediate_size, config.num_heads * config.head_dim)
    layers = _ALIVE * (width + 2 * config.hidden_size) * dtype.itemsize
    logit_rows = settings.max_num_seqs * settings.speculation_nodes
    logits = _ALIVE * logit_rows * config.vocab_size * _LOGIT_BYTES
    steps = rows * layers + logits
    return GpuMemory(total, total - free, steps, settings.gpu_memory_utilization)


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
