"""Streams of `/v1/responses`: the documented order of events, and how a stream can end early."""

import asyncio

import httpx
import pytest

from server.api.generation import answer as generation_answer
from server.api.responses import answer
from tests.api.harness import Json, assert_error, in_process, live_app, make_app, post
from tests.api.response_types import (
    RESPONSES,
    ask,
    events,
    kinds,
    lines_of,
    parse,
    stream,
)
from tests.doubles import ScriptedEngine, one_by_one

BEGIN = ["created", "in_progress"]
TEXT_BEGIN = ["output_item.added", "content_part.added"]
TEXT_END = ["output_text.done", "content_part.done", "output_item.done"]


async def test_the_documented_order() -> None:
    found = await stream(make_app(ScriptedEngine(one_by_one("Hé!"))))
    deltas = ["output_text.delta"] * 3
    assert kinds(found) == [*BEGIN, *TEXT_BEGIN, *deltas, *TEXT_END, "completed"]
    created, running, added, part, *texts, done, part_done, item_done, completed = found
    assert created["response"] == running["response"]
    assert created["response"]["status"] == "in_progress"
    assert (created["response"]["output"], created["response"]["usage"]) == ([], None)
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert [event["delta"] for event in texts] == ["H", "é", "!"]
    assert done["text"] == part_done["part"]["text"] == "Hé!"
    assert item_done["item"] == completed["response"]["output"][0]
    item_id = item_done["item"]["id"]
    for event in (part, *texts, done, part_done):
        assert (event["item_id"], event["output_index"], event["content_index"]) == (item_id, 0, 0)
    assert completed["response"]["id"] == created["response"]["id"]
    assert completed["response"]["usage"]["output_tokens"] == 5


def like(response: Json) -> Json:
    """Without what is new in each response."""
    output = [{**item, "id": ""} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "completed_at": 0, "output": output}


async def test_the_last_event_has_the_whole_answer() -> None:
    app = make_app(ScriptedEngine(one_by_one("a 🙂 b")))
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "seed": 3}
    *_, last = await stream(app, **fields)
    async with in_process(app) as client:
        whole = await ask(client, **fields)
    assert like(last["response"]) == like(whole)


async def test_logprobs_come_with_their_text() -> None:
    app = make_app(ScriptedEngine(one_by_one("é")))
    found = await stream(app, include=["message.output_text.logprobs"], top_logprobs=1)
    tokens = [
        entry["token"]
        for event in found
        if event["type"] == "response.output_text.delta"
        for entry in event["logprobs"]
    ]
    assert tokens == ["bytes:\\xc3", "bytes:\\xa9"]
    (done,) = [event for event in found if event["type"] == "response.output_text.done"]
    top = [{"token": "!", "logprob": -2}]
    assert done["logprobs"][0] == {"token": tokens[0], "logprob": -1, "top_logprobs": top}


async def test_an_empty_answer() -> None:
    found = await stream(make_app(ScriptedEngine(one_by_one(""))))
    assert kinds(found) == [*BEGIN, *TEXT_BEGIN, *TEXT_END, "completed"]


async def test_a_stream_that_is_cut() -> None:
    found = await stream(make_app(ScriptedEngine([[97], [98]])))
    assert kinds(found)[-2:] == ["output_item.done", "incomplete"]
    assert found[-2]["item"]["status"] == "incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("whole", [False, True])
async def test_failing_before_the_first_token_is_an_error(whole: bool) -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=0)
    response = await post(engine, RESPONSES, {"input": "hi", "stream": not whole})
    assert_error(response, 500, "internal_error")
    assert engine.num_open == 0


async def test_failing_in_mid_stream() -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    app = make_app(engine)
    found = await stream(app)
    assert kinds(found) == [*BEGIN, *TEXT_BEGIN, *["output_text.delta"] * 2, "failed"]
    response = found[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "the engine has stopped"}
    assert response["output"][0]["content"][0]["text"] == "ab"
    assert response["output"][0]["status"] == "incomplete"
    assert engine.num_open == 0
    async with in_process(app) as client:
        assert parse((await client.get(f"{RESPONSES}/{response['id']}")).json()) == response
        body = {"input": "on", "previous_response_id": response["id"]}
        refused = await client.post(RESPONSES, json=body)
    error = assert_error(refused, 400, "invalid_value", "previous_response_id")
    assert error["message"].endswith("has failed")


