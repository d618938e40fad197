"""Long conversations of `/v1/responses` are gone through in threads, and the store is not."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.api.http.long_work import LongWork
from server.api.responses import answer, conversation, route, translate
from server.api.responses.answer import Record
from server.api.responses.items import kept
from server.api.responses.schema.items import InputMessage, InputTextContent
from server.api.responses.shape import ResponseShape
from server.api.responses.store import ResponseStore, Turn
from tests.api.harness import Json, assert_error, in_process, live_app, make_app
from tests.api.response_types import RESPONSES, ask, lines_of, parse_page, prompt_text, stream
from tests.doubles import ScriptedEngine, one_by_one

MANY = [{"role": "user", "content": "a"}] * 300
LONG = "a" * 20_000
ROOM = 100_000


def engine_saying(text: str, room: int = ROOM) -> ScriptedEngine:
    return ScriptedEngine(one_by_one(text), max_model_len=room)


class Threads:
    """Where each function was called: True for the event loop's thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = threading.get_ident()
        self.seen: dict[str, set[bool]] = {}
        for module, name in (
            (conversation, "input_items"),
            (conversation, "kept"),
            (conversation, "read"),
            (translate, "chat_of"),
            (answer, "kept"),
            (route, "read"),
        ):
            key = f"{module.__name__.rsplit('.', 1)[1]}.{name}"
            monkeypatch.setattr(module, name, self._watched(key, getattr(module, name)))
        for name in ("put", "replace", "get", "find_item"):
            original = getattr(ResponseStore, name)
            monkeypatch.setattr(ResponseStore, name, self._watched(f"store.{name}", original))

    def _watched(self, key: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any) -> Any:
            self.seen.setdefault(key, set()).add(threading.get_ident() == self.loop)
            return original(*given)

        return watched

    def all(self, beginning: str) -> set[bool]:
        found = [places for key, places in self.seen.items() if key.startswith(beginning)]
        return set[bool]().union(*found)


async def test_what_is_short_is_gone_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    async with in_process(make_app(engine_saying("a"))) as client:
        first = await ask(client)
        await ask(client, [{"id": first["output"][0]["id"]}, *MANY[:1]])
        second = await ask(client, previous_response_id=first["id"])
        await client.get(f"{RESPONSES}/{second['id']}/input_items")
    assert threads.all("") == {True}
    assert set(threads.seen) > {"store.find_item", "answer.kept", "route.read"}


