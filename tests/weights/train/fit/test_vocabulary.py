"""What a draft can say: fixed ids, and those of the sequence."""

import numpy as np
import pytest
import torch

from weights.train.features.labels import SoftLabels, soft_labels
from weights.train.fit.vocabulary import NEVER, NOT_KNOWN, Vocabulary

HEAD = torch.eye(12)


def ids(*token_ids: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(token_ids, dtype=np.int32)


def test_own_tokens_are_the_first_distinct_ones_that_are_not_fixed() -> None:
    vocabulary = Vocabulary(torch.tensor([1, 3]), HEAD, most_own=2)
    own = vocabulary.own([ids(3, 9, 7, 9, 5), ids(1, 1), ids(7, 1)])
    assert own.token_ids.tolist() == [7, 9]
    assert own.first_seen.tolist() == [[2, 1], [NEVER, NEVER], [0, NEVER]]


def test_without_own_tokens() -> None:
    own = Vocabulary(torch.tensor([1, 3]), HEAD, most_own=0).own([ids(3, 9, 7), ids(2)])
    assert own.token_ids.tolist() == []
    assert own.first_seen.shape == (2, 0)


def test_columns_of_labels() -> None:
    """Fixed ids 1 and 3; 7 and 9 are the batch's own, and the second row has not seen 9."""
    vocabulary = Vocabulary(torch.tensor([1, 3]), HEAD, most_own=2)
    own = vocabulary.own([ids(7, 9)])
    is_shown = torch.tensor([[True, True], [True, False]])
    probs = torch.tensor([[0.5, 0.2, 0.1], [0.5, 0.2, 0.1]])
    token_ids = torch.tensor([[9, 1, 4], [9, 3, 7]], dtype=torch.int32)
    labels = SoftLabels(probs, token_ids, torch.tensor([0.2, 0.2]))
    known = vocabulary.known(labels, is_shown, own)
    assert known.columns.tolist() == [[4, 0, 2], [2, 1, 3]]
    torch.testing.assert_close(known.probs, torch.tensor([[0.5, 0.2, 0.0], [0.0, 0.2, 0.1]]))
    torch.testing.assert_close(known.rest, torch.tensor([0.2, 0.2]))
    assert known.best.tolist() == [4, NOT_KNOWN]
    head = vocabulary.head(own)
    assert head.weight.argmax(-1)[[0, 1, 3, 4]].tolist() == [1, 3, 7, 9]
    assert not head.weight[head.num_fixed].any()


def test_no_mass_is_made_or_lost_but_that_of_tokens_the_draft_lacks() -> None:
    """What is labelled, what the draft can't say, and the rest are everything."""
    vocabulary = Vocabulary(torch.tensor([1, 3, 4]), HEAD, most_own=3)
    logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) * 3
    own = vocabulary.own([ids(7, 9, 11)])
    is_shown = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    known = vocabulary.known(soft_labels(logits, 5), is_shown, own)
    for row, probs in enumerate(logits.double().softmax(-1)):
        says = {1, 3, 4, *own.token_ids[is_shown[row]].tolist()}
        best = probs.argsort(descending=True)[:5].tolist()
        labelled = sum(float(probs[i]) for i in best if i in says)
        lacking = sum(float(probs[i]) for i in best if i not in says)
        assert float(known.probs[row].sum()) == pytest.approx(labelled, rel=1e-4)
        assert float(known.rest[row]) == pytest.approx(1 - labelled - lacking, rel=1e-3, abs=1e-9)


def test_the_rest_of_a_sure_target_is_not_rounded_away() -> None:
    logits = torch.tensor([[20.0, 3.0, 2.0, 1.0, 0.0]])
    exact = logits.double().softmax(-1)[0, 2:].sum()
    assert 0 < exact < 1e-7
    assert float(soft_labels(logits, 2).rest) == pytest.approx(float(exact), rel=1e-3)
