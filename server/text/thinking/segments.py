"""What a splitter makes of a text, and what it is asked for."""

from typing import Literal, NamedTuple, Protocol

Kind = Literal["thinking", "answer", "arguments", "markup"]
"""What text is: thought, said to the user, a call's arguments, or neither."""


class Segment(NamedTuple):
    """A part of the text, in which nothing is left out: all segments together are the text."""

    kind: Kind
    text: str
    opens: Kind | None = None
    """Of markup: what begins behind it."""
    function: str | None = None
    """Of markup that opens arguments: the function that is called."""


class Splitter(Protocol):
    """Reads one answer. What its segments add up to is the same however the text is cut."""

    @property
    def num_held(self) -> int:
        """Characters at the end of what was read that are in no segment yet."""
        ...

    def push(self, text: str) -> list[Segment]:
        """Reads more text → the segments that are certain now."""
        ...

    def finish(self) -> list[Segment]:
        """The text ended: the segments of what was held back."""
        ...


SPACE = " \t\n\r\f\v"
"""White space that is layout: ASCII's, which the engine finds in bytes too."""

MOST_SPACE = 256
"""White space in a row that is held back until it is known whether it is layout."""


def trimmed(text: str) -> int:
    """Length of a text without the white space at its end, of which so much counts as layout."""
    return max(len(text.rstrip(SPACE)), len(text) - MOST_SPACE)


def longest_overlap(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of a text with which a mark may begin, but isn't complete.

    ("abc </th", ("</think>",)) → 4
    """
    most = min(len(text), max(map(len, marks)) - 1)
    for length in range(most, 0, -1):
        end = text[len(text) - length :]
        if any(mark.startswith(end) for mark in marks):
            return length
    return 0