@pytest.mark.parametrize(
    ("before", "given", "fields"),
    [
        ("hi", MANY, {}),
        ("hi", LONG, {}),
        ("hi", "hi", {"instructions": LONG}),
        ("hi", [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}], {}),
        ("hi", [*MANY[:1], {"type": "function_call", "call_id": "c", "name": "f",
                            "arguments": {"a": [0] * 2000}}], {}),
        ("hi", [*MANY[:1], {"type": "function_call_output", "call_id": "c", "output": LONG}], {}),
        ("hi", [{"type": "reasoning", "summary": [{"a": [0] * 2000}]}, *MANY[:1]], {}),
        (MANY, "hi", {}),
        (LONG, "hi", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [RESPONSES, f"{RESPONSES}/input_tokens"])
async def test_what_is_long_is_gone_through_in_a_thread(
    before: object,
    given: object,
    fields: Json,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the store is asked for in between is asked in the event loop, whose it is."""
    async with in_process(make_app(engine_saying("a"))) as client:
        first = await ask(client, before)
        threads = Threads(monkeypatch)
        body = {"input": given, "previous_response_id": first["id"], **fields}
        response = await client.post(path, json=body)
    # The result of a call that is not there is refused by the chat, after all else.
    assert response.status_code in (200, 400), response.text
    for name in ("input_items", "kept", "read"):
        assert threads.seen[f"conversation.{name}"] == {False}
    assert threads.seen["translate.chat_of"] == {False}
    assert threads.all("store.") == {True}


async def test_what_is_referred_to_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_saying("a")
    async with in_process(make_app(engine)) as client:
        first = await ask(client, LONG)
        listed = (await client.get(f"{RESPONSES}/{first['id']}/input_items")).json()["data"]
        threads = Threads(monkeypatch)
        await ask(client, [{"type": "item_reference", "id": listed[0]["id"]}, *MANY[:1]])
        unknown = [{"type": "item_reference", "id": "msg_1"}, *MANY]
        refused = await client.post(RESPONSES, json={"input": unknown})
    assert prompt_text(engine) == f"user:{LONG}\nuser:a\n"
    assert threads.all("conversation.") == {False}
    assert threads.all("store.") == {True}
    assert_error(refused, 404, "not_found", "input.0.id")


async def test_errors_of_a_thread_name_the_place() -> None:
    bad: Json = {"type": "function_call_output", "call_id": "c", "output": "a"}
    async with in_process(make_app(engine_saying("a"))) as client:
        for path in (RESPONSES, f"{RESPONSES}/input_tokens"):
            refused = await client.post(path, json={"input": [*MANY, bad]})
            assert_error(refused, 400, "invalid_value", "input.300.call_id")


async def test_messages_are_looked_at_once_however_many_ends_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, calls = Threads(monkeypatch), list[object]()
    watched = translate.chat_of
    monkeypatch.setattr(translate, "chat_of", lambda given: calls.append(given) or watched(given))
    engine = engine_saying("a", room=200)
    async with in_process(make_app(engine)) as client:
        given = [{"role": "system", "content": "kind"}, *MANY, {"role": "user", "content": "now"}]
        await ask(client, given, truncation="auto", max_output_tokens=1)
    assert len(calls) == 1
    assert threads.seen["translate.chat_of"] == {False}
    prompt = prompt_text(engine)
    assert prompt.startswith("system:kind\nuser:a\n") and prompt.endswith("user:a\nuser:now\n")
    assert len(prompt) in range(200 - len("user:a\n"), 200)


async def test_a_page_of_a_long_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_process(make_app(engine_saying("a"))) as client:
        first = await ask(client, MANY)
        threads = Threads(monkeypatch)
        path = f"{RESPONSES}/{first['id']}/input_items"
        page = parse_page((await client.get(f"{path}?limit=2&order=asc")).json())
        refused = await client.get(f"{path}?after=msg_1")
    assert (len(page["data"]), page["has_more"]) == (2, True)
    assert threads.seen["route.read"] == {False}
    assert_error(refused, 400, "invalid_value", "after")


LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}


async def test_a_long_answer_is_written_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    app = make_app(engine_saying("a" * 100))
    async with in_process(app) as client:
        whole = await ask(client, **LOGPROBS)
        assert (await client.get(f"{RESPONSES}/{whole['id']}")).json() == whole
        *_, last = await stream(app, **LOGPROBS)
        found = (await client.get(f"{RESPONSES}/{last['response']['id']}")).json()
        assert found == last["response"]
    assert threads.seen["answer.kept"] == {False}
    assert threads.all("store.") == {True}


async def test_an_end_is_kept_before_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to write: until then the response is in progress, for all."""
    may_end, writes = threading.Event(), threading.Event()
    _hold_writing(monkeypatch, writes, may_end)
    app = make_app(engine_saying("abc"))
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            lines = lines_of(opened)
            path = f"{RESPONSES}/{(await anext(lines))['response']['id']}"
            assert await asyncio.to_thread(writes.wait, 60)
            assert (await client.get(path)).json()["status"] == "in_progress"
            may_end.set()
            async for event in lines:
                if event["type"] == "response.completed":
                    assert (await client.get(path)).json() == event["response"]


async def test_who_leaves_while_the_end_is_written_finds_it_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end, writes = threading.Event(), threading.Event()
    _hold_writing(monkeypatch, writes, may_end)
    engine, replaced = engine_saying("abc"), asyncio.Event()
    original = ResponseStore.replace

    def replace_and_tell(*given: Any) -> None:
        original(*given)
        replaced.set()

    monkeypatch.setattr(ResponseStore, "replace", replace_and_tell)
    async with live_app(make_app(engine)) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"input": "hi", "stream": True}
        async with client.stream("POST", RESPONSES, json=body) as opened:
            path = f"{RESPONSES}/{(await anext(lines_of(opened)))['response']['id']}"
            assert await asyncio.to_thread(writes.wait, 60)
        await asyncio.wait_for(engine.closed.wait(), 60)
        may_end.set()
        await asyncio.wait_for(replaced.wait(), 60)
        left = (await client.get(path)).json()
    assert left["status"] == "completed"
    assert left["output"][0]["content"][0]["text"] == "abc"


def _hold_writing(
    monkeypatch: pytest.MonkeyPatch, writes: threading.Event, may_end: threading.Event
) -> None:
    """Makes the end of every response long to write: until it may."""

    def held(item: Any) -> Any:
        writes.set()
        assert may_end.wait(60)
        return kept(item)

    monkeypatch.setattr(answer, "kept", held)
    monkeypatch.setattr(
        ResponseShape, "is_long", property(lambda shape: bool(shape.response.usage))
    )


async def test_a_state_whose_writing_is_cancelled_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(engine_saying("abc"))
    *_, last = await stream(app, store=False)
    response = route.ResponseObject.model_validate(last["response"])
    shape = ResponseShape(response, app.state.parts.tokenizer, ())
    may_end, writes = threading.Event(), threading.Event()
    _hold_writing(monkeypatch, writes, may_end)
    store = ResponseStore()
    record = Record(store, None, Turn(None, ()), LongWork())
    saving = asyncio.create_task(record.save(shape))
    await asyncio.to_thread(writes.wait, 60)
    saving.cancel()
    await asyncio.wait([saving])
    may_end.set()
    assert len(store) == 0
    await record.save(shape)
    found = store.get(None, response.id)
    assert found is not None and found.status == "completed"


def test_an_item_in_many_turns_is_found_while_any_is_kept() -> None:
    item = kept(InputMessage(id="msg_1", role="user", content=[InputTextContent(text="a")]))
    store = ResponseStore()
    for name in ("a", "b"):
        store.put(answer.KeptResponse(None, name, "completed", b"{}", Turn(None, [item])))
    for name in ("b", "a"):
        assert store.find_item(None, "msg_1") == item
        store.delete(None, name)
    assert store.find_item(None, "msg_1") is None
    assert (len(store), store.num_bytes) == (0, 0)
