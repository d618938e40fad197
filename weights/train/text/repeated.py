"""Random tokens said twice, as text to learn from.

In text that makes sense, what lookup finds is mostly what any good guess would be, and a draft
learns to trust it there only. Where tokens are random, the copy is all that there is to go by.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from weights.train.text.samples import Sample, TokenIds

_SHORTEST, _LONGEST = 16, 48
"""Tokens that are said twice."""


def copies_beside(
    samples: Sequence[Sample], share: float, allowed: TokenIds, seed: int
) -> Iterator[Sample]:
    """As many samples of random tokens as make up a share of what is learnt. Of each the second
    time is learnt, but for its first token, which nothing announces.

    Args:
        samples: what is learnt beside them.
        share: of the tokens learnt, random ones included; 0 for none.
        allowed: ids that random tokens may be.
        seed: the same one gives the same tokens beside the same samples.
    """
    num_labels = round(share / (1 - share) * sum(sample.num_labels for sample in samples))
    generator = np.random.default_rng((seed, *samples[0].digest))
    while num_labels > 0:
        length = int(generator.integers(_SHORTEST, _LONGEST + 1))
        sample = Sample(np.tile(generator.choice(allowed, length), 2), length, is_random=True)
        yield sample
        num_labels -= sample.num_labels
