"""Sets of characters, against Python's sets of code points."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.grammar.regular.chars import (
    ALL_CHARS,
    CharSet,
    char_set,
    characters_with_cases,
    chars,
    matching,
)

EDGES = sorted(
    edge + step for edge in (0x20, 0xD800, 0xDFFF, 0xFFFF, 0x10FFFE) for step in (-1, 0, 1)
)
"""Code points at which something begins or ends; surrogates are among them, which no set has."""
RANGES = st.lists(
    st.tuples(st.sampled_from(EDGES), st.sampled_from(EDGES)).map(lambda r: (min(r), max(r))),
    max_size=4,
)


def is_character(code: int) -> bool:
    return not 0xD800 <= code <= 0xDFFF


def has(found: CharSet) -> set[int]:
    return {code for code in EDGES if is_character(code) and chr(code) in found}


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(RANGES, RANGES)
def test_operations_are_those_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    everything = {code for code in EDGES if is_character(code)}
    a, b = char_set(left), char_set(right)
    in_a, in_b = has(a), has(b)
    assert in_a == {c for c in everything if any(low <= c <= high for low, high in left)}
    assert has(~a) == everything - in_a
    assert has(a | b) == in_a | in_b
    assert has(a & b) == in_a & in_b
    assert has(a - b) == in_a - in_b
    assert ~~a == a & ALL_CHARS


@pytest.mark.parametrize("pattern", ["[^a]", "[a-é]", r"\w", "[\u017fk]"])
def test_characters_without_cases_match_alike_in_any_case(pattern: str) -> None:
    """So that `re` need not be asked about them, which takes a second."""
    cased = chars(characters_with_cases())
    assert matching(pattern) - cased == matching(pattern, re.IGNORECASE) - cased
