"""In which precision this machine multiplies faster."""

import math
import time

import torch

from weights.train.config import Precision

_REPETITIONS = 8
_ROWS, _INNER, _COLUMNS = 1024, 512, 4096
_AT_ONCE = 200
"""Products that a GPU is given at once where its speed is measured: one is over before it is
launched."""
_CPU = torch.device("cpu")


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


def operations_per_second(dtype: torch.dtype, device: torch.device) -> float:
    """Speed of products here, additions counted too: the best of some."""
    count = 1 if device.type == "cpu" else _AT_ONCE
    best = min(_seconds(dtype, device, count) for _ in range(_REPETITIONS))
    return count * 2 * _ROWS * _INNER * _COLUMNS / best


def _seconds(dtype: torch.dtype, device: torch.device = _CPU, count: int = 1) -> float:
    """Times products of a training step's kind."""
    x = torch.ones(_ROWS, _INNER, dtype=dtype, device=device)
    weight = torch.ones(_COLUMNS, _INNER, dtype=dtype, device=device)
    _finish(device)
    start = time.perf_counter()
    for _ in range(count):
        _ = x @ weight.T
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    """Waits for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
