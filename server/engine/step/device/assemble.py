"""Builds the runner of device steps from its parts."""

import torch

from server.engine.drafters.glide import GlideDrafter
from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tiers import PLAIN, Tier, TierChoice, TierCosts
from server.engine.step.device.capture import Graphs
from server.engine.step.device.draft import DeviceDraft
from server.engine.step.device.expand import Widths
from server.engine.step.device.runner import GraphRunner
from server.engine.step.device.seats import DeviceSeats
from server.engine.step.device.sizes import MOST_NODES, Sizes
from server.engine.step.device.stats import Learned
from server.engine.step.device.step import DeviceStep
from server.engine.step.host.runner import Runner


def graph_runner(
    runner: Runner,
    limits: SchedulerConfig,
    hidden: tuple[int, torch.dtype],
    costs: TierCosts,
    tiers: tuple[Tier, ...],
    config: PolicyConfig,
    most_nodes: int = MOST_NODES,
) -> GraphRunner:
    """Makes a runner for the host runner's device; no graph is captured yet.

    Args:
        runner: runs what the device doesn't. Its speculator's drafter, if any, is a
            `GlideDrafter`, and its pools have one block more than `limits` says.
        hidden: width and precision of the target's hidden states.
        tiers: tiers that `auto` chooses from.
        most_nodes: see `Sizes`.

    Raises:
        ValueError: another drafter.
    """
    device, speculator = runner.device, runner.speculator
    drafter, draft = None, None
    if speculator is not None:
        if not isinstance(speculator.drafter, GlideDrafter):
            raise ValueError(f"{speculator.drafter.name} does not draft on the device")
        drafter = speculator.drafter
        draft = DeviceDraft(drafter.model, drafter.caches)
    calibration = speculator.auto.calibration if speculator is not None else Calibration()
    choice = TierChoice(costs, calibration, tiers if draft is not None else (PLAIN,))
    columns = -(-(limits.max_model_len + 2 * MOST_NODES) // limits.block_size)
    if drafter is None or not drafter.model.glimpse_hidden:
        hidden = 0, hidden[1]
    seats = DeviceSeats(limits.max_num_seqs, columns, hidden, device)
    widths = Widths(config.cape, device)
    step = DeviceStep(runner.model, runner.caches, seats, limits.block_size, draft, widths)
    of_engine = limits.max_num_seqs, limits.max_model_len
    sizes = Sizes(config, choice, *of_engine, draft is not None, most_nodes)
    graphs = Graphs(step, seats, costs)
    learned = Learned(speculator, choice, widths, limits.eos_token_ids)
    lengths = limits.block_size, limits.max_model_len
    return GraphRunner(runner, drafter, seats, graphs, sizes, learned, *lengths)
