"""Tools in requests: what is refused, what the prompt shows, and what the engine gets."""

import json
from dataclasses import replace
from typing import Any

import pytest

from server.api.chat.schema import ChatRequest
from server.api.chat.translate import chat_tools
from server.api.generation.tools import NO_TOOLS
from server.engine.types import Grammar, SamplingParams
from server.text.tools.formats import FORMATS
from server.text.tools.grammar import structural_tag
from tests.api.harness import CHAT, assert_error, chat_body, in_process, make_app, post
from tests.api.tool_chats import (
    CLOCK,
    ROME,
    WEATHER,
    allowed,
    call_text,
    choice,
    function,
    made_call,
    tool_body,
)
from tests.doubles import PlainTemplate, ScriptedEngine, byte_tokenizer, one_by_one
from tests.text.tools.test_grammar import accepts

NAME = "tools.0.function.name"
PARAMETERS = "tools.0.function.parameters"


def messages(*others: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, *others]}


def assistant(**fields: object) -> dict[str, Any]:
    return {"role": "assistant", **fields}


def result(call_id: str, **fields: object) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "", **fields}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"not": schema}
    return schema


BAD: list[tuple[dict[str, Any], str, str]] = [
    (tool_body(tools={}), "tools", "invalid_value"),
    (tool_body(tools=[CLOCK] * 129), "tools", "invalid_value"),
    (tool_body(tools=[{}]), "tools.0.type", "invalid_value"),
    (tool_body(tools=[{"type": "function"}]), "tools.0.function", "invalid_value"),
    (
        tool_body(tools=[{"type": "custom", "custom": {"name": "f"}}]),
        "tools.0.type",
        "unsupported_field",
    ),
    (tool_body(tools=[function(name="")]), NAME, "invalid_value"),
    (tool_body(tools=[function(name="a b")]), NAME, "invalid_value"),
    (tool_body(tools=[function(name="f\n")]), NAME, "invalid_value"),
    (tool_body(tools=[function(name="ü")]), NAME, "invalid_value"),
    (tool_body(tools=[function(name="f" * 129)]), NAME, "invalid_value"),
    (tool_body(tools=[function(), function()]), "tools.1.function.name", "invalid_value"),
    (tool_body(tools=[function(strict="yes")]), "tools.0.function.strict", "invalid_value"),
    (tool_body(tools=[function(mood=1)]), "tools.0.function.mood", "unknown_field"),
    (tool_body(tools=[function(description="\ud800")]), "tools.0.function.description",
     "invalid_value"),
    (tool_body(tools=[function(parameters=[])]), PARAMETERS, "invalid_value"),
    (tool_body(tools=[function(parameters={"type": "string"})]), f"{PARAMETERS}.type",
     "invalid_value"),
    (tool_body(tools=[function(parameters={"properties": []})]), f"{PARAMETERS}.properties",
     "invalid_value"),
    (tool_body(tools=[function(parameters={"properties": {"a": "int"}})]),
     f"{PARAMETERS}.properties.a", "invalid_value"),
    (tool_body(tools=[function(parameters={"required": "a"})]), f"{PARAMETERS}.required",
     "invalid_value"),
    (tool_body(tools=[function(parameters={"x": {"\ud800": 1}})]), PARAMETERS, "invalid_value"),
    (tool_body(tools=[function(parameters={"x": [float("nan")]})]), PARAMETERS, "invalid_value"),
    (tool_body(tools=[function(parameters=nested(65))]), PARAMETERS, "invalid_value"),
    (tool_body(tool_choice="sometimes"), "tool_choice", "invalid_value"),
    (tool_body(tool_choice=choice("other")), "tool_choice.function.name", "invalid_value"),
    (tool_body(tool_choice={"type": "function"}), "tool_choice.function", "invalid_value"),
    (tool_body(tool_choice={"type": "custom"}), "tool_choice.type", "unsupported_field"),
    (tool_body(tool_choice=allowed("auto", "clock", "other")),
     "tool_choice.allowed_tools.tools.1.function.name", "invalid_value"),
    (tool_body(tool_choice=allowed("none", "clock")), "tool_choice.allowed_tools.mode",
     "invalid_value"),
    (tool_body(tool_choice=allowed("auto")), "tool_choice.allowed_tools.tools", "invalid_value"),
    (chat_body(tool_choice="required"), "tool_choice", "invalid_value"),
    (chat_body(tool_choice=choice("f"), tools=[]), "tool_choice", "invalid_value"),
    (tool_body(parallel_tool_calls=1), "parallel_tool_calls", "invalid_value"),
    (tool_body(functions=[{"name": "f"}]), "functions", "unsupported_field"),
    (messages({"role": "user"}), "messages.1.content", "invalid_value"),
    (messages({"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}),
     "messages.1.content.0.type", "invalid_value"),
    (messages(assistant(tool_calls=[made_call(arguments={"a": "\ud800"})])),
     "messages.1.tool_calls.0.function.arguments", "invalid_value"),
    (messages(assistant(tool_calls=[made_call(arguments={"a": float("nan")})])),
     "messages.1.tool_calls.0.function.arguments", "invalid_value"),
    (messages(assistant(tool_calls=[made_call(arguments=nested(65))])),
     "messages.1.tool_calls.0.function.arguments", "invalid_value"),
    (messages(assistant(tool_calls=[made_call(arguments=[])])),
     "messages.1.tool_calls.0.function.arguments", "invalid_value"),
    (messages({"role": "user", "content": "", "tool_calls": [made_call()]}),
     "messages.1.tool_calls", "invalid_value"),
    (messages({"role": "user", "content": "", "refusal": "no"}), "messages.1.refusal",
     "invalid_value"),
    (messages(assistant(content="", tool_call_id="x")), "messages.1.tool_call_id",
     "invalid_value"),
    (messages(assistant(tool_calls=[{"id": "x", "type": "custom"}])),
     "messages.1.tool_calls.0.type", "unsupported_field"),
    (messages(assistant(tool_calls=[made_call() | {"function": {"name": "f"}}])),
     "messages.1.tool_calls.0.function.arguments", "invalid_value"),
    (messages({"role": "tool", "content": ""}), "messages.1.tool_call_id", "invalid_value"),
    (messages(result("call_1")), "messages.1.tool_call_id", "invalid_value"),
    (messages(assistant(tool_calls=[made_call()]), result("call_2")), "messages.2.tool_call_id",
     "invalid_value"),
    (messages(result("call_1"), assistant(tool_calls=[made_call()])), "messages.1.tool_call_id",
     "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "code"), BAD, ids=[param for _, param, _ in BAD])
async def test_bad_request(body: dict[str, Any], param: str, code: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    error = assert_error(await post(engine, CHAT, body), 400, code, param)
    assert error["message"].startswith(f"{param}: ")
    assert engine.requests == []


@pytest.mark.parametrize("tool_choice", [None, "required", choice("f")])
async def test_a_schema_that_cant_be_enforced_is_named(tool_choice: Any) -> None:
    tags = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"type": "object", "properties": {"tags": tags}}
    body = tool_body(tools=[CLOCK, function(parameters=schema, strict=True)])
    if tool_choice is not None:
        body["tool_choice"] = tool_choice
    answer = await post(ScriptedEngine(one_by_one("x"), max_model_len=10_000), CHAT, body)
    path = "tools.1.function.parameters.properties.tags.uniqueItems"
    assert_error(answer, 400, "invalid_value", path)


async def test_a_custom_tool_gets_a_clear_answer() -> None:
    body = tool_body(tools=[{"type": "custom", "custom": {"name": "f"}}])
    response = await post(ScriptedEngine(one_by_one("a")), CHAT, body)
    assert "Only tools of type 'function' are supported" in response.json()["error"]["message"]


async def asked(body: dict[str, Any], template: PlainTemplate | None = None) -> tuple[str, Any]:
    """What the engine gets → the prompt's text and the parameters."""
    engine = ScriptedEngine(one_by_one("a"), max_model_len=10_000)
    app = make_app(engine, chat_template=template or PlainTemplate())
    async with in_process(app) as client:
        response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    (request,) = engine.requests
    token_bytes = byte_tokenizer().token_bytes
    prompt = b"".join(token_bytes(token_id) for token_id in request.prompt_token_ids)
    return prompt.decode(), request.params


async def test_the_prompt_shows_the_tools() -> None:
    prompt, _ = await asked(tool_body())
    complete = {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    assert f"<tools>\n{json.dumps(WEATHER)}\n{json.dumps(complete)}\n</tools>" in prompt


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
async def test_without_tools_the_prompt_is_the_same_as_ever(fields: dict[str, Any]) -> None:
    prompt, params = await asked(tool_body(**fields))
    assert prompt == "user:hi\n"
    assert params.grammar is None


async def test_only_allowed_tools_are_shown() -> None:
    prompt, _ = await asked(tool_body(tool_choice=allowed("auto", "clock", "clock")))
    assert prompt.count('"clock"') == 1 and '"weather"' not in prompt


async def test_past_calls_and_results_are_in_the_prompt() -> None:
    body = messages(
        assistant(content=None, tool_calls=[made_call(), made_call("call_2", "clock", "{}")]),
        result("call_1", content=[{"type": "text", "text": "warm"}]),
        result("call_2", content="noon"),
        assistant(content="Fine.", refusal="But no."),
        {"role": "user", "content": "ok"},
    )
    prompt, _ = await asked(body)
    assert prompt == (
        "user:hi\n"
        'assistant:<tool_call>\n{"name": "weather", "arguments": {"city": "Rom 🙂"}}\n'
        "</tool_call>\n"
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
        'user:<tool_response>\n{"name": "weather", "content": "warm"}\n</tool_response>\n'
        '<tool_response>\n{"name": "clock", "content": "noon"}\n</tool_response>\n'
        "assistant:Fine.\nBut no.\n"
        "user:ok\n"
    )


@pytest.mark.parametrize("arguments", ["", "{", "[1]", '{"a": "\\ud800"}', "[" * 5000])
async def test_arguments_that_a_model_got_wrong_can_be_sent_back(arguments: str) -> None:
    past = assistant(tool_calls=[made_call(arguments=arguments)])
    prompt, _ = await asked(messages(past, result("call_1")))
    assert f'"arguments": {arguments or "{}"}}}' in prompt


class Recorder(PlainTemplate):
    """Knows tools, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__("mistral")
        self.knows_tools = True
        self.given: list[Any] = []

    def render(
        self,
        messages: Any,
        tools: Any = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Any = None,
    ) -> str:
        self.given.append((messages, tools))
        return "x"


async def test_templates_get_transformers_conventions() -> None:
    template = Recorder()
    past = assistant(content=None, tool_calls=[made_call("call_long_id")])
    await asked(tool_body(**messages(past, result("call_long_id", name="w"))), template)
    ((_, call, answer), tools) = template.given[0]
    short = call["tool_calls"][0]["id"]
    assert len(short) == 9
    assert call == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": short,
                "type": "function",
                "function": {"name": "weather", "arguments": json.loads(ROME)},
            }
        ],
    }
    assert answer == {"role": "tool", "content": "", "name": "w", "tool_call_id": short}
    assert tools[0] == WEATHER


STRICT = [function(strict=True, parameters=WEATHER["function"]["parameters"]), CLOCK]
BEGIN = '<tool_call>\n{"name": "%s", "arguments": '


def grammar(params: SamplingParams) -> dict[str, Any]:
    assert params.grammar is not None and params.grammar.kind == "structural_tag"
    return json.loads(params.grammar.text)["format"]


def begins(content: dict[str, Any]) -> list[str]:
    return [tag["begin"] for tag in content["tags"]]


async def test_auto_enforces_nothing_unless_a_function_is_strict() -> None:
    assert (await asked(tool_body()))[1].grammar is None
    assert (await asked(tool_body(tool_choice=allowed("auto", "clock"))))[1].grammar is None
    content = grammar((await asked(tool_body(tools=STRICT)))[1])
    assert (content["type"], content["stop_after_first"]) == ("triggered_tags", False)
    schemas = [tag["content"]["json_schema"] for tag in content["tags"]]
    assert schemas == [
        WEATHER["function"]["parameters"],
        {"type": "object", "properties": {}, "additionalProperties": False},
    ]


async def test_one_call_at_most() -> None:
    content = grammar((await asked(tool_body(parallel_tool_calls=False)))[1])
    assert (content["type"], content["stop_after_first"]) == ("triggered_tags", True)


async def test_required() -> None:
    content = grammar((await asked(tool_body(tool_choice="required")))[1])
    assert begins(content) == [BEGIN % "weather", BEGIN % "clock"]
    assert (content["at_least_one"], content["stop_after_first"]) == (True, False)
    body = tool_body(tool_choice="required", parallel_tool_calls=False)
    assert grammar((await asked(body))[1])["stop_after_first"]


async def test_required_of_the_allowed_ones() -> None:
    body = tool_body(tool_choice=allowed("required", "clock"))
    assert begins(grammar((await asked(body))[1])) == [BEGIN % "clock"]


async def test_a_named_function_is_called_once() -> None:
    prompt, params = await asked(tool_body(tool_choice=choice("clock")))
    content = grammar(params)
    assert begins(content) == [BEGIN % "clock"]
    assert content["stop_after_first"]
    assert '"weather"' in prompt


async def test_the_grammar_is_of_the_models_own_form() -> None:
    body = tool_body(tool_choice="required")
    content = grammar((await asked(body, PlainTemplate("llama3")))[1])
    assert begins(content)[0] == '{"name": "weather", "parameters": '


CONTENTS = [
    (Grammar("json_object", ""), '{"x": 1}', "x"),
    (Grammar("json_schema", '{"type": "array", "items": {"type": "integer"}}'), "[1, 2]", "[true]"),
    (Grammar("regex", "[ab]+"), "abba", "abc"),
    (Grammar("choice", '["yes", "no"]'), "no", "maybe"),
    (Grammar("ebnf", 'root ::= "x" | "y"'), "y", "z"),
    (Grammar("structural_tag", structural_tag({"type": "const_string", "value": "q"})), "q", "r"),
]


@pytest.mark.parametrize(("content", "good", "bad"), CONTENTS, ids=[c.kind for c, _, _ in CONTENTS])
def test_content_of_a_given_form_or_calls(content: Grammar, good: str, bad: str) -> None:
    """Where the model is free to call, its text still follows what the request says of it."""
    form = FORMATS["hermes"]
    tools = chat_tools(ChatRequest.model_validate(tool_body(), strict=True), drops_others=False)
    found = replace(tools, content=content).grammar(form)
    assert found is not None
    wanted = json.loads(found.text)["format"]
    assert accepts(wanted, good)
    assert accepts(wanted, call_text())
    for text in (bad, good + call_text(), call_text("clock", '{"a": 1}'), ""):
        assert not accepts(wanted, text), text
    body = ChatRequest.model_validate(tool_body(tool_choice="required"), strict=True)
    required = chat_tools(body, drops_others=False)
    assert replace(required, content=content).grammar(form) == required.grammar(form)
    assert replace(NO_TOOLS, content=content).grammar(form) == content
