"""What the sections of `bench/gpu` share: sizes, where results go, and how times are taken."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

CONTEXTS, BATCHES, NODES = (512, 8192, 32768), (1, 4, 16, 64), (1, 2, 4, 8, 16, 32, 64)
TINY_CONTEXTS, TINY_BATCHES, TINY_NODES = (32, 64), (1, 2), (1, 4)
_REPETITIONS = 20
PAPER_CAPE = (3.5, 32, 4)
"""Tokens per step of Vicuna 7B on MT-Bench (paper, table 4); nodes at most, depth."""

Json = dict[str, Any]


@dataclass(slots=True)
class Session:
    """The device, the time that is left, and the results."""

    device: torch.device
    deadline: float
    tiny: bool
    console: Console = field(default_factory=Console)
    results: Json = field(default_factory=dict[str, Any])

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether there is time for this; prints a line where there is not."""
        left = self.deadline - time.monotonic()
        if left < seconds:
            self.console.print(f"{what}: skipped, {left:.0f} s are left")
        return left >= seconds

    def show(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


@torch.inference_mode()
def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a run; on a GPU, of replays of its graph, one after another."""
    for _ in range(3):
        run()
    if device.type == "cpu":
        times = list[float]()
        for _ in range(3):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return statistics.median(times)
    torch.cuda.synchronize()
    replay = _captured(run)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(_REPETITIONS + 1)]
    replay()
    for event in events:
        event.record()
        replay()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(events)) / 1000


def _captured(run: Callable[[], object]) -> Callable[[], object]:
    """Captures a run in a graph and returns its replay; where that fails, the run itself."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        print(f"not captured, launched one by one: {error}", file=sys.stderr)
        return run
    return graph.replay


@torch.inference_mode()
def eager_seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Median wall time of a run without a graph, up to its end on the device."""
    times = list[float]()
    for _ in range(8):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
