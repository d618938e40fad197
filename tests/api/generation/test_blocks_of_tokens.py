"""A speculative step brings several tokens: text, logprobs, counts and ends are those of the same
tokens one by one."""

from typing import Any

import pytest

from tests.api.harness import CHAT, COMPLETIONS, Json, chat_body, chunks, in_process, make_app
from tests.api.speculating import SPECULATING, SpeculatingEngine
from tests.doubles import EOS_ID, ids

TOKENS = [*ids("aé<b>🙂 <END>xyz"), EOS_ID]

CASES: list[Json] = [
    {},
    {"stop": "<END>"},
    {"stop": ["b>", "<END>"]},
    {"stop": ["é", "a"]},
    {"stop": ">🙂 <"},
    {"stop": "x", "min_tokens": 3},
    {"stop": "<", "min_tokens": 5},
    {"stop": "zq"},
    {"stop": "z"},
    *[{"max_tokens": count} for count in (1, 2, 3, 4, 9, len(TOKENS) - 1, len(TOKENS))],
    {"max_tokens": 9, "stop": "<END>"},
    {"max_tokens": 15, "stop": "<END>"},
]


async def ask(path: str, num_tokens: int, fields: Json) -> Json:
    """All that an answer says but its report, from steps of `num_tokens` tokens."""
    steps = [TOKENS[i : i + num_tokens] for i in range(0, len(TOKENS), num_tokens)]
    base: Json = {"max_tokens": 100, "speculation": {"trace": True}, **fields}
    if path == CHAT:
        body = chat_body(logprobs=True, top_logprobs=1, **base)
    else:
        body = {"prompt": "x", "logprobs": 1, **base}
    engine = SpeculatingEngine(steps)
    async with in_process(make_app(engine, info=SPECULATING)) as client:
        response = await client.post(path, json=body)
        whole: Json = response.json()
        assert response.status_code == 200, whole
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = chunks((await client.post(path, json=body | stream)).text)
    assert _joined(path, streamed) == _stripped(path, whole)
    assert sum(whole["speculation"]["sources"].values()) == whole["usage"]["completion_tokens"]
    traces = [chunk["speculation_trace"] for chunk in streamed if "speculation_trace" in chunk]
    assert sum(sum(trace.values()) for trace in traces) == whole["usage"]["completion_tokens"]
    return _stripped(path, whole)


def _stripped(path: str, whole: Json) -> Json:
    (choice,) = whole["choices"]
    return {
        "text": choice["message"]["content"] if path == CHAT else choice["text"],
        "logprobs": _entries(path, choice["logprobs"]),
        "finish_reason": choice["finish_reason"],
        "usage": whole["usage"],
    }


def _entries(path: str, logprobs: Json | None) -> list[Any]:
    if logprobs is None:
        return []
    if path == CHAT:
        return list(logprobs["content"])
    columns = (logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs"))
    return list(zip(*columns, logprobs["text_offset"], strict=True))


def _joined(path: str, streamed: list[Json]) -> Json:
    choices = [choice for chunk in streamed for choice in chunk["choices"]]
    texts = [c["delta"].get("content", "") if path == CHAT else c["text"] for c in choices]
    return {
        "text": "".join(texts),
        "logprobs": [entry for c in choices for entry in _entries(path, c["logprobs"])],
        "finish_reason": choices[-1]["finish_reason"],
        "usage": streamed[-1]["usage"],
    }


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fields", CASES, ids=str)
async def test_any_block_size_gives_the_same_answer(path: str, fields: Json) -> None:
    alone = await ask(path, 1, fields)
    for num_tokens in (2, 3, 5, len(TOKENS)):
        assert await ask(path, num_tokens, fields) == alone


async def test_a_stop_string_inside_a_block() -> None:
    answer = await ask(CHAT, len(TOKENS), {"stop": "<END>"})
    assert answer["text"] == "aé<b>🙂 "
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len("aé<b>🙂 <END>".encode())
    raw = b"".join(bytes(entry["bytes"]) for entry in answer["logprobs"])
    assert raw.decode() == "aé<b>🙂 "


async def test_max_tokens_inside_a_block() -> None:
    answer = await ask(COMPLETIONS, 5, {"max_tokens": 7})
    assert answer["text"] == "aé<b>"
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7
    assert len(answer["logprobs"]) == 7  # the first byte of the emoji, dropped from the text
