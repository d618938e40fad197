"""The text of a run, in the shards whose features are kept together."""

from collections.abc import Collection
from itertools import chain

import numpy as np

from weights.train.config import TrainConfig
from weights.train.features.store import Shard, plan_shards, shard_of
from weights.train.text.repeated import copies_beside
from weights.train.text.samples import PromptIds, read_files


def read_shards(
    config: TrainConfig, prompt_ids: PromptIds, vocab_size: int, stop_token_ids: Collection[int]
) -> list[Shard]:
    """What a run learns from. A file's shards are its own, so that they are the same whatever other
    files there are, and random tokens are in every shard, so that a part of the text has its part
    of them: text that is added later leaves the shards that are there.

    Raises:
        CheckpointError: a file can't be read, or a line is broken; names file and line.
    """
    files = read_files(config.text, prompt_ids, vocab_size, config.max_sample_tokens)
    shards = list[Shard]()
    # An answer ends where one of them is said: none goes on behind it.
    allowed = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), list(stop_token_ids))
    for shard in chain.from_iterable(map(plan_shards, files)):
        copies = copies_beside(shard.samples, config.copied_share, allowed, config.seed)
        shards.append(shard_of([*shard.samples, *copies]))
    return shards
