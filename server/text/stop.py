"""Stop strings in a stream of text: found across chunk borders, and never shown.

Definition, the same however the text is cut into chunks: the stop string whose occurrence ends
first wins, of several that end at the same character the longest. The output ends before it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class _Pattern:
    """Knuth–Morris–Pratt automaton of one stop string.

    `state` is the length of the longest prefix of the string that ends at the text read so far,
    which is exactly the text that must be held back. Not `str.endswith` over all prefixes: that
    costs the square of the length for each character, and clients choose the length.
    """

    def __init__(self, string: str) -> None:
        self.string = string
        self.state = 0
        self._fallback = _fallbacks(string)

    def push(self, char: str) -> bool:
        """Reads one character; whether the string is complete with it."""
        state = self.state
        while state and self.string[state] != char:
            state = self._fallback[state - 1]
        self.state = state + 1 if self.string[state] == char else 0
        return self.state == len(self.string)


@lru_cache(maxsize=256)  # each answer of a request has an automaton of its own
def _fallbacks(string: str) -> tuple[int, ...]:
    """For each prefix, the length of its longest proper suffix that is a prefix too.

    "abab" → (0, 0, 1, 2)
    """
    table = [0] * len(string)
    length = 0
    for index in range(1, len(string)):
        while length and string[index] != string[length]:
            length = table[length - 1]
        if string[index] == string[length]:
            length += 1
        table[index] = length
    return tuple(table)


class StopResult(NamedTuple):
    text: str
    """Released: certain not to be part of a stop string."""
    matched: str | None
    """The stop string that was found; nothing follows."""


class StopStrings:
    """Watches one text. After a match it must not be used again.

    Args:
        strings: Not empty themselves; none at all makes every text pass through.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._patterns = [_Pattern(string) for string in strings]
        self._held = ""

    def push(self, text: str) -> StopResult:
        """Reads more text and releases what can't be part of a stop string any more."""
        if not self._patterns:
            return StopResult(text, None)
        self._held += text
        first_new = len(self._held) - len(text)
        for index in range(first_new, len(self._held)):
            matched = self._push_char(self._held[index])
            if matched is not None:
                return StopResult(self._held[: index + 1 - len(matched)], matched)
        return StopResult(self._release(), None)

    def flush(self) -> str:
        """The text ended: what was held back is no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _push_char(self, char: str) -> str | None:
        # A list first: every pattern must read the character, also after one has matched.
        matches = [pattern.string for pattern in self._patterns if pattern.push(char)]
        return max(matches, key=len, default=None)

    def _release(self) -> str:
        num_free = len(self._held) - max(pattern.state for pattern in self._patterns)
        released, self._held = self._held[:num_free], self._held[num_free:]
        return released
