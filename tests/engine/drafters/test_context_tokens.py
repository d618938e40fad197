"""The tokens that sequences show beyond a draft's fixed ones, kept as the sequences grow."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from server.engine.drafters.context_tokens import ContextTokens
from server.engine.types import RequestId
from tests.engine.drafters.test_ngram import sequence

HEAD = torch.arange(40.0)[:, None] * torch.ones(1, 3)
"""Row i holds i."""
FIXED = torch.tensor([0, 1, 2, 3])


def context(most: int = 3) -> ContextTokens:
    return ContextTokens(FIXED, most, lambda ids: HEAD[ids])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_the_first_distinct_ones_in_whatever_steps_a_sequence_grows(
    token_ids: list[int], data: st.DataObject
) -> None:
    tokens, growing = context(), token_ids[:1]
    while True:
        own = tokens.of([sequence(growing)])
        expected = list(dict.fromkeys(i for i in growing if i not in FIXED))[:3]
        assert own.token_ids[0].tolist() == expected
        assert own.rows[0].tolist() == [[float(i)] * 3 for i in expected]
        if len(growing) == len(token_ids):
            return
        end = data.draw(st.integers(len(growing) + 1, len(token_ids)))
        growing += token_ids[len(growing) : end]


def test_sequences_share_nothing() -> None:
    tokens = context()
    own = tokens.of([sequence([9, 1], "a"), sequence([1, 2], "b"), sequence([7, 8], "c")])
    assert [ids.tolist() for ids in own.token_ids] == [[9], [], [7, 8]]
    assert own.most == 2


def test_a_request_that_is_over_is_forgotten() -> None:
    tokens = context()
    tokens.of([sequence([9, 9], "a")])
    tokens.forget(RequestId("a"))
    assert tokens.of([sequence([5], "a")]).token_ids[0].tolist() == [5]
