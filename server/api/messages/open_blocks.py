"""A block of a message while it is being written: what it begins with, and what is added to it."""

import hashlib
from typing import Any

from pydantic_core import from_json

from server.api.messages.schema.answer import AnswerText, AnswerThinking, AnswerToolUse
from server.api.messages.schema.events import (
    InputBlockDelta,
    SignatureDelta,
    TextBlockDelta,
    ThinkingBlockDelta,
)


class OpenText:
    def __init__(self) -> None:
        self._texts: list[str] = []

    def first(self) -> AnswerText:
        return AnswerText(text="")

    def add(self, text: str) -> TextBlockDelta:
        self._texts.append(text)
        return TextBlockDelta(text=text)

    def last(self) -> None:
        """There is nothing to add at its end."""

    def whole(self) -> AnswerText:
        return AnswerText(text="".join(self._texts))


class OpenThinking:
    """Thoughts.

    Args:
        is_shown: False where the request doesn't want to see them.
    """

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._texts: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)

    def first(self) -> AnswerThinking:
        return AnswerThinking(thinking="", signature="")

    def add(self, text: str) -> ThinkingBlockDelta | None:
        """Adds more thoughts; None where they aren't shown."""
        self._digest.update(text.encode())
        if not self._is_shown:
            return None
        self._texts.append(text)
        return ThinkingBlockDelta(thinking=text)

    def last(self) -> SignatureDelta:
        return SignatureDelta(signature=self._digest.hexdigest())

    def whole(self) -> AnswerThinking:
        return AnswerThinking(thinking="".join(self._texts), signature=self._digest.hexdigest())


class OpenCall:
    def __init__(self, call_id: str, name: str) -> None:
        self._id = f"toolu_{call_id.removeprefix('call_')}"
        self._name = name
        self._texts: list[str] = []

    def first(self) -> AnswerToolUse:
        return AnswerToolUse(id=self._id, name=self._name, input={})

    def add(self, text: str) -> InputBlockDelta:
        self._texts.append(text)
        return InputBlockDelta(partial_json=text)

    def last(self) -> None:
        """There is nothing to add at its end."""

    def whole(self) -> AnswerToolUse:
        given = call_input("".join(self._texts))
        return AnswerToolUse(id=self._id, name=self._name, input=given)


def call_input(text: str) -> dict[str, Any]:
    """A call's arguments as an object. Of those that were cut short it has what is complete, like
    that of Anthropic's clients for streams; what is no JSON object stands in it as text."""
    try:
        value = from_json(text or "{}", allow_inf_nan=False, allow_partial=True)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}
