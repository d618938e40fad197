"""Which shape a step has."""

from dataclasses import replace

import pytest

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tiers import (
    AUTO_TIERS,
    PLAIN,
    StepShape,
    Tier,
    TierChoice,
    TierCosts,
    at_least,
    batch_sizes,
    context_sizes,
)
from server.engine.step.device.sizes import Sizes
from server.engine.types import PolicyName, SpeculationParams
from tests.engine.step.device.test_parts import PLAIN_ROW
from tests.engine.tiny import make_request


def flat(seconds: float = 1.0, per_node: float = 0.0, per_depth: float = 0.0) -> TierCosts:
    return TierCosts(
        {(b, t): seconds + b * per_node * t.nodes + per_depth * t.depth
         for b in (1, 4, 16) for t in AUTO_TIERS}
    )  # fmt: skip


def certain(depth: int) -> Proposal:
    return Proposal(((1, 2),) * depth, ((0.99, 0.005),) * depth)


def hopeless(depth: int) -> Proposal:
    return Proposal(((1, 2),) * depth, ((0.01, 0.01),) * depth)


def test_sizes_are_few_and_enough() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(6) == [1, 2, 4, 6]
    assert batch_sizes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert context_sizes(300) == [300]
    assert context_sizes(4096) == [1024, 4096]
    assert context_sizes(9000) == [1024, 4096, 9000]
    assert at_least(5, batch_sizes(64)) == 8


def test_good_drafts_and_free_nodes_take_the_deepest_tier_and_bad_ones_none() -> None:
    for proposal, expected in ((certain(8), Tier(8, 32)), (hopeless(8), PLAIN)):
        choice = TierChoice(flat(per_depth=0.05), Calibration())
        for _ in range(40):
            choice.observe(proposal)
        assert choice(1) == expected


def test_what_nodes_cost_decides_the_tier() -> None:
    """With 16 sequences 32 nodes each are 512 rows."""
    choice = TierChoice(flat(per_node=0.01), Calibration())
    for _ in range(40):
        choice.observe(Proposal(((1, 2),) * 8, ((0.8, 0.15),) * 8))
    assert choice(1).nodes > choice(16).nodes


def test_a_bad_stretch_does_not_end_drafting_for_ever() -> None:
    choice = TierChoice(flat(per_depth=0.05), Calibration())
    for _ in range(40):
        choice.observe(hopeless(8))
    chosen = [choice(1) for _ in range(200)]
    assert chosen.count(Tier(2, 4)) == 6
    assert chosen.count(PLAIN) == 194


def test_a_short_chain_says_what_a_longer_one_would_be() -> None:
    """Drafting two tokens, all certain: deeper tiers are worth a trial."""
    choice = TierChoice(flat(per_depth=0.01), Calibration())
    for _ in range(40):
        choice.observe(certain(2))
    assert choice(1) == Tier(8, 32)


def test_costs_of_unknown_batches_are_those_of_the_next_ones() -> None:
    costs = TierCosts({(2, PLAIN): 1.0, (8, PLAIN): 3.0})
    assert [costs(n, PLAIN) for n in (1, 2, 3, 8, 64)] == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert costs(1, Tier(2, 4)) == 0.0


def test_a_tier_that_was_never_timed_is_tried() -> None:
    choice = TierChoice(TierCosts({(1, PLAIN): 1e-6}), Calibration(), (PLAIN, Tier(2, 4)))
    assert choice(1) == Tier(2, 4)
    choice.costs.observe(1, Tier(2, 4), 1.0)
    assert choice(1) == PLAIN


def test_costs_follow_the_steps_but_not_a_hiccup() -> None:
    costs = TierCosts({(1, PLAIN): 1.0})
    costs.observe(1, PLAIN, 100.0)
    assert costs(1, PLAIN) == pytest.approx(1.05)
    for _ in range(200):
        costs.observe(1, PLAIN, 2.0)
    assert costs(1, PLAIN) == pytest.approx(2.0, rel=1e-3)
    costs.observe(2, PLAIN, 5.0)
    assert costs(2, PLAIN) == 5.0


def sizes(**config: int) -> Sizes:
    choice = TierChoice(flat(per_depth=0.01), Calibration())
    for _ in range(40):
        choice.observe(certain(8))
    return Sizes(PolicyConfig(**config), choice, 16, 5000, can_draft=True)  # pyright: ignore[reportArgumentType]


def planned(policy: PolicyName, max_depth: int | None = None, nodes: int = 32) -> PlannedSequence:
    speculation = SpeculationParams(policy, max_depth, nodes)
    request = replace(make_request("r", [1]), speculation=speculation)
    return PlannedSequence(request, [1, 2], 1, 1, [])


@pytest.mark.parametrize(
    ("sequence", "limits", "tier"),
    [
        (planned("off"), (0, 1), PLAIN),
        (planned("chain"), (5, 6), Tier(5, 8)),
        (planned("chain", 3), (3, 4), Tier(3, 4)),
        (planned("chain", 9, 4), (3, 4), Tier(3, 4)),
        (planned("chain", nodes=1), (0, 1), PLAIN),
        (planned("cape"), (4, 32), Tier(4, 32)),
        (planned("cape", 1), (1, 9), Tier(1, 16)),
        (planned("cape", nodes=64), (4, 33), Tier(4, 64)),
        (planned("auto"), (8, 32), Tier(8, 32)),
        (planned("auto", 2), (2, 32), Tier(8, 32)),
    ],
)
def test_a_policy_s_own_shape(
    sequence: PlannedSequence, limits: tuple[int, int], tier: Tier
) -> None:
    found = sizes()
    assert found.limits(sequence) == limits
    shape = found.shape([(sequence, PLAIN_ROW)], 900)
    assert shape == StepShape(1, tier, 1024, "greedy")


def test_a_step_is_large_enough_for_all_its_sequences() -> None:
    greedy, drawn = PLAIN_ROW, PLAIN_ROW._replace(temperature=0.5)
    found = sizes()
    rows = [(planned("chain"), greedy), (planned("cape", 2), drawn), (planned("off"), greedy)]
    assert found.shape(rows, 1010) == StepShape(4, Tier(5, 32), 4096, "drawn")
    rows.append((planned("off"), drawn._replace(top_p=0.9)))
    assert found.shape(rows, 4000).sampling == "truncated"
    # What temperature 0 makes void does not count.
    rows = [(planned("off"), greedy._replace(top_k=3))]
    assert found.shape(rows, 10) == StepShape(1, PLAIN, 1024, "greedy")


def test_without_a_draft_every_step_is_plain() -> None:
    choice = TierChoice(flat(), Calibration(), (PLAIN,))
    found = Sizes(PolicyConfig(), choice, 4, 100, can_draft=False)
    assert found.shape([(planned("chain"), PLAIN_ROW)], 5) == StepShape(1, PLAIN, 164, "greedy")
