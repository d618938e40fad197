"""The auto policy's choices on cost curves small enough to work out by hand.

Until something was observed a candidate's calibrated chance is its confidence here, so the figures
below are products of confidences.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.costs import CostCurve, LiveCosts, StepCosts
from server.engine.speculation.proposal import Proposal, found
from server.engine.speculation.tree import TokenTree
from server.engine.types import BlockId, Request, RequestId, SamplingParams

NOTHING = CostCurve((1, 64), (0.0, 0.0))
LINEAR = CostCurve((1, 2), (1.0, 2.0))
"""A step of n rows costs n: as if each row were computed alone."""
FLAT = CostCurve((1, 64), (1.0, 1.0))
STEP = CostCurve((1, 2, 3, 4), (1.0, 1.0, 1.0, 2.0))
"""Two rows more are free, every further one doubles the step."""


def policy(verify: CostCurve, draft: CostCurve = NOTHING, max_depth: int = 8) -> AutoPolicy:
    auto = AutoPolicy(LiveCosts(StepCosts(verify, draft)), max_depth)
    auto.calibration = Calibration(trunk_power=1.0)
    return auto


def planned(name: str = "a", max_nodes: int = 32) -> PlannedSequence:
    request = Request(RequestId(name), (1, 2), SamplingParams(max_tokens=9))
    return PlannedSequence(request, [1, 2, 3], 2, 1, [BlockId(0)], max_nodes, max_depth=8)


def proposal(*confidences: tuple[float, ...]) -> Proposal:
    """Candidates at depth d are 10 d, 10 d + 1, …"""
    tokens = [tuple(range(10 * d, 10 * d + len(c))) for d, c in enumerate(confidences, start=1)]
    return Proposal(tuple(tokens), confidences)


def chosen(auto: AutoPolicy, drafted: Proposal, max_nodes: int = 32) -> TokenTree:
    return auto.choose_nodes([(planned(max_nodes=max_nodes), drafted)], 1).trees[RequestId("a")]


SURE = proposal((0.9, 0.05), (0.8, 0.1), (0.5, 0.4))


def test_no_nodes_where_a_step_costs_as_much_as_its_rows() -> None:
    assert chosen(policy(LINEAR), SURE).token_ids == (3,)


def test_every_node_where_rows_are_free() -> None:
    tree = chosen(policy(FLAT), SURE)
    assert sorted(tree.token_ids[1:]) == [10, 11, 20, 21, 30, 31]
    assert tree.num_trunk == 3


def test_the_best_two_where_two_are_free() -> None:
    """Gains: 10 → 0.9, 20 → 0.72, 30 → 0.36, 31 → 0.288, 21 → 0.09, 11 → 0.05. Two nodes give 2.62
    tokens a second; a third doubles the cost."""
    assert chosen(policy(STEP), SURE).token_ids == (3, 10, 20)


def test_the_choice_says_what_it_expects() -> None:
    """The chances of the two nodes that are taken, and of all six; 0 where none is."""
    entries = [(planned(), SURE)]
    assert policy(STEP).choose_nodes(entries, 1).expected_gain == pytest.approx(0.9 + 0.72)
    gains = [0.9, 0.72, 0.36, 0.288, 0.09, 0.05]
    assert policy(FLAT).choose_nodes(entries, 1).expected_gain == pytest.approx(sum(gains))
    assert policy(LINEAR).choose_nodes(entries, 1).expected_gain == 0.0


def test_a_gain_that_may_be_an_error_is_left_alone() -> None:
    """A node of chance 0.9 at 1.9 / 1.83 = 1.038 times the rate of plain decoding, and at
    1.9 / 1.82 = 1.044 times."""
    assert chosen(policy(CostCurve((1, 2), (1.0, 1.83))), proposal((0.9,))).token_ids == (3,)
    assert chosen(policy(CostCurve((1, 2), (1.0, 1.82))), proposal((0.9,))).token_ids == (3, 10)


def test_what_is_a_clear_gain_depends_on_those_who_may_have_it() -> None:
    """Beside a prompt's 63 rows, one free node raises the whole step's rate by 1.4 %."""
    free = policy(CostCurve((1, 64, 65), (1.0, 2.0, 2.0)))
    trees = free.choose_nodes([(planned(), proposal((0.9,)))], 64).trees
    assert trees[RequestId("a")].token_ids == (3, 10)
    assert policy(FLAT).plan_draft(1, 64).depth > 0


def test_lookups_that_find_nothing_become_rare_until_one_does() -> None:
    auto = policy(FLAT)
    assert [auto.looks_up(1) for _ in range(24)] == [True] * 16 + [False, False, False, True] * 2
    of_draft = proposal((0.9,))
    auto.choose_nodes([(planned(), of_draft)], 1)
    assert [auto.looks_up(1) for _ in range(4)] == [False, False, False, True]
    auto.choose_nodes([(planned(), found((10,), (0.9,), "lookup"))], 1)
    assert [auto.looks_up(1) for _ in range(17)] == [True] * 16 + [False]


@pytest.mark.parametrize(("num_sequences", "gap"), [(2, 4), (5, 5), (16, 16), (100, 32)])
def test_with_many_sequences_idle_lookups_are_as_rare(num_sequences: int, gap: int) -> None:
    auto = policy(FLAT)
    looked_up = [auto.looks_up(num_sequences) for _ in range(200)]
    assert all(looked_up[:16])
    due = [step for step, looks in enumerate(looked_up, start=1) if looks and step > 16]
    assert due == list(range(-(-17 // gap) * gap, 201, gap))


def test_leaves_before_a_deeper_trunk_where_the_draft_is_unsure() -> None:
    """Gains: 10 → 0.5, 11 → 0.4, 20 → 0.35 with the leaf's the second best."""
    tree = chosen(policy(STEP), proposal((0.5, 0.4), (0.7, 0.2)))
    assert (tree.token_ids, tree.parents, tree.num_trunk) == ((3, 10, 11), (0, 0), 1)


