"""Whether the machine has disk and memory for a `glidecape train`; asked before any work."""

import shutil
from pathlib import Path

import torch

from server.errors import ConfigError
from server.machine import free_memory
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.llama import LlamaModel
from weights.train.config import TrainConfig, glimpsed_layers
from weights.train.feature_store import FEATURE_DTYPES, FeatureShape
from weights.train.work_folder import check_disk

SPARE_BYTES = 2**30
"""Disk for checkpoints, the draft and the features of a short run."""
_TEXT_BYTES = 8
"""Of the text file, per response token and its share of the prompt. Measured: 7."""
_PROMPT_SHARE = 1.5
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
    glimpsed_layers(config, target)  # refuses layers that the target lacks
    needed = SPARE_BYTES
    if num_tokens is not None:
        needed += num_tokens * _TEXT_BYTES
        needed += min(_feature_bytes(config, target, num_tokens), config.feature_bytes or 2**63)
    check_disk(config.work, needed)
    model = LlamaModel(target, Placement(torch.device("meta"), torch.float32))
    memory = sum(slot.numel() for slot in model.slots().values()) * _MEMORY_PER_WEIGHT
    free = free_memory(torch.device("cpu"))
    if memory + _SPARE_MEMORY > free:
        reason = (
            f"training for it takes about {(memory + _SPARE_MEMORY) / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free"
        )
        raise ConfigError("target", target.architecture, reason)


def room_for_features(work: Path) -> int:
    """Bytes the features may take, those that are there included."""
    there = sum(file.stat().st_size for file in work.glob("features/*"))
    return max(1, shutil.disk_usage(work).free + there - SPARE_BYTES)


def _feature_bytes(config: TrainConfig, target: ModelConfig, num_tokens: int) -> int:
    shape = FeatureShape(
        num_glimpses=len(glimpsed_layers(config, target)),
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        hidden_size=target.hidden_size if config.glimpse_hidden else 0,
        top_k=config.top_k,
        dtype=FEATURE_DTYPES[config.feature_dtype],
    )
    return int(num_tokens * (shape.token_bytes * _PROMPT_SHARE + shape.label_bytes))
