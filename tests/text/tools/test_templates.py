"""Tools and calls in prompts: by the template itself, or in plain messages."""

import json
from typing import Any

import pytest

from server.errors import InvalidRequestError
from server.text.chat_template import ChatTemplate, Message
from server.text.tools.formats import FORMATS
from tests.doubles import BOS, EOS, byte_backend

HERMES = """{% if tools %}<system>{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}\
{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls %}<tool_call>\
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>\
{% endfor %}{% if m.tool_call_id %}({{ m.name }} {{ m.tool_call_id }}){% endif %}{% endfor %}"""

MISTRAL = """{% for m in messages %}{% if m.tool_call_id and m.tool_call_id | length != 9 %}\
{{ raise_exception('ids have length 9') }}{% endif %}[{{ m.role }}]{% endfor %}\
{{ '[TOOL_CALLS]' if tools }}"""

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + \
'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
{% endif %}"""
"""The default model's."""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of <today> in Zürich",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CHAT: list[Message] = [
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Rom"}},
            },
            {
                "id": "call_2",
                "type": "function",
                "function": {"name": "time", "arguments": "broken"},
            },
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "call_1", "content": "sünny"},
    {"role": "tool", "name": "time", "tool_call_id": "call_2", "content": "12"},
]


def chat_template(template: str | dict[str, str] | None) -> ChatTemplate:
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {"chat_template": template}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS, **options
    )
    return ChatTemplate(fast, "tiny")


def test_a_template_that_knows_tools_shows_them_itself() -> None:
    template = chat_template(HERMES)
    assert template.knows_tools and template.tool_format is FORMATS["hermes"]
    text = template.render(CHAT, [TOOL])
    assert text == (
        f"<system>{json.dumps(TOOL, ensure_ascii=False)}<user>Hi<assistant>"
        '<tool_call>{"name": "weather", "arguments": {"city": "Rom"}}</tool_call>'
        '<tool_call>{"name": "time", "arguments": "broken"}</tool_call>'
        "<tool>sünny(weather call_1)<tool>12(time call_2)"
    )


def test_chats_without_tools_are_what_they_were() -> None:
    chat = CHAT[:1]
    assert chat_template(PLAIN).render(chat) == "<user>Hi"
    assert chat_template(HERMES).render(chat) == "<user>Hi"


def test_of_several_templates_the_one_for_tools_counts() -> None:
    template = chat_template({"default": PLAIN, "tool_use": HERMES})
    assert template.knows_tools and template.tool_format is FORMATS["hermes"]
    assert template.render(CHAT[:1], [TOOL]).startswith("<system>{")
    assert template.render(CHAT[:1]) == "<user>Hi"


@pytest.mark.parametrize(
    ("template", "knows"),
    [
        ("{{ tools }}", True),
        ("{%- if tools is defined %}{% endif %}", True),
        ("{% for t in {'a': 1} %}{{ x }}{% endfor %}{% set y = {'b': tools} %}", True),
        ("You have no tools. {{ messages }}", False),
        ("{{ messages }} tools {{ messages }}", False),
        ("{# tools #}{{ my_tools }}{{ toolset }}", False),
    ],
)
def test_whether_a_template_knows_tools(template: str, knows: bool) -> None:
    assert chat_template(template).knows_tools == knows


def test_tools_in_plain_messages() -> None:
    template = chat_template(PLAIN)
    assert not template.knows_tools
    text = template.render(CHAT, [TOOL])
    system, chat = text.split("<user>Hi")
    assert system.startswith("<system>You can call functions.")
    assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in system
    assert '<tool_call>\n{"name": "name_of_a_function", "arguments": {' in system
    assert chat == (
        '<assistant><tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": broken}\n</tool_call>'
        '<user><tool_response>\n{"name": "weather", "content": "sünny"}\n</tool_response>\n'
        '<tool_response>\n{"name": "time", "content": "12"}\n</tool_response>'
    )


def test_a_past_with_calls_needs_no_tools_of_now() -> None:
    text = chat_template(PLAIN).render(CHAT)
    assert text.startswith("<user>Hi<assistant><tool_call>")


def test_a_system_message_keeps_its_place() -> None:
    chat: list[Message] = [{"role": "system", "content": "Be kind."}, *CHAT[:1]]
    text = chat_template(PLAIN).render(chat, [TOOL])
    assert text.startswith("<system>Be kind.\n\nYou can call functions.")
    assert text.count("<system>") == 1
    assert chat[0]["content"] == "Be kind."


def test_the_default_models_template() -> None:
    """It knows no tools, and no content but text."""
    template = chat_template(SMOLLM2)
    assert not template.knows_tools and template.tool_format is FORMATS["smollm2"]
    text = template.render(CHAT, [TOOL])
    assert text.startswith("<|im_start|>system\nYou can call functions.")
    assert "<tool_call>[\n{" in text and "or with <tool_call>[]</tool_call>." in text
    assert text.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_text_beside_calls_stays() -> None:
    chat: list[Message] = [CHAT[0], {**CHAT[1], "content": "Let me."}]
    text = chat_template(PLAIN).render(chat)
    assert "<assistant>Let me.\n<tool_call>\n{" in text


def test_mistrals_template_refuses_long_ids() -> None:
    """Which is why `prompt_call_id` shortens them."""
    template = chat_template(MISTRAL)
    result: Message = {"role": "tool", "name": "f", "content": "", "tool_call_id": "call_1"}
    with pytest.raises(InvalidRequestError, match="ids have length 9"):
        template.render([result])
    short = {**result, "tool_call_id": template.tool_format.prompt_call_id("call_1")}
    assert template.render([short], [TOOL]) == "[tool][TOOL_CALLS]"
