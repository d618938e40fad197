"""How much a model thinks: `reasoning_effort` → what its chat template reads.

reasoning_effort   gpt-oss: low, medium or high; it always thinks
enable_thinking    Qwen3, SmolLM3 …: on or off
thinking           DeepSeek V3.1, Granite …: on or off
/no_think          templates that look for the word in a message and read no variable: on or off
"""

from collections.abc import Mapping, Set
from typing import Any, Final, Literal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_SWITCHES: Final = ("enable_thinking", "thinking")
_WORDS: Final[Mapping[bool, str]] = {True: "/think", False: "/no_think"}
_OF_HARMONY: Final[Mapping[Effort, str]] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""The three that gpt-oss knows."""


class ThinkingSwitch:
    """What one chat template offers.

    Args:
        variables: that the template reads.
        template: its text.
    """

    def __init__(self, variables: Set[str], template: str) -> None:
        self._has_effort = "reasoning_effort" in variables
        self._switch = next((name for name in _SWITCHES if name in variables), None)
        self._has_words = self._switch is None and _WORDS[False] in template

    @property
    def can_be_off(self) -> bool:
        """Whether the model can be told not to think."""
        return self._switch is not None or self._has_words

    def variables(self, effort: Effort) -> dict[str, Any]:
        """The template's variables that say so much; none where it has none for it."""
        found: dict[str, Any] = {}
        if self._switch is not None:
            found[self._switch] = effort != "none"
        if self._has_effort and effort in _OF_HARMONY:
            found["reasoning_effort"] = _OF_HARMONY[effort]
        return found

    def word(self, effort: Effort) -> str | None:
        """The word that a message has to have; None where the template reads none."""
        return _WORDS[effort != "none"] if self._has_words else None
