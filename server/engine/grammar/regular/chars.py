"""Sets of characters."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
"""Halves of surrogate pairs are no characters: no text has one, and neither does a set."""


@dataclass(frozen=True, slots=True)
class CharSet:
    """Characters, as ranges of code points: sorted, both ends included, never touching."""

    ranges: tuple[tuple[int, int], ...]

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, char: str) -> bool:
        return any(low <= ord(char) <= high for low, high in self.ranges)

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.ranges)

    def __or__(self, other: "CharSet") -> "CharSet":
        return char_set((*self.ranges, *other.ranges))

    def __and__(self, other: "CharSet") -> "CharSet":
        return ~(~self | ~other)

    def __sub__(self, other: "CharSet") -> "CharSet":
        return ~(~self | other)

    def __invert__(self) -> "CharSet":
        gaps, start = list[tuple[int, int]](), 0
        for low, high in sorted((*self.ranges, _SURROGATES)):
            gaps.append((start, low - 1))
            start = max(start, high + 1)
        gaps.append((start, _LAST))
        return CharSet(tuple((low, high) for low, high in gaps if low <= high))


def char_set(ranges: Iterable[tuple[int, int]]) -> CharSet:
    """The characters in any of these ranges."""
    merged = list[tuple[int, int]]()
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return CharSet(tuple(merged))


def chars(text: str) -> CharSet:
    """The characters of a text."""
    return char_set((ord(char), ord(char)) for char in text)


NO_CHARS = CharSet(())
ALL_CHARS = ~NO_CHARS
LINE_FEED = chars("\n")


@cache
def matching(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> CharSet:
    """The characters that a pattern for one character matches, as `re` itself decides."""
    found = re.finditer(f"(?:{pattern})+", _every_character(), flags)
    return char_set((ord(run[0][0]), ord(run[0][-1])) for run in found) - NO_CHARS


@cache
def _every_character() -> str:
    return "".join(map(chr, (*range(_SURROGATES[0]), *range(_SURROGATES[1] + 1, _LAST + 1))))


@cache
def characters_with_cases() -> str:
    """The characters that have other cases, some 2,900: only these can match another character
    where a pattern ignores case."""
    return "".join(c for c in _every_character() if c.lower() != c or c.upper() != c)
