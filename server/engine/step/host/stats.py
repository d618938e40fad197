"""What speculation did in one step, over all sequences, for metrics.

Its twin is `step/device/stats.py`, which also merges the figures of partial steps.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from server.engine.outputs import ProposalSource, SourceFigures, StepSpeculationStats
from server.engine.schedule.plan import StepPlan, StepSeconds
from server.engine.speculation.sources import add_sources, count_sources
from server.engine.step.host.accept import TreeWalk

Observation = tuple[float, bool]
"""(confidence, right) of a draft's candidate whose parent was right."""


def step_stats(
    plan: StepPlan,
    walks: Sequence[TreeWalk],
    observations: Sequence[Observation],
    seconds: StepSeconds,
    verify_cost: Callable[[int], float],
) -> StepSpeculationStats:
    """Sums a step's figures up.

    Args:
        walks: walks of all sequences that drew tokens.
        verify_cost: seconds of the target's forward by rows, from which the time of plain decoding
            is estimated.
    """
    proposed = [walk for walk in walks if len(walk.tree) > 1]
    accepted = [len(walk.path) - 1 for walk in proposed]
    only_decodes = all(p.num_nodes == 1 and p.wants_token for p in plan.sequences)
    return StepSpeculationStats(
        num_drafts=len(proposed),
        num_draft_tokens=sum(len(walk.tree) - 1 for walk in proposed),
        num_accepted_tokens=sum(accepted),
        accepted_per_position=_at_least(accepted),
        depths=tuple(max(walk.tree.depths) for walk in proposed),
        num_nodes=sum(len(walk.tree) for walk in proposed),
        calibration=tuple(observations),
        by_source=reduce(add_sources, map(_by_source, proposed), {}),
        draft_seconds=seconds.draft,
        verify_seconds=seconds.verify,
        other_seconds=seconds.other,
        decode_seconds=sum(seconds) if only_decodes else 0.0,
        plain_seconds=_plain_seconds(walks, verify_cost) if only_decodes else 0.0,
    )


def _by_source(walk: TreeWalk) -> Mapping[ProposalSource, SourceFigures]:
    return count_sources(walk.proposed(), walk.accepted())


def _at_least(counts: Sequence[int]) -> tuple[int, ...]:
    """Entry i: how many of the counts are greater than i."""
    return tuple(sum(count > i for count in counts) for i in range(max(counts, default=0)))


def _plain_seconds(walks: Sequence[TreeWalk], verify_cost: Callable[[int], float]) -> float:
    """Estimates the time of plain decoding for the same tokens. It gives each sequence a token a
    step, so a sequence with more tokens takes more steps."""
    rows_per_step = _at_least([len(walk.token_ids) for walk in walks])
    return sum(verify_cost(rows) for rows in rows_per_step)