def test_a_node_is_taken_while_its_gain_beats_the_rates_loss() -> None:
    """Rows cost 1 + 0.5 each more. One node of chance 0.9: 1.9 / 1.5 > 1; the next, of 0.45:
    2.35 / 2 < 1.27. Of chance 0.4 even the first does not pay: 1.4 / 1.5 < 1."""
    half = CostCurve((1, 2), (1.0, 1.5))
    assert chosen(policy(half), proposal((0.9,), (0.5,))).token_ids == (3, 10)
    assert chosen(policy(half), proposal((0.4,), (0.5,))).token_ids == (3,)


def test_a_late_gain_may_pay_for_an_early_loss() -> None:
    """The second row doubles the step, further ones are free: one node does not pay, four do."""
    plateau = CostCurve((1, 2, 64), (1.0, 2.0, 2.0))
    assert chosen(policy(plateau), proposal((0.9,))).token_ids == (3,)
    assert len(chosen(policy(plateau), proposal((0.9,), (0.9,), (0.9,), (0.9,)))) == 5


def test_the_surer_sequence_gets_the_nodes() -> None:
    entries = [
        (planned("unsure"), proposal((0.3,), (0.3,))),
        (planned("sure"), proposal((0.9,), (0.9,))),
    ]
    two_free = CostCurve((1, 2, 4, 5), (1.0, 1.0, 1.0, 3.0))
    trees = policy(two_free).choose_nodes(entries, 2).trees
    assert {name: len(tree) for name, tree in trees.items()} == {"unsure": 1, "sure": 3}


def test_each_requests_own_limit_of_nodes() -> None:
    entries = [(planned("few", max_nodes=2), SURE), (planned("many", max_nodes=5), SURE)]
    trees = policy(FLAT).choose_nodes(entries, 2).trees
    assert {name: len(tree) for name, tree in trees.items()} == {"few": 2, "many": 5}
    assert trees[RequestId("few")].token_ids == (3, 10)


