"""The forms in which models think, and which one a model has, by its chat template.

think     <think> … </think> before the answer: Qwen3, DeepSeek-R1 and its distills, SmolLM3 …
harmony   channels, see `harmony.py`: gpt-oss
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final, Literal

from server.text.thinking.harmony import (
    CHANNEL,
    CONSTRAIN,
    FUNCTIONS,
    MARKS,
    MESSAGE,
    START,
    HarmonySplitter,
)
from server.text.thinking.segments import Splitter
from server.text.thinking.splitter import MarkSplitter, ThinkingStart

Message = dict[str, Any]
"""A message as chat templates take it."""

ThinkingFormatName = Literal["think", "harmony"]


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """One form."""

    name: ThinkingFormatName
    begin: str
    """The text with which thinking begins."""
    end: str
    """The text with which it ends."""
    answer: str
    """The text with which the answer begins; empty where it does behind the thinking's end."""
    between: str = ""
    """What comes between the end of a thinking and the next mark."""

    @property
    def has_calls(self) -> bool:
        """Whether calls of functions have marks of this form, so that its splitter finds them."""
        return self.name == "harmony"

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must reach a splitter even where they are special tokens."""
        return MARKS if self.name == "harmony" else (self.begin, self.end)

    def call(self, function: str) -> str:
        """The text with which a call of a function begins, where the form has calls."""
        header = f"{CHANNEL}commentary to={FUNCTIONS}{function} {CONSTRAIN}json{MESSAGE}"
        return header if self.has_calls else ""

    def splitter(self, start: ThinkingStart, names: Set[str] = frozenset()) -> Splitter:
        """Reads one answer.

        Args:
            names: The functions that can be called, where the form has calls.
        """
        if self.name == "harmony":
            return HarmonySplitter(names)
        return MarkSplitter(self.begin, self.end, start)

    def start_behind(self, prompt: str) -> ThinkingStart | None:
        """Where a prompt leaves the answer; None if there is no thinking any more, because the
        prompt has the end of it."""
        text = prompt.rstrip()
        if self.name == "think" and text.endswith(self.end):
            return None
        return "open" if self.name == "think" and text.endswith(self.begin) else "unknown"

    def start_within(self, begun: str) -> ThinkingStart | None:
        """The same for an answer that the prompt has the first part of."""
        if self.name == "think" and begun.rfind(self.begin) > begun.rfind(self.end):
            return "open"
        return None if begun else "unknown"

    def history(self, thoughts: str, message: Message) -> tuple[str, Message]:
        """The thoughts and the rest of an earlier message as chat templates take them.

        gpt-oss' template takes no content beside thoughts and calls, and shows what it takes as
        thinking.
        """
        if self.name == "harmony" and message.get("tool_calls") and message["content"]:
            return f"{thoughts}\n\n{message['content']}", {**message, "content": ""}
        return thoughts, message


_ANALYSIS: Final = f"{CHANNEL}analysis{MESSAGE}"
_FINAL: Final = f"{CHANNEL}final{MESSAGE}"
_ALL: Final = (
    ThinkingFormat("think", "<think>", "</think>", answer=""),
    ThinkingFormat(
        "harmony",
        _ANALYSIS,
        "<|end|>",
        answer=_FINAL,
        between=f"{START}assistant",
    ),
)
FORMATS: Final = {form.name: form for form in _ALL}


def detect_format(chat_template: str | None) -> ThinkingFormat | None:
    """The form in which a model thinks, by the text of its chat template; None if it doesn't."""
    template = chat_template or ""
    if CHANNEL in template and MESSAGE in template:
        return FORMATS["harmony"]
    return FORMATS["think"] if FORMATS["think"].end in template else None
