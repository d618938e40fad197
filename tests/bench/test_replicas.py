"""The client of `bench.replicas`, against the app around a tiny engine."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from bench.replicas import CONVERSATIONS, TURNS, Failed, Running, converse, show, user
from tests.api.tiny_server import LIMITS, TinyServer, tiny_server
from tests.engine.tiny import MODEL

WIDE = replace(LIMITS, num_blocks=4096, max_model_len=MODEL.max_position)


def running(server: TinyServer, client: httpx.AsyncClient | None = None) -> Running:
    process: Any = None
    return Running("http://tiny", process, client or server.client)


async def test_an_answer_has_its_times_and_what_was_cached() -> None:
    async with tiny_server() as server:
        said = await running(server).ask([user("Hi, tell me a lot about it")], 4)
        again = await running(server).ask([user("Hi, tell me a lot about it")], 4)
    assert said.first > 0 and said.per_token >= 0
    assert (said.cached_tokens, again.text) == (0, said.text)
    assert 0 < again.cached_tokens < again.prompt_tokens == said.prompt_tokens


async def test_an_error_is_told_from_no_answer() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone")

    async with tiny_server() as server:
        with pytest.raises(Failed) as caught:
            await running(server).ask([user("x" * 10_000)], 4)
        assert caught.value.kind == "error"
        gone = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
        with pytest.raises(Failed) as caught:
            await running(server, gone).ask([user("Hi")], 4)
        assert caught.value.kind == "broken"


async def test_conversations_find_their_beginnings_and_are_shared_out_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.replicas.TURNS", 2)
    monkeypatch.setattr("bench.replicas.TURN_TOKENS", 4)
    numbers = list[int]()
    async with tiny_server(WIDE) as server:
        there = running(server)

        def pick(number: int) -> Running:
            numbers.append(number)
            return there

        found = await converse(pick)
    assert sorted(numbers) == list(range(CONVERSATIONS * 2)) and TURNS > 2
    assert 0 < found["share"] < 1 and found["first_ms"] > 0
    show("cache", {"router": found, "of one engine's": 1.0})
    assert "first_ms" in capsys.readouterr().out
