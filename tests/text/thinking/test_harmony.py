"""gpt-oss' channels: thinking, answer and calls, however the text is cut."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.thinking.formats import FORMATS
from server.text.thinking.harmony import CHANNEL, MARKS, MESSAGE
from server.text.thinking.parser import ThinkingParser
from server.text.tools.events import AnswerEvent, whole_answer
from tests.text.thinking.test_splitter import split

NAMES = {"f", "weather"}
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"


def read(pieces: Iterable[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """(thinking, content, calls)"""
    form = FORMATS["harmony"]
    parser = ThinkingParser(form.splitter("unknown", NAMES), None, form.marks)
    events: list[AnswerEvent] = [event for piece in pieces for event in parser.push(piece)]
    content, calls, thinking = whole_answer(events + parser.finish())
    assert parser.num_calls == len(calls)
    return thinking, content, [(call.name, call.arguments) for call in calls]


def call(name: str, arguments: str) -> str:
    return f"<|channel|>commentary to={name} <|constrain|>json<|message|>{arguments}"


@pytest.mark.parametrize(
    ("text", "thinking", "content", "calls"),
    [
        (f"{ANALYSIS}Hm.{NEXT}{FINAL}Yes.", "Hm.", "Yes.", []),
        (f"{FINAL}Yes.", "", "Yes.", []),
        (f"{FINAL}Yes.<|return|>", "", "Yes.", []),
        (f"{ANALYSIS}Hm", "Hm", "", []),
        (f"{ANALYSIS}Hm.<|en", "Hm.<|en", "", []),
        (f"{ANALYSIS}Hm.<|end|>", "Hm.", "", []),
        (f"{ANALYSIS}Hm.{NEXT}", "Hm.", "", []),
        (f"{ANALYSIS}Hm.{NEXT}<|channel|>fin", "Hm.", "", []),
        (f"{ANALYSIS}a{NEXT}{ANALYSIS}b{NEXT}{FINAL}c", "a\n\nb", "c", []),
        (f"{ANALYSIS}a<|start|>assistant{FINAL}c", "a", "c", []),
        (f"{ANALYSIS}a{NEXT}{call('functions.f', '{}')}<|call|>", "a", "", [("f", "{}")]),
        (f" to=functions.f{ANALYSIS}{{}}", "", "", [("f", "{}")]),
        (f"{call('functions.g', '{}')}", "", "{}", []),
        (f"{call('python', '1+1')}", "1+1", "", []),
        ("<|channel|>commentary<|message|>I look."
         f"{NEXT}{call('functions.f', '{}')}", "", "I look.", [("f", "{}")]),
        (f"{call('functions.f', '{}')}<|call|><|start|>assistant{call('functions.weather', '[1')}",
         "", "", [("f", "{}"), ("weather", "[1")]),
        ("Hello <|channel|>", "", "Hello <|channel|>", []),
        ("toe", "", "toe", []),
        ("<<<|message|>{}", "", "<<<|message|>{}", []),
        ("to<|<|message|>a", "", "to<|<|message|>a", []),
        (f"{CHANNEL}final<{MESSAGE}a", "", "a", []),
        ("", "", "", []),
        # Without what ends a message, or without what begins one.
        (f"{ANALYSIS}a{FINAL}b", "a", "b", []),
        (f"{ANALYSIS}a{ANALYSIS}b<|end|>{FINAL}c{FINAL}d", "a\n\nb", "c\n\nd", []),
        (f"{ANALYSIS}a{call('functions.f', '{}')}<|call|>{FINAL}b", "a", "b", [("f", "{}")]),
        (f"{ANALYSIS}a{CHANNEL} analysis to=python code{MESSAGE}1", "a\n\n1", "", []),
        # A channel's mark that begins none.
        (f"{FINAL}A {CHANNEL} is a mark, {CHANNEL}final is, {CHANNEL}other{MESSAGE}too",
         "", f"A {CHANNEL} is a mark, {CHANNEL}final is, {CHANNEL}other{MESSAGE}too", []),
        (f"{FINAL}A {CHANNEL}final to=x <|end|><|start|>assistant{FINAL}b",
         "", f"A {CHANNEL}final to=x \n\nb", []),
        (f"{FINAL}A {CHANNEL}fin", "", f"A {CHANNEL}fin", []),
        (f"{FINAL}A {CHANNEL}{FINAL}b", "", f"A {CHANNEL}\n\nb", []),
    ],
)  # fmt: skip
def test_examples(text: str, thinking: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert read([text]) == (thinking, content, calls)
    assert read(text) == (thinking, content, calls)


@pytest.mark.parametrize(
    ("arguments", "behind", "expected"),
    [
        ("", "", True),
        ('{"a": "b', "", True),
        ('{"a": [}', "", True),
        ('{"a": "}"}', "", False),
        ('{"a": 1} and', "", False),
        ('{"a": "b', "<|call|>", False),
        ('{"a": "b', f"<|end|><|start|>assistant{FINAL}c", False),
    ],
)
def test_whether_an_answer_ends_in_a_call(arguments: str, behind: str, expected: bool) -> None:
    """As where a call is found by `ToolParser`: it ends with its arguments, or with its mark."""
    form = FORMATS["harmony"]
    for text in (call("functions.f", arguments) + behind, f"{ANALYSIS}a"):
        parser = ThinkingParser(form.splitter("unknown", NAMES), None, form.marks)
        for char in text:
            parser.push(char)
        parser.finish()
        assert parser.ends_in_call == (expected and bool(parser.num_calls))


_TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*MARKS, ANALYSIS, FINAL, NEXT, call("functions.f", "{}")]),
        st.sampled_from(
            [
                "assistant",
                "to=",
                "<<<|message|>",
                " to=functions.f",
                "<|",
                "x" * 505,
                "analysis",
                "fi",
            ]
        ),
        st.text("a<|>to= {}", max_size=5),
    ),
    max_size=10,
).map("".join)


@given(_TEXTS, st.data())
def test_cutting_makes_no_difference(text: str, data: st.DataObject) -> None:
    def splitted(pieces: Iterable[str]) -> object:
        return split(FORMATS["harmony"].splitter("unknown", NAMES), pieces)

    whole = split(FORMATS["harmony"].splitter("unknown", NAMES), [text] if text else [])
    assert "".join(segment.text for segment in whole) == text
    assert splitted(text) == whole
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert splitted(pieces) == whole
    assert read(pieces) == read([text])