def test_an_empty_proposal_is_the_root_alone() -> None:
    assert chosen(policy(FLAT), Proposal((), ())).token_ids == (3,)
    assert policy(FLAT).choose_nodes([], 3) == ({}, 0.0)


def test_nothing_is_drafted_where_drafting_never_pays() -> None:
    assert policy(LINEAR).plan_draft(1, 1).depth == 0
    assert policy(FLAT, CostCurve((1, 2), (1.0, 1.0))).plan_draft(1, 1).depth == 0
    assert policy(FLAT).plan_draft(0, 5).depth == 0


def test_whole_chains_where_everything_is_free() -> None:
    assert policy(FLAT, max_depth=5).plan_draft(3, 3) == (5, 0.0, 3)


def test_a_probe_after_32_steps_without() -> None:
    auto = policy(LINEAR, max_depth=3)
    plans = [auto.plan_draft(16, 16) for _ in range(64)]
    assert [plan.depth for plan in plans] == ([0] * 31 + [3]) * 2
    assert plans[31].num_sequences == 2


def test_a_probe_after_8_steps_where_drafting_nearly_pays() -> None:
    """A row costs 0.68 of a step, a drafted token 0.02: at the first chances 1.7 / 1.7 of plain
    decoding, where with 0.2 it is 1.7 / 1.88."""
    row = CostCurve((1, 2), (1.0, 1.68))
    for seconds, gap in ((0.02, 8), (0.2, 32)):
        auto = policy(row, CostCurve((1, 2), (seconds, seconds)), max_depth=3)
        plans = [auto.plan_draft(1, 1) for _ in range(64)]
        assert [plan.depth for plan in plans] == ([0] * (gap - 1) + [3]) * (64 // gap)


@pytest.mark.parametrize(
    ("verify", "every"),
    [
        (CostCurve((1, 3), (1.0, 1.3)), 32),
        (CostCurve((1, 3), (1.0, 1.5)), 64),
        (LINEAR, 224),  # two nodes are two steps more: a hundredth of 200 and more
    ],
)
def test_a_trial_verifies_two_nodes_where_that_takes_little_time(
    verify: CostCurve, every: int
) -> None:
    """Otherwise a step that was measured too dear would never be seen to be cheaper."""
    auto = policy(verify, CostCurve((1, 2), (9.0, 9.0)), max_depth=3)
    unsure = proposal((0.1, 0.05), (0.1, 0.05))
    sizes = list[int]()
    for _ in range(2 * every):
        auto.plan_draft(1, 1)
        sizes.append(len(chosen(auto, unsure)) - 1)
    assert sizes == ([0] * (every - 1) + [2]) * 2
    auto.plan_draft(0, 1)  # all sequences have found something in the text
    assert chosen(auto, unsure).token_ids == (3,)


def test_a_bad_stretch_does_not_switch_speculation_off_for_ever() -> None:
    """A draft that was always wrong and is now always right must come back."""
    auto = policy(CostCurve((1, 2), (1.0, 1.1)), CostCurve((1, 2), (0.05, 0.05)), max_depth=1)
    drafted = proposal((0.8,))
    for _ in range(100):
        auto.learn(drafted, [99])
    for _ in range(100):
        auto.observe_draft(drafted)
    assert auto.plan_draft(1, 1).depth == 0
    for _ in range(200 * 32):
        if auto.plan_draft(1, 1).depth:
            auto.observe_draft(drafted)
            auto.learn(drafted, [10, 99])
    assert auto.plan_draft(1, 1).depth == 1


def lookup(confidence: float) -> Proposal:
    return found((10, 20), (confidence, confidence), "lookup")


def test_a_lookup_is_preferred_where_it_is_likelier_than_a_draft() -> None:
    """At first a drafted token's chance is 0.7; a lookup's is what it claims."""
    auto = policy(FLAT)
    assert auto.prefers(lookup(0.8))
    assert not auto.prefers(lookup(0.5))


def test_lookups_are_judged_by_what_became_of_them() -> None:
    auto = policy(FLAT)
    for _ in range(50):
        auto.learn(lookup(0.8), [99])
        auto.learn(lookup(0.5), [10, 20, 99])
    assert not auto.prefers(lookup(0.8))
    assert auto.prefers(lookup(0.5))
    # A draft of that confidence is another matter.
    assert auto.calibration.chance(0.8, "trunk") == pytest.approx(0.8)


def test_lookups_say_nothing_of_the_draft() -> None:
    auto = policy(FLAT, CostCurve((1, 2), (0.3, 0.3)))
    before = auto.plan_draft(1, 1)
    for _ in range(100):
        chosen(auto, lookup(0.01))
        auto.learn(lookup(0.01), [99])
    assert auto.plan_draft(1, 1) == before


def test_a_drafter_that_looks_up_is_judged_by_its_lookups() -> None:
    auto = policy(FLAT, CostCurve((1, 2), (0.3, 0.3)))
    for _ in range(100):
        auto.observe_draft(lookup(0.01))
    assert auto.plan_draft(1, 1).depth == 0


def test_learning_stops_where_the_trunk_was_left() -> None:
    """Drawn: 10, then the leaf 21. So 10 was right, 11 and 20 wrong, 21 right; of 30 nothing is
    known."""
    observed = policy(FLAT).learn(SURE, [10, 21, 99])
    assert observed == [(0.9, True), (0.05, False), (0.8, False), (0.1, True)]


def test_learning_from_a_miss_and_from_a_whole_trunk() -> None:
    auto = policy(FLAT)
    assert auto.learn(SURE, [99]) == [(0.9, False), (0.05, False)]
    assert [right for _, right in auto.learn(SURE, [10, 20, 30, 99])] == [True, False] * 3


def test_what_was_not_verified_is_learned_as_far_as_it_is_known() -> None:
    """Nothing was verified, but the plain step drew 10; what came after it is not known."""
    auto = policy(LINEAR)
    assert chosen(auto, SURE).token_ids == (3,)
    assert auto.learn(SURE, [10]) == [(0.9, True), (0.05, False)]
    assert auto.calibration.chance(0.9, "trunk") == pytest.approx((8 * 0.9 + 1) / 9)


def test_learning_changes_the_choice() -> None:
    auto = policy(CostCurve((1, 2), (1.0, 1.5)))
    drafted = proposal((0.9,))
    assert len(chosen(auto, drafted)) == 2
    for _ in range(50):
        auto.learn(drafted, [99])
    assert len(chosen(auto, drafted)) == 1


_CHANCES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1)
_PROPOSALS = st.lists(_CHANCES.map(lambda c: tuple(c[:8])), max_size=8).map(
    lambda depths: proposal(*depths)
)


