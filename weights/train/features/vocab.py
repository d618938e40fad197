"""The draft's vocabulary: the ids it can propose."""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from server.errors import ConfigError
from weights.train.text.samples import Sample


def draft_vocabulary(
    samples: Sequence[Sample], size: int, vocab_size: int, always: Collection[int]
) -> torch.Tensor:
    """The ids learnt most often, ascending; equally frequent ones by id, so that text with few
    distinct tokens is filled up with the lowest other ids.

    Args:
        always: Ids that are in however rare they are: those that end a turn.

    Returns:
        [size] int64, or the whole vocabulary if that is smaller.

    Raises:
        ConfigError: more ids are always in than there is room for.
    """
    size = min(size, vocab_size)
    if len(always) > size:
        reason = f"the {len(always)} tokens that end a turn need more room"
        raise ConfigError("draft_vocab_size", size, reason)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for sample in samples:
        counts += np.bincount(sample.token_ids[sample.first_loss + 1 :], minlength=vocab_size)
    counts[list(always)] = np.iinfo(np.int64).max
    order = np.argsort(-counts, kind="stable")
    return torch.from_numpy(np.sort(order[:size]))
