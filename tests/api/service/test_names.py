"""The names under which requests find the model."""

from dataclasses import replace

import pytest

from tests.api.harness import CHAT, INFO, MODEL, assert_error, chat_body, in_process, make_app
from tests.doubles import ScriptedEngine, one_by_one

NAMED = replace(
    INFO,
    model_name="first",
    other_names=("second/name",),
    unlisted_names=frozenset((MODEL, "default")),
)


@pytest.mark.parametrize("name", ["first", "second/name", MODEL, "default", None])
async def test_each_name_finds_the_model(name: str | None) -> None:
    async with in_process(make_app(ScriptedEngine(one_by_one("a")), info=NAMED)) as client:
        answer = (await client.post(CHAT, json=chat_body(model=name))).json()
        assert answer["model"] == "first"
        if name is not None:
            card = (await client.get(f"/v1/models/{name}")).json()
            assert (card["id"], card["root"]) == (name, "first")
            tokens = await client.post("/tokenize", json={"prompt": "a", "model": name})
            assert tokens.status_code == 200


async def test_listed_are_the_names_that_were_given() -> None:
    async with in_process(make_app(ScriptedEngine([]), info=NAMED)) as client:
        listed = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in listed] == ["first", "second/name"]


async def test_other_names_are_told_those_that_there_are() -> None:
    async with in_process(make_app(ScriptedEngine([]), info=NAMED)) as client:
        response = await client.post(CHAT, json=chat_body(model="third"))
        error = assert_error(response, 404, "model_not_found", "model")
        assert "'first', 'second/name'" in error["message"]
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.post(CHAT, json=chat_body(model="default"))
        assert_error(response, 404, "model_not_found", "model")
