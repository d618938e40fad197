"""The OpenAPI document: its examples work, its answers are what it says, the key is shown."""

from dataclasses import replace
from typing import Any

import pytest

from server.api.chat.schema import ChatCompletion
from server.api.completions.schema import Completion
from server.api.http.anthropic_errors import AnthropicErrorBody
from server.api.http.errors import ErrorBody
from server.api.messages.schema.answer import Message, TokenCount
from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.auth import OPEN_PATHS
from server.api.openapi.errors import ERROR_EXAMPLES, anthropic_example
from server.api.openapi.examples import EXAMPLES
from server.api.responses.schema.answer import ResponseObject
from server.api.responses.schema.items import ItemList
from server.api.service.models import ModelCard, ModelList
from server.api.service.tokenize import DetokenizeResponse, TokenizeResponse, TokenizerInfo
from server.config import DEFAULT_MODEL
from tests.api import openai_types
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    INFO,
    MIDDLEWARE,
    Json,
    events,
    in_process,
    make_app,
)
from tests.api.message_types import COUNT, MESSAGES, stream_events
from tests.api.message_types import parse as parse_message
from tests.api.response_types import RESPONSES
from tests.doubles import ScriptedEngine, one_by_one

LOCKED = replace(MIDDLEWARE, api_keys=ApiKeys(["k"]))


async def document(**app: Any) -> Json:
    async with in_process(make_app(ScriptedEngine([]), **app)) as client:
        return (await client.get("/openapi.json")).json()


def operations(found: Json) -> dict[tuple[str, str], Json]:
    return {
        (method, path): operation
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    }


async def test_the_key_is_shown_where_one_is_needed() -> None:
    found = await document(middleware=LOCKED)
    assert found["components"]["securitySchemes"] == {
        "apiKey": {"type": "http", "scheme": "bearer"}
    }
    for (_, path), operation in operations(found).items():
        assert ("security" in operation) == (path not in OPEN_PATHS), path
        assert ("401" in operation["responses"]) == (path not in OPEN_PATHS), path


async def test_no_key_is_shown_where_none_is_needed() -> None:
    found = await document()
    assert "securitySchemes" not in found["components"]
    for operation in operations(found).values():
        assert "security" not in operation
        assert "401" not in operation["responses"]


async def test_errors_of_each_operation() -> None:
    found = operations(await document(middleware=LOCKED))
    statuses = {name: set(operation["responses"]) for name, operation in found.items()}
    generates = {"200", "400", "401", "404", "413", "415", "429", "500", "503"}
    assert statuses["post", CHAT] == statuses["post", COMPLETIONS] == generates
    assert statuses["post", "/tokenize"] == generates - {"429"}
    assert statuses["post", "/detokenize"] == generates - {"429"}
    assert statuses["post", RESPONSES] == generates
    assert statuses["post", MESSAGES] == statuses["post", COUNT] == generates
    response = f"{RESPONSES}/{{response_id}}"
    assert statuses["get", response] == {"200", "400", "401", "404", "500"}
    assert statuses["delete", response] == {"200", "401", "404", "500"}
    assert statuses["get", f"{response}/input_items"] == {"200", "400", "401", "404", "500"}
    assert statuses["get", "/v1/models"] == {"200", "401", "500"}
    assert statuses["get", "/v1/models/{model_id}"] == {"200", "401", "404", "500"}
    assert statuses["get", "/health"] == statuses["get", "/ready"] == {"200", "503"}
    assert statuses["get", "/version"] == statuses["get", "/metrics"] == {"200"}


async def test_streams_are_shown() -> None:
    found = operations(await document())
    response_stream = found["post", RESPONSES]["responses"]["200"]["content"]["text/event-stream"]
    assert "event: response.completed" in response_stream["example"]
    message_stream = found["post", MESSAGES]["responses"]["200"]["content"]["text/event-stream"]
    assert stream_events(message_stream["example"])[-1] == {"type": "message_stop"}
    for path in (CHAT, COMPLETIONS):
        content = found["post", path]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        *documents, done = events(content["text/event-stream"]["example"])
        assert done == "[DONE]"
        for each in documents:
            assert isinstance(each, dict)
            openai_types.parse(each)


async def test_every_operation_has_examples() -> None:
    for name, operation in operations(await document()).items():
        if name == ("get", "/metrics"):
            continue
        content = operation["responses"]["200"]["content"]["application/json"]
        assert content["example"] == EXAMPLES[name].response
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name].requests])
async def test_example_requests_are_answered(name: tuple[str, str]) -> None:
    info = replace(INFO, model_name=DEFAULT_MODEL, vocab_size=49152)
    engine = ScriptedEngine(one_by_one("Paris"), max_model_len=8192)
    async with in_process(make_app(engine, info=info)) as client:
        for body in EXAMPLES[name].requests.values():
            response = await client.post(name[1], json=body)
            assert response.status_code == 200, response.text


def test_example_answers_are_answers() -> None:
    models = {
        CHAT: ChatCompletion,
        COMPLETIONS: Completion,
        "/v1/models": ModelList,
        "/v1/models/{model_id}": ModelCard,
        RESPONSES: ResponseObject,
        MESSAGES: Message,
        COUNT: TokenCount,
        "/v1/responses/{response_id}/input_items": ItemList,
        "/tokenize": TokenizeResponse,
        "/tokenizer_info": TokenizerInfo,
        "/detokenize": DetokenizeResponse,
    }
    for (_, path), example in EXAMPLES.items():
        if path in models:
            parsed = models[path].model_validate(example.response, strict=True)
            assert parsed.model_dump() == example.response
        if path == MESSAGES:
            parse_message(example.response)
        elif path.startswith("/v1/") and not path.startswith((f"{RESPONSES}/", f"{MESSAGES}/")):
            openai_types.parse(example.response)
    for status, (_, body) in ERROR_EXAMPLES.items():
        assert ErrorBody.model_validate(body).model_dump() == body
        AnthropicErrorBody.model_validate(anthropic_example(status))
