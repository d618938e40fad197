"""The pieces of a step on the device against those of the host that they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.speculation import cape
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.cape import CapeConfig
from server.engine.speculation.tiers import StepShape, Tier
from server.engine.speculation.tree import TokenTree, comb
from server.engine.step.device.accept import follow
from server.engine.step.device.draft import Drafted
from server.engine.step.device.expand import Trees, Widths, expand
from server.engine.step.device.packing import pack, unpack
from server.engine.step.device.seats import POLICIES, Controls, DeviceSeats, Rows, Seat, SeatMap
from server.engine.step.truncation import keep_mask, keep_mask_of_best
from server.engine.types import BlockId, PolicyName, RequestId
from tests.engine.tiny import CPU

VOCAB = 50
PLAIN_ROW = Controls(0, True, True, 7, 3, 99, 0, 1, 0, 0, 0, 0.0, 1.0, 0.0)


def rows_of(*controls: Controls) -> Rows:
    seats = DeviceSeats(len(controls), 4, (0, torch.float32), CPU)
    called = [control._replace(seat=i) for i, control in enumerate(controls)]
    seats.call(called, len(called))
    return seats.read(len(called))


def wants(policy: PolicyName, depth: int, nodes: int, left: int = 99) -> Controls:
    code = POLICIES.index(policy)
    return PLAIN_ROW._replace(policy=code, max_depth=depth, max_nodes=nodes, tokens_left=left)


@st.composite
def drafts(draw: st.DrawFn) -> Drafted:
    batch, depth, count = 3, draw(st.integers(1, 5)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    sharpness = draw(st.sampled_from((0.5, 2.0, 6.0)))
    logits = sharpness * torch.randn(batch, depth, VOCAB, generator=generator)
    top = logits.softmax(dim=-1).topk(count, dim=-1)
    return Drafted(top.indices, top.values)


def tree_of(trees: Trees, row: int) -> TokenTree:
    """As the host has it, read from the tensors and not by `unpack`."""
    kept = trees.is_valid[row].nonzero().flatten().tolist()
    assert kept == list(range(len(kept)))  # what is not valid comes last
    tokens, parents = trees.token_ids[row].tolist(), trees.parents[row].tolist()
    num_trunk = int(trees.is_trunk[row].sum())
    return TokenTree(
        tuple(tokens[: len(kept)]), tuple(parents[1 : len(kept)]), num_trunk, is_comb=True
    )


def candidates(drafted: Drafted, row: int, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    ids, confidences = drafted.token_ids[row, :depth], drafted.confidences[row, :depth]
    return ids.tolist(), confidences.tolist()


@settings(max_examples=60, deadline=None)
@given(drafts(), st.integers(1, 6), st.integers(2, 40), st.integers(1, 5))
def test_cape_and_chain_are_the_hosts(drafted: Drafted, depth: int, nodes: int, left: int) -> None:
    """Trees as `cape.expand` and `comb` make them, where rows differ in policy and limits."""
    config, num_nodes = CapeConfig(), 24
    rows = rows_of(
        wants("cape", depth, nodes, left), wants("chain", depth, nodes), wants("off", 9, 9)
    )
    trees = expand(rows, drafted, num_nodes, Widths(config, CPU))
    longest = drafted.token_ids.shape[1]
    ids, confidences = candidates(drafted, 0, min(depth, left - 1, longest))
    expected = cape.expand(7, ids, confidences, config, min(nodes, num_nodes))
    assert tree_of(trees, 0) == expected
    ids, _ = candidates(drafted, 1, min(depth, longest))
    assert tree_of(trees, 1) == comb(7, [row[0] for row in ids][: min(nodes, num_nodes) - 1], ())
    assert tree_of(trees, 2) == comb(7, (), ())


@settings(max_examples=60, deadline=None)
@given(drafts(), st.integers(1, 20), st.integers(0, 3))
def test_auto_takes_the_best_gains(drafted: Drafted, nodes: int, taught: int) -> None:
    """No candidate that was left out is likelier than one that was taken."""
    calibration = Calibration()
    for i in range(40 * taught):
        calibration.observe(i % 10 / 10, "trunk", i % 3 > 0)
        calibration.observe(i % 10 / 10, "leaf", i % 3 == 0)
    widths = Widths(CapeConfig(), CPU)
    widths.learn(calibration.lines("trunk"), calibration.lines("leaf"))
    trees = expand(rows_of(*[wants("auto", 9, nodes)] * 3), drafted, 12, widths)
    for row in range(3):
        tree = tree_of(trees, row)
        gains: dict[tuple[int, int], float] = {}
        survival = 1.0
        for depth, (ids, chances) in enumerate(zip(*candidates(drafted, row, 9), strict=True), 1):
            first = calibration.chance(chances[0], "trunk")
            for rank, (token, confidence) in enumerate(zip(ids, chances, strict=True)):
                own = min(calibration.chance(confidence, "leaf"), 1 - first) if rank else first
                gains[depth, token] = survival * own
            survival *= first
        taken = {(tree.depths[n], tree.token_ids[n]) for n in range(1, len(tree))}
        assert len(taken) == min(nodes - 1, 11, len(gains))
        if len(taken) < len(gains):
            least = min((gains[key] for key in taken), default=1.0)
            assert max(g for key, g in gains.items() if key not in taken) <= least + 1e-6


def test_ancestors_are_the_tree_s() -> None:
    drafted = Drafted(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), torch.tensor([[[0.5, 0.3, 0.1]] * 2]))
    trees = expand(rows_of(wants("cape", 2, 6)), drafted, 8, Widths(CapeConfig(), CPU))
    tree = tree_of(trees, 0)
    assert len(tree) == 6
    for node in range(8):
        seen = trees.ancestors()[node].nonzero().flatten().tolist()
        assert seen == (tree.path(node) if node < 6 else [node])


def test_a_dead_row_has_no_node() -> None:
    drafted = Drafted(torch.ones(1, 2, 2).long(), torch.full((1, 2, 2), 0.4))
    rows = rows_of(wants("chain", 2, 3, left=0))
    trees = expand(rows, drafted, 4, Widths(CapeConfig(), CPU))
    assert not trees.is_valid.any()
    walks = follow(trees, torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), 2)
    assert walks.counts.tolist() == [0]


DRAFTED = Drafted(
    torch.tensor([[[1, 2], [3, 4], [5, 6]]]), torch.tensor([[[0.5, 0.3], [0.5, 0.3], [0.5, 0.3]]])
)
"""Trunk 1, 3, 5 and leaves 2, 4, 6: nodes 1 to 3, then 4 to 6."""


@pytest.mark.parametrize(
    ("draws", "undecided", "path", "token_ids"),
    [
        ({0: 9}, (), [0], [9]),
        ({0: 1, 1: 3, 2: 5, 3: 8}, (), [0, 1, 2, 3], [1, 3, 5, 8]),
        ({0: 1, 1: 4, 5: 8}, (), [0, 1, 5], [1, 4, 8]),
        ({0: 2, 4: 3}, (), [0, 4], [2, 3]),  # a leaf has no children, whatever is drawn there
        ({0: 3}, (), [0], [3]),  # no child of the root, though a node
        ({0: 1, 1: 3, 2: 5}, (2,), [0, 1], [1, 3]),
        ({0: 1, 1: 4}, (5,), [0, 1], [1, 4]),
        ({0: 1}, (0,), [], []),
    ],
)
def test_walks(
    draws: dict[int, int], undecided: tuple[int, ...], path: list[int], token_ids: list[int]
) -> None:
    rows = rows_of(wants("cape", 3, 9))
    trees = expand(rows, DRAFTED, 8, Widths(CapeConfig(), CPU))
    drawn = torch.full((1, 8), VOCAB)
    for node, token in draws.items():
        drawn[0, node] = token
    decided = torch.ones(1, 8, dtype=torch.bool)
    decided[0, list(undecided)] = False
    walks = follow(trees, drawn, decided, 3)
    shape = StepShape(1, Tier(3, 8), 64, "greedy")
    packed = pack(shape, rows, DRAFTED, trees, walks, torch.zeros(8, VOCAB))
    (outcome,) = unpack(packed, shape, 1)
    assert (outcome.path, outcome.token_ids) == (path, token_ids)
    assert outcome.tree == comb(7, (1, 3, 5), ((2,), (4,), (6,)))
    assert outcome.proposal is not None
    assert outcome.proposal.candidates == ((1, 2), (3, 4), (5, 6))
    assert outcome.proposal.confidences[2] == pytest.approx((0.5, 0.3))
    assert not outcome.is_nan


@pytest.mark.parametrize("left", [1, 2, 9])
def test_no_more_is_learned_of_than_the_answer_has_room_for(left: int) -> None:
    rows = rows_of(wants("chain", 3, 4, left=left))
    trees = expand(rows, DRAFTED, 4, Widths(CapeConfig(), CPU))
    walks = follow(trees, torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), 3)
    shape = StepShape(1, Tier(3, 4), 64, "greedy")
    packed = pack(shape, rows, DRAFTED, trees, walks, torch.zeros(4, VOCAB))
    (outcome,) = unpack(packed, shape, 1)
    length = 0 if outcome.proposal is None else len(outcome.proposal.candidates)
    assert length == min(left - 1, 3)


def test_nan_is_the_row_s_own() -> None:
    rows = rows_of(wants("chain", 0, 1), wants("chain", 0, 1), wants("chain", 0, 1, left=0))
    drafted = Drafted(torch.zeros(3, 0, 2).long(), torch.zeros(3, 0, 2))
    trees = expand(rows, drafted, 1, Widths(CapeConfig(), CPU))
    walks = follow(trees, torch.zeros(3, 1).long(), torch.ones(3, 1).bool(), 0)
    logits = torch.zeros(3, VOCAB)
    logits[1:, 4] = float("nan")
    shape = StepShape(3, Tier(0, 1), 64, "greedy")
    found = unpack(pack(shape, rows, drafted, trees, walks, logits), shape, 3)
    assert [outcome.is_nan for outcome in found] == [False, True, False]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(0, 60), st.sampled_from((0.1, 0.5, 0.9, 1.0)),
    st.sampled_from((0.0, 0.05, 0.5)), st.sampled_from((1, 3, 10, 60)),
)  # fmt: skip
def test_what_may_be_drawn_by_the_best_alone(
    seed: int, top_k: int, top_p: float, min_p: float, count: int
) -> None:
    """Where the best decide, they decide as the whole vocabulary does; and they do with all."""
    logits = 3 * torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed))
    probs = logits.softmax(dim=-1)
    limits = torch.full((4,), top_k), torch.full((4,), top_p), torch.full((4,), min_p)
    expected = keep_mask(probs, *limits)
    if expected is None:
        expected = torch.ones_like(probs, dtype=torch.bool)
    keep, decided = keep_mask_of_best(probs, *limits, count)
    assert torch.equal(keep[decided], expected[decided])
    assert bool(decided.all()) or count < VOCAB
    if 0 < top_k <= count:
        assert bool(decided.all())


def test_seats_are_given_back_and_taken_from_the_absent() -> None:
    seats = SeatMap(2)
    a, b = RequestId("a"), RequestId("b")
    first = seats.take(a, {a})
    assert seats.take(a, {a}) is first
    assert {first.index, seats.take(b, {a, b}).index} == {0, 1}
    c = RequestId("c")
    assert seats.take(c, {b, c}).index == first.index  # a is preempted
    assert seats.get(a) is None
    seats.leave(b)
    assert seats.take(a, {a, c}).index != first.index


def test_only_what_changed_of_a_table_is_written() -> None:
    seat = Seat(3)
    blocks = [BlockId(i) for i in (8, 6, 4)]
    assert seat.new_cells(blocks[:2]) == [(3, 0, 8), (3, 1, 6)]
    assert seat.new_cells(blocks) == [(3, 2, 4)]
    assert seat.new_cells(blocks) == []
    assert seat.new_cells([BlockId(1), BlockId(6)]) == [(3, 0, 1), (3, 1, 6)]


def test_a_step_can_be_taken_back() -> None:
    seats = DeviceSeats(2, 1, (3, torch.float32), CPU)
    seats.place_hidden([1], [torch.tensor([1.0, 2.0, 3.0])])
    seats.call([PLAIN_ROW._replace(seat=1)], 1)
    rows = seats.read(1)
    seats.write(rows, torch.tensor([2]), torch.tensor([5]), torch.full((1, 3), 9.0))
    assert seats.hidden[1].tolist() == [9.0, 9.0, 9.0]
    assert (seats.contexts[1].item(), seats.tokens[1].item()) == (5, 5)
    assert seats.tokens_left[1].item() == 97
    seats.take_back([1])
    assert seats.hidden[1].tolist() == [1.0, 2.0, 3.0]
