"""The field `speculation`: what reaches the engine, and what answers say."""

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from server.api.generation import answer as answers
from server.api.http.sse import event
from server.engine.types import SpeculationParams
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    INFO,
    MODEL,
    Json,
    assert_error,
    chat_body,
    chunks,
    in_process,
    live_server,
    make_app,
    refused,
)
from tests.api.speculating import SPECULATING, SpeculatingEngine
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one

PATHS = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
STEPS = [ids("abc"), ids("d"), [*ids("ef"), EOS_ID]]


async def ask(
    engine: ScriptedEngine, path: str, speculation: object = None, **fields: object
) -> httpx.Response:
    base = chat_body() if path == CHAT else {"prompt": "hi"}
    async with in_process(make_app(engine, info=SPECULATING)) as client:
        return await client.post(path, json={**base, "speculation": speculation, **fields})


async def answer(path: str, speculation: object = None, **fields: object) -> Json:
    response = await ask(SpeculatingEngine(STEPS), path, speculation, **fields)
    assert response.status_code == 200, response.text
    body: Json = response.json()
    return body


async def streamed(path: str, speculation: object = None, **fields: object) -> list[Json]:
    """A stream's chunks but the chat's first, which only names the role."""
    response = await ask(SpeculatingEngine(STEPS), path, speculation, stream=True, **fields)
    assert response.status_code == 200, response.text
    return chunks(response.text)[path == CHAT :]


@PATHS
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, SpeculationParams("cape", None, 24)),
        ({}, SpeculationParams("cape", None, 24)),
        ({"policy": None, "max_depth": None, "trace": None}, SpeculationParams("cape", None, 24)),
        ({"policy": "off"}, SpeculationParams("off", None, 24)),
        ({"max_depth": 16, "max_nodes": 64}, SpeculationParams("cape", 16, 64)),
        ({"policy": "beam", "max_depth": 1, "max_nodes": 1}, SpeculationParams("beam", 1, 1)),
        ({"policy": "auto", "trace": True}, SpeculationParams("auto", None, 24)),
        ({"policy": "chain"}, SpeculationParams("chain", None, 24)),
    ],
)
async def test_what_reaches_the_engine(
    path: str, given: object, expected: SpeculationParams
) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    response = await ask(engine, path, given)
    assert response.status_code == 200, response.text
    assert engine.requests[0].speculation == expected


BAD: list[tuple[Any, str]] = [
    (1, ""),
    ("cape", ""),
    ([], ""),
    ({"policy": "tree"}, ".policy"),
    ({"policy": True}, ".policy"),
    *[({"max_depth": value}, ".max_depth") for value in (0, -1, 17, 10**4000, 1.0, "4", True)],
    *[({"max_nodes": value}, ".max_nodes") for value in (0, -1, 65, 10**4000, 1.5, "4", [])],
    ({"trace": 1}, ".trace"),
    ({"trace": "yes"}, ".trace"),
]


@PATHS
@pytest.mark.parametrize(("value", "suffix"), BAD, ids=lambda value: repr(value)[:40])
async def test_bad_values(path: str, value: object, suffix: str) -> None:
    error = assert_error(
        await refused(path, "speculation", value), 400, "invalid_value", f"speculation{suffix}"
    )
    assert len(error["message"]) < 250


@PATHS
async def test_unknown_keys(path: str) -> None:
    response = await refused(path, "speculation", {"gamma": 4})
    assert_error(response, 400, "unknown_field", "speculation.gamma")


@PATHS
async def test_a_server_without_a_draft_says_so(path: str) -> None:
    response = await refused(path, "speculation", {"policy": "cape"})
    error = assert_error(response, 400, "invalid_value", "speculation.policy")
    assert "without a draft" in error["message"]


@PATHS
@pytest.mark.parametrize("given", [None, {}, {"policy": "off"}, {"max_depth": 4, "trace": True}])
async def test_a_server_without_a_draft_decodes_plainly(path: str, given: object) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    base = chat_body() if path == CHAT else {"prompt": "hi"}
    async with in_process(make_app(engine, info=INFO)) as client:
        response = await client.post(path, json={**base, "speculation": given})
    assert response.status_code == 200, response.text
    assert "speculation" not in response.json()
    assert engine.requests[0].speculation.policy == "off"


