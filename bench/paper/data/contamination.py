"""Whether a draft was trained on what it is evaluated with: prompts that occur in training text.

Compared are texts, after case folding and with white space folded, for equality:

    a training line with     is compared by
    prompt, messages         its users' turns: each alone, and all up to each
    prompt_ids               the text of the whole rendered prompt
    text_ids alone           nothing: it has no prompt. Such lines are counted

Rewordings and prompts under another system turn (in lines with ids) are not found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench.paper.data.sets import DataSets, EncodedPrompt
from server.text.tokenizer import Tokenizer
from weights.train.text.json_lines import line_error, read_json_lines


@dataclass(frozen=True, slots=True)
class Contamination:
    """The evaluation prompts that were found in the training text."""

    files: tuple[str, ...]
    """Names of the training files."""
    num_prompts: int
    """Prompts of the training text that were compared."""
    num_without_prompt: int
    """Lines that could not be compared."""
    found: dict[str, tuple[str, ...]]
    """Data set → ids of its prompts that occur in the training text."""

    @property
    def num_found(self) -> int:
        return sum(map(len, self.found.values()))


def find_contamination(
    sets: DataSets, files: Sequence[Path], tokenizer: Tokenizer
) -> Contamination:
    """Reads all of the training text.

    Args:
        files: files as read by `weights/train/text/samples.py` and `weights/train/text/prompts.py`.
        tokenizer: the target's, whose ids the text holds.

    Raises:
        CheckpointError: a file can't be read, or a line is none of theirs; names file and line.
    """
    wanted = _by_text(sets, tokenizer)
    num_prompts = num_without = 0
    found = set[tuple[str, str]]()
    for path in files:
        for number, line in read_json_lines(path):
            try:
                texts = list(_texts(line, tokenizer))
            except ValueError as error:
                raise line_error(path, number, str(error)) from None
            num_prompts += bool(texts)
            num_without += not texts
            for text in texts:
                found |= wanted.get(fold(text), set())
    by_set = {
        name: tuple(prompt.id for prompt in data.prompts if (name, prompt.id) in found)
        for name, data in sets.items()
    }
    return Contamination(tuple(path.name for path in files), num_prompts, num_without, by_set)


def fold(text: str) -> str:
    """A text without case and without differences in white space."""
    return " ".join(text.casefold().split())


def join_turns(turns: Sequence[str]) -> str:
    """Users' turns as one text."""
    return "\n".join(turns)


def _by_text(sets: DataSets, tokenizer: Tokenizer) -> Mapping[str, set[tuple[str, str]]]:
    """Folded text → (data set, id) of the prompts that read so."""
    wanted: dict[str, set[tuple[str, str]]] = {}
    for name, data in sets.items():
        for prompt in data.prompts:
            for text in _texts_of(prompt, tokenizer):
                wanted.setdefault(fold(text), set()).add((name, prompt.id))
    return wanted


def _texts_of(prompt: EncodedPrompt, tokenizer: Tokenizer) -> tuple[str, str]:
    return join_turns(prompt.user_turns), _decoded(prompt.token_ids, tokenizer)


def _texts(line: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[str]:
    """The texts by which a training line is compared. Raises ValueError with the reason."""
    if "prompt_ids" in line:
        yield _decoded(_ids(line["prompt_ids"]), tokenizer)
    elif "prompt" in line:
        text = line["prompt"]
        if not isinstance(text, str | None):
            raise ValueError("prompt: expected a text")
        if text is not None:  # `glidecape train` notes prompts it dropped like that
            yield text
    elif "messages" in line:
        turns = user_turns(line["messages"])
        yield from turns
        yield from (join_turns(turns[: i + 1]) for i in range(1, len(turns)))
    elif "text_ids" not in line:
        raise ValueError("has none of prompt, messages, prompt_ids and text_ids")


def user_turns(messages: object) -> list[str]:
    """The user's turns of a chat. Raises ValueError where the messages are none."""
    if not isinstance(messages, list):
        raise ValueError("messages: expected a list")
    turns = list[str]()
    for turn in cast(list[object], messages):
        if not isinstance(turn, dict):
            raise ValueError("messages: expected objects with role and content")
        fields = cast(dict[str, object], turn)
        if fields.get("role") == "user":
            turns.append(str(fields.get("content")))
    return turns


def _ids(value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int for item in cast(list[Any], value)):
        raise ValueError("prompt_ids: expected a list of token ids")
    return cast(list[int], value)


def _decoded(token_ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.backend.decode(list(token_ids), skip_special_tokens=False)
