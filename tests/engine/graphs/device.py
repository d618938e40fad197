"""A tiny engine whose decoding runs as steps on the device: on a CPU the same operations, launched
one by one. Drives what GPUs capture."""

from dataclasses import replace
from typing import cast

import torch

from server.engine.graphs.capture import Graphs, Running
from server.engine.graphs.expand import Widths
from server.engine.graphs.runner import GraphRunner
from server.engine.graphs.seats import DeviceSeats
from server.engine.graphs.sizes import MOST_NODES, Sizes
from server.engine.graphs.stats import Learned
from server.engine.graphs.step import DeviceDraft, DeviceGlide, DeviceStep
from server.engine.graphs.tiers import AUTO_TIERS, StepShape, Tier, TierChoice, TierCosts
from server.engine.planner import SchedulerConfig
from server.engine.speculative.calibration import Calibration
from server.engine.speculative.glide_drafter import GlideDrafter
from server.engine.speculative.policy import PolicyConfig
from tests.engine.tiny import CONFIG, CPU, MODEL, MakeDrafter, TinyEngine


class ConstantCosts(TierCosts):
    """Under which auto drafts, however fast a test runs."""

    def __call__(self, batch: int, tier: Tier) -> float:
        return 1.0 + 0.01 * tier.depth

    def observe(self, batch: int, tier: Tier, seconds: float) -> None: ...


class DeviceEngine(TinyEngine):
    """As the engine on a GPU."""

    def __init__(
        self, config: SchedulerConfig = CONFIG, make_drafter: MakeDrafter | None = None
    ) -> None:
        super().__init__(replace(config, runs_ahead=True), make_drafter)
        config = self.scheduler.config
        speculator = self.runner.speculator
        drafter = speculator.drafter if speculator is not None else None
        assert drafter is None or isinstance(drafter, GlideDrafter)
        calibration = speculator.auto.calibration if speculator is not None else Calibration()
        choice = TierChoice(ConstantCosts(), calibration, AUTO_TIERS)
        columns = -(-(config.max_model_len + 2 * MOST_NODES) // config.block_size)
        seats = DeviceSeats(config.max_num_seqs, columns, (MODEL.hidden_size, torch.float32), CPU)
        draft = (
            None
            if drafter is None
            else DeviceDraft(cast(DeviceGlide, drafter.model), drafter.caches)
        )
        policies = PolicyConfig()
        widths = Widths(policies.cape, CPU)
        step = DeviceStep(
            self.runner.model, self.runner.caches, seats, config.block_size, draft, widths
        )
        sizes = Sizes(
            policies, choice, config.max_num_seqs, config.max_model_len, drafter is not None
        )
        graphs = Graphs(step, seats, choice.costs)
        learned = Learned(speculator, choice, widths)
        self.device = self.executor = GraphRunner(
            self.runner, drafter, seats, graphs, sizes, learned, config.max_model_len
        )
        self.device_step = step
        self.num_on_device = 0
        """Steps that the device ran."""
        launch = graphs.launch

        def counted(shape: StepShape) -> Running:
            self.num_on_device += 1
            return launch(shape)

        graphs.launch = counted
