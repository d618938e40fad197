"""`speculation.steps`: the stream's chunks describe the engine's steps."""

import pytest

from tests.api.harness import CHAT, COMPLETIONS, Json, assert_error, chunks
from tests.api.tiny_server import TinyServer, tiny_server

BODIES: dict[str, Json] = {
    CHAT: {"messages": [{"role": "user", "content": "abcabcabcabc"}]},
    COMPLETIONS: {"prompt": "abcabcabcabc"},
}


async def steps(server: TinyServer, path: str, **fields: object) -> tuple[list[Json], list[Json]]:
    """(all chunks of a stream, the steps in them)"""
    options = {"policy": "auto", "steps": True}
    body: Json = {"stream": True, "speculation": options, "max_tokens": 60, "temperature": 0}
    response = await server.client.post(path, json={**BODIES[path], **body, **fields})
    assert response.status_code == 200, response.text
    found = chunks(response.text)
    return found, [chunk["speculation_step"] for chunk in found if "speculation_step" in chunk]


def text_of(chunk: Json) -> str:
    choice = chunk["choices"][0]
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_the_steps_are_those_of_the_engine(path: str) -> None:
    async with tiny_server() as server:
        found, described = await steps(server, path)
        report = found[-1]["speculation"]
        engine = [step.speculation for step in server.steps if step.speculation is not None]
    assert len(described) == len([step for step in server.steps if step.num_generation_tokens])
    of_engine = [step for step in engine if step.num_drafts]
    of_stream = [step for step in described if step["nodes"]]
    assert len(of_stream) > 3
    assert [len(step["nodes"]) for step in of_stream] == [s.num_draft_tokens for s in of_engine]
    assert [len(step["accepted"]) for step in of_stream] == [
        step.num_accepted_tokens for step in of_engine
    ]
    assert [step["verify_seconds"] for step in of_stream] == [s.verify_seconds for s in of_engine]
    assert {step["source"] for step in of_stream} == {"lookup"}
    assert report["drafted_tokens"] == sum(len(step["nodes"]) for step in described)
    assert report["accepted_tokens"] == sum(len(step["accepted"]) for step in described) > 0
    assert report["steps"] == len(described) - described.index(of_stream[0])


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_tokens_are_the_answers_own(path: str) -> None:
    """Their bytes are the text, and offsets say where each one's text begins."""
    async with tiny_server() as server:
        found, described = await steps(server, path, logit_bias={"257": -100})
    text = "".join(map(text_of, found))
    tokens = [token for step in described for token in step["tokens"]]
    assert len(tokens) == 60
    whole = b"".join(bytes(token["bytes"]) for token in tokens)
    # An incomplete character at the very end is dropped.
    assert whole.decode(errors="replace").startswith(text)
    assert len(text) >= len(whole.decode(errors="replace")) - 1
    offsets = [token["text_offset"] for token in tokens]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    for step in described:
        named = [step["nodes"][node - 1]["token"] for node in step["accepted"]]
        assert named == [token["token"] for token in step["tokens"][: len(named)]]
        assert step["tokens"][-1]["source"] == "target"


async def test_plain_decoding_is_described_too() -> None:
    async with tiny_server() as server:
        found, described = await steps(server, CHAT, speculation={"policy": "off", "steps": True})
        speculated, _ = await steps(server, CHAT)
    assert "".join(map(text_of, found)) == "".join(map(text_of, speculated))
    assert {len(step["tokens"]) for step in described} == {1}
    assert all(step["nodes"] == [] and step["source"] is None for step in described)
    assert "speculation" not in found[-1]


async def test_nothing_is_said_unasked() -> None:
    async with tiny_server() as server:
        for options in (None, {"policy": "auto"}, {"steps": False}, {"steps": None}):
            _, described = await steps(server, CHAT, speculation=options)
            assert described == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_only_streams_have_them(path: str) -> None:
    async with tiny_server() as server:
        body = {**BODIES[path], "speculation": {"steps": True}}
        refused = await server.client.post(path, json=body)
        assert_error(refused, 400, "invalid_value", "speculation.steps")
        bad = await server.client.post(path, json={**body, "speculation": {"steps": 1}})
        assert_error(bad, 400, "invalid_value", "speculation.steps")


@pytest.mark.parametrize("stream", [True, False])
async def test_responses_have_none(stream: bool) -> None:
    async with tiny_server() as server:
        body = {"input": "hi", "stream": stream, "speculation": {"steps": True}}
        refused = await server.client.post("/v1/responses", json=body)
    assert_error(refused, 400, "invalid_value", "speculation.steps")
