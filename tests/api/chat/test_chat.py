import pytest

from tests.api.harness import CHAT, INFO, MODEL, Json, chat_body, chunks, post
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one


def deltas(text: str) -> list[str]:
    return [
        choice["delta"]["content"]
        for chunk in chunks(text)
        for choice in chunk["choices"]
        if "content" in choice["delta"]
    ]


async def test_whole_answer() -> None:
    response = await post(ScriptedEngine(one_by_one("Grüße 🙂")), CHAT, chat_body())
    assert response.status_code == 200
    body = response.json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == MODEL
    assert body["system_fingerprint"] == INFO.system_fingerprint
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Grüße 🙂", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_prompt, num_output = len("user:hi\n"), len("Grüße 🙂".encode()) + 1
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_streamed_answer() -> None:
    response = await post(ScriptedEngine(one_by_one("né🙂")), CHAT, chat_body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    found = chunks(response.text)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert deltas(response.text) == ["", "n", "é", "🙂"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [*[None] * 4, "stop"]
    assert found[-1]["choices"][0]["delta"] == {}
    assert len({chunk["id"] for chunk in found}) == 1
    assert all("usage" not in chunk for chunk in found)


async def test_include_usage() -> None:
    body = chat_body(stream=True, stream_options={"include_usage": True})
    *others, last = chunks((await post(ScriptedEngine(one_by_one("ab")), CHAT, body)).text)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert all(chunk["usage"] is None for chunk in others)


async def test_several_tokens_a_step_are_one_chunk() -> None:
    engine = ScriptedEngine([ids("abc"), [*ids("de"), EOS_ID]])
    response = await post(engine, CHAT, chat_body(stream=True))
    assert deltas(response.text) == ["", "abc", "de"]


async def test_length() -> None:
    response = await post(ScriptedEngine([ids("a"), ids("b")]), CHAT, chat_body(max_tokens=2))
    assert response.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_string_over_chunk_borders(stream: bool) -> None:
    engine = ScriptedEngine([ids("a<"), ids("EN"), ids("D>b"), ids("never read")])
    body = chat_body(stop=["<END>"], stream=stream)
    response = await post(engine, CHAT, body)
    if stream:
        assert "".join(deltas(response.text)) == "a"
        reason = chunks(response.text)[-1]["choices"][0]["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        assert choice["message"]["content"] == "a"
        reason = choice["finish_reason"]
        assert response.json()["usage"]["completion_tokens"] == len("a<END>")
    assert reason == "stop"
    assert engine.finished == [(engine.requests[0].request_id, "stop")]
    assert engine.num_open == 0


async def test_held_back_text_is_not_lost_at_the_end() -> None:
    engine = ScriptedEngine(one_by_one("a<EN"))
    response = await post(engine, CHAT, chat_body(stop="<END>", stream=True))
    assert "".join(deltas(response.text)) == "a<EN"
    assert engine.finished == []


async def test_logprobs() -> None:
    body = chat_body(logprobs=True, top_logprobs=2)
    response = await post(ScriptedEngine(one_by_one("é")), CHAT, body)
    tops = [
        {"token": "!", "logprob": -2.0, "bytes": [0x21]},
        {"token": '"', "logprob": -3.0, "bytes": [0x22]},
    ]
    assert response.json()["choices"][0]["logprobs"] == {
        "content": [
            {"token": "bytes:\\xc3", "logprob": -1.0, "bytes": [0xC3], "top_logprobs": tops},
            {"token": "bytes:\\xa9", "logprob": -1.0, "bytes": [0xA9], "top_logprobs": tops},
        ],
        "refusal": None,
    }


async def test_logprobs_are_null_unless_asked_for() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    await post(engine, CHAT, chat_body())
    assert engine.requests[0].params.logprobs is None
    await post(engine, CHAT, chat_body(logprobs=True))
    assert engine.requests[1].params.logprobs == 0


@pytest.mark.parametrize("fields", [{}, {"logprobs": False}, {"logprobs": None}])
async def test_no_alternatives_are_asked_for_without_logprobs(fields: Json) -> None:
    """Clients send their default, 0, with every request."""
    engine = ScriptedEngine(one_by_one("a"))
    response = await post(engine, CHAT, chat_body(top_logprobs=0, **fields))
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["logprobs"] is None
    assert engine.requests[0].params.logprobs is None


async def test_streamed_logprobs_come_with_their_text() -> None:
    """Text held back for a stop string holds its tokens too."""
    engine = ScriptedEngine(one_by_one("a<Eé"))
    body = chat_body(logprobs=True, stop="<END>", stream=True)
    found = chunks((await post(engine, CHAT, body)).text)[1:-1]
    assert [
        (
            chunk["choices"][0]["delta"]["content"],
            [entry["bytes"] for entry in chunk["choices"][0]["logprobs"]["content"]],
        )
        for chunk in found
    ] == [("a", [[0x61]]), ("<Eé", [[0x3C], [0x45], [0xC3], [0xA9]])]


async def test_messages_reach_the_template() -> None:
    engine = ScriptedEngine(one_by_one("x"))
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts, "name": "Ada"},
    ]
    await post(engine, CHAT, {"messages": messages})
    assert engine.requests[0].prompt_token_ids == tuple(ids("system:be kind\nuser:a\nb\n"))


async def test_neutral_values_of_unsupported_fields_are_accepted() -> None:
    body = chat_body(
        model=MODEL,
        n=1,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        store=False,
        parallel_tool_calls=True,
        service_tier="auto",
        audio=None,
        metadata={"a": "b"},
        user="ada",
        temperature=None,
        stop=None,
    )
    response = await post(ScriptedEngine(one_by_one("a")), CHAT, body)
    assert response.status_code == 200, response.text
