"""A step's figures, worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import SourceFigures, StepSpeculationStats
from server.engine.schedule.plan import PlannedSequence, StepPlan, StepSeconds
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.costs import CostCurve, LiveCosts, LiveCurve, StepCosts
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tree import TokenTree, comb, lone_root
from server.engine.step.host.draft import Drafted
from server.engine.step.host.speculator import Proposed, Speculator
from server.engine.step.stats import step_stats
from server.engine.step.walk import TreeWalk
from server.engine.types import BlockId, Request, RequestId, SamplingParams, SpeculationParams

SECONDS = StepSeconds(draft=0.25, verify=1.0, other=0.125)
COST = CostCurve((1, 2), (10.0, 11.0))
"""9 + rows."""
COMB = comb(1, (2, 3), ((4, 5), (6,)))


def planned(num_computed: int, num_nodes: int, num_tokens: int = 5) -> PlannedSequence:
    request = Request(RequestId("a"), (1,), SamplingParams(max_tokens=9))
    return PlannedSequence(request, [1] * num_tokens, num_computed, num_nodes, [BlockId(0)])


DECODING = planned(4, 1)


def walk(tree: TokenTree, path: list[int]) -> TreeWalk:
    """One drawn token per node of the path."""
    return TreeWalk(tree, path, [0] * len(path))


def stats(
    planned_sequences: list[PlannedSequence],
    *walks: TreeWalk,
    nums_emitted: Sequence[int] | None = None,
) -> StepSpeculationStats:
    """nums_emitted: left out, all tokens of each walk."""
    plan = StepPlan(tuple(planned_sequences), 0, 0, 0)
    nums_emitted = nums_emitted or [len(walk.token_ids) for walk in walks]
    return step_stats(plan, walks, nums_emitted, [(0.5, True)], SECONDS, LiveCurve(COST))


def test_proposals_of_three_sequences_and_one_without() -> None:
    """A leaf accepted at depth 2, a miss, a chain accepted whole, and a lone root."""
    got = stats(
        [DECODING] * 4,
        walk(COMB, [0, 1, 5]),
        walk(COMB, [0]),
        walk(comb(1, (2, 3, 4), ()), [0, 1, 2, 3]),
        walk(lone_root(1), [0]),
    )
    assert got.num_drafts == 3
    assert got.num_draft_tokens == 5 + 5 + 3
    assert got.num_nodes == 6 + 6 + 4
    assert got.num_accepted_tokens == 2 + 0 + 3
    assert got.accepted_per_position == (2, 2, 1)
    assert got.depths == (2, 2, 3)
    assert got.calibration == ((0.5, True),)


def test_tokens_behind_a_stop_were_not_accepted() -> None:
    """Of a chain that was right, two tokens are emitted, the second of them a stop; of another all,
    where the stop is the target's own token; of the third none, whose grammar was given up."""
    chain = comb(1, (2, 3, 4), ())
    got = stats(
        [DECODING] * 3,
        *(walk(chain, [0, 1, 2, 3]), walk(chain, [0, 1]), walk(chain, [0, 1])),
        nums_emitted=[2, 2, 0],
    )
    assert got.num_accepted_tokens == 2 + 1 + 0
    assert got.accepted_per_position == (2, 1)
    assert got.by_source == {"beam": SourceFigures(9, 3)}
    assert got.plain_seconds == pytest.approx(11.0 + 11.0)


def test_plain_decoding_of_the_same_tokens() -> None:
    """Three tokens for one sequence, one for the other: a plain step of two rows, two of one."""
    got = stats([DECODING] * 2, walk(COMB, [0, 1, 2]), walk(COMB, [0]))
    assert got.plain_seconds == pytest.approx(11.0 + 10.0 + 10.0)
    assert got.decode_seconds == pytest.approx(1.375)
    assert (got.draft_seconds, got.verify_seconds, got.other_seconds) == SECONDS


def test_a_plain_step_is_compared_with_itself() -> None:
    got = stats([DECODING], walk(lone_root(1), [0]))
    assert (got.num_drafts, got.num_nodes, got.accepted_per_position) == (0, 0, ())
    assert (got.plain_seconds, got.decode_seconds) == (10.0, 1.375)


@pytest.mark.parametrize("prompt", [planned(0, 2), planned(0, 5), planned(3, 2)])
def test_a_step_with_a_prompt_counts_for_no_speedup(prompt: PlannedSequence) -> None:
    got = stats([DECODING, prompt], walk(COMB, [0, 1]))
    assert (got.decode_seconds, got.plain_seconds) == (0.0, 0.0)
    assert got.num_accepted_tokens == 1
    assert got.verify_seconds == 1.0


AUTO = replace(DECODING.request, speculation=SpeculationParams(policy="auto"))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), (1.75, 15.0 + 2 * 0.5)),
        ((replace(DECODING, request=AUTO),), (2.75, 16.0 + 2 * 0.5)),
        ((DECODING,), (0.0, 0.0)),
        ((replace(planned(0, 2), request=AUTO),), (0.0, 0.0)),
    ],
    ids=["alone", "two", "beside another policy", "beside a prompt"],
)
def test_auto_says_what_it_expected(
    others: tuple[PlannedSequence, ...], expected: tuple[float, float]
) -> None:
    """A tree of six rows after two forwards of the draft: by the curves as they were before this
    step, which corrects them."""
    costs = LiveCosts(StepCosts(COST, CostCurve((1, 2), (0.5, 0.5))))
    speculator = Speculator(NgramDrafter(), PolicyConfig(), AutoPolicy(costs))
    walks = [walk(COMB, [0, 1]), *(walk(lone_root(1), [0]) for p in others if p.wants_token)]
    plan = StepPlan((replace(DECODING, request=AUTO), *others), 0, 0, 0)
    proposed = Proposed({}, Drafted({}, {}, (2,), {}), expected_gain=0.75)
    nums_emitted = [len(walk.token_ids) for walk in walks]
    got = speculator.stats(plan, proposed, walks, nums_emitted, [], SECONDS)
    assert (got.expected_tokens, got.expected_seconds) == pytest.approx(expected)
