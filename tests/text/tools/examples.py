"""Answers of models, and what is to be read from them. The functions are f and g."""

from collections.abc import Iterable
from typing import NamedTuple

from server.text.tools.events import AnswerEvent, ArgumentsDelta, CallStart, whole_answer
from server.text.tools.formats import FORMATS, FormatName
from server.text.tools.parser import Enforced

NAMES = frozenset(("f", "g"))


class Example(NamedTuple):
    form: FormatName
    text: str
    content: str
    calls: list[tuple[str, str]]
    """Name and arguments."""


ONE = '{"name": "f", "arguments": {"a": 1}}'
TRICKY = '{"a": "}{\\"</tool_call>[TOOL_CALLS]", "b": [[], {"c": -1.5e3}]}'

_CALLS = [
    # Well-formed ones.
    Example("hermes", f"<tool_call>\n{ONE}\n</tool_call>", "", [("f", '{"a": 1}')]),
    Example(
        "hermes",
        f'Let me see.\n<tool_call>{ONE}</tool_call>\n<tool_call>\n{{"name": "g"}}\n</tool_call>\n',
        "Let me see.\n",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example("hermes", f"<tool_call>{ONE}</tool_call>\nDone.", "\nDone.", [("f", '{"a": 1}')]),
    Example(
        "hermes",
        f'\n<tool_call>{{"name": "f", "arguments": {TRICKY}}}</tool_call>',
        "",
        [("f", TRICKY)],
    ),
    Example(
        "smollm2",
        f'<tool_call>[\n{ONE},\n{{"name": "g", "arguments": {{}}}}\n]</tool_call>',
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example("smollm2", "<tool_call>[]</tool_call>", "", []),
    Example("smollm2", "I can't. <tool_call>[ ]</tool_call>", "I can't. ", []),
    Example(
        "llama3",
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example("llama3", '<|python_tag|>{"name": "f", "parameters": {}}', "", [("f", "{}")]),
    Example(
        "llama3",
        'Now {"type": "function", "name": "f", "parameters": {"a": 1}} and; on',
        "Now  and; on",
        [("f", '{"a": 1}')],
    ),
    Example(
        "mistral",
        f'[TOOL_CALLS] [{ONE}, {{"name": "g", "arguments": {{}}, "id": "abcdefghi"}}]',
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example(
        "mistral_args",
        'Ok.[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}[TOOL_CALLS]g{}',
        "Ok.",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    # Odd ones that are still clear.
    Example(
        "hermes",
        '<tool_call>{"id": 5, "parameters": {"a": [null]}, "x": [{}], "name": "f"}</tool_call>',
        "",
        [("f", '{"a": [null]}')],
    ),
    Example(
        "hermes",
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"ü\\"}"}</tool_call>',
        "",
        [("f", '{"a": "ü"}')],
    ),
    Example("hermes", '<tool_call>{"name": "f", "arguments": null}', "", [("f", "{}")]),
    Example("hermes", f"<tool_call>{ONE}\n{ONE}</tool_call>", "", [("f", '{"a": 1}')] * 2),
    Example("hermes", f"<tool_call>[{ONE},]</tool_call>", "", [("f", '{"a": 1}')]),
    Example(
        "llama3",
        f'Ok. [ \n{ONE},\n{{"name": "g", "parameters": {{}}}} ]\n',
        "Ok. ",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example("llama3", f"[{ONE}] [{ONE}], {ONE}", "", [("f", '{"a": 1}')] * 3),
    Example("llama3", f"[1][see](it) [[{ONE},], 2]", "[1][see](it) [, 2]", [("f", '{"a": 1}')]),
    Example("llama3", f"<|python_tag|>[{ONE}]", "", [("f", '{"a": 1}')]),
    # Without what should end a call: the next one does.
    Example(
        "hermes",
        f'<tool_call>\n{ONE}\n<tool_call>\n{{"name": "g"}}\n</tool_call>',
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example("hermes", f"<tool_call>{ONE} hm<tool_call>{ONE}", " hm", [("f", '{"a": 1}')] * 2),
    Example("hermes", f"<tool_call>{ONE} <tool_call> no", " <tool_call> no", [("f", '{"a": 1}')]),
    Example(
        "hermes",
        f'<tool_call>{{"name": "f", "arguments": {{"a": True}}}}\n<tool_call>{ONE}</tool_call>',
        "",
        [("f", '{"a": True}}\n'), ("f", '{"a": 1}')],
    ),
    Example("smollm2", f"<tool_call>[{ONE}\n<tool_call>{ONE}", "\n", [("f", '{"a": 1}')] * 2),
    Example(
        "mistral_args",
        '[TOOL_CALLS]f{"a": True}[TOOL_CALLS]g{}',
        "",
        [("f", '{"a": True}'), ("g", "{}")],
    ),
    Example("hermes", f"<tool_call><tool_call>{ONE}", "<tool_call>", [("f", '{"a": 1}')]),
    # Calls with a mistake in them: nothing is lost, and they stay calls.
    Example(
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": 1]}</tool_call> x',
        " x",
        [("f", '{"a": 1]}')],
    ),
    Example(
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> x',
        " x",
        [("f", '{"a": 1}')],
    ),
    Example("hermes", f"<tool_call>{ONE} hm </tool_call>.", " hm .", [("f", '{"a": 1}')]),
    Example(
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "1',
        "",
        [("f", '{"a": "1')],
    ),
    Example(
        "smollm2",
        f'<tool_call>[{ONE}, {{"name": "other"}}, 5]</tool_call> x',
        ', {"name": "other"}, 5] x',
        [("f", '{"a": 1}')],
    ),
    Example(
        "mistral",
        f"[TOOL_CALLS] [{ONE}, nonsense] [TOOL_CALLS]g{{}}",
        ", nonsense] ",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    Example(
        "llama3",
        f'[{ONE}, {{"name": "other"}}, [{ONE}]',
        ', {"name": "other"}, ',
        [("f", '{"a": 1}')] * 2,
    ),
    # Cut short after a call: the beginning of markup is no content.
    Example("smollm2", f"<tool_call>[\n{ONE},\n", "", [("f", '{"a": 1}')]),
    Example("hermes", f"<tool_call>{ONE}\n</tool_c", "", [("f", '{"a": 1}')]),
    Example("llama3", f"[{ONE},\n", "", [("f", '{"a": 1}')]),
]
_CONTENT: list[tuple[FormatName, str]] = [
    ("hermes", ""),
    ("hermes", " \n"),
    ("hermes", " 1 < 2 <tool"),
    ("hermes", "Write <tool_call> first, then </tool_call>."),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "no JSON"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "argu'),
    ("hermes", "<tool_call>[1]</tool_call>"),
    ("hermes", "<tool_call>[] or not</tool_call>"),
    ("hermes", ONE),
    ("smollm2", "<tool_call>["),
    ("llama3", 'if (x) { y = {"city": {"name": "f"}}; }'),
    ("llama3", 'A tool is {"name": "f"}.'),
    ("llama3", '{"name": "Ada", "parameters": {}}'),
    ("llama3", "<|python_tag|>print(1)"),
    ("llama3", "[1, 2], [[]], [ ], [a](b) and x[0] = [{}]"),
    ("llama3", '[{"city": "Rome"}, {"name": "other", "parameters": {}}]'),
    ("llama3", '[ {"name": "f"}, ['),
    ("mistral", "[TOOL_CALLS] none of them"),
    ("mistral", "[TOOL_CALLS]other{}"),
]
"""No calls: all of it is content."""

EXAMPLES = _CALLS + [Example(form, text, text, []) for form, text in _CONTENT]


def read(
    form: FormatName, pieces: Iterable[str], enforced: Enforced = "nothing"
) -> list[AnswerEvent]:
    """The events of an answer that comes in pieces."""
    parser = FORMATS[form].parser(NAMES, enforced)
    events = [event for piece in pieces for event in parser.push(piece)]
    return events + parser.finish()


def summary(events: Iterable[AnswerEvent]) -> tuple[str, list[tuple[str, str]]]:
    """Content, and each call's name and arguments."""
    content, calls, _ = whole_answer(events)
    return content, [(call.name, call.arguments) for call in calls]


def assert_order(events: Iterable[AnswerEvent]) -> None:
    """Calls count up from 0, and arguments belong to the call begun last."""
    index = -1
    for event in events:
        if isinstance(event, CallStart):
            index += 1
        if isinstance(event, CallStart | ArgumentsDelta):
            assert event.call_index == index
