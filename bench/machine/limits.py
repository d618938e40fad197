"""What the machine allows: no step can be faster than reading the weights once."""

import time
from dataclasses import dataclass

import torch

_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """The measured bandwidth, and the limit that follows for a step of a model."""

    bandwidth: float
    """Bytes per second read by all threads."""
    weight_bytes: int
    """Bytes of weights that every step reads."""

    @property
    def steps_per_second(self) -> float:
        """Upper bound of plain decoding, one stream."""
        return self.bandwidth / self.weight_bytes


def measure_limits(weight_bytes: int) -> Limits:
    """Reads a buffer larger than the caches a few times; the best pass counts."""
    buffer = torch.ones(_BYTES // 4)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        buffer.sum()
        best = max(best, _BYTES / (time.perf_counter() - started))
    return Limits(best, weight_bytes)
