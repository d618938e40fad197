"""Training that goes on from a draft that is there, such as the shipped one, on other text."""

from dataclasses import fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from server.errors import CheckpointError, ConfigError
from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig, check_fits, config_dict, glide_config
from server.models.glide_parameters import TOKEN_TABLE
from weights.checkpoint import SINGLE_FILE, read_json
from weights.train.config import TrainConfig, vocabulary_sizes
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.warm_start import draft_config

_RATE = 1 / 3
"""Highest learning rate of what was learnt in the way that drafts are from their beginning. The
whole rate would undo much of what the earlier draft's last, small steps had settled."""


def with_its_shape(config: TrainConfig, target: ModelConfig) -> TrainConfig:
    """The settings with all that the draft to go on from has decided.

    Raises:
        CheckpointError: it can't be read.
        UnsupportedModelError: it is no GliDe draft, or one of another target.
        ConfigError: a setting that it has decided was given differently, or it is of a shape that
            is not trained here.
    """
    if config.from_draft is None:
        return config
    held = glide_config(read_json(config.from_draft / "config.json"))
    check_fits(held, target)
    decided = {
        "glimpse_layers": held.glimpsed_layers(0),
        "glimpse_hidden": held.glimpse_hidden,
        "copy_hint": held.copy_hint,
        "draft_vocab_size": held.num_draft_tokens,
        "context_vocab_size": held.context_vocab_size,
        "max_delay": held.max_delay,
    }
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in decided and value not in (field.default, decided[field.name]):
            reason = f"{config.from_draft} has {decided[field.name]!r}, which stays"
            raise ConfigError(field.name, value, reason)
    config = replace(config, **decided, learning_rate=config.learning_rate * _RATE)
    _check_shape(config, held, target)
    return config


def _check_shape(config: TrainConfig, held: GlideConfig, target: ModelConfig) -> None:
    trained = draft_config(
        target, held.glimpsed_layers(0), held.glimpse_hidden, held.max_delay,
        **vocabulary_sizes(config, target.vocab_size), copy_hint=held.copy_hint,
    )  # fmt: skip
    wanted, found = config_dict(trained), config_dict(held)
    for name, value in wanted.items():
        if found[name] != value:
            reason = f"has {name}={found[name]!r}; drafts that are trained here have {value!r}"
            raise ConfigError("from_draft", str(config.from_draft), reason)


def take_over(draft: TrainableDraft, folder: Path) -> list[int] | None:
    """Fills every weight; returns the ids that the draft can say anywhere, ascending, None for all.

    Args:
        folder: of a draft of the same shape.

    Raises:
        CheckpointError: its weights can't be read, or are not those of its shape.
    """
    path = folder / SINGLE_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"can't be read: {error}") from None
    table = tensors.pop(TOKEN_TABLE, None)
    if (table is None) != (draft.config.draft_vocab_size is None):
        raise CheckpointError(path, f"{TOKEN_TABLE} does not go with its config.json")
    try:
        draft.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(path, str(error)) from None
    return None if table is None else sorted(table.to(torch.int64).tolist())
