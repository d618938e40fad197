"""Forms of calls: which one a template means, and that each reads what it writes."""

from typing import get_args

import pytest

from server.setting_types import ToolParserName
from server.text.tools.formats import FORMATS, FormatName, detect_format
from server.text.tools.functions import FunctionCall
from tests.text.tools.examples import read, summary

CALLS = [FunctionCall("1", "f", '{"a": [1, "}"]}'), FunctionCall("2", "g", "{}")]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("num_calls", [1, 2])
def test_a_form_reads_what_it_writes(form: FormatName, num_calls: int) -> None:
    calls = CALLS[:num_calls]
    text = FORMATS[form].write(calls)
    assert FORMATS[form].trigger in text
    expected = [(call.name, call.arguments) for call in calls]
    assert summary(read(form, [text])) == ("", expected)


def test_how_each_is_written() -> None:
    one, second = '{"name": "f", "arguments": {"a": [1, "}"]}}', '{"name": "g", "arguments": {}}'
    assert {name: form.write(CALLS) for name, form in FORMATS.items()} == {
        "hermes": f"<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{second}\n</tool_call>",
        "llama3": f"{one}; {second}".replace("arguments", "parameters"),
        "mistral": f"[TOOL_CALLS] [{one}, {second}]",
        "mistral_args": '[TOOL_CALLS]f[ARGS]{"a": [1, "}"]}[TOOL_CALLS]g[ARGS]{}',
        "smollm2": f"<tool_call>[\n{one},\n{second}\n]</tool_call>",
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "hermes"),
        ("{{ messages }}", "hermes"),
        ("{{ '<tool_call>' }}{{ tools }}", "hermes"),
        ("named SmolLM, trained by Hugging Face", "smollm2"),
        ("SmolLM <tool_call> {{ tools }}", "hermes"),
        ("{{ '<|start_header_id|>' }}", "llama3"),
        ("{{ '<|python_tag|>' }}", "llama3"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral_args"),
    ],
)
def test_the_template_says_which(template: str | None, expected: str) -> None:
    assert detect_format(template).name == expected


def test_ids_of_mistrals_prompts_have_nine_letters_and_digits() -> None:
    form = FORMATS["mistral"]
    short = form.prompt_call_id("call_0123456789")
    assert len(short) == 9 and short.isalnum()
    assert form.prompt_call_id("call_0123456789") == short != form.prompt_call_id("call_1")
    assert form.prompt_call_id("abcDEF123") == "abcDEF123"
    assert FORMATS["hermes"].prompt_call_id("call_1") == "call_1"


def test_every_form_can_be_set() -> None:
    assert set(get_args(ToolParserName)) == {"auto", *get_args(FormatName)}
    assert set(FORMATS) == set(get_args(FormatName))
