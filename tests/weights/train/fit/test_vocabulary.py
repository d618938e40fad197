"""What a draft can say: fixed ids, and those of the sequence."""

import numpy as np
import torch

from weights.train.features.labels import SoftLabels
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
    labels = SoftLabels(probs, torch.tensor([[9, 1, 4], [9, 3, 7]], dtype=torch.int32))
    known = vocabulary.known(labels, is_shown, own)
    assert known.columns.tolist() == [[4, 0, 2], [2, 1, 3]]
    torch.testing.assert_close(known.probs, torch.tensor([[0.5, 0.2, 0.0], [0.0, 0.2, 0.1]]))
    torch.testing.assert_close(known.rest, torch.tensor([0.2, 0.2]))
    assert known.best.tolist() == [4, NOT_KNOWN]
    head = vocabulary.head(own)
    assert head.weight.argmax(-1)[[0, 1, 3, 4]].tolist() == [1, 3, 7, 9]
    assert not head.weight[head.num_fixed].any()
