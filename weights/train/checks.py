"""Whether a training run can end well: disk, memory, and a resumed run's settings. Checked before
any work.
"""

import shutil
from pathlib import Path

import torch

from server.errors import ConfigError
from server.loading.machine import free_memory
from server.models.config import ModelConfig
from server.models.glide_config import target_shape
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from weights.train.config import TrainConfig, chosen_layers, vocabulary_sizes
from weights.train.features.induction import MOST_LAYERS
from weights.train.features.recorded import RECORDED
from weights.train.features.store import (
    FEATURE_DTYPES,
    FOLDER,
    FeatureShape,
    read_key,
    stored_bytes,
)
from weights.train.fit.checkpoint import check_checkpoint
from weights.train.fit.run import FIXED
from weights.train.text.generate import TEXT_FILE
from weights.train.work_folder import check_disk

_SPARE_BYTES = 2**29
"""Disk for the features of a short run and small files."""
_CHECKPOINT_BYTES = 3 * 16 + 4
"""Bytes of disk per weight of the draft: the last state, that before the learning rate fell, and
one that is being written, each of weights, their average and two moments; and the draft itself."""
LAYERS = 1.6
"""A draft's weights beside its head, in layers of its target: one, and three more glimpses."""
_TEXT_BYTES = 8
"""Bytes of the text file per response token and its share of the prompt. Measured: 7."""
PROMPT_SHARE = 1.5
"""Tokens with features, per response token; prompts have them too."""
_MEMORY_PER_WEIGHT = 8
"""Bytes of memory: the target in float32 and as much again while it is prepared."""
_SPARE_MEMORY = 2**29


def check_machine(config: TrainConfig, target: ModelConfig, num_tokens: int | None) -> None:
    """Refuses what can't end well.

    Args:
        num_tokens: of text that will certainly be used; None where the time decides how many.

    Raises:
        ConfigError: names the key, what is needed and what there is.
    """
    chosen_layers(config, target)  # refuses layers that the target lacks
    target_shape(target)  # refuses targets that no draft can read
    needed = 0
    if num_tokens is not None:
        needed = num_tokens * _TEXT_BYTES
        needed += min(feature_bytes(config, target, num_tokens), config.feature_bytes or 2**63)
        needed = max(0, needed - _bytes_there(config.work))
    check_disk(config.work, needed + _spare_bytes(target))
    parameters = LlamaParameters(target, Placement(torch.device("meta"), torch.float32))
    memory = sum(slot.numel() for slot in parameters.slots().values()) * _MEMORY_PER_WEIGHT
    free = free_memory(torch.device("cpu"))
    if memory + _SPARE_MEMORY > free:
        reason = (
            f"training for it takes about {(memory + _SPARE_MEMORY) / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free"
        )
        raise ConfigError("target", target.architecture, reason)


def check_resumed(config: TrainConfig, target: ModelConfig) -> None:
    """Refuses other settings of the draft than those its features were made for; text alone goes
    with all.

    Raises:
        ConfigError: names the setting, its value and the one it had.
        CheckpointError: the index of the features or the checkpoint is broken, or the checkpoint is
            of a run with other settings.
    """
    begun = check_checkpoint(config.work, {name: getattr(config, name) for name in FIXED})
    shape = {**vocabulary_sizes(config, target.vocab_size), "copy_hint": config.copy_hint}
    for name, value in shape.items():
        if begun:
            _check_same(config, name, value, begun.get(name))
    held = read_key(config.work / FOLDER)
    if held is None:
        return
    layers = chosen_layers(config, target)
    for name, value, earlier in (
        ("glimpse_layers", held.glimpse_layers if layers is None else layers, held.glimpse_layers),
        ("glimpse_hidden", config.glimpse_hidden, held.glimpse_hidden),
        ("top_k", config.top_k, held.top_k),
        ("feature_dtype", config.feature_dtype, held.dtype),
    ):
        _check_same(config, name, value, earlier)


def _check_same(config: TrainConfig, name: str, value: object, earlier: object) -> None:
    if value != earlier:
        reason = (
            f"{config.work} is the work of a run with {name}={earlier!r}; delete it, or choose "
            "another --out or --work, with --text for the text that is there"
        )
        raise ConfigError(name, value, reason)


def room_for_features(work: Path, target: ModelConfig) -> int:
    """Bytes the features may take, those that are there included."""
    there = _feature_bytes_there(work)
    return max(1, shutil.disk_usage(work).free + there - _spare_bytes(target))


def layer_weights(target: ModelConfig) -> int:
    """Weights of one of the target's layers."""
    parameters = LlamaParameters(target, Placement(torch.device("meta"), torch.float32))
    slots = parameters.slots().items()
    return sum(slot.numel() for name, slot in slots if "layers." in name) // target.num_layers


def _spare_bytes(target: ModelConfig) -> int:
    """Disk beside text and features."""
    return _SPARE_BYTES + int(LAYERS * layer_weights(target)) * _CHECKPOINT_BYTES


def _bytes_there(work: Path) -> int:
    """Text and features that a run which is resumed has written."""
    text = work / TEXT_FILE
    written = text.stat().st_size if text.exists() else 0
    return written + _feature_bytes_there(work)


def _feature_bytes_there(work: Path) -> int:
    """Bytes of all features in a work folder, those included that were recorded with the text."""
    return sum(sum(stored_bytes(work / name).values()) for name in (FOLDER, RECORDED))


def feature_bytes(config: TrainConfig, target: ModelConfig, num_tokens: int) -> int:
    """Disk for the features of so many tokens of answers, with their prompts."""
    layers = chosen_layers(config, target)
    shape = FeatureShape(
        num_glimpses=MOST_LAYERS if layers is None else len(layers),
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        hidden_size=target.hidden_size if config.glimpse_hidden else 0,
        top_k=config.top_k,
        dtype=FEATURE_DTYPES[config.feature_dtype],
    )
    return int(num_tokens * (shape.token_bytes * PROMPT_SHARE + shape.label_bytes))
