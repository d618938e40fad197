"""The scanner accepts what Python's own parser accepts, and knows where it ends."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.tools.json_scanner import JsonScanner

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside),
    max_leaves=12,
)


def length(text: str) -> int | None:
    """Characters until the value is complete; None if it never is."""
    scanner = JsonScanner()
    for number, char in enumerate(text, start=1):
        if not scanner.push(char):
            return None
        if scanner.is_done:
            return number
    return None


@settings(deadline=None)
@given(st.lists(JSON) | st.dictionaries(st.text(max_size=4), JSON), st.integers(0, 2))
def test_a_value_ends_with_its_last_brace(value: object, indent: int) -> None:
    text = json.dumps(value, indent=indent or None, ensure_ascii=False)
    assert length(text + "}],") == len(text)


@settings(deadline=None)
@given(st.text('{}[]":, \\a1-.e', max_size=10))
def test_agrees_with_python_about_what_is_json(inside: str) -> None:
    """Save in strings, where it is lenient on purpose."""
    for text in (f"[{inside}", f"{{{inside}"):
        end = length(text)
        if "\\" in text:
            continue
        try:
            value_end = json.JSONDecoder(strict=False).raw_decode(text)[1]
        except ValueError:
            value_end = None
        assert end == value_end, text


@pytest.mark.parametrize(
    "text", ["[1,]", "[01]", "[1.]", "[+1]", "[nul]", "{1:2}", '{"a"}', '{"a":1,}', "[}", "[,1]"]
)
def test_refuses(text: str) -> None:
    assert length(text) is None


def test_deep_nesting_needs_no_stack() -> None:
    assert length("[" * 50_000 + "]" * 50_000) == 100_000
