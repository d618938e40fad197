"""Evaluation prompts: one data set per file, named for it, in the target's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ConfigError, InvalidRequestError
from server.loading.model import LoadedModel
from server.text.chat_template import ChatTemplate
from weights.train.text.json_lines import read_json_lines
from weights.train.text.prompts import Prompt, read_prompts, user_turn

_KEY = "data"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt in the model's tokens."""

    id: str
    token_ids: tuple[int, ...]
    user_turns: tuple[str, ...]
    """What the user says, before the chat template."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The prompts of one file."""

    prompts: tuple[EncodedPrompt, ...]
    """The prompts to measure."""
    num_in_file: int


DataSets = Mapping[str, DataSet]
"""By name."""


def check_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Maps data sets' names to files, with the checks that need no model.

    Raises:
        ConfigError: no file, two of the same name, or one that is not there.
    """
    if not paths:
        raise ConfigError(_KEY, "", "at least one file of prompts is needed")
    files: dict[str, Path] = {}
    for path in paths:
        name = path.name.split(".")[0]
        if name in files:
            raise ConfigError(_KEY, str(path), f"there is another data set named {name!r}")
        if not path.is_file():
            raise ConfigError(_KEY, str(path), "there is no such file")
        files[name] = path
    return files


def read_data(
    model: LoadedModel, files: Mapping[str, Path], limit: int | None, new_tokens: int
) -> DataSets:
    """Reads and encodes the files.

    Args:
        limit: prompts per file, `spread` over it; None takes all. Every line is checked in either
            case.
        new_tokens: number of tokens for which the context must have room after each prompt.

    Raises:
        CheckpointError: a file is unreadable or empty, or a line broken; names file and line.
        ConfigError: a prompt leaves no room for the answer.
    """
    template = _usable(model.chat_template)
    return {name: _read(model, path, template, limit, new_tokens) for name, path in files.items()}


def spread(count: int, limit: int | None) -> list[int]:
    """Which of so many lines are taken: always the same ones, evenly spread, because files are
    often in some order (MT-bench by category). Example: 3 of 10 are the lines 0, 3 and 6."""
    wanted = count if limit is None else min(limit, count)
    return [i * count // wanted for i in range(wanted)]


def _read(
    model: LoadedModel,
    path: Path,
    template: ChatTemplate | None,
    limit: int | None,
    new_tokens: int,
) -> DataSet:
    prompts = read_prompts(path, template)
    turns = [_user_turns(line) for _, line in read_json_lines(path)]
    taken = [
        _encoded(model, path, prompts[i], turns[i], new_tokens) for i in spread(len(prompts), limit)
    ]
    return DataSet(tuple(taken), len(prompts))


def _user_turns(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Reads the user's turns of a line that `read_prompts` has checked."""
    if "prompt" in line:
        return (line["prompt"],)
    return tuple(turn["content"] for turn in line["messages"] if turn["role"] == "user")


def _usable(template: ChatTemplate) -> ChatTemplate | None:
    """The template; None for a model without one, which continues prompts as plain text."""
    try:
        user_turn("x", template)
    except InvalidRequestError:
        return None
    return template


def _encoded(
    model: LoadedModel, path: Path, prompt: Prompt, turns: tuple[str, ...], new_tokens: int
) -> EncodedPrompt:
    ids = prompt.encode(model.tokenizer)
    room = max(model.engine.max_model_len - len(ids), 0)
    if room < new_tokens:
        reason = f"prompt {prompt.source!r} has {len(ids)} tokens and leaves {room} for the answer"
        raise ConfigError(_KEY, str(path), reason)
    return EncodedPrompt(prompt.source, ids, turns)
