"""Thinking between marks: what is thinking and what is answer, however the text is cut."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.thinking.formats import FORMATS
from server.text.thinking.segments import MOST_SPACE, SPACE, Segment, Splitter
from server.text.thinking.splitter import MarkSplitter, ThinkingStart

STARTS: tuple[ThinkingStart, ...] = ("open", "unknown")


def split(splitter: Splitter, pieces: Iterable[str]) -> list[Segment]:
    """The segments of a text that comes in pieces; neighbours of one kind are one."""
    found: list[Segment] = []
    for piece in pieces:
        found += splitter.push(piece)
    found += splitter.finish()
    assert not splitter.num_held
    merged: list[Segment] = []
    for segment in found:
        assert segment.text
        last = merged[-1] if merged else None
        if last is not None and last.kind == segment.kind and segment.opens is None:
            merged[-1] = last._replace(text=last.text + segment.text)
        else:
            merged.append(segment)
    return merged


def parts(text: str, start: ThinkingStart = "unknown") -> tuple[str, str]:
    """(thinking, answer) of a whole text."""
    found = split(MarkSplitter("<think>", "</think>", start), [text])
    assert "".join(segment.text for segment in found) == text
    return of_kind(found, "thinking"), of_kind(found, "answer")


def of_kind(found: Sequence[Segment], kind: str) -> str:
    return "".join(segment.text for segment in found if segment.kind == kind)


@pytest.mark.parametrize(
    ("start", "text", "thinking", "answer"),
    [
        ("unknown", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("unknown", "\n<think>Hm.</think>Yes.", "Hm.", "Yes."),
        ("unknown", "Yes.", "", "Yes."),
        ("unknown", " \n", "", " \n"),
        ("unknown", "Is <think> a tag? </think>", "", "Is <think> a tag? </think>"),
        ("unknown", "<thing>", "", "<thing>"),
        ("unknown", "<thin", "", "<thin"),
        ("unknown", "<think>", "", ""),
        ("unknown", "<think></think>", "", ""),
        ("unknown", "<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("open", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("open", "\nHm.", "Hm.", ""),
        ("open", "a </think", "a </think", ""),
        ("open", "a < b, </b> </ think></think>Yes.", "a < b, </b> </ think>", "Yes."),
        ("open", "a <think> b</think>c</think>d", "a <think> b", "c</think>d"),
        ("open", "a\n\n\nb \n", "a\n\n\nb", ""),
        ("open", "</think>  x ", "", "x "),
        ("open", "\u2003a\u00a0</think>\u2003b", "\u2003a\u00a0", "\u2003b"),
    ],
)
def test_examples(start: ThinkingStart, text: str, thinking: str, answer: str) -> None:
    assert parts(text, start) == (thinking, answer)


_TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["<think>", "</think>", "</thin", "<", "/", "think>", "\n", " ", "\n\n"]),
        st.sampled_from([" " * MOST_SPACE, "\n" * (MOST_SPACE + 1)]),
        st.text("ab<>/think \n", max_size=6),
    ),
    max_size=12,
).map("".join)


@given(_TEXTS, st.sampled_from(STARTS), st.data())
def test_cutting_makes_no_difference(text: str, start: ThinkingStart, data: st.DataObject) -> None:
    whole = split(FORMATS["think"].splitter(start), [text] if text else [])
    assert "".join(segment.text for segment in whole) == text
    by_character = split(FORMATS["think"].splitter(start), text)
    assert by_character == whole
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(FORMATS["think"].splitter(start), pieces) == whole


@given(_TEXTS, _TEXTS)
def test_what_was_put_in_comes_out(thinking: str, answer: str) -> None:
    """Any thinking without an end mark, and any answer, but for layout beside the marks."""
    thinking = thinking.replace("</think>", "").strip(SPACE)
    answer = answer.lstrip(SPACE)
    if "</think>" in thinking or MOST_SPACE <= len(thinking) + len(answer):
        return
    assert parts(f"<think>\n{thinking}\n</think>\n\n{answer}") == (thinking, answer)
    assert parts(f"{thinking}</think>{answer}", "open") == (thinking, answer)


def test_text_is_passed_on_at_once() -> None:
    """Nothing is held back but what may be a mark, or layout."""
    splitter = FORMATS["think"].splitter("open")
    shown = [of_kind(splitter.push(char), "thinking") for char in "ab <c </d"]
    assert shown == ["a", "b", "", "", " <c", "", "", "", " </d"]
    assert splitter.push("</think>x")[-1] == Segment("answer", "x")
    assert splitter.push("</think>") == [Segment("answer", "</think>")]


def test_endless_white_space_is_not_held_back() -> None:
    splitter = FORMATS["think"].splitter("open")
    splitter.push("a")
    for _ in range(20):
        splitter.push(" " * 100)
    held = splitter.finish()
    assert sum(len(segment.text) for segment in held) <= MOST_SPACE


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("<|im_start|>assistant\n", "unknown"),
        ("<|assistant|><think>\n", "open"),
        ("<|im_start|>assistant\n<think>", "open"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("user: what does </think> mean?\nassistant:", "unknown"),
    ],
)
def test_where_a_prompt_leaves_the_answer(prompt: str, start: ThinkingStart | None) -> None:
    assert FORMATS["think"].start_behind(prompt) == start