REPORT = {
    "steps": 3,
    "drafted_tokens": 24,
    "accepted_tokens": 4,
    "leaves_accepted": 2,
    "tokens_per_step": 7 / 3,
    "accepted_per_position": [3, 1],
    "by_source": {
        "draft": {"drafted_tokens": 20, "accepted_tokens": 3},
        "lookup": {"drafted_tokens": 4, "accepted_tokens": 1},
    },
    "draft_seconds": 0.25,
    "verify_seconds": 0.5,
    "other_seconds": 0.125,
}


@PATHS
async def test_the_report_of_a_whole_answer(path: str) -> None:
    assert (await answer(path))["speculation"] == REPORT


@PATHS
async def test_nothing_is_said_where_nothing_was_speculated(path: str) -> None:
    whole = await answer(path, {"policy": "off"})
    assert not {"speculation", "speculation_trace"} & set(whole)
    for chunk in await streamed(path, {"policy": "off"}):
        assert not {"speculation", "speculation_trace"} & set(chunk)


@PATHS
async def test_the_report_of_a_stream_is_on_the_chunk_that_ends_it(path: str) -> None:
    found = await streamed(path, stream_options={"include_usage": True})
    *others, last, usage = found
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["speculation"] == REPORT
    assert all("speculation" not in chunk for chunk in [*others, usage])
    assert all("speculation_trace" not in chunk for chunk in found)


def trace(trunk: int, leaf: int, target: int) -> dict[str, int]:
    return {"trunk": trunk, "leaf": leaf, "target": target}


@PATHS
async def test_the_trace_of_a_whole_answer_is_in_the_report(path: str) -> None:
    body = await answer(path, {"trace": True})
    assert body["speculation"] == {**REPORT, "sources": trace(2, 2, 3)}


@PATHS
async def test_each_chunk_with_tokens_says_where_they_came_from(path: str) -> None:
    found = await streamed(path, {"trace": True})
    assert [chunk.get("speculation_trace") for chunk in found] == [
        trace(1, 1, 1),
        trace(0, 0, 1),
        trace(1, 1, 1),  # its last token is the stop token
        None,
    ]
    assert found[-1]["speculation"] == REPORT


async def test_tokens_without_text_are_traced_too() -> None:
    """Held-back text and half characters; the sum is the usage."""
    engine = SpeculatingEngine([ids("é")[:1], ids("é")[1:], ids("a<"), ids("EN"), [EOS_ID]])
    response = await ask(
        engine, CHAT, {"trace": True}, stream=True, stop="<END>",
        stream_options={"include_usage": True},
    )  # fmt: skip
    *found, usage = chunks(response.text)[1:]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in found]
    assert texts == ["", "é", "a", "", "<EN", None]
    traces = [chunk["speculation_trace"] for chunk in found[:-1]]
    assert sum(sum(each.values()) for each in traces) == usage["usage"]["completion_tokens"] == 7


async def test_plain_decoding_can_be_traced() -> None:
    found = await streamed(CHAT, {"trace": True, "policy": "off"})
    assert [chunk.get("speculation_trace") for chunk in found] == [
        trace(0, 0, 3), trace(0, 0, 1), trace(0, 0, 3), None,
    ]  # fmt: skip
    assert "speculation" not in found[-1]


async def test_only_a_trace_costs_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serialising a chunk's model takes six times as long as putting a text into a ready one."""
    slow: list[BaseModel] = []

    def spy(model: BaseModel) -> bytes:
        slow.append(model)
        return event(model)

    monkeypatch.setattr(answers, "event", spy)
    found = await streamed(COMPLETIONS)
    assert (len(slow), len(found)) == (2, 4)  # the last step's text, and the end
    slow.clear()
    await streamed(COMPLETIONS, {"trace": True})
    assert len(slow) == 4


async def test_the_official_client_passes_it_on() -> None:
    engine = SpeculatingEngine(STEPS)
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "extra_body": {"speculation": {"policy": "cape", "trace": True}},
    }
    async with (
        live_server(engine, SPECULATING) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        found = [chunk async for chunk in stream]
    assert whole.model_extra == {"speculation": {**REPORT, "sources": trace(2, 2, 3)}}
    assert [chunk.model_extra for chunk in found[1:]] == [
        *[{"speculation_trace": trace(*counts)} for counts in ((1, 1, 1), (0, 0, 1), (1, 1, 1))],
        {"speculation": REPORT},
    ]
    for document in (whole, *found):
        type(document).model_validate(document.model_dump(), strict=True)
