"""Prompts that a user brings, as the target reads them.

A JSON-lines file, `.gz` or plain, of

    {"messages": [{"role": "user", "content": "…"}, …]}       a chat, up to its last user turn
    {"prompt": "…"}                                           one user turn

each with an optional `id`. For a target without chat template, `prompt` is text to be continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from server.errors import CheckpointError, InvalidRequestError
from server.text.chat_template import ChatTemplate, Message
from server.text.tokenizer import Tokenizer
from weights.train.text.json_lines import line_error, read_json_lines
from weights.train.text.samples import PromptIds


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text to be answered."""

    source: str
    """The line's id, or FILE:LINE."""
    text: str
    is_chat: bool
    """The text is a rendered chat: the template has written every special token."""

    def encode(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        return tuple(tokenizer.encode(self.text, add_special_tokens=not self.is_chat))


def read_prompts(path: Path, template: ChatTemplate | None) -> list[Prompt]:
    """All prompts of a file; every line is read and rendered before the first is used.

    Args:
        template: None for a target that has none.

    Raises:
        CheckpointError: the file can't be read, is empty, or a line is broken or refused by the
            chat template; names the line.
    """
    prompts = [_prompt(path, number, line, template) for number, line in read_json_lines(path)]
    if not prompts:
        raise CheckpointError(path, "holds no prompts")
    return prompts


def user_turn(text: str, template: ChatTemplate) -> str:
    """A chat of one user turn, rendered."""
    return template.render([{"role": "user", "content": text}])


def usable_template(template: ChatTemplate) -> ChatTemplate | None:
    """None where the model has no template, or one that refuses a single user turn."""
    try:
        user_turn("x", template)
    except InvalidRequestError:
        return None
    return template


def prompt_encoder(tokenizer: Tokenizer, template: ChatTemplate | None) -> PromptIds:
    """A user's text -> ids up to where the answer begins; without a template the text is to be
    continued."""

    def encode(text: str) -> Sequence[int]:
        rendered = text if template is None else user_turn(text, template)
        return Prompt("", rendered, is_chat=template is not None).encode(tokenizer)

    return encode


def _prompt(path: Path, number: int, line: dict[str, Any], template: ChatTemplate | None) -> Prompt:
    source = str(line.get("id", f"{path.name}:{number}"))
    if ("messages" in line) == ("prompt" in line):
        raise line_error(path, number, "expected either messages or prompt")
    if "prompt" in line:
        text = _text(path, number, "prompt", line["prompt"])
        if template is None:
            return Prompt(source, text, is_chat=False)
        messages: list[Message] = [{"role": "user", "content": text}]
    else:
        messages = _chat(path, number, line["messages"])
    if template is None:
        raise line_error(path, number, "messages need a chat template, which the target lacks")
    try:
        return Prompt(source, template.render(messages), is_chat=True)
    except InvalidRequestError as error:
        raise line_error(path, number, error.message) from None


def _chat(path: Path, number: int, messages: object) -> list[Message]:
    """Cuts a chat behind its last user turn: data sets often hold an answer, and the target gives
    its own.
    """
    if not isinstance(messages, list):
        raise line_error(path, number, "messages: expected a list")
    turns = [_turn(path, number, turn) for turn in cast(list[object], messages)]
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    if not turns:
        raise line_error(path, number, "messages: there is no user turn")
    return turns


def _turn(path: Path, number: int, turn: object) -> Message:
    if not isinstance(turn, dict):
        raise line_error(path, number, "messages: expected objects with role and content")
    fields = cast(dict[str, object], turn)
    return {
        name: _text(path, number, f"messages: {name}", fields.get(name))
        for name in ("role", "content")
    }


def _text(path: Path, number: int, name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise line_error(path, number, f"{name}: expected a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may escape half of a surrogate pair
        raise line_error(path, number, f"{name}: is not valid Unicode") from None
    return value
