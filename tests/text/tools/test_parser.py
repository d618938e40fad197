"""Calls are found however the answer is cut, and nothing else is lost."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.text.tools.events import ArgumentsDelta, CallStart, ContentDelta, EventSink
from server.text.tools.formats import FORMATS, FormatName
from server.text.tools.functions import FunctionCall
from tests.text.tools.examples import (
    EXAMPLES,
    NAMES,
    ONE,
    Example,
    assert_order,
    read,
    summary,
)


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: case.text[:50])
def test_example_in_one_piece(case: Example) -> None:
    events = read(case.form, [case.text])
    assert summary(events) == (case.content, case.calls)
    assert_order(events)


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: case.text[:50])
def test_example_cut_in_two_anywhere(case: Example) -> None:
    for cut in range(len(case.text) + 1):
        events = read(case.form, [case.text[:cut], case.text[cut:]])
        assert summary(events) == (case.content, case.calls), cut
        assert_order(events)


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: case.text[:50])
def test_example_character_by_character(case: Example) -> None:
    assert summary(read(case.form, case.text)) == (case.content, case.calls)


SNIPPETS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "<tool", "]", "["),
    *('{"name": "f", "arguments": ', '{"name": "g"', '"parameters": {', '{"a": [1', "}", "{"),
    *(ONE, '"', "\\", ",", ":", ";", " ", "\n", "f", "g", "hi", "é🙂", "null", "-1"),
]
"""Parts of random answers: plain random text would hardly ever resemble a call."""

TEXTS = st.lists(st.sampled_from(SNIPPETS), max_size=14).map("".join)
FORMS = st.sampled_from(sorted(FORMATS))
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces of these lengths, again and again."""
    found: list[str] = []
    while text:
        length = cuts[len(found) % len(cuts)]
        found.append(text[:length])
        text = text[length:]
    return found


@settings(deadline=None)
@given(FORMS, TEXTS, CUTS)
def test_how_a_text_is_cut_changes_nothing(form: FormatName, text: str, cuts: list[int]) -> None:
    events = read(form, pieces(text, cuts))
    assert summary(events) == summary(read(form, [text]))
    assert_order(events)


@settings(deadline=None)
@given(FORMS, TEXTS)
@example("hermes", f"<tool_call>{ONE} x")
def test_nothing_is_invented_and_only_markup_is_lost(form: FormatName, text: str) -> None:
    """Content is found in the answer in its order; without a call or an empty list it is all of
    it."""
    events = read(form, [text])
    position = 0
    for event in events:
        if isinstance(event, ContentDelta):
            for char in event.text:
                position = text.index(char, position) + 1
    content, calls = summary(events)
    if not calls and "]" not in text:
        assert content == text


@settings(deadline=None)
@given(st.text(max_size=60))
def test_ordinary_text_is_content(text: str) -> None:
    assert summary(read("hermes", text)) == (text, [])


@settings(deadline=None)
@given(FORMS, TEXTS)
def test_all_but_a_possible_call_is_shown_at_once(form: FormatName, text: str) -> None:
    """Text is held back only while it may still become a call: a word that can't, ends that."""
    parser = FORMATS[form].parser(NAMES)
    shown = [*parser.push(text), *parser.push(" no call ~~~")]
    rest = parser.finish()
    whole = summary([*shown, *rest])
    if not whole[1] and '"' not in text and "[" not in text:
        assert summary(shown)[0] == whole[0]


def test_the_name_comes_as_soon_as_it_is_certain_and_arguments_as_they_come() -> None:
    parser = FORMATS["hermes"].parser(NAMES)
    assert parser.push('Hm.\n<tool_call>\n{"name": "f", "arguments": ') == [ContentDelta("Hm.\n")]
    start, arguments = parser.push("{")
    assert isinstance(start, CallStart)
    assert (start.call_index, start.name) == (0, "f")
    assert start.call_id.startswith("call_") and len(start.call_id) == 29
    assert arguments == ArgumentsDelta(0, "{")
    assert parser.push('"a": "x') == [ArgumentsDelta(0, '"a": "x')]
    assert parser.push('"}') == [ArgumentsDelta(0, '"}')]
    assert parser.push("}\n</tool_call>\n") == []
    assert parser.finish() == []