async def test_a_fault_of_the_server_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(answer.ResponseShape, "finish", broken)
    *_, last = await stream(make_app(ScriptedEngine(one_by_one("a"))))
    assert last["type"] == "response.failed"
    assert "secret" not in str(last)


async def test_while_it_is_being_made() -> None:
    """It can be read, but not gone on from; and its end replaces what was there."""
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    app = make_app(engine)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            lines = lines_of(opened)
            created = await anext(lines)
            await engine.hangs.wait()
            path = f"{RESPONSES}/{created['response']['id']}"
            running = parse((await client.get(path)).json())
            assert (running["status"], running["output"]) == ("in_progress", [])
            body = {"input": "on", "previous_response_id": running["id"]}
            refused = await client.post(RESPONSES, json=body)
            error = assert_error(refused, 400, "invalid_value", "previous_response_id")
            assert error["message"].endswith("is still being made")
            items = (await client.get(f"{path}/input_items")).json()
            assert items["data"][0]["content"][0]["text"] == "hi"
            engine.let_go.set()
            *_, last = [event async for event in lines]
        assert (await client.get(path)).json() == last["response"]
        assert last["response"]["status"] == "completed"


async def test_a_client_that_leaves() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    app = make_app(engine)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            lines = lines_of(opened)
            created = await anext(lines)
            await engine.hangs.wait()
        await asyncio.wait_for(engine.closed.wait(), 60)
        path = f"{RESPONSES}/{created['response']['id']}"
        left = parse((await client.get(path)).json())
        assert left["status"] == "cancelled"
        assert left["output"][0]["content"][0]["text"] == "ab"
        assert left["output"][0]["status"] == "incomplete"
        body = {"input": "on", "previous_response_id": left["id"]}
        error = assert_error(
            await client.post(RESPONSES, json=body), 400, "invalid_value", "previous_response_id"
        )
        assert error["message"].endswith("was cancelled")
    assert engine.num_open == 0


async def test_a_client_that_leaves_before_a_whole_answer() -> None:
    """Nobody has learnt the response's id: nothing is kept."""
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    app = make_app(engine)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        task = asyncio.create_task(client.post(RESPONSES, json={"input": "hi"}))
        await engine.hangs.wait()
        task.cancel()
        await asyncio.wait_for(engine.closed.wait(), 60)
    assert engine.num_open == 0
    assert len(app.state.parts.response_store) == 0


async def test_deleted_while_it_is_being_made() -> None:
    engine = ScriptedEngine(one_by_one("abc"), hang_after=2)
    async with live_app(make_app(engine)) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            lines = lines_of(opened)
            path = f"{RESPONSES}/{(await anext(lines))['response']['id']}"
            await engine.hangs.wait()
            assert (await client.delete(path)).json()["deleted"] is True
            assert_error(await client.get(path), 404, "not_found", "response_id")
            engine.let_go.set()
            *_, last = [event async for event in lines]
        assert last["response"]["status"] == "completed"
        assert_error(await client.get(path), 404, "not_found", "response_id")


async def test_what_is_not_stored_is_nowhere() -> None:
    app = make_app(ScriptedEngine(one_by_one("a")))
    *_, last = await stream(app, store=False)
    assert last["response"]["status"] == "completed"
    assert len(app.state.parts.response_store) == 0


async def test_a_slow_first_token_does_not_hold_the_headers_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation_answer, "FIRST_PIECE_SECONDS", 0.01)
    engine = ScriptedEngine(one_by_one("a"), hang_after=0)
    async with live_app(make_app(engine)) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            created = await anext(lines_of(opened))
            assert created["type"] == "response.created"
            engine.let_go.set()


def test_pings_are_no_events() -> None:
    assert events(": ping\n\n") == []
