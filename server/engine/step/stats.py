"""What speculation did in one step, over all sequences, for metrics."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import starmap
from typing import NamedTuple

from server.engine.outputs import ProposalSource, SourceFigures, StepSpeculationStats
from server.engine.schedule.plan import StepPlan, StepSeconds
from server.engine.speculation.sources import add_sources, count_sources
from server.engine.step.walk import TreeWalk

Observation = tuple[float, bool]
"""(confidence, right) of a draft's candidate whose parent was right."""


class Expected(NamedTuple):
    """What `auto` expects of a step."""

    tokens: float
    seconds: float


NOTHING_EXPECTED = Expected(0.0, 0.0)


def step_stats(
    plan: StepPlan,
    walks: Sequence[TreeWalk],
    nums_emitted: Sequence[int],
    observations: Sequence[Observation],
    seconds: StepSeconds,
    verify_cost: Callable[[int], float],
    expected: Expected = NOTHING_EXPECTED,
) -> StepSpeculationStats:
    """Sums a step's figures up.

    Args:
        walks: walks of all sequences that drew tokens.
        nums_emitted: how many of each walk's tokens are emitted. Those behind a stop token are not,
            and count as wrong proposals.
        verify_cost: seconds of the target's forward by rows, from which the time of plain decoding
            is estimated.
        expected: what `auto` expected, where it decided for all sequences.
    """
    emitted = zip(walks, nums_emitted, strict=True)
    proposed = [(walk, count) for walk, count in emitted if len(walk.tree) > 1]
    accepted = [min(len(walk.path) - 1, count) for walk, count in proposed]
    only_decodes = all(p.num_nodes == 1 and p.wants_token for p in plan.sequences)
    return StepSpeculationStats(
        num_drafts=len(proposed),
        num_draft_tokens=sum(len(walk.tree) - 1 for walk, _ in proposed),
        num_accepted_tokens=sum(accepted),
        accepted_per_position=_at_least(accepted),
        depths=tuple(max(walk.tree.depths) for walk, _ in proposed),
        num_nodes=sum(len(walk.tree) for walk, _ in proposed),
        calibration=tuple(observations),
        by_source=reduce(add_sources, starmap(_by_source, proposed), {}),
        draft_seconds=seconds.draft,
        verify_seconds=seconds.verify,
        other_seconds=seconds.other,
        decode_seconds=sum(seconds) if only_decodes else 0.0,
        plain_seconds=_plain_seconds(nums_emitted, verify_cost) if only_decodes else 0.0,
        expected_tokens=expected.tokens,
        expected_seconds=expected.seconds,
    )


def _by_source(walk: TreeWalk, num_emitted: int) -> Mapping[ProposalSource, SourceFigures]:
    return count_sources(walk.proposed(), walk.accepted()[:num_emitted])


def _at_least(counts: Sequence[int]) -> tuple[int, ...]:
    """Entry i: how many of the counts are greater than i."""
    return tuple(sum(count > i for count in counts) for i in range(max(counts, default=0)))


def _plain_seconds(nums_emitted: Sequence[int], verify_cost: Callable[[int], float]) -> float:
    """Estimates the time of plain decoding for the same tokens. It gives each sequence a token a
    step, so a sequence with more tokens takes more steps."""
    return sum(verify_cost(rows) for rows in _at_least(nums_emitted))
