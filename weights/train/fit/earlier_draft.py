"""Training that goes on from a draft that is there, such as the shipped one, on other text."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from server.errors import CheckpointError, ConfigError
from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig, check_fits, config_dict, glide_config
from server.models.glide_parameters import TOKEN_TABLE
from weights.checkpoint import read_json, weight_files
from weights.glide import read_glide
from weights.train.config import TrainConfig, chosen_layers, vocabulary_sizes
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.warm_start import draft_config

_RATE = 1 / 3
"""Highest learning rate of what was learnt in the way that drafts are from their beginning. The
whole rate would undo much of what the earlier draft's last, small steps had settled."""


def draft_files(folder: Path) -> list[Path]:
    """What a draft to go on from consists of: its config, and the files with its weights."""
    return [folder / "config.json", *sorted(set(weight_files(folder).values()))]


def with_its_shape(
    config: TrainConfig, target: ModelConfig, given: Collection[str] = ()
) -> TrainConfig:
    """The settings with all that the draft to go on from has decided.

    Args:
        given: names of the settings that were asked for, and are not to be overruled.

    Raises:
        CheckpointError: it can't be read, or is not complete.
        UnsupportedModelError: it is no GliDe draft, or one of another target.
        ConfigError: a setting that it has decided was given differently, or it is of a shape that
            is not trained here.
    """
    folder = config.from_draft
    if folder is None:
        return config
    held = glide_config(read_json(folder / "config.json"))
    check_fits(held, target)
    decided = {
        "glimpse_layers": held.glimpsed_layers(0),
        "glimpse_hidden": held.glimpse_hidden,
        "copy_hint": held.copy_hint,
        "draft_vocab_size": held.num_draft_tokens,
        "context_vocab_size": held.context_vocab_size,
        "max_delay": held.max_delay,
    }
    wanted = replace(config, glimpse_layers=chosen_layers(config, target))
    for name, value in decided.items():
        if name in given and getattr(wanted, name) != value:
            reason = f"{folder} has {value!r}, which stays"
            raise ConfigError(name, getattr(config, name), reason)
    config = replace(config, **decided, learning_rate=config.learning_rate * _RATE)
    _check_shape(config, held, target)
    read_glide(folder, target)  # its weights too are looked at before any work
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


def take_over(draft: TrainableDraft, folder: Path, target: ModelConfig) -> list[int] | None:
    """Fills every weight; returns the ids that the draft can say anywhere, ascending, None for all.

    Args:
        folder: of a draft of the same shape.

    Raises:
        CheckpointError: its weights can't be read, or are not those of its shape.
    """
    tensors = read_glide(folder, target)
    table = tensors.pop(TOKEN_TABLE, None)
    try:
        draft.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(folder, str(error)) from None
    return None if table is None else sorted(table.tolist())
