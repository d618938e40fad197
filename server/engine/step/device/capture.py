"""Captures a step's CUDA graphs, on first use, and replays them; on a CPU, steps simply run."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch

from server.engine.speculation.tiers import StepShape, TierCosts
from server.engine.step.device.seats import DeviceSeats

MOST_GRAPHS = 128
"""Most graphs that are kept; beyond, the least recently used goes. Graphs share their memory."""
_REPETITIONS = 3

logger = logging.getLogger(__name__)


class Running(NamedTuple):
    """A launched step."""

    packed: torch.Tensor
    """The results, on the CPU; to be read when the step is done."""
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None
    """Its start and its end."""
    seconds: float
    """The step's duration where there are no events."""

    def wait(self) -> float:
        """Waits until the step is done, and returns how many seconds it took."""
        if self.events is None:
            return self.seconds
        start, end = self.events
        end.synchronize()
        return start.elapsed_time(end) / 1000


class Graphs:
    """A graph per shape.

    Args:
        step: a `DeviceStep`: runs a shape and returns a tensor that the next run may overwrite.
        costs: gets the seconds of each shape's step where it has no figure.
    """

    def __init__(
        self,
        step: Callable[[StepShape], torch.Tensor],
        seats: DeviceSeats,
        costs: TierCosts,
    ) -> None:
        self.step = step
        self.seats = seats
        self.costs = costs
        self._graphs: OrderedDict[StepShape, tuple[torch.cuda.CUDAGraph, torch.Tensor]]
        self._graphs = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if seats.device.type == "cuda" else None
        self.is_serving = False
        """Whether the server serves: captures are logged from then on."""

    def prepare(self, shape: StepShape) -> None:
        """Captures a shape's graph if there is none; to be called before the step's rows are
        set."""
        if self.seats.device.type == "cpu" or shape in self._graphs:
            return
        if self.is_serving:
            logger.info("capturing the graph of a step of %s", _described(shape))
        self.seats.fill_with_padding()
        self.step(shape)  # compiles kernels and fills their caches
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, pool=self._pool):
            packed = self.step(shape)
        self._graphs[shape] = graph, packed
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        if (shape.batch, shape.tier) not in self.costs.seconds:
            self.costs.measured(shape.batch, shape.tier, self._measured(graph))

    def launch(self, shape: StepShape) -> Running:
        """Launches the step of the rows that were set."""
        if self.seats.device.type == "cpu":
            started = time.perf_counter()
            packed = self.step(shape)
            return Running(packed, None, time.perf_counter() - started)
        graph, packed = self._graphs[shape]
        self._graphs.move_to_end(shape)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        # The next replay, of whichever graph, comes after this in the stream.
        on_host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        on_host.copy_(packed, non_blocking=True)
        end.record()
        return Running(on_host, (start, end), 0.0)

    def _measured(self, graph: torch.cuda.CUDAGraph) -> float:
        """Seconds of a replay with padding rows alone: all weights are read, and no KV."""
        times = list[float]()
        for _ in range(_REPETITIONS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        return min(times)


def _described(shape: StepShape) -> str:
    depth, nodes = shape.tier
    return (
        f"{shape.batch} sequences, {depth} drafted tokens, {nodes} nodes, contexts to "
        f"{shape.context}, {shape.sampling}"
    )
