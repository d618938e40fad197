"""The engine on a GPU for `bench/gpu`: whole steps as graphs, with scheduling, and what the host
adds to them."""

import time
from typing import NamedTuple

from bench.gpu.models import BLOCK_SIZE, Pair
from bench.gpu.session import (
    BATCHES,
    CONTEXTS,
    PAPER_CAPE,
    TINY_BATCHES,
    TINY_CONTEXTS,
    Json,
    Session,
)
from server.engine.drafters.glide import GlideDrafter
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.costs import CostCurve, LiveCosts, StepCosts
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tiers import AUTO_TIERS, StepShape, TierCosts, at_least
from server.engine.step.device.assemble import graph_runner
from server.engine.step.device.capture import Running
from server.engine.step.device.runner import GraphRunner
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.types import (
    PolicyName,
    Request,
    RequestId,
    SamplingParams,
    SpeculationParams,
)

_NO_COSTS = StepCosts(CostCurve((1, 2), (1.0, 1.0)), CostCurve((1, 2), (1.0, 1.0)))
"""Costs for steps that the host launches; none of these is timed here."""
_WARM_STEPS = 6


class EngineTimes(NamedTuple):
    """Mean seconds of a decoding step."""

    wall: float
    """From one step's end to the next one's, as in the engine's loop."""
    device: float
    """Device time of the step's graph."""
    tokens: float
    """Tokens that a step yields for one sequence."""

    @property
    def host_gap(self) -> float:
        """Share of a step in which the device waits for the host."""
        return max(1 - self.device / self.wall, 0.0)


class TimedEngine:
    """Scheduler and runner of a pair of models, stepped as the engine's loop does."""

    def __init__(self, pair: Pair, num_seqs: int, max_len: int, chunk: int = 4096) -> None:
        device = pair.target.placement.device
        self.config = SchedulerConfig(
            num_blocks=pair.num_blocks - 1,
            block_size=BLOCK_SIZE,
            max_model_len=max_len,
            max_num_seqs=num_seqs,
            max_num_batched_tokens=chunk,
            prefix_caching=False,
            eos_token_ids=frozenset(),
            speculates=True,
            runs_ahead=True,
        )
        drafter = GlideDrafter(pair.draft, pair.draft_caches, pair.caches, BLOCK_SIZE, device)
        policies = PolicyConfig()
        speculator = Speculator(drafter, policies, AutoPolicy(LiveCosts(_NO_COSTS)))
        runner = Runner(pair.target, pair.caches, BLOCK_SIZE, frozenset(), device, speculator)
        self.runner: GraphRunner = graph_runner(
            *(runner, self.config, (pair.target.config.hidden_size, pair.target.placement.dtype)),
            *(TierCosts(), AUTO_TIERS, policies),
        )
        self.device_seconds = list[float]()
        launch = self.runner.graphs.launch
        self.runner.graphs.launch = lambda shape: _Timed(launch(shape), self.device_seconds)  # pyright: ignore[reportAttributeAccessIssue]

    def run(self, batch: int, context: int, policy: PolicyName, num_steps: int) -> EngineTimes:
        """Times num_steps steps of a batch, after its prompts and some steps to warm up."""
        scheduler = Scheduler(self.config)
        tokens_left = (num_steps + _WARM_STEPS + 2) * 9  # of the deepest tier's longest path
        params = SamplingParams(max_tokens=tokens_left, temperature=0.0, ignore_eos=True)
        for index in range(batch):
            prompt = tuple((index + i) % 251 for i in range(context))
            speculation = SpeculationParams(policy)
            name = RequestId(f"{policy} {index}")
            scheduler.add(Request(name, prompt, params, speculation=speculation), time.monotonic())
        while any(s.num_output_tokens < 1 for s in scheduler.running) or not scheduler.running:
            self._step(scheduler)
        for _ in range(_WARM_STEPS):
            self._step(scheduler)
        self._capture(batch)
        self.device_seconds.clear()
        started, num_tokens = time.perf_counter(), 0
        for _ in range(num_steps):
            num_tokens += self._step(scheduler)
        wall = (time.perf_counter() - started) / num_steps
        device = sum(self.device_seconds) / num_steps
        for sequence in list(scheduler.running):
            scheduler.finish(sequence.request.request_id, "abort", time.monotonic())
            self.runner.forget(sequence.request.request_id)
        return EngineTimes(wall, device, num_tokens / num_steps / batch)

    def _capture(self, batch: int) -> None:
        """Runs every tier that `auto` may choose: it tries tiers without a figure first."""
        sizes = self.runner.sizes
        for context in sizes.contexts:
            for tier in AUTO_TIERS:
                size = at_least(batch, sizes.batches)
                self.runner.graphs.prepare(StepShape(size, tier, context, "greedy"))

    def _step(self, scheduler: Scheduler) -> int:
        """Runs a step; returns how many tokens it yields."""
        plan = scheduler.schedule(time.monotonic())
        if plan is None:
            raise RuntimeError("the answers ended before the steps")
        outputs = scheduler.update(plan, self.runner.execute(plan), time.monotonic())
        return sum(len(output.token_ids) for output in outputs)


class _Timed:
    """A running step that remembers how long it took."""

    def __init__(self, running: Running, seconds: list[float]) -> None:
        self.packed = running.packed
        self._running = running
        self._seconds = seconds

    def wait(self) -> float:
        self._seconds.append(self._running.wait())
        return self._seconds[-1]


def measure_engine(session: Session, name: str, pair: Pair, found: Json) -> None:
    """Whole steps of the engine, plain and with CaPE, and what the host adds to them; and the
    speedup that CaPE would have with the paper's acceptance (synthetic: a random draft has
    none)."""
    context = min(TINY_CONTEXTS if session.tiny else CONTEXTS)
    num_steps = 4 if session.tiny else 40
    rows, cells = list[list[str]](), list[Json]()
    for batch in TINY_BATCHES if session.tiny else BATCHES:
        max_len = context + 12 * (num_steps + 8)
        if batch * (max_len + 128) > pair.num_blocks * BLOCK_SIZE or not session.has_time(
            f"{name}: engine, {batch} sequences", 0 if session.tiny else 10
        ):
            continue
        engine = TimedEngine(pair, batch, max_len)
        times = {p: engine.run(batch, context, p, num_steps) for p in ("off", "cape", "auto")}
        plain = times["off"].wall
        for policy, found_times in times.items():
            cell: Json = {"batch": batch, "policy": policy, "host_gap": found_times.host_gap}
            cell |= {"wall_seconds": found_times.wall, "device_seconds": found_times.device}
            cell["tokens_per_step"] = found_times.tokens
            cells.append(cell)
            ratio = found_times.tokens * plain / found_times.wall
            synthetic = "-"
            if policy == "cape":
                cell["synthetic_speedup"] = PAPER_CAPE[0] * plain / found_times.wall
                synthetic = f"{cell['synthetic_speedup']:.2f}"
            rows.append([str(batch), policy, f"{found_times.wall * 1e3:.3f}",
                         f"{found_times.device * 1e3:.3f}", f"{found_times.host_gap:.1%}",
                         f"{found_times.tokens:.2f}", f"{ratio:.2f}", synthetic])  # fmt: skip
    found["engine"] = cells
    columns = ("batch", "policy", "ms a step", "on the device", "host gap", "tokens a step",
               "speed / plain", "at the paper's 3.5 tokens a step (synthetic)")  # fmt: skip
    session.show(f"{name}: the engine, whole steps as graphs", columns, rows)
