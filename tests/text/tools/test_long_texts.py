"""The time that a long answer takes grows with its length, and not with its square: text that is
held back is not copied for each character that comes, nor read again and again."""

import gc
from types import FunctionType, ModuleType
from typing import Literal

import pytest

from server.text.tools.events import ArgumentsDelta, ContentDelta, EventSink, ThinkingDelta
from server.text.tools.formats import FORMATS, FormatName
from server.text.tools.section import CallSection, Verdict
from tests.text.tools.examples import NAMES, ONE

NUM_PIECES = 2000
MOST_HELD = 500
"""Characters in one string; patterns and marks are strings too."""

UNDECIDED: list[tuple[FormatName, str, str]] = [
    ("hermes", '<tool_call>{"junk": "', "xxx"),
    ("hermes", '<tool_call>{"name": "f", "arguments": "', "xxx"),
    ("hermes", '<tool_call>{"name": 1', "111"),
    ("hermes", "<tool_call>", " \n "),
    ("hermes", f"<tool_call>{ONE}", " \n "),
    ("hermes", f'<tool_call>{ONE}{{"junk": "', "xxx"),
    ("hermes", "", " \n "),
    ("llama3", '{"name": "', "xxx"),
    ("llama3", "[", " \n "),
    ("llama3", '[{"type": "', "xxx"),
    ("llama3", f'[{ONE}, {{"name": "', "xxx"),
    ("mistral", f'[TOOL_CALLS] [{ONE}, {{"junk": "', "xxx"),
]
"""A beginning, and what it may go on with while nothing is known of it."""


def longest_string(root: object) -> int:
    """The length of the longest string that an object holds."""
    seen, left, longest = set[int](), [root], 0
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            longest = max(longest, len(each))
        else:
            left += gc.get_referents(each)
    return longest


@pytest.mark.parametrize(("form", "begin", "piece"), UNDECIDED)
def test_what_is_held_back_is_held_in_pieces(form: FormatName, begin: str, piece: str) -> None:
    parser = FORMATS[form].parser(NAMES)
    parser.push(begin)
    for _ in range(NUM_PIECES):
        assert parser.push(piece) == []
    assert longest_string(parser) <= MOST_HELD


@pytest.mark.parametrize(("form", "begin", "piece"), UNDECIDED)
def test_what_was_held_back_is_released_in_few_parts(
    form: FormatName, begin: str, piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by the character."""
    parts: list[str] = []
    monkeypatch.setattr(EventSink, "content", lambda self, text: parts.append(text))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    parser = FORMATS[form].parser(NAMES)
    parser.push(begin)
    for _ in range(NUM_PIECES):
        parser.push(piece)
    parser.finish()
    assert len(parts) < 20


@pytest.mark.parametrize("end", ["", " no call"])
@pytest.mark.parametrize("opener", ["[", "{", '{"name": "', '[ {"type": "', "<|python_tag|>"])
def test_openers_one_behind_the_other_are_read_a_few_times(
    opener: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them gives up where it can, before the text's end."""
    text = opener * NUM_PIECES + end
    num_read = 0
    push = CallSection.push

    def count(section: CallSection, char: str) -> Verdict:
        nonlocal num_read
        num_read += 1
        return push(section, char)

    monkeypatch.setattr(CallSection, "push", count)
    parser = FORMATS["llama3"].parser(NAMES)
    parser.push(text)
    parser.finish()
    assert num_read <= 4 * len(text)


@pytest.mark.parametrize("kind", ["content", "thinking", "arguments"])
def test_a_sink_copies_nothing(kind: Literal["content", "thinking", "arguments"]) -> None:
    sink = EventSink()
    sink.start_call("f")
    for _ in range(NUM_PIECES):
        getattr(sink, kind)("x")
    assert longest_string(sink) <= MOST_HELD
    _, event = sink.take()
    assert isinstance(event, ContentDelta | ThinkingDelta | ArgumentsDelta)
    assert event.text == "x" * NUM_PIECES
