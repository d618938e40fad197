"""Steps on the device: whether there are any, and the CUDA graphs that are captured at start."""

import time
from collections.abc import Sequence

import torch

from server.config import ModelSettings
from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.proposal import NUM_CANDIDATES
from server.engine.speculation.tiers import AUTO_TIERS, PLAIN, Sampling, StepShape, Tier, TierCosts
from server.engine.step.device.assemble import graph_runner
from server.engine.step.device.capture import Graphs
from server.engine.step.device.runner import GraphRunner
from server.engine.step.device.sizes import Sizes, tier_for
from server.engine.step.host.runner import Runner
from server.kernels.dispatch import gpu_kernels
from server.loading.costs import profile_path, store_tiers, stored_tiers
from server.loading.draft import Draft, policy_config
from server.loading.machine import free_memory
from server.models.glide import GlideModel
from server.models.layers import Placement
from server.report import Report

_CAPTURED_AT_START: tuple[Sampling, ...] = ("greedy", "drawn")


def has_graphs(settings: ModelSettings, device: torch.device, draft: Draft | None) -> bool:
    """Whether steps run on the device as graphs: on one GPU, with Triton's kernels (torch's ask the
    host), and a GliDe draft or none."""
    fits = draft is None or isinstance(draft.model, GlideModel)
    alone = settings.tensor_parallel_size == 1 and not settings.enforce_eager
    return device.type == "cuda" and alone and fits and gpu_kernels() == "Triton"


def build_graphs(
    settings: ModelSettings,
    runner: Runner,
    limits: SchedulerConfig,
    placement: Placement,
    identity: str,
    hidden_size: int,
    report: Report,
) -> GraphRunner:
    """Wires the device's steps and captures those that are most probably needed; what they cost is
    kept in the cache folder.

    Args:
        identity: of target, draft, precision and device.
        hidden_size: of the target.
    """
    path = profile_path(settings, f"{identity}|tiers", runner.device)
    costs = TierCosts(stored_tiers(path))
    hidden = hidden_size, placement.dtype
    config = policy_config(settings)
    found = graph_runner(
        runner, limits, hidden, costs, _tiers(settings), config, settings.speculation_nodes
    )
    _capture(found.graphs, found.sizes, settings, report)
    store_tiers(path, costs)
    return found


def _first_tiers(settings: ModelSettings, sizes: Sizes) -> Sequence[Tier]:
    """The tiers that requests with the server's own policy need."""
    policy, can_draft = settings.speculation_policy, sizes.can_draft
    if can_draft and policy in ("chain", "cape"):
        depth, nodes = settings.speculation_depth, settings.speculation_nodes
        return (tier_for(*sizes.fixed(policy, depth, nodes)),)
    return sizes.choice.tiers if can_draft and policy == "auto" else (PLAIN,)


def _tiers(settings: ModelSettings) -> tuple[Tier, ...]:
    """The tiers of `auto`, cut to what the settings let a step propose, and one as large as they
    allow."""
    depth = settings.speculation_depth or max(tier.depth for tier in AUTO_TIERS)
    largest = Tier(depth, settings.speculation_nodes)
    return tuple(dict.fromkeys(_within(tier, largest) for tier in (*AUTO_TIERS, largest)))


def _within(tier: Tier, largest: Tier) -> Tier:
    """A tier cut to the largest one's depth and nodes: to a depth that its nodes can reach, and to
    nodes that so deep a chain can have."""
    nodes = min(tier.nodes, largest.nodes)
    depth = min(tier.depth, largest.depth, nodes - 1)
    return tier_for(depth, min(nodes, 1 + depth * NUM_CANDIDATES))


def _capture(graphs: Graphs, sizes: Sizes, settings: ModelSettings, report: Report) -> None:
    started = time.monotonic()
    tiers = _first_tiers(settings, sizes)
    count = len(sizes.batches) * len(tiers) * len(_CAPTURED_AT_START)
    device = graphs.seats.device
    free = free_memory(device)
    done = 0
    for batch in reversed(sizes.batches):  # smaller ones then fit into the memory of larger ones
        report(f"capturing CUDA graphs: {done} of {count}, next for {batch} sequences …")
        for tier in tiers:
            for sampling in _CAPTURED_AT_START:
                graphs.prepare(StepShape(batch, tier, sizes.contexts[0], sampling))
                done += 1
    graphs.is_serving = True
    taken = max(free - free_memory(device), 0) / 2**20
    seconds = time.monotonic() - started
    report(f"captured {count} CUDA graphs in {seconds:.0f} s; they take {taken:,.0f} MiB")
