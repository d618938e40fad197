import pytest

from tests.api.harness import COMPLETIONS, chunks, in_process, make_app, post
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
