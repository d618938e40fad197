"""CUDA graphs themselves; needs a GPU. What they are captured of is tested without one."""

from collections.abc import Callable

import pytest
import torch

from bench.gpu.models import BLOCK_SIZE, SHAPES, random_pair
from server.engine.speculation.cape import CapeConfig
from server.engine.speculation.tiers import StepShape, Tier, TierCosts
from server.engine.step.device.capture import Graphs
from server.engine.step.device.draft import DeviceDraft
from server.engine.step.device.expand import Widths
from server.engine.step.device.seats import DeviceSeats
from server.engine.step.device.step import DeviceStep
from server.engine.types import BlockId
from server.kernels.types import Caches
from server.models.layers import Placement
from tests.engine.step.device.test_parts import wants

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CUDA = torch.device("cuda")
SHAPE = StepShape(4, Tier(4, 16), 1024, "drawn")


def outcomes(launcher: Callable[[DeviceStep, DeviceSeats], Callable[[], torch.Tensor]]) -> list[
    torch.Tensor
]:  # fmt: skip
    """What six steps of three sequences tell the host."""
    torch.manual_seed(0)
    pair = random_pair(SHAPES["tiny"], Placement(CUDA, torch.float32), 64 * BLOCK_SIZE)
    seats = DeviceSeats(4, 20, (0, torch.float32), CUDA)
    draft = DeviceDraft(pair.draft, Caches(pair.draft_caches, pair.caches))
    widths = Widths(CapeConfig(), CUDA)
    step = DeviceStep(pair.target, pair.caches, seats, BLOCK_SIZE, draft, widths)
    launch = launcher(step, seats)
    seats.place_blocks([(seat, i, BlockId(seat * 20 + i)) for seat in range(3) for i in range(20)])
    rows = [wants(policy, 4, 16)._replace(seat=i) for i, policy in enumerate(("cape", "chain"))]
    rows.append(wants("auto", 4, 16)._replace(seat=2, temperature=0.8, seed=9))
    found = list[torch.Tensor]()
    for index in range(6):
        seats.call([row._replace(is_fresh=index == 0) for row in rows], SHAPE.batch)
        found.append(launch()[:3].cpu())
    return found


def eagerly(step: DeviceStep, seats: DeviceSeats) -> Callable[[], torch.Tensor]:
    return lambda: step(SHAPE)


def captured(step: DeviceStep, seats: DeviceSeats) -> Callable[[], torch.Tensor]:
    costs = TierCosts()
    graphs = Graphs(step, seats, costs)
    graphs.prepare(SHAPE)
    assert costs(SHAPE.batch, SHAPE.tier) > 0

    def launch() -> torch.Tensor:
        running = graphs.launch(SHAPE)
        assert running.wait() > 0
        return running.packed

    return launch


def test_replays_are_what_launches_are() -> None:
    for graph, eager in zip(outcomes(captured), outcomes(eagerly), strict=True):
        assert torch.equal(graph, eager)
        assert (eager[:, 0] >= 1).all()  # every sequence got on
