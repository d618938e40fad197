"""Commit: accepted KV goes to the slots of its positions, and the draft learns where it stands."""

from collections.abc import Sequence

import pytest
import torch

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.tree import TokenTree, comb
from server.engine.step.host.commit import committed_chunk, committed_tokens, move_accepted
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.step.walk import TreeWalk
from server.engine.types import BlockId, Request, RequestId, SamplingParams
from server.kernels.tree import LayerCache

BLOCK_SIZE = 4
HIDDEN = torch.zeros(2)


def planned(blocks: Sequence[int] = (3, 1, 5), num_computed: int = 6) -> PlannedSequence:
    """Seven tokens, of which six are computed: the root goes to position 6, the third slot of the
    second block."""
    request = Request(RequestId(str(blocks)), (0,), SamplingParams(max_tokens=9))
    tokens = list(range(100, 101 + num_computed))
    block_ids = [BlockId(block) for block in blocks]
    return PlannedSequence(request, tokens, num_computed, 1, block_ids, 6, 4)


def walk(tree: TokenTree, path: list[int]) -> TreeWalk:
    return TreeWalk(tree, path)


def numbered_caches() -> list[LayerCache]:
    """Two layers; every slot holds its own number, distinct per layer, keys and values."""
    shape = CacheShape(num_layers=2, num_kv_heads=1, head_dim=2, dtype=torch.float32)
    caches = allocate_kv(shape, 8, BLOCK_SIZE, torch.device("cpu"))
    for number, pool in enumerate(pool for layer in caches for pool in layer):
        slots = torch.arange(8.0 * BLOCK_SIZE) + 100 * number
        pool.copy_(slots.view(8, BLOCK_SIZE, 1, 1).expand_as(pool))
    return caches


def moves(*walks: tuple[PlannedSequence, TreeWalk]) -> dict[int, int]:
    """Target slot -> source slot of everything that changed, the same in all pools."""
    caches = numbered_caches()
    move_accepted(caches, list(walks), BLOCK_SIZE)
    found = list[dict[int, int]]()
    for number, pool in enumerate(pool for layer in caches for pool in layer):
        assert torch.equal(pool[..., 0], pool[..., 1])
        slots = (pool[..., 0].flatten() - 100 * number).int().tolist()
        found.append({at: slot for at, slot in enumerate(slots) if at != slot})
    assert found == [found[0]] * 4
    return found[0]


COMB = comb(106, (1, 2), ((3,), (4, 5)))
"""Positions 6 … 11 for its nodes, in slots 6 and 7 of block 1, then 20 … 23 of block 5."""


@pytest.mark.parametrize("path", [[0], [0, 1], [0, 1, 2]])
def test_an_accepted_trunk_stays_where_it_is(path: list[int]) -> None:
    assert moves((planned(), walk(COMB, path))) == {}


def test_an_accepted_leaf_moves_alone() -> None:
    """Node 5, at depth 2: from position 11 (slot 23) to position 8 (slot 20)."""
    assert moves((planned(), walk(COMB, [0, 1, 5]))) == {20: 23}
    assert moves((planned(), walk(COMB, [0, 3]))) == {7: 21}


def test_a_leaf_in_its_place_does_not_move() -> None:
    tree = comb(106, (1,), ((), (4, 5)))
    assert moves((planned(), walk(tree, [0, 1, 2]))) == {}


def test_a_beams_overlapping_moves_read_before_they_write() -> None:
    """Positions 8 → 7, 10 → 8: slot 20 is both a source and a target."""
    beams = TokenTree((106, 1, 2, 3, 4), (0, 0, 2, 2))
    assert moves((planned(), walk(beams, [0, 2, 4]))) == {7: 20, 20: 22}


def test_all_sequences_move_together() -> None:
    other = planned(blocks=(0, 2), num_computed=2)
    got = moves((planned(), walk(COMB, [0, 1, 5])), (other, walk(COMB, [0, 3])))
    assert got == {20: 23, 3: 9}


def start_and_tokens(tree: TokenTree, path: list[int], num_written: int) -> tuple[int, list[int]]:
    """Relative to the root's position."""
    committed = committed_tokens(planned(), walk(tree, path), num_written, HIDDEN)
    assert committed.hidden is HIDDEN
    return committed.start - 6, list(committed.token_ids)


@pytest.mark.parametrize(
    ("path", "num_written", "start", "tokens"),
    [
        ([0], 0, 0, [106]),  # drafting wrote nothing
        ([0], 2, 1, []),  # a miss: the root's KV is there
        ([0, 1, 2], 2, 2, [2]),  # the whole trunk: the last drafted token was never fed
        ([0, 1, 2], 3, 3, []),  # a trunk shorter than what was drafted
        ([0, 1], 3, 2, []),
        ([0, 3], 2, 1, [3]),  # a leaf in the trunk's place: its KV is another token's
        ([0, 1, 5], 2, 2, [5]),
        ([0, 1, 5], 4, 2, [5]),
    ],
)
def test_where_the_draft_resumes(
    path: list[int], num_written: int, start: int, tokens: list[int]
) -> None:
    assert start_and_tokens(COMB, path, num_written) == (start, tokens)


def test_a_leaf_in_the_trunks_place_is_not_taken_for_it() -> None:
    """Four tokens were drafted, only the first kept as trunk, and below it the leaf 5 as node 2.
    At depth 2 the draft's KV is that of its own token."""
    tree = comb(106, (1,), ((), (5,)))
    assert start_and_tokens(tree, [0, 1, 2], num_written=4) == (2, [5])
    assert start_and_tokens(comb(106, (), ((5,),)), [0, 1], num_written=4) == (1, [5])


def test_beams_resume_after_the_root() -> None:
    beams = TokenTree((106, 1, 2, 3, 4), (0, 0, 2, 2))
    assert start_and_tokens(beams, [0, 1], num_written=1) == (1, [1])
    assert start_and_tokens(beams, [0, 2, 4], num_written=1) == (1, [2, 4])


def test_a_chunk_of_pending_tokens() -> None:
    request = Request(RequestId("a"), (1, 2, 3, 4, 5), SamplingParams(max_tokens=9))
    chunk = PlannedSequence(request, [1, 2, 3, 4, 5], 1, 3, [BlockId(0), BlockId(1)])
    committed = committed_chunk(chunk, None)
    assert (committed.start, committed.token_ids, committed.hidden) == (1, (2, 3, 4), None)
