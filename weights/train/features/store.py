"""What the draft needs of the target, on disk: shards of whole samples and an index.

A shard is named by the content of its samples. So one that is there is the right one: a killed run
goes on with what it has, and text that grew makes new shards only where it grew. The index holds
what all shards depend on, and comes first.

    features.json               FeatureKey: target, layers, …
    <digest>.safetensors        kv, hidden, labels; see `ShardTensors`
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import save_file

from server.errors import CheckpointError, ConfigError
from weights.checkpoint import read_json
from weights.files import replace_durably
from weights.train.text.samples import Sample

T = TypeVar("T")
FOLDER = "features"
"""The features' folder in a work folder."""
INDEX = "features.json"
SHARD_TOKENS = 16_384
"""About 30 s of the target's forward at 600 tokens/s: what a kill can cost."""
_SPARE_BYTES = 512 * 2**20
"""Disk left free, for checkpoints and the draft."""

FEATURE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """What the features of one text depend on."""

    target: str
    """`TrainTarget.identity`"""
    glimpse_layers: tuple[int, ...]
    """Counted from 0."""
    glimpse_hidden: bool
    top_k: int
    dtype: str
    """Precision of kv and hidden, a key of `FEATURE_DTYPES`."""
    form: str = ""
    """`TrainTarget.form`; empty in older folders, whose features go with every form."""


class FeatureShape(NamedTuple):
    """Sizes per token."""

    num_glimpses: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    """0 without the hidden glimpse."""
    top_k: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        kv = 2 * self.num_glimpses * self.num_kv_heads * self.head_dim
        return (kv + self.hidden_size) * self.dtype.itemsize

    @property
    def label_bytes(self) -> int:
        """Per learnt token: k probabilities and ids, and the rest."""
        return 6 * self.top_k + 2

    def sample_bytes(self, sample: Sample) -> int:
        return self.token_bytes * sample.num_tokens + self.label_bytes * sample.num_labels

    def num_bytes(self, shards: "Sequence[Shard]") -> int:
        return sum(self.sample_bytes(sample) for shard in shards for sample in shard.samples)


class Shard(NamedTuple):
    """Samples whose features lie in one file."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def num_tokens(self) -> int:
        return sum(sample.num_tokens for sample in self.samples)


ShardTensors = Mapping[str, torch.Tensor]
"""Tensors of all samples of a shard, one after another:
    kv      [tokens, glimpses, 2, kv_heads, head_dim]
    hidden  [tokens, hidden]; only with the hidden glimpse
    probs   [labels, k] float16    token_ids [labels, k] int32    rest [labels] float16
"""


class FeatureStore:
    """A work folder's features.

    Raises:
        CheckpointError: the folder holds features of something else; names what.
    """

    def __init__(self, folder: Path, key: FeatureKey) -> None:
        self.folder, self.key = folder, key
        held = read_key(folder)
        if held is None:
            folder.mkdir(parents=True, exist_ok=True)
            _write_atomically(folder / INDEX, json.dumps(asdict(key)).encode())
            return
        names = [name for name in asdict(key) if getattr(held, name) != getattr(key, name)]
        if "form" in names and not held.form:
            names.remove("form")
        elif names == ["form"]:
            reason = (
                f"holds features of the target with {held.form}, here it is loaded with "
                f"{key.form}; set device and dtype as they were"
            )
            raise CheckpointError(folder, reason)
        if names:
            raise CheckpointError(folder, f"holds features of another {' and '.join(names)}")

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.safetensors"

    def has(self, shard: Shard) -> bool:
        return self.path(shard).exists()

    def write(self, shard: Shard, tensors: ShardTensors) -> None:
        """Writes a shard atomically: a kill leaves all of it or nothing."""
        path = self.path(shard)
        partial = path.with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        replace_durably(partial, path)

    def check_disk(self, shards: Sequence[Shard], shape: FeatureShape) -> None:
        """Raises ConfigError if the shards still to be written don't fit the disk."""
        needed = shape.num_bytes([shard for shard in shards if not self.has(shard)])
        free = disk_usage(self.folder).free
        if needed and needed + _SPARE_BYTES > free:
            reason = (
                f"the features need {needed / 2**30:.1f} GiB more and "
                f"{_SPARE_BYTES / 2**30:.1f} GiB are kept spare, but only {free / 2**30:.1f} GiB "
                "are free: set feature_bytes"
            )
            raise ConfigError("work", str(self.folder), reason)


