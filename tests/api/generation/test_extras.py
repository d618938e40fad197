"""The extras `cache_salt` and `return_token_ids`."""

from dataclasses import replace

import pytest

from server.api.middleware.api_keys import ApiKeys
from tests.api.harness import CHAT, COMPLETIONS, MIDDLEWARE, Json, chat_body, chunks, post
from tests.api.tiny_server import SPEAKING, tiny_server
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one

KEYS = ApiKeys(["one", "two"])


async def test_only_the_same_salt_shares_a_prefix() -> None:
    async with tiny_server() as server:

        async def cached(**fields: object) -> int:
            answer = await server.post(
                COMPLETIONS, prompt="Sixteen letters!x", max_tokens=1, **fields
            )
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert await cached(cache_salt="a") == 0
        assert await cached(cache_salt="a") == 16
        assert await cached(cache_salt="b") == 0
        assert await cached() == 0
        assert await cached(cache_salt=None) == 16


@pytest.mark.parametrize("salts_by_key", [True, False])
async def test_a_key_sees_nothing_of_what_another_has_asked(salts_by_key: bool) -> None:
    """Whatever salt it gives, be it what the other's own would look like; unless the cache is
    shared."""
    info, middleware = (
        replace(SPEAKING, salts_by_key=salts_by_key),
        replace(MIDDLEWARE, api_keys=KEYS),
    )
    async with tiny_server(info=info, middleware=middleware) as server:

        async def cached(key: str, **fields: object) -> int:
            body = {"prompt": "Sixteen letters!x", "max_tokens": 1, **fields}
            headers = {"authorization": f"Bearer {key}"}
            answer = await server.client.post(COMPLETIONS, json=body, headers=headers)
            return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        elsewhere = 0 if salts_by_key else 16
        owner = KEYS.find(b"one")
        assert owner is not None
        assert await cached("one") == 0
        assert await cached("one") == 16
        assert await cached("two") == elsewhere
        assert await cached("two") == 16
        assert await cached("one", cache_salt="a") == 0
        assert await cached("two", cache_salt="a") == elsewhere
        for guess in (owner.hex(), f"{owner.hex()} ", f"{owner.hex()} a"):
            assert await cached("two", cache_salt=guess) == 0


async def test_a_salt_changes_no_token() -> None:
    body: Json = {"prompt": "The same", "seed": 3, "max_tokens": 20}
    async with tiny_server() as server:
        plain = await server.post(COMPLETIONS, **body)
        salted = await server.post(COMPLETIONS, **body, cache_salt="a")
    assert plain["choices"] == salted["choices"]


async def test_token_ids_of_a_chat() -> None:
    """A stop token is one of them, as in the usage; what a stop string cuts off is too."""
    engine = ScriptedEngine(one_by_one("ab"))
    answer = (await post(engine, CHAT, chat_body(return_token_ids=True, n=2))).json()
    assert answer["prompt_token_ids"] == ids("user:hi\n")
    assert [choice["token_ids"] for choice in answer["choices"]] == [[*ids("ab"), EOS_ID]] * 2
    cut = (await post(engine, CHAT, chat_body(return_token_ids=True, stop="b"))).json()
    assert cut["choices"][0]["token_ids"] == ids("ab")
    assert cut["usage"]["completion_tokens"] == 2


async def test_token_ids_of_completions() -> None:
    body = {"prompt": ["xy", "z"], "return_token_ids": True}
    answer = (await post(ScriptedEngine(one_by_one("ab")), COMPLETIONS, body)).json()
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == [ids("xy"), ids("z")]
    assert answer["choices"][0]["token_ids"] == [*ids("ab"), EOS_ID]
    assert "prompt_token_ids" not in answer


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_they_are_left_out_unless_asked_for(path: str) -> None:
    body = chat_body() if path == CHAT else {"prompt": "x"}
    for stream in (False, True):
        response = await post(ScriptedEngine(one_by_one("ab")), path, {**body, "stream": stream})
        assert "token_ids" not in response.text


async def test_streamed_token_ids_of_a_chat() -> None:
    """Also of tokens whose text is held back, or has none."""
    body = chat_body(return_token_ids=True, stream=True, stop="<END>")
    first, *others = chunks((await post(ScriptedEngine(one_by_one("a<b")), CHAT, body)).text)
    assert first["prompt_token_ids"] == ids("user:hi\n")
    assert [
        (chunk["choices"][0]["delta"].get("content"), chunk["choices"][0].get("token_ids"))
        for chunk in others
    ] == [("a", ids("a")), ("", ids("<")), ("<b", ids("b")), ("", [EOS_ID]), (None, None)]


async def test_streamed_token_ids_of_completions() -> None:
    body = {"prompt": "xy", "return_token_ids": True, "stream": True, "n": 2}
    found = chunks((await post(ScriptedEngine(one_by_one("a")), COMPLETIONS, body)).text)
    for index in range(2):
        first, *others = [
            choice for chunk in found for choice in chunk["choices"] if choice["index"] == index
        ]
        assert (first["text"], first["prompt_token_ids"]) == ("", ids("xy"))
        assert [choice.get("token_ids") for choice in others] == [ids("a"), [EOS_ID], None]
        assert all("prompt_token_ids" not in choice for choice in others)
