import pytest

from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    Json,
    chat_body,
    chunks,
    in_process,
    make_app,
    post,
)
from tests.api.tiny_server import tiny_server
from tests.doubles import BOS_ID, ScriptedEngine, byte_tokenizer, ids, one_by_one


async def test_whole_answer() -> None:
    engine = ScriptedEngine(one_by_one(" world"))
    body = (await post(engine, COMPLETIONS, {"prompt": "hello"})).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"index": 0, "text": " world", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 5 + 7
    assert engine.requests[0].prompt_token_ids == tuple(ids("hello"))


async def test_streamed_answer() -> None:
    engine = ScriptedEngine(one_by_one("a🙂"))
    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    *found, last = chunks((await post(engine, COMPLETIONS, body)).text)
    choices = [chunk["choices"][0] for chunk in found]
    assert [choice["text"] for choice in choices] == ["a", "🙂", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert all(chunk["usage"] is None for chunk in found)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3]]])
async def test_prompt_of_token_ids(prompt: object) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    assert (await post(engine, COMPLETIONS, {"prompt": prompt})).status_code == 200
    assert engine.requests[0].prompt_token_ids == (1, 2, 3)


async def test_a_batch_of_one_text_is_no_batch() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    assert (await post(engine, COMPLETIONS, {"prompt": ["hi"]})).status_code == 200
    assert engine.requests[0].prompt_token_ids == tuple(ids("hi"))


async def test_empty_prompt_begins_with_the_start_token() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    assert (await post(engine, COMPLETIONS, {"prompt": ""})).status_code == 200
    assert engine.requests[0].prompt_token_ids == (BOS_ID,)


async def test_empty_prompt_without_a_start_token_is_refused() -> None:
    app = make_app(ScriptedEngine(one_by_one("a")), byte_tokenizer(bos_id=None))
    async with in_process(app) as client:
        response = await client.post(COMPLETIONS, json={"prompt": ""})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


async def test_logprobs() -> None:
    engine = ScriptedEngine(one_by_one("aé"))
    body = (await post(engine, COMPLETIONS, {"prompt": "x", "logprobs": 1})).json()
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-1.0, -1.0, -1.0],
        "top_logprobs": [
            {"!": -2.0, "a": -1.0},
            {"!": -2.0, "bytes:\\xc3": -1.0},
            {"!": -2.0, "bytes:\\xa9": -1.0},
        ],
        "text_offset": [0, 1, 1],
    }


async def test_long_prompts_are_tokenised_too() -> None:
    """Beyond some length a thread does it."""
    engine = ScriptedEngine(one_by_one("a"), max_model_len=30_000)
    await post(engine, COMPLETIONS, {"prompt": "é" * 10_000})
    assert engine.requests[0].prompt_token_ids == tuple(ids("é" * 10_000))


async def test_top_p_of_0_is_greedy() -> None:
    async with tiny_server() as server:
        for path, base in ((COMPLETIONS, {"prompt": "hello"}), (CHAT, chat_body())):
            fields = {**base, "max_tokens": 12, "return_token_ids": True, "temperature": 2}
            narrow = await server.post(path, **fields, top_p=0, seed=3)
            greedy = await server.post(path, **{**fields, "temperature": 0})
            assert narrow["choices"][0]["token_ids"] == greedy["choices"][0]["token_ids"]


@pytest.mark.parametrize(("path", "base"), [(COMPLETIONS, {"prompt": "x"}), (CHAT, chat_body())])
async def test_continuous_usage(path: str, base: Json) -> None:
    """vLLM's: each chunk that brings tokens has the counts of all choices so far."""
    engine = ScriptedEngine(one_by_one("abc"))
    options = {"continuous_usage_stats": True, "include_usage": True}
    body = {**base, "n": 2, "stream": True, "stream_options": options}
    found = chunks((await post(engine, path, body)).text)
    if path == CHAT:  # each choice's role comes before all tokens
        assert [chunk["usage"] for chunk in found[:2]] == [None, None]
        found = found[2:]
    counts = [chunk["usage"]["completion_tokens"] for chunk in found]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 8)
    for chunk in found:
        usage = chunk["usage"]
        assert usage["prompt_tokens"] == len(engine.requests[0].prompt_token_ids)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    # Without `include_usage` there is no chunk for it alone.
    body["stream_options"] = {"continuous_usage_stats": True}
    *_, last = chunks((await post(engine, path, body)).text)
    assert last["choices"] and last["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_0_are_of_the_chosen_tokens_alone(stream: bool) -> None:
    body = {"prompt": "x", "logprobs": 0, "echo": True, "stream": stream}
    response = await post(ScriptedEngine(one_by_one("ab")), COMPLETIONS, body)
    parts = chunks(response.text) if stream else [response.json()]
    found = [part["choices"][0]["logprobs"] for part in parts]
    tops = [top for logprobs in found if logprobs for top in logprobs["top_logprobs"]]
    assert tops == [None, {"a": -1.0}, {"b": -1.0}]
