"""The target's forward over the training text, once: fills the feature store."""

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch

from server.engine.step.inputs import Nodes, StepInputs, build_inputs
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.kernels.tree import LayerCache
from server.models.config import ModelConfig
from weights.train.features.labels import SoftLabels, soft_labels
from weights.train.features.rows import glimpsed_kv, stored_labels
from weights.train.features.store import (
    FEATURE_DTYPES,
    FeatureKey,
    FeatureShape,
    FeatureStore,
    Shard,
    ShardTensors,
    group_by_tokens,
)
from weights.train.features.target import TrainTarget
from weights.train.text.samples import Sample

_FORWARD_TOKENS = 2048
"""Rows of a forward of the target; longer samples go alone."""
_HEAD_ROWS = 64
"""Rows of logits over the whole vocabulary held at once: few enough to stay in a CPU's cache while
labels are cut out of them."""
_BLOCK = 16


@contextmanager
def native_threads(are_there: bool) -> Generator[None]:
    """Leaves the cores to the target's own threads, where it has some: torch's would spin on them
    after each of its operations in between, which makes a step ten times as long."""
    if not are_there:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def feature_shape(key: FeatureKey, target: ModelConfig) -> FeatureShape:
    """Sizes of such features of a target."""
    return FeatureShape(
        num_glimpses=len(key.glimpse_layers),
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        hidden_size=target.hidden_size if key.glimpse_hidden else 0,
        top_k=min(key.top_k, target.vocab_size),
        dtype=FEATURE_DTYPES[key.dtype],
    )


class FeatureWriter:
    """Runs the target over samples and gathers what a draft learns from."""

    def __init__(self, target: TrainTarget, key: FeatureKey) -> None:
        self.target, self.key = target, key
        self.device = target.model.placement.device
        self.dtype = FEATURE_DTYPES[key.dtype]
        self._caches = list[LayerCache]()

    def shape(self) -> FeatureShape:
        return feature_shape(self.key, self.target.config)

    @torch.inference_mode()
    def compute(self, samples: Sequence[Sample]) -> ShardTensors:
        """Features of some samples, see `ShardTensors`."""
        groups = group_by_tokens(samples, _FORWARD_TOKENS, lambda sample: sample.num_tokens)
        batches = [self._batch(group) for group in groups]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def _batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        inputs = self._inputs(samples)
        with native_threads(self.target.model.has_threads):
            hidden = self.target.model(inputs.token_ids, self._caches, inputs.batch)
        layers, slots = self.key.glimpse_layers, inputs.batch.slots
        tensors = {"kv": glimpsed_kv(self._caches, layers, slots, self.dtype)}
        if self.key.glimpse_hidden:
            tensors["hidden"] = hidden.to(self.dtype).cpu()
        starts = zip(inputs.first_rows, samples, strict=True)
        learnt = [
            torch.arange(first + sample.first_loss, first + sample.num_tokens - 1)
            for first, sample in starts
        ]
        return tensors | self._labels(hidden[torch.cat(learnt).to(self.device)])

    def _inputs(self, samples: Sequence[Sample]) -> StepInputs:
        """A chain per sample, each in blocks of its own."""
        nodes, num_blocks = list[Nodes](), 0
        for sample in samples:
            needed = -(-sample.num_tokens // _BLOCK)
            block_ids = range(num_blocks, num_blocks + needed)
            nodes.append(Nodes(block_ids, 0, sample.token_ids.tolist()))
            num_blocks += needed
        if not self._caches or num_blocks > len(self._caches[0].keys):
            config, dtype = self.target.config, self.target.model.placement.dtype
            shape = CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, dtype)
            self._caches = allocate_kv(shape, num_blocks, _BLOCK, self.device)
        return build_inputs(nodes, _BLOCK, self.device)

    def _labels(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """hidden: [labels, hidden]"""
        logits = self.target.model.logits
        parts = [soft_labels(logits(rows), self.key.top_k) for rows in hidden.split(_HEAD_ROWS)]
        labels = SoftLabels(*(torch.cat(field) for field in zip(*parts, strict=True)))
        return stored_labels(labels)


def write_features(
    writer: FeatureWriter,
    store: FeatureStore,
    shards: Sequence[Shard],
    advance: Callable[[int], None],
    deadline: float = math.inf,
) -> None:
    """Writes the shards that the store lacks.

    Args:
        advance: is told the tokens of each shard that was written.
        deadline: monotonic seconds; no shard is begun that would end later, but for the first one
            where there would be none at all.
    """
    some = any(map(store.has, shards))
    began, tokens = time.monotonic(), 0
    for shard in shards:
        if store.has(shard):
            continue
        seconds = (time.monotonic() - began) / max(tokens, 1) * shard.num_tokens
        if some and time.monotonic() + seconds > deadline:
            return
        store.write(shard, writer.compute(shard.samples))
        some, tokens = True, tokens + shard.num_tokens
        advance(shard.num_tokens)