def read_key(folder: Path) -> FeatureKey | None:
    """The key of the features in a folder, None if it has none.

    Raises:
        CheckpointError: the index is broken.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    raw = read_json(path)
    if "vocabulary" in raw:
        reason = "was written by an earlier version, whose labels knew one vocabulary; delete it"
        raise CheckpointError(path.parent, reason)
    try:
        layers = tuple(raw.pop("glimpse_layers"))
        return FeatureKey(**raw, glimpse_layers=layers)
    except (KeyError, TypeError) as error:
        raise CheckpointError(path, f"is no index of features: {error}") from None


def plan_shards(samples: Sequence[Sample], shard_tokens: int = SHARD_TOKENS) -> list[Shard]:
    """Consecutive samples until a shard is full; one more than fits fills its own."""
    groups = group_by_tokens(samples, shard_tokens, lambda sample: sample.num_tokens)
    return list(map(shard_of, groups))


def shard_of(samples: Sequence[Sample]) -> Shard:
    """A shard of all of these."""
    digest = blake2b(digest_size=12)
    for sample in samples:
        digest.update(sample.digest)
    return Shard(digest.hexdigest(), tuple(samples))


def group_by_tokens(
    items: Sequence[T], limit: int, num_tokens: Callable[[T], int]
) -> Iterator[list[T]]:
    """Runs of consecutive items of at most `limit` tokens together, at least one item each."""
    group, tokens = list[T](), 0
    for item in items:
        if group and tokens + num_tokens(item) > limit:
            yield group
            group, tokens = list[T](), 0
        group.append(item)
        tokens += num_tokens(item)
    if group:
        yield group


def within(
    shards: Sequence[Shard], shape: FeatureShape, limit: int | None, stored: Mapping[str, int]
) -> list[Shard]:
    """The shards whose features fit into `limit` bytes, in order: those that are stored, then
    others. They are chosen by their names, which are digests, and not by their place, since files
    are often sorted by where the text is from. Where not even one fits, it is cut.

    Args:
        limit: limit for all of `stored` together with what is still to be written.
        stored: result of `stored_bytes`; shards that are not in `shards` take room for nothing.
    """
    if limit is None:
        return list(shards)
    left = limit - left_over_bytes(shards, stored)
    if shape.num_bytes(shards) <= left:
        return list(shards)
    order = sorted(shards, key=lambda shard: (shard.name not in stored, shard.name))
    ends = accumulate(shape.num_bytes([shard]) for shard in order)
    chosen = {shard.name for shard, end in zip(order, ends, strict=True) if end <= left}
    if not chosen:
        return _cut(order[0], shape, left)
    return [shard for shard in shards if shard.name in chosen]


def stored_bytes(folder: Path) -> dict[str, int]:
    """Sizes of the shards in a folder, by name; none if there is no such folder."""
    return {path.stem: path.stat().st_size for path in folder.glob("*.safetensors")}


def left_over_bytes(shards: Sequence[Shard], stored: Mapping[str, int]) -> int:
    """Bytes of stored features whose text is no longer used, or was cut into other shards."""
    names = {shard.name for shard in shards}
    return sum(size for name, size in stored.items() if name not in names)


def _cut(shard: Shard, shape: FeatureShape, limit: int) -> list[Shard]:
    ends = accumulate(map(shape.sample_bytes, shard.samples))
    fitting = [sample for sample, end in zip(shard.samples, ends, strict=True) if end <= limit]
    return plan_shards(fitting)


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    replace_durably(partial, path)
