"""Features that were recorded while text was written, on disk.

Answers go to the text file in the order in which they end, so that the file's shards are known as
it grows. A shard whose answers were all seen goes to disk, and stage 2 takes it over. Where one was
not, as after a kill, the target reads the shard's text once more.

    recorded/features.json           what it depends on, as in the features' folder
    recorded/<digest>.safetensors    the text of a shard, without random tokens
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from server.engine.types import RequestId
from server.errors import CheckpointError
from weights.train.features.record import RowRecorder
from weights.train.features.store import (
    FOLDER,
    SHARD_TOKENS,
    FeatureKey,
    FeatureShape,
    FeatureStore,
    Shard,
    ShardTensors,
    group_by_tokens,
    read_key,
    shard_of,
    stored_bytes,
)
from weights.train.features.writer import FeatureWriter
from weights.train.text.samples import Sample, answer_sample
from weights.train.text.store import Answer

RECORDED = "recorded"
"""The folder in a work folder."""


def known_key(work: Path) -> FeatureKey | None:
    """What the features of a work folder depend on, as far as any are there."""
    return read_key(work / FOLDER) or read_key(work / RECORDED)


def open_recorded(work: Path, key: FeatureKey) -> FeatureStore:
    """The folder for features of this key; what is there of another one is deleted."""
    folder = work / RECORDED
    with suppress(CheckpointError):
        return FeatureStore(folder, key)
    rmtree(folder)
    return FeatureStore(folder, key)


class FeatureRecorder:
    """Writes the features of answers as they end.

    Args:
        shape: sizes of the features.
        most_bytes: of this store.
        written: the samples of the text file so far.
        max_tokens: of a sample.
        shard_tokens: of `plan_shards`.
    """

    def __init__(
        self,
        rows: RowRecorder,
        store: FeatureStore,
        shape: FeatureShape,
        most_bytes: int,
        written: Sequence[Sample],
        max_tokens: int,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self._rows, self._store, self._shape = rows, store, shape
        self._max_tokens, self._shard_tokens = max_tokens, shard_tokens
        self._samples = self._groups(written)[-1] if written else []
        """Of the shard that is not full yet."""
        self._features: list[ShardTensors | None] = [None for _ in self._samples]
        self._room = most_bytes - sum(stored_bytes(store.folder).values())

    def begin(self, request_id: RequestId) -> None:
        """To be called before an answer is asked for."""
        if self._room > 0:
            self._rows.watch(request_id)

    def end(self, request_id: RequestId, answer: Answer | None) -> None:
        """The answer has been written, in this order; None where there is none."""
        sample = None
        if answer is not None:
            sample = answer_sample(answer.prompt_ids, answer.response_ids, self._max_tokens)
        if sample is None:
            self._rows.forget(request_id)
            return
        features = self._rows.take(request_id, sample)
        if len(self._groups([*self._samples, sample])) > 1:
            self.flush()
        self._samples.append(sample)
        self._features.append(features)

    def flush(self) -> None:
        """Ends the shard, as the text file's end does."""
        seen = [features for features in self._features if features is not None]
        if self._samples and len(seen) == len(self._samples):
            self._write(shard_of(self._samples), seen)
        self._samples, self._features = [], []

    def _write(self, shard: Shard, features: Sequence[ShardTensors]) -> None:
        """Nothing more is recorded where it does not fit, or the disk does not take it."""
        self._room -= self._shape.num_bytes([shard])
        if self._room <= 0:
            return
        try:
            self._store.write(shard, joined(features))
        except (OSError, SafetensorError, CheckpointError):
            self._room = 0

    def _groups(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        return list(group_by_tokens(samples, self._shard_tokens, lambda s: s.num_tokens))


def joined(parts: Sequence[ShardTensors]) -> dict[str, torch.Tensor]:
    """One after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def adopt(
    work: Path,
    store: FeatureStore,
    writer: FeatureWriter,
    shards: Sequence[Shard],
    tick: Callable[[], None] = lambda: None,
) -> int:
    """Makes shards of what was recorded, with features of the random tokens that belong to them,
    and deletes what was recorded.

    Args:
        store: of the work folder.
        shards: of all text.
        tick: called for each shard.

    Returns:
        Tokens whose features need not be computed any more.
    """
    folder, num_tokens = work / RECORDED, 0
    if not folder.exists():
        return 0
    if read_key(folder) == store.key:
        recorded = FeatureStore(folder, store.key)
        for shard in shards:
            if not store.has(shard):
                num_tokens += _adopt(recorded, store, writer, shard)
                tick()
    rmtree(folder)
    return num_tokens


def _adopt(recorded: FeatureStore, store: FeatureStore, writer: FeatureWriter, shard: Shard) -> int:
    count = sum(not sample.is_random for sample in shard.samples)
    text, random = shard.samples[:count], shard.samples[count:]
    path = recorded.path(shard_of(text))
    if not path.exists():
        return 0
    try:
        features = [load_file(path)]
    except SafetensorError:  # damaged: the target reads the text
        return 0
    if random:
        features.append(dict(writer.compute(random)))
    store.write(shard, joined(features))
    path.unlink()
    return sum(sample.num_tokens for sample in text)
