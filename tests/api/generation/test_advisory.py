"""Advisory fields take any value, and the engine gets the same request as without them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from server.api.chat.schema import ChatRequest
from server.api.completions.schema import CompletionRequest
from server.api.responses.schema.request import ResponseRequest
from server.api.schema.fields import AdvisoryMark
from server.engine.types import Request, RequestId
from tests.api.harness import CHAT, COMPLETIONS, Json, chat_body, in_process, make_app
from tests.api.response_types import RESPONSES, ask
from tests.doubles import ScriptedEngine, one_by_one

BASES: dict[str, tuple[type[BaseModel], Json]] = {
    CHAT: (ChatRequest, chat_body(seed=1)),
    COMPLETIONS: (CompletionRequest, {"prompt": "hi", "seed": 1}),
    RESPONSES: (ResponseRequest, {"input": "hi", "seed": 1}),
}
VALUES: list[Any] = ["low", "", True, False, 0, 3.5, [], {}, {"effort": "low", "a": [1]}, None]


def advisory(model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        if any(isinstance(mark, AdvisoryMark) for mark in info.metadata):
            yield info.alias or name


async def asked(path: str, **fields: Any) -> Request:
    """What the engine gets."""
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(path, json={**BASES[path][1], **fields})
    assert response.status_code == 200, response.text
    (request,) = engine.requests
    return replace(request, request_id=RequestId(""), origin=None)


@pytest.mark.parametrize("path", BASES)
async def test_no_value_of_any_advisory_field_changes_the_request(path: str) -> None:
    names = [*advisory(BASES[path][0])]
    assert {"service_tier", "client_metadata", "prompt_cache_key"} <= set(names)
    expected = await asked(path)
    texts = {
        name for name, info in BASES[path][0].model_fields.items() if info.annotation is not Any
    }
    for value in VALUES:
        fields = {n: value for n in names if n not in texts or isinstance(value, str | None)}
        assert await asked(path, **fields) == expected, fields


async def test_the_fields_that_clients_send() -> None:
    """By name, so that none is forgotten."""
    shared = {
        "service_tier": "flex",
        "safety_identifier": "a",
        "prompt_cache_key": "b",
        "prompt_cache_retention": "24h",
        "client_metadata": {"x": "y"},
        "user": "me",
        "metadata": {"a": "b"},
    }
    chat = {**shared, "reasoning_effort": "low", "store": True, "verbosity": "low"}
    chat["prediction"] = {"type": "content", "content": "x"}
    assert await asked(CHAT, **chat) == await asked(CHAT)
    response = {
        **shared,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "text": {"verbosity": "low"},
        "truncation": "auto",
        "max_tool_calls": 3,
    }
    assert await asked(RESPONSES, **response) == await asked(RESPONSES)


async def test_what_comes_back_with_a_response() -> None:
    async with in_process(make_app(ScriptedEngine(one_by_one("a")))) as client:
        response = await ask(client, prompt_cache_key="a", safety_identifier="b", store=False)
    assert (response["prompt_cache_key"], response["safety_identifier"]) == ("a", "b")
    assert response["store"] is False
    # What was asked for is not what was done.
    assert (response["service_tier"], response["reasoning"]) == ("default", None)
