"""A tiny engine whose decoding runs as steps on the device: on a CPU the same operations, launched
one by one. Drives what GPUs capture."""

from dataclasses import replace

import torch

from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tiers import AUTO_TIERS, StepShape, Tier, TierCosts
from server.engine.step.device.assemble import graph_runner
from server.engine.step.device.capture import Running
from tests.engine.tiny import CONFIG, MODEL, MakeDrafter, TinyEngine


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
        hidden = MODEL.hidden_size, torch.float32
        self.device = self.executor = graph_runner(
            *(self.runner, self.scheduler.config, hidden),
            *(ConstantCosts(), AUTO_TIERS, PolicyConfig()),
        )
        self.num_on_device = 0
        """Steps that the device ran."""
        launch = self.device.graphs.launch

        def counted(shape: StepShape) -> Running:
            self.num_on_device += 1
            return launch(shape)

        self.device.graphs.launch = counted
