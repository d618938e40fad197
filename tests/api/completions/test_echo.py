"""`echo`: the prompt before the answer, with the logprobs that the model gives its tokens."""

import itertools

import pytest

from tests.api import openai_types
from tests.api.harness import COMPLETIONS, Json, assert_error, chunks, post
from tests.api.tiny_server import tiny_server
from tests.doubles import BOS_ID, ScriptedEngine, ids, one_by_one

PROMPT = "Grüße aus Köln 🙂, "


async def test_text() -> None:
    engine = ScriptedEngine(one_by_one("x!"))
    body = (await post(engine, COMPLETIONS, {"prompt": PROMPT, "echo": True})).json()
    assert body["choices"][0]["text"] == PROMPT + "x!"
    assert engine.requests[0].params.prompt_logprobs is None  # nobody asked: nothing to compute


async def test_stop_strings_are_not_looked_for_in_the_prompt() -> None:
    body = {"prompt": "END of", "echo": True, "stop": "END"}
    answer = (await post(ScriptedEngine(one_by_one("a END")), COMPLETIONS, body)).json()
    assert answer["choices"][0]["text"] == "END ofa "


async def test_special_tokens_are_shown_as_they_were_sent() -> None:
    text = await post(
        ScriptedEngine(one_by_one("x")), COMPLETIONS, {"prompt": "a<s>b", "echo": True}
    )
    assert text.json()["choices"][0]["text"] == "a<s>bx"
    token_ids = [*ids("a"), BOS_ID, *ids("é")]
    listed = await post(
        ScriptedEngine(one_by_one("x")), COMPLETIONS, {"prompt": token_ids, "echo": True}
    )
    assert listed.json()["choices"][0]["text"] == "a<s>éx"


async def test_an_empty_prompt() -> None:
    """Its start token was not sent, so it is not shown; but it is a token of the prompt."""
    async with tiny_server() as server:
        answer = await server.post(
            COMPLETIONS, prompt="", echo=True, logprobs=1, max_tokens=2, seed=1
        )
    (choice,) = answer["choices"]
    assert choice["logprobs"]["tokens"][0] == "<s>"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"][:2] == [0, 0]
    assert len(choice["logprobs"]["tokens"]) == 3


@pytest.mark.parametrize("prompt", [PROMPT, ids(PROMPT), [BOS_ID, *ids(PROMPT)]])
async def test_the_logprobs_are_those_of_the_model(prompt: str | list[int]) -> None:
    """An answer sent as a prompt has the logprobs with which it was generated; and the offsets are
    where its tokens begin."""
    common: Json = {"echo": True, "logprobs": 3}
    async with tiny_server() as server:
        written = await server.post(
            COMPLETIONS,
            prompt=prompt,
            max_tokens=30,
            ignore_eos=True,
            seed=4,
            return_token_ids=True,
            **common,
        )
        (first,) = written["choices"]
        tokens = [*first["prompt_token_ids"], *first["token_ids"]]
        read = await server.post(COMPLETIONS, prompt=tokens, max_tokens=0, **common)
        again = await server.post(COMPLETIONS, prompt=tokens, max_tokens=0, **common)
    for answer in (written, read, again):
        openai_types.parse(answer)
    (second,) = read["choices"]
    assert second["finish_reason"] == "length"
    assert read["usage"]["completion_tokens"] == 0
    assert first["logprobs"]["tokens"] == second["logprobs"]["tokens"]
    assert [first["logprobs"][name][0] for name in ("token_logprobs", "top_logprobs")] == [None] * 2
    assert second["logprobs"]["token_logprobs"][1:] == pytest.approx(
        first["logprobs"]["token_logprobs"][1:], abs=1e-5
    )
    tops = zip(
        first["logprobs"]["top_logprobs"][1:],
        second["logprobs"]["top_logprobs"][1:],
        strict=True,
    )
    for one, other in tops:
        assert one == pytest.approx(other, abs=1e-5)
    assert again["choices"] == read["choices"]
    offsets = first["logprobs"]["text_offset"]
    assert len(offsets) == len(tokens)
    of_prompt = first["logprobs"]["tokens"][: len(first["prompt_token_ids"])]
    for (begin, end), token in zip(itertools.pairwise(offsets), of_prompt, strict=False):
        if not token.startswith("bytes:"):
            assert first["text"][begin:end] == token


async def test_all_answers_begin_with_the_prompt_and_its_logprobs() -> None:
    prompts = ["abcdefghij", "xy"]
    asked: Json = {"prompt": prompts, "echo": True, "logprobs": 1, "n": 3, "max_tokens": 4}
    asked["ignore_eos"] = True  # a drawn end of text would leave nothing after the prompt
    async with tiny_server() as server:
        answer = await server.post(COMPLETIONS, **asked)
        alone = await server.post(COMPLETIONS, **{**asked, "n": 1, "max_tokens": 0})
    for index, choice in enumerate(answer["choices"]):
        prompt = alone["choices"][index // 3]
        length = len(prompt["text"])
        assert choice["text"][:length] == prompts[index // 3] == prompt["text"]
        wanted = prompt["logprobs"]["token_logprobs"][1:]
        found = choice["logprobs"]["token_logprobs"]
        assert found[1:length] == pytest.approx(wanted, abs=1e-5)
        assert len(found) == length + 4
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_streamed() -> None:
    engine = ScriptedEngine(one_by_one("yz"))
    body = {"prompt": "abc", "echo": True, "stream": True}
    found = chunks((await post(engine, COMPLETIONS, body)).text)
    assert [chunk["choices"][0]["text"] for chunk in found] == ["abc", "y", "z", ""]


async def test_nothing_to_do() -> None:
    response = await post(ScriptedEngine([]), COMPLETIONS, {"prompt": "x", "max_tokens": 0})
    error = assert_error(response, 400, "invalid_value", "max_tokens")
    assert error["message"] == "max_tokens: 0 needs echo to be true"


async def test_a_prompt_that_fills_the_context() -> None:
    """It leaves no room for an answer, and none is asked for."""
    full = {"prompt": "x" * 256, "echo": True, "logprobs": 0, "max_tokens": 0}
    async with tiny_server() as server:
        (choice,) = (await server.post(COMPLETIONS, **full))["choices"]
        longer = await server.client.post(COMPLETIONS, json={**full, "prompt": "x" * 257})
    assert len(choice["logprobs"]["tokens"]) == 256
    assert_error(longer, 400, "context_length_exceeded", "prompt")