def test_objects_within_objects_are_not_held_back_where_calls_have_no_marker() -> None:
    """Each would be read to the end of the text: at 30 000 characters, for minutes."""
    for text in ('{"type": [' * 3 + ".", '{"name": "f", "x": {' * 3 + "."):
        assert FORMATS["llama3"].parser(NAMES).push(text) == [ContentDelta(text)]


WRITTEN = st.lists(
    st.builds(
        FunctionCall,
        st.just("c"),
        st.sampled_from(["f", "g"]),
        st.sampled_from(["{}", '{"a": "é {]"}', '{"name": "f", "arguments": {}}']),
    ),
    min_size=1,
    max_size=3,
)
"""Calls as a grammar lets the model write them."""


@settings(deadline=None)
@given(WRITTEN, CUTS, st.sampled_from([", ", ",", " ,\n"]))
def test_a_list_needs_no_marker_where_a_call_needs_none(
    calls: list[FunctionCall], cuts: list[int], separator: str
) -> None:
    objects = [FORMATS["llama3"].write([call]) for call in calls]
    for text in (f"[{separator.join(objects)}]", f"[\n{separator.join(objects)}\n]\n"):
        expected = [(call.name, call.arguments) for call in calls]
        assert summary(read("llama3", pieces(f"Ok. {text}", cuts))) == ("Ok. ", expected)


@settings(deadline=None)
@given(WRITTEN, CUTS, st.sampled_from(["", "\n", " \n\n"]))
def test_a_call_may_end_where_the_next_begins(
    calls: list[FunctionCall], cuts: list[int], between: str
) -> None:
    text = between.join(f"<tool_call>{_object(call)}" for call in calls)
    expected = [(call.name, call.arguments) for call in calls]
    assert summary(read("hermes", pieces(text, cuts))) == ("", expected)


def _object(call: FunctionCall) -> str:
    return f'{{"name": "{call.name}", "arguments": {call.arguments}}}'


def num_begun(form: FormatName, text: str) -> int:
    """How many calls are known by their name and the beginning of their arguments."""
    return sum(isinstance(event, CallStart) for event in read(form, [text]))


@settings(deadline=None)
@given(FORMS, WRITTEN, st.integers(0, 200), CUTS)
def test_an_answer_of_calls_alone_has_no_content_wherever_it_breaks_off(
    form: FormatName, calls: list[FunctionCall], size: int, cuts: list[int]
) -> None:
    text = FORMATS[form].write(calls)[:size]
    content, found = summary(read(form, pieces(text, cuts), "only_calls"))
    assert content == ""
    assert len(found) == num_begun(form, text)
    for (name, arguments), call in zip(found, calls, strict=False):
        assert name == call.name
        assert call.arguments.startswith(arguments)


@settings(deadline=None)
@given(FORMS, st.sampled_from(["", "Hm. ", "a <tool b\n"]), WRITTEN, st.integers(0, 200))
def test_an_enforced_call_that_breaks_off_is_no_content(
    form: FormatName, before: str, calls: list[FunctionCall], size: int
) -> None:
    """Once its trigger was written: what may still be any text stays content."""
    text, trigger = FORMATS[form].write(calls)[:size], FORMATS[form].trigger
    content, found = summary(read(form, [before + text], "calls"))
    assert len(found) == num_begun(form, before + text)
    assert content.startswith(before)
    rest = content[len(before) :].lstrip(" ;\n")
    assert rest != trigger and trigger.startswith(rest)
    assert trigger in text or content == before + text


def test_every_call_has_an_id_of_its_own() -> None:
    events = read("hermes", [f"<tool_call>{ONE}</tool_call>" * 3])
    ids = [event.call_id for event in events if isinstance(event, CallStart)]
    assert len(set(ids)) == 3


def test_neighbouring_events_are_one() -> None:
    sink = EventSink()
    for text in ("a", "", "b"):
        sink.content(text)
    assert sink.take() == [ContentDelta("ab")]
    assert sink.take() == []
