"""Responses and their streams parsed with the `openai` package's own models, strictly."""

import json
from collections.abc import AsyncGenerator
from typing import Any, get_args

import httpx
from fastapi import FastAPI
from openai.types.responses import (
    Response,
    ResponseItem,
    ResponseStreamEvent,
)
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import BaseModel, TypeAdapter

from tests.api.harness import Json, in_process, make_app
from tests.api.openai_schema import check, event_schemas
from tests.api.openai_types import check_extras
from tests.doubles import ScriptedEngine, one_by_one

RESPONSES = "/v1/responses"

_ITEM = TypeAdapter[Any](ResponseItem)


def _event_models() -> dict[str, type[BaseModel]]:
    union, *_ = get_args(ResponseStreamEvent)
    return {get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(union)}


_EVENTS = _event_models()


def parse(document: Json) -> Json:
    """A response, checked."""
    check("Response", document)
    check_extras(Response.model_validate_json(json.dumps(document), strict=True))
    return document


def parse_page(page: Json) -> Json:
    """A page of input items, checked."""
    check("ResponseItemList", page)
    if page["data"]:
        ResponseItemList.model_validate_json(json.dumps(page), strict=True)
    for item in page["data"]:
        check_extras(_ITEM.validate_json(json.dumps(item), strict=True))
    return page


def events(text: str) -> list[Json]:
    """A stream's events, each checked: its line `event:`, its number, its shape."""
    assert text.endswith("\n\n")
    found: list[Json] = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.strip("\n").split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        check(event_schemas()[event["type"]], event)
        model = _EVENTS[event["type"]]
        check_extras(model.model_validate_json(json.dumps(event), strict=True))
        found.append(event)
    return found


def kinds(found: list[Json]) -> list[str]:
    """The types of events, without what all of them have in common."""
    return [event["type"].removeprefix("response.") for event in found]


async def ask(client: httpx.AsyncClient, given: object = "hi", **fields: object) -> Json:
    """A whole response, checked."""
    answer = await client.post(RESPONSES, json={"input": given, **fields})
    assert answer.status_code == 200, answer.text
    return parse(answer.json())


async def asked(given: object = "hi", *, says: str = "a", **fields: object) -> tuple[str, Json]:
    """What a fresh server makes of a request: the prompt's text, and the response."""
    engine = ScriptedEngine(one_by_one(says), max_model_len=20_000)
    async with in_process(make_app(engine)) as client:
        response = await ask(client, given, **fields)
    return prompt_text(engine), response


def prompt_text(engine: ScriptedEngine, index: int = -1) -> str:
    return prompt_of(engine.requests[index].prompt_token_ids)


def prompt_of(token_ids: tuple[int, ...]) -> str:
    from tests.doubles import byte_tokenizer

    token_bytes = byte_tokenizer().token_bytes
    return b"".join(map(token_bytes, token_ids)).decode()


async def stream(app: FastAPI, given: object = "hi", **fields: object) -> list[Json]:
    async with in_process(app) as client:
        answer = await client.post(RESPONSES, json={"input": given, "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    return events(answer.text)


async def lines_of(answer: httpx.Response) -> AsyncGenerator[Json]:
    """The events of an open stream, as they come."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
