"""Several answers to one prompt, under a grammar or the one of tool calls, with logprobs: every
policy and drafter gives the tokens and logprobs of plain decoding, one answer at a time."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import Grammar, PolicyName, Request, RequestId, SpeculationParams
from server.kernels.tree import LayerCache
from tests.engine.answers import logprobs
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.drafting import ALL_PATTERNS, POLICIES, glide, ngram
from tests.engine.grammar.vocabulary import GRAMMARS, PIECES, states, text_of
from tests.engine.tiny import CONFIG, EOS, MakeDrafter, TinyEngine, make_request, tokens

NUM_ANSWERS = 4
ENGINES: dict[str, SchedulerConfig] = {
    "roomy": CONFIG,
    "few blocks, chunks of 7": replace(CONFIG, num_blocks=64, max_num_batched_tokens=7),
}
ARGUMENTS = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "na"]}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def call(name: str) -> dict[str, Any]:
    """A call in a form that the vocabulary can write: `[name{…}]`."""
    arguments = {"type": "json_schema", "json_schema": ARGUMENTS, "max_whitespace_cnt": 2}
    return {"type": "tag", "begin": f"[{name}", "content": arguments, "end": "]"}


def tag(content: dict[str, Any]) -> Grammar:
    return Grammar("structural_tag", json.dumps({"type": "structural_tag", "format": content}))


CALLS = {
    "required": tag(
        {
            "type": "tags_with_separator",
            "tags": [call("tag"), call("sub")],
            "separator": ",",
            "at_least_one": True,
            "stop_after_first": False,
        }
    ),
    "auto": tag(
        {
            "type": "triggered_tags",
            "triggers": ["["],
            "tags": [call("tag"), call("sub")],
            "stop_after_first": False,
        }
    ),
}
PATTERN = r"""\[(tag|sub)\s*\{\s*"name"\s*:\s*"(ab|na)"\s*,\s*"age"\s*:\s*\d+\s*\}\]"""
ASKED: dict[str, Grammar | None] = {
    "person": GRAMMARS["person"],
    "ebnf": GRAMMARS["ebnf"],
    "required": CALLS["required"],
    "auto": CALLS["auto"],
    "text": None,
}
SAMPLED: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 1.2, "top_p": 0.97},
}
BIAS = {PIECES.index(b" "): -8.0, PIECES.index(b"\n"): -8.0, PIECES.index(b"["): 3.0, EOS: 1.0}
"""The tiny model likes white space, and has to be told to call."""


@cache
def requests() -> tuple[Request, ...]:
    """Requests for four answers to one prompt, for each grammar, greedy and seeded."""
    made = list[Request]()
    for index, (name, grammar) in enumerate(ASKED.items()):
        for kind, how in SAMPLED.items():
            prompt = [*range(20), *((7 * index + 3 * i) % EOS for i in range(17))]
            leader = f"{name}-{kind}-0"
            for answer in range(NUM_ANSWERS):
                request = make_request(
                    f"{name}-{kind}-{answer}",
                    prompt,
                    seed=100 * index + answer,
                    grammar=grammar,
                    logit_bias=BIAS,
                    logprobs=2,
                    max_tokens=40,
                    **how,
                )
                shared = None if answer == 0 else RequestId(leader)
                made.append(replace(request, shares_prompt_with=shared))
    return tuple(made)


@cache
def alone() -> dict[str, list[RequestOutput]]:
    """Plain decoding, each answer on an engine of its own."""
    found: dict[str, list[RequestOutput]] = {}
    for request in requests():
        own = replace(request, shares_prompt_with=None)
        found[own.request_id] = TinyEngine(grammars=states()).run([own])[own.request_id]
    return found


def oracle(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    answers = {r.request_id: tokens(alone()[r.request_id]) for r in requests()}
    return OracleDrafter(answers, ALL_PATTERNS)


DRAFTERS: dict[str, MakeDrafter] = {"oracle": oracle, "ngram": ngram, "glide": glide}


def assert_equal(got: dict[RequestId, list[RequestOutput]]) -> None:
    for name, expected in alone().items():
        outputs = got[RequestId(name)]
        assert tokens(outputs) == tokens(expected), name
        assert outputs[-1].finish_reason == expected[-1].finish_reason
        assert outputs[-1].stop_token_id == expected[-1].stop_token_id
        assert logprobs(outputs) == pytest.approx(logprobs(expected), abs=1e-5)


def speculated(policy: PolicyName) -> Sequence[Request]:
    return [replace(r, speculation=SpeculationParams(policy=policy)) for r in requests()]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("policy", "drafter"),
    [("off", "ngram"), *((p, d) for p in POLICIES if p != "off" for d in DRAFTERS)],
)
def test_answers_equal_plain_decoding(policy: PolicyName, drafter: str, name: str) -> None:
    lookup = NgramDrafter() if drafter == "glide" else None
    engine = TinyEngine(ENGINES[name], DRAFTERS[drafter], lookup=lookup, grammars=states())
    assert_equal(engine.run(speculated(policy)))
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


def test_the_matrix_is_not_trivial() -> None:
    answers = {name: tuple(tokens(outputs)) for name, outputs in alone().items()}
    for name in ASKED:
        assert len({answers[f"{name}-greedy-{i}"] for i in range(NUM_ANSWERS)}) == 1
        assert len({answers[f"{name}-seeded-{i}"] for i in range(NUM_ANSWERS)}) == NUM_ANSWERS
    assert all(len(logprobs(alone()[name])) == 3 * len(answers[name]) for name in answers)


def test_calls_are_calls() -> None:
    """Free text calls too, and every call that ends is a valid one."""
    texts = {name: text_of([t for t in tokens(o) if t != EOS]) for name, o in alone().items()}
    required = [text for name, text in texts.items() if name.startswith("required")]
    assert all(text.startswith(("[tag", "[sub")) for text in required)
    assert any(re.match(PATTERN, text) for text in required)
    free = [text for name, text in texts.items() if name.startswith("auto")]
    begun = [text[text.index("[") :] for text in free if "[" in text]
    assert len(begun) > 1
    assert all(text.startswith(("[tag", "[sub")) for text in begun if len(text) > 4)
    assert all(re.match(PATTERN, text) for text in begun if "]" in text)
