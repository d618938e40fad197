"""Batches for the draft out of the feature store, in an order that the seed decides."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from safetensors import safe_open

from weights.train.features.labels import SoftLabels
from weights.train.features.store import FeatureStore, Shard, group_by_tokens
from weights.train.fit.copy_hints import CopySources, side_by_side, sources_of
from weights.train.fit.vocabulary import OwnTokens, Vocabulary
from weights.train.text.samples import Sample

_MOST_FILES = 128
"""Shards open at once, well below the usual limits of files a process may have open; opening one
takes less than a tenth of a millisecond."""


class Located(NamedTuple):
    """A sample and where its features are."""

    sample: Sample
    shard: Shard
    first_token: int
    first_label: int


class TrainBatch(NamedTuple):
    """Sequences side by side, padded at the end. T is the longest length, R the most rows."""

    token_ids: torch.Tensor
    """[B, T] int64"""
    positions: torch.Tensor
    """[B, R] int64: the rows that are learnt; padding repeats a sequence's first one."""
    is_row: torch.Tensor
    """[B, R] bool: false for padding."""
    kv: torch.Tensor
    """[B, T, glimpses, 2, kv_heads, head_dim]: the target's keys, rotated, and values."""
    hidden: torch.Tensor | None
    """[B, T, hidden]: the target's final hidden state, normed."""
    labels: SoftLabels
    """Labels of the rows without padding, sequence by sequence."""
    own: OwnTokens
    """What the sequences show beyond the draft's fixed ids."""
    copy_sources: CopySources | None
    """None for drafts without a copy hint."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "TrainBatch":
        """dtype: of kv and hidden."""
        hidden = None if self.hidden is None else self.hidden.to(device, dtype)
        copies = self.copy_sources
        if copies is not None:
            copies = CopySources(*(part.to(device) for part in copies))
        return TrainBatch(
            self.token_ids.to(device),
            self.positions.to(device),
            self.is_row.to(device),
            self.kv.to(device, dtype),
            hidden,
            SoftLabels(*(part.to(device) for part in self.labels)),
            OwnTokens(*(part.to(device) for part in self.own)),
            copies,
        )

    def is_shown(self, delays: torch.Tensor) -> torch.Tensor:
        """[true rows, U] bool: which of the batch's own tokens stand in a row's sequence up to the
        last one that is certain, which is the token behind the verified ones.

        Args:
            delays: [B, R]
        """
        roots = self.roots(delays)
        return (self.own.first_seen[:, None] <= roots[..., None])[self.is_row]

    def roots(self, delays: torch.Tensor) -> torch.Tensor:
        """[B, R]: the position of each row's last certain token."""
        return self.positions - delays + 1

    def shares(self, delays: torch.Tensor, count: int) -> list[tuple["TrainBatch", torch.Tensor]]:
        """The same rows in up to `count` batches of about equal work: every count-th row of each
        sequence, beside the whole of it. Each with its part of `delays` [B, R]."""
        column = self.is_row.nonzero()[:, 1]
        found = list[tuple[TrainBatch, torch.Tensor]]()
        for index in range(min(count, self.is_row.shape[1])):
            chosen = column % count == index
            share = self._replace(
                positions=self.positions[:, index::count],
                is_row=self.is_row[:, index::count],
                labels=SoftLabels(*(part[chosen] for part in self.labels)),
            )
            found.append((share, delays[:, index::count]))
        return found


def locate(shards: Sequence[Shard]) -> list[Located]:
    """All samples, in order."""
    located = list[Located]()
    for shard in shards:
        token = label = 0
        for sample in shard.samples:
            located.append(Located(sample, shard, token, label))
            token += sample.num_tokens
            label += sample.num_labels
    return located


