"""Whether a grammar has any text that a vocabulary can write, or goes on for ever. Pure.

Reads the rules as xgrammar writes them down: a list of expressions, each a kind and numbers. An
expression ends if some text without end is not all it allows. That is found from the bottom up, in
time proportional to the grammar: what ends by itself makes the expressions end that wait for it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

_BYTES, _CLASS, _EMPTY, _RULE, _SEQUENCE, _CHOICES, _REPEAT = 0, 1, 3, 4, 5, 6, 8
"""xgrammar's numbers for kinds of expressions. All others can be empty, or are some text."""
_MANY = 256
"""A class of this many characters is assumed to have one that the vocabulary can write."""


CanWrite = Callable[[bytes], bool]


def can_end(grammar_json: str, can_write: CanWrite) -> bool:
    """Whether the grammar has a text whose parts can all be written.

    Args:
        grammar_json: xgrammar's JSON of a grammar that is not yet optimised.
        can_write: whether the vocabulary can write a part.
    """
    grammar: dict[str, Any] = json.loads(grammar_json)
    data, starts = grammar["grammar_expr_data"], grammar["grammar_expr_indptr"]
    expressions = [data[start : start + 2 + data[start + 1]] for start in starts]
    bodies: list[int] = [rule[1] for rule in grammar["rules"]]
    waiting: list[list[int]] = [[] for _ in expressions]
    """For each expression, those that wait for it."""
    missing = [1] * len(expressions)
    """For each expression, how many it still waits for."""
    ending = list[int]()
    for number, (kind, _, *numbers) in enumerate(expressions):
        needed = list(_needed(kind, numbers, bodies))
        for other in needed:
            waiting[other].append(number)
        if kind == _SEQUENCE:
            missing[number] = len(needed)
        if not needed and _ends_alone(kind, numbers, can_write):
            ending.append(number)
    ends = set(ending)
    while ending:
        for number in waiting[ending.pop()]:
            missing[number] -= 1
            if missing[number] <= 0 and number not in ends:
                ends.add(number)
                ending.append(number)
    return bodies[grammar["root_rule_id"]] in ends


def _needed(kind: int, numbers: Sequence[int], bodies: Sequence[int]) -> Iterator[int]:
    """Expressions that must end for this one to end: all of them in a sequence, else any."""
    if kind in (_SEQUENCE, _CHOICES):
        yield from numbers
    elif kind == _RULE or (kind == _REPEAT and numbers[1] > 0):
        yield bodies[numbers[0]]


def _ends_alone(kind: int, numbers: Sequence[int], can_write: CanWrite) -> bool:
    if kind == _BYTES:
        return can_write(bytes(number & 0xFF for number in numbers))  # some are signed
    if kind == _CLASS and not numbers[0]:
        ranges = list(pairwise(numbers[1:]))[::2]
        return any(_has_writable(low, high, can_write) for low, high in ranges)
    return kind != _CHOICES


def _has_writable(low: int, high: int, can_write: CanWrite) -> bool:
    characters = (chr(code).encode(errors="surrogatepass") for code in range(low, high + 1))
    return high - low >= _MANY or any(map(can_write, characters))


class Spelling:
    """Which parts of texts tokens can write, as far as that is easily seen: a byte that is no token
    must be in one whose other bytes fit."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._alone = {text[0] for text in texts if len(text) == 1}
        self._holding: defaultdict[int, list[bytes]] = defaultdict(list)
        for text in texts:
            for byte in set(text) - self._alone:
                self._holding[byte].append(text)

    def can_write(self, part: bytes) -> bool:
        return all(byte in self._alone or self._fits(part, at) for at, byte in enumerate(part))

    def _fits(self, part: bytes, at: int) -> bool:
        return any(
            byte == part[at] and _agree(part, text, at - offset)
            for text in self._holding[part[at]]
            for offset, byte in enumerate(text)
        )


def _agree(part: bytes, text: bytes, shift: int) -> bool:
    """Whether two texts are the same where they overlap, the second one moved by `shift`."""
    start, end = max(shift, 0), min(shift + len(text), len(part))
    return part[start:end] == text[start - shift : end - shift]
