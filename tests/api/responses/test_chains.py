"""Conversations of responses: going on, reading, deleting, whose they are, paging."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.api.deps import Parts
from server.api.middleware.api_keys import ApiKeys
from server.api.responses.store import ResponseStore, StoreLimits
from tests.api.harness import MIDDLEWARE, Json, assert_error, in_process, make_app
from tests.api.response_types import RESPONSES, ask, parse, parse_page, prompt_text
from tests.doubles import ScriptedEngine, one_by_one


def client_of(engine: ScriptedEngine, **app: Any) -> httpx.AsyncClient:
    return in_process(make_app(engine, **app))


def engine_saying(text: str) -> ScriptedEngine:
    return ScriptedEngine(one_by_one(text))


async def refused(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await client.post(RESPONSES, json={"input": "hi", **fields})


async def test_a_chain_is_the_whole_conversation() -> None:
    engine = engine_saying("A")
    async with client_of(engine) as client:
        first = await ask(client, "one", instructions="kind")
        second = await ask(client, "two", previous_response_id=first["id"])
        third = await ask(client, "three", previous_response_id=second["id"], instructions="rude")
        again = await ask(client, "other", previous_response_id=first["id"])
    assert prompt_text(engine, 0) == "system:kind\nuser:one\n"
    # Instructions are not carried over.
    assert prompt_text(engine, 1) == "user:one\nassistant:A\nuser:two\n"
    after = "user:one\nassistant:A\nuser:two\nassistant:A\nuser:three\n"
    assert prompt_text(engine, 2) == f"system:rude\n{after}"
    assert prompt_text(engine, 3) == "user:one\nassistant:A\nuser:other\n"
    assert third["previous_response_id"] == second["id"]
    assert again["previous_response_id"] == first["id"]


async def test_an_incomplete_response_can_be_gone_on_from() -> None:
    engine = ScriptedEngine([[97]])
    async with client_of(engine) as client:
        first = await ask(client, "one")
        assert first["status"] == "incomplete"
        await ask(client, "two", previous_response_id=first["id"])
    said = first["output"][0]["content"][0]["text"]
    assert prompt_text(engine) == f"user:one\nassistant:{said}\nuser:two\n"


async def test_reading_and_deleting() -> None:
    async with client_of(engine_saying("A")) as client:
        first = await ask(client, "one")
        second = await ask(client, "two", previous_response_id=first["id"])
        path = f"{RESPONSES}/{first['id']}"
        assert parse((await client.get(path)).json()) == first
        deleted = await client.delete(path)
        assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
        for method in ("GET", "DELETE"):
            gone = await client.request(method, path)
            error = assert_error(gone, 404, "not_found", "response_id")
            assert first["id"] in error["message"]
        assert_error(await client.get(f"{path}/input_items"), 404, "not_found", "response_id")
        broken = await refused(client, previous_response_id=first["id"])
        assert_error(broken, 400, "previous_response_not_found", "previous_response_id")
        # What went on from it goes on.
        await ask(client, "three", previous_response_id=second["id"])


async def test_what_is_not_stored_cannot_be_used() -> None:
    async with client_of(engine_saying("A")) as client:
        first = await ask(client, "one", store=False)
        assert_error(
            await client.get(f"{RESPONSES}/{first['id']}"), 404, "not_found", "response_id"
        )
        answer = await refused(client, previous_response_id=first["id"])
        assert_error(answer, 400, "previous_response_not_found", "previous_response_id")
        # But it may itself go on from something, without being kept.
        kept = await ask(client, "one")
        await ask(client, "two", previous_response_id=kept["id"], store=False)


async def test_items_can_be_sent_back_or_referred_to() -> None:
    engine = engine_saying("A")
    async with client_of(engine) as client:
        first = await ask(client, "one")
        listed = (await client.get(f"{RESPONSES}/{first['id']}/input_items")).json()["data"]
        question, answer = listed[0], first["output"][0]
        await ask(client, [question, answer, {"role": "user", "content": "two"}])
        by_copy = prompt_text(engine)
        references = [
            {"type": "item_reference", "id": question["id"]},
            {"id": answer["id"]},
            {"role": "user", "content": "two"},
        ]
        await ask(client, references)
        assert prompt_text(engine) == by_copy == "user:one\nassistant:A\nuser:two\n"
        twice = await refused(client, input=references, previous_response_id=first["id"])
        assert_error(twice, 400, "invalid_value", "input.0.id")
        unknown = await refused(client, input=[{"type": "item_reference", "id": "msg_1"}])
        assert_error(unknown, 404, "not_found", "input.0.id")


async def test_another_keys_responses_do_not_exist() -> None:
    middleware = replace(MIDDLEWARE, api_keys=ApiKeys(["ann", "bob"]))
    async with client_of(engine_saying("A"), middleware=middleware) as client:
        client.headers["authorization"] = "Bearer ann"
        mine = await ask(client, "secret")
        client.headers["authorization"] = "Bearer bob"
        path = f"{RESPONSES}/{mine['id']}"
        for method, url in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
            assert_error(await client.request(method, url), 404, "not_found", "response_id")
        answer = await refused(client, previous_response_id=mine["id"])
        assert_error(answer, 400, "previous_response_not_found", "previous_response_id")
        item = [{"type": "item_reference", "id": mine["output"][0]["id"]}]
        assert_error(await refused(client, input=item), 404, "not_found", "input.0.id")
        client.headers["authorization"] = "Bearer ann"
        assert (await client.get(path)).json() == mine


NUMBERS = ["one", "two", "three"]


async def conversation(client: httpx.AsyncClient) -> str:
    """The path of a response whose context is three messages and an answer before the last."""
    items = [{"role": "user", "content": text} for text in NUMBERS[:2]]
    first = await ask(client, items)
    second = await ask(client, NUMBERS[2], previous_response_id=first["id"])
    return f"{RESPONSES}/{second['id']}/input_items"


async def page(client: httpx.AsyncClient, path: str, **query: str | int) -> Json:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return parse_page(answer.json())


def texts(found: Json) -> list[str]:
    return [item["content"][0]["text"] for item in found["data"]]


async def test_input_items_in_pages() -> None:
    async with client_of(engine_saying("A")) as client:
        path = await conversation(client)
        everything = await page(client, path, order="asc")
        assert texts(everything) == ["one", "two", "A", "three"]
        assert everything["has_more"] is False
        assert texts(await page(client, path)) == ["three", "A", "two", "one"]
        first = await page(client, path, order="asc", limit=3)
        assert (texts(first), first["has_more"]) == (["one", "two", "A"], True)
        assert first["first_id"] == first["data"][0]["id"]
        assert first["last_id"] == first["data"][-1]["id"]
        rest = await page(client, path, order="asc", limit=3, after=first["last_id"])
        assert (texts(rest), rest["has_more"]) == (["three"], False)
        over = await page(client, path, order="asc", after=rest["last_id"])
        assert over == {
            "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("limit=0", "limit", "invalid_value"),
        ("limit=101", "limit", "invalid_value"),
        ("limit=x", "limit", "invalid_value"),
        ("order=up", "order", "invalid_value"),
        ("after=msg_1", "after", "invalid_value"),
        ("include[]=a", "include[]", "unsupported_field"),
        ("include=a", "include", "unsupported_field"),
        ("page=2", "page", "unknown_field"),
    ],
)
async def test_bad_pages(query: str, param: str, code: str) -> None:
    async with client_of(engine_saying("A")) as client:
        path = await conversation(client)
        assert_error(await client.get(f"{path}?{query}"), 400, code, param)


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("stream=true", "stream", "unsupported_field"),
        ("starting_after=3", "starting_after", "unsupported_field"),
        ("include[]=message.output_text.logprobs", "include[]", "unsupported_field"),
        ("include_obfuscation=true", "include_obfuscation", "unsupported_field"),
        ("%ff=1", "\\ufffd", "unknown_field"),
    ],
)
async def test_bad_reading(query: str, param: str, code: str) -> None:
    async with client_of(engine_saying("A")) as client:
        first = await ask(client)
        path = f"{RESPONSES}/{first['id']}"
        assert_error(await client.get(f"{path}?{query}"), 400, code, param)
        assert (await client.get(f"{path}?stream=false")).json() == first


async def test_a_server_that_keeps_nothing() -> None:
    app = make_app(engine_saying("A"))
    parts: Parts = app.state.parts
    app.state.parts = replace(parts, response_store=ResponseStore(StoreLimits(max_responses=0)))
    async with in_process(app) as client:
        first = await ask(client)
        gone = await client.get(f"{RESPONSES}/{first['id']}")
        assert_error(gone, 404, "not_found", "response_id")
        assert_error(await refused(client, store=True), 400, "unsupported_field", "store")
        await ask(client, store=False)


async def test_the_conversation_of_a_long_chain_must_fit_too() -> None:
    engine = ScriptedEngine(one_by_one("A"), max_model_len=40)
    async with client_of(engine) as client:
        first = await ask(client, "x" * 20)
        long = await refused(client, previous_response_id=first["id"])
        assert_error(long, 400, "context_length_exceeded", "input")