class EpochOrder:
    """Which samples make up each optimizer step of each epoch."""

    def __init__(self, samples: Sequence[Located], batch_tokens: int, seed: int) -> None:
        self.samples, self.batch_tokens, self.seed = samples, batch_tokens, seed

    def batches(self, epoch: int) -> list[list[Located]]:
        """Steps of an epoch: all samples once, shuffled."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.samples), generator=generator).tolist()
        shuffled = [self.samples[i] for i in order]
        return list(group_by_tokens(shuffled, self.batch_tokens, lambda at: at.sample.num_tokens))


def group_padded(samples: Sequence[Located], limit: int) -> Iterator[list[Located]]:
    """Consecutive samples while they have at most `limit` tokens once padded to the longest."""
    group, longest = list[Located](), 0
    for located in samples:
        longest = max(longest, located.sample.num_tokens)
        if group and longest * (len(group) + 1) > limit:
            yield group
            group, longest = list[Located](), located.sample.num_tokens
        group.append(located)
    if group:
        yield group


def micro_batches(batch: Sequence[Located], limit: int) -> list[list[Located]]:
    """A step's samples by length, so that those padded together are about equally long."""
    return list(group_padded(sorted(batch, key=lambda x: x.sample.num_tokens), limit))


class FeatureReader:
    """Reads samples' features from the shards' files; those used last stay open. For one thread.

    Args:
        copy_hint: whether the draft has a copy hint.
    """

    def __init__(self, store: FeatureStore, vocabulary: Vocabulary, copy_hint: bool) -> None:
        self.store, self.vocabulary, self.copy_hint = store, vocabulary, copy_hint
        self._files = OrderedDict[str, safe_open]()
        """Open files by shard, the most recently used at the end."""
        self._looked_up = dict[bytes, CopySources]()
        """What was found in samples, by their digests."""

    def batch(self, samples: Sequence[Located]) -> TrainBatch:
        """One padded batch, on the CPU, in the precision it is stored in."""
        width = max(located.sample.num_tokens for located in samples)
        rows = max(located.sample.num_labels for located in samples)
        token_ids = torch.zeros(len(samples), width, dtype=torch.int64)
        positions = torch.zeros(len(samples), rows, dtype=torch.int64)
        is_row = torch.zeros(len(samples), rows, dtype=torch.bool)
        for index, (sample, *_) in enumerate(samples):
            token_ids[index, : sample.num_tokens] = torch.from_numpy(sample.token_ids)
            positions[index] = sample.first_loss
            positions[index, : sample.num_labels] += torch.arange(sample.num_labels)
            is_row[index, : sample.num_labels] = True
        labels = SoftLabels(
            *(torch.cat([self._labels(at, name) for at in samples]) for name in SoftLabels._fields)
        )
        hidden = self._padded(samples, "hidden") if self.store.key.glimpse_hidden else None
        kv = self._padded(samples, "kv")
        sequences = [located.sample.token_ids for located in samples]
        own = self.vocabulary.own(sequences)
        sources = None
        if self.copy_hint:
            sources = side_by_side([self._sources(located.sample) for located in samples])
        return TrainBatch(token_ids, positions, is_row, kv, hidden, labels, own, sources)

    def _sources(self, sample: Sample) -> CopySources:
        """Kept for the next epochs, in few bytes: to look them up takes longer than to learn, where
        a GPU learns."""
        found = self._looked_up.get(sample.digest)
        if found is None:
            starts, num_equal = sources_of(sample.token_ids)
            found = CopySources(starts.int(), num_equal.to(torch.uint8))
            self._looked_up[sample.digest] = found
        return found

    def _padded(self, samples: Sequence[Located], name: str) -> torch.Tensor:
        parts = [
            self._slice(at.shard, name, at.first_token, at.sample.num_tokens) for at in samples
        ]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def _labels(self, at: Located, name: str) -> torch.Tensor:
        return self._slice(at.shard, name, at.first_label, at.sample.num_labels)

    def _slice(self, shard: Shard, name: str, start: int, count: int) -> torch.Tensor:
        """A view of the file: copied before it is handed out."""
        return self._file(shard).get_slice(name)[start : start + count]

    def _file(self, shard: Shard) -> safe_open:
        file = self._files.pop(shard.name, None)
        if file is None:
            if len(self._files) >= _MOST_FILES:
                self._files.popitem(last=False)  # closed where nothing refers to it any more
            file = safe_open(self.store.path(shard), framework="pt")
        self._files[shard.name] = file
        return file
