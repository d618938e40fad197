"""Extensions of `/v1/responses` that chats have too: `regex`, `choice`, `grammar` and
`return_token_ids`."""

import json
from typing import Any

import pytest

from server.engine.types import Grammar
from tests.api.harness import Json, assert_error, in_process, make_app, post
from tests.api.response_types import RESPONSES, ask, events
from tests.api.speculating import SpeculatingEngine
from tests.api.tool_chats import call_text
from tests.api.tool_chats import says as tool_engine
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one

WEATHER: Json = {"type": "function", "name": "weather", "strict": False, "parameters": {}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"regex": "[a-z]+"}, Grammar("regex", "[a-z]+")),
        ({"choice": ["a", "é"]}, Grammar("choice", json.dumps(["a", "é"]))),
        ({"grammar": 'root ::= "a"'}, Grammar("ebnf", 'root ::= "a"')),
        ({"regex": "a", "text": {"format": {"type": "text"}}}, Grammar("regex", "a")),
        ({"regex": "a", "text": {}}, Grammar("regex", "a")),
        ({"regex": None, "choice": None, "grammar": None}, None),
    ],
)
async def test_what_reaches_the_engine(fields: Json, expected: Grammar | None) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        await ask(client, **fields)
    assert engine.requests[0].params.grammar == expected


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"regex": "("}, "regex", ""),
        ({"regex": ""}, "regex", ""),
        ({"choice": []}, "choice", ""),
        ({"grammar": "root ::="}, "grammar", ""),
        ({"return_token_ids": "yes"}, "return_token_ids", ""),
        ({"regex": "a", "choice": ["a"]}, "choice", "choice: can't be combined with regex"),
        (
            {"regex": "a", "text": {"format": {"type": "json_object"}}},
            "regex",
            "regex: can't be combined with text.format",
        ),
    ],
)
async def test_refused(fields: Json, param: str, message: str) -> None:
    response = await post(ScriptedEngine([]), RESPONSES, {"input": "hi", **fields})
    error = assert_error(response, 400, "invalid_value", param)
    assert error["message"].startswith(message or f"{param}: ")


async def test_with_tools_the_answer_is_a_call_or_follows_them() -> None:
    engine = tool_engine(one_by_one("yes"))
    async with in_process(make_app(engine)) as client:
        await ask(client, choice=["yes"], tools=[WEATHER])
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    either: list[dict[str, Any]] = json.loads(grammar.text)["format"]["elements"]
    assert either[0] == {"type": "or", "elements": [{"type": "const_string", "value": "yes"}]}
    assert len(either) == 2


async def test_token_ids() -> None:
    """A stop token is one of them, as in the usage. What is kept has them too."""
    async with in_process(make_app(ScriptedEngine(one_by_one("ab")))) as client:
        response = await ask(client, return_token_ids=True)
        again = (await client.get(f"{RESPONSES}/{response['id']}")).json()
    assert response["prompt_token_ids"] == ids("user:hi\n")
    assert response["token_ids"] == [*ids("ab"), EOS_ID]
    assert response["usage"]["output_tokens"] == len(response["token_ids"])
    assert again == response


async def test_token_ids_of_a_stream_come_with_its_last_event() -> None:
    body = {"input": "hi", "stream": True, "return_token_ids": True, "max_output_tokens": 2}
    found = events((await post(SpeculatingEngine(one_by_one("abc")), RESPONSES, body)).text)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["prompt_token_ids"] == ids("user:hi\n")
    assert found[-1]["response"]["token_ids"] == ids("ab")
    assert not any("token_ids" in json.dumps(event) for event in found[:-1])


async def test_token_ids_of_calls_have_their_markup() -> None:
    async with in_process(make_app(tool_engine(one_by_one(call_text())))) as client:
        response = await ask(client, return_token_ids=True, tools=[WEATHER])
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert response["token_ids"] == [*ids(call_text()), EOS_ID]


@pytest.mark.parametrize("stream", [False, True])
async def test_they_are_left_out_unless_asked_for(stream: bool) -> None:
    body = {"input": "hi", "stream": stream}
    response = await post(ScriptedEngine(one_by_one("ab")), RESPONSES, body)
    assert "token_ids" not in response.text
