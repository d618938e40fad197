"""Evaluation prompts: one data set per file, named for it, in the target's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.build import LoadedModel
from server.errors import ConfigError, InvalidRequestError
from server.text.chat_template import ChatTemplate
from weights.train.prompts import Prompt, read_prompts, user_turn

_KEY = "data"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model takes it."""

    id: str
    token_ids: tuple[int, ...]


Prompts = Mapping[str, Sequence[EncodedPrompt]]
"""By data set."""


def check_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Data set's name -> file; what can be said before the model is loaded.

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
) -> Prompts:
    """Args:
        limit: prompts per file, the first ones; None takes all. Every line is checked all the same.
        new_tokens: that must fit the context behind each prompt.

    Raises:
        CheckpointError: a file is unreadable or empty, or a line broken; names file and line.
        ConfigError: a prompt leaves no room for the answer.
    """
    template = _usable(model.chat_template)
    return {
        name: [
            _encoded(model, path, prompt, new_tokens)
            for prompt in read_prompts(path, template)[:limit]
        ]
        for name, path in files.items()
    }


def _usable(template: ChatTemplate) -> ChatTemplate | None:
    """None for a model that has no chat template, whose prompts are text to be continued."""
    try:
        user_turn("x", template)
    except InvalidRequestError:
        return None
    return template


def _encoded(model: LoadedModel, path: Path, prompt: Prompt, new_tokens: int) -> EncodedPrompt:
    ids = prompt.encode(model.tokenizer)
    room = max(model.engine.max_model_len - len(ids), 0)
    if room < new_tokens:
        reason = f"prompt {prompt.source!r} has {len(ids)} tokens and leaves {room} for the answer"
        raise ConfigError(_KEY, str(path), reason)
    return EncodedPrompt(prompt.source, ids)
