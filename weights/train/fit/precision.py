"""In which precision this machine multiplies faster."""

import math
import time

import torch

from weights.train.config import Precision

_REPETITIONS = 8


def pick_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on a GPU; on a CPU what is measured, as some have the instructions and are
    slower with them."""
    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16" or device.type != "cpu":
        return torch.bfloat16
    best = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(_REPETITIONS):  # by turns: another program's load then hits both
        for dtype in best:
            best[dtype] = min(best[dtype], _seconds(dtype))
    return min(best, key=lambda dtype: best[dtype])


def _seconds(dtype: torch.dtype) -> float:
    """Times one product of a training step's kind."""
    x, weight = torch.ones(1024, 512, dtype=dtype), torch.ones(4096, 512, dtype=dtype)
    start = time.perf_counter()
    _ = x @ weight.T
    return time.perf_counter() - start