@given(st.lists(_PROPOSALS, max_size=4), st.integers(2, 32), st.sampled_from([FLAT, STEP, LINEAR]))
def test_any_confidences_give_whole_trees(
    proposals: list[Proposal], max_nodes: int, verify: CostCurve
) -> None:
    """A tree that lacked a parent would not be built, or would have a leaf at the wrong depth."""
    auto = policy(verify)
    entries = [(planned(str(i), max_nodes), drafted) for i, drafted in enumerate(proposals)]
    trees = auto.choose_nodes(entries, max(len(entries), 1)).trees
    assert len(trees) == len(entries)
    for sequence, drafted in entries:
        tree = trees[sequence.request.request_id]
        assert len(tree) <= max_nodes
        assert tree.token_ids[1 : tree.num_trunk + 1] == drafted.trunk[: tree.num_trunk]
        for token_id, depth in zip(tree.token_ids[1:], tree.depths[1:], strict=True):
            assert token_id in drafted.candidates[depth - 1]


@pytest.mark.parametrize("max_nodes", [2, 3, 4])
def test_fewer_nodes_keep_the_most_valuable(max_nodes: int) -> None:
    tree = chosen(policy(FLAT), SURE, max_nodes)
    assert tree.token_ids == (3, 10, 20, 30)[:max_nodes]
