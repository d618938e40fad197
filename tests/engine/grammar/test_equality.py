"""Speculation never changes a token of a structured answer: every policy and drafter, alone, in a
batch, preempted, in chunks, from the prefix cache, against plain decoding one at a time."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import PolicyName, Request, SpeculationParams
from server.kernels.tree import LayerCache
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.drafting import ALL_PATTERNS, glide, ngram, same_model
from tests.engine.grammar.vocabulary import (
    GRAMMARS,
    PERSON,
    PIECES,
    VOCABULARY,
    states,
    text_of,
)
from tests.engine.tiny import CONFIG, EOS, MakeDrafter, TinyEngine, make_request, tokens

LESS_SPACE = {PIECES.index(b" "): -8.0, PIECES.index(b"\n"): -8.0}
"""The tiny model likes white space."""
POLICIES: tuple[PolicyName, ...] = ("off", "chain", "cape", "beam", "auto")
ENGINES: dict[str, SchedulerConfig] = {
    "roomy": CONFIG,
    "few blocks, chunks of 7": replace(
        CONFIG, num_blocks=64, max_num_batched_tokens=7, prefix_caching=False
    ),
}


@cache
def requests() -> tuple[Request, ...]:
    """Each grammar greedy, seeded and penalised, and requests without a grammar between them."""
    rng = random.Random(5)
    made = list[Request]()
    params: dict[str, Any]
    for index, grammar in enumerate((*GRAMMARS.values(), None)):
        for kind, params in enumerate(
            (
                {},
                {"temperature": 1.0, "seed": index},
                {"temperature": 1.3, "seed": index, "top_p": 0.9, "presence_penalty": 0.7,
                 "repetition_penalty": 1.2, "logit_bias": {2: 3.0, EOS: 4.0}, "min_tokens": 30,
                 "logprobs": 2},
            )
        ):  # fmt: skip
            prompt = [rng.randrange(EOS) for _ in range(rng.randrange(30, 70))]
            if kind == 1:
                prompt = [*range(20), *prompt]
            bias = LESS_SPACE | params.pop("logit_bias", {})
            params |= {"max_tokens": 60, "grammar": grammar, "logit_bias": bias}
            made.append(make_request(f"g{index}-{kind}", prompt, **params))
    return tuple(made)


def run(engine: TinyEngine, asked: Sequence[Request]) -> dict[str, list[RequestOutput]]:
    return {str(name): outputs for name, outputs in engine.run(asked).items()}


@cache
def alone() -> dict[str, list[RequestOutput]]:
    found: dict[str, list[RequestOutput]] = {}
    for request in requests():
        found |= run(TinyEngine(grammars=states()), [request])
    return found


def assert_equal(got: dict[str, list[RequestOutput]]) -> None:
    for name, expected in alone().items():
        assert tokens(got[name]) == tokens(expected), name
        assert got[name][-1].finish_reason == expected[-1].finish_reason
        assert got[name][-1].stop_token_id == expected[-1].stop_token_id


def oracle(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    """Its wrong candidates are mostly forbidden."""
    answers = {r.request_id: tokens(alone()[r.request_id]) for r in requests()}
    return OracleDrafter(answers, ALL_PATTERNS)


DRAFTERS: dict[str, MakeDrafter] = {
    "oracle": oracle, "ngram": ngram, "draft_model": same_model, "glide": glide,
}  # fmt: skip


def speculated(policy: PolicyName) -> list[Request]:
    return [replace(r, speculation=SpeculationParams(policy=policy)) for r in requests()]


TRIPLES = [
    *(("off", "ngram", name) for name in ENGINES),
    *(
        (policy, drafter, [*ENGINES][(row + column) % len(ENGINES)])
        for row, policy in enumerate(POLICIES[1:])
        for column, drafter in enumerate(DRAFTERS)
    ),
]
"""(policy, drafter, engine): every policy meets every drafter, and each of both every engine."""


@pytest.mark.parametrize(("policy", "drafter", "name"), TRIPLES)
def test_tokens_equal_plain_decoding(policy: PolicyName, drafter: str, name: str) -> None:
    lookup = NgramDrafter() if drafter == "glide" else None
    engine = TinyEngine(ENGINES[name], DRAFTERS[drafter], lookup=lookup, grammars=states())
    assert_equal(run(engine, speculated(policy)))
    again = run(engine, speculated(policy))  # with what the first run left in the prefix cache
    assert_equal(again)
    if "few" in name and drafter != "oracle":  # which ends requests before blocks run out
        assert engine.num_preemptions > 0
    cached = sum(outputs[0].num_cached_tokens for outputs in again.values())
    assert (cached > 0) == ENGINES[name].prefix_caching


@pytest.mark.parametrize("policy", ["chain", "beam", "auto"])
def test_alone_with_a_draft(policy: PolicyName) -> None:
    for request in speculated(policy):
        engine = TinyEngine(CONFIG, glide, grammars=states())
        outputs = run(engine, [request])[request.request_id]
        assert tokens(outputs) == tokens(alone()[request.request_id])


def test_the_matrix_is_not_trivial() -> None:
    answers = {name: tokens(outputs) for name, outputs in alone().items()}
    assert len({tuple(a) for a in answers.values()}) > 14
    assert sum(len(a) > 20 for a in answers.values()) > 5
    reasons = {outputs[-1].finish_reason for outputs in alone().values()}
    assert reasons == {"stop", "length"}


def test_every_answer_is_in_its_grammar() -> None:
    for index, (name, grammar) in enumerate(GRAMMARS.items()):
        for kind in range(3):
            outputs = alone()[f"g{index}-{kind}"]
            if outputs[-1].finish_reason == "length":
                assert name in ("object", "ebnf")  # the only ones without a longest text
                continue
            text = text_of(tokens(outputs)[:-1])
            if name == "person":
                jsonschema.validate(json.loads(text), PERSON)
            elif name == "object":
                assert isinstance(json.loads(text), dict)
            elif name == "choice":
                assert text in json.loads(grammar.text)
            else:
                pattern = grammar.text if name == "regex" else r"\[(ab|\d+)(, (ab|\d+)){1,6}\]"
                assert re.fullmatch(pattern, text)


def test_a_state_that_is_lost_is_made_again() -> None:
    """As if the engine had never seen the request's first tokens."""
    engine = TinyEngine(CONFIG, glide, grammars=states())
    for request in speculated("auto"):
        engine.scheduler.add(request, 0.0)
    outputs: dict[str, list[RequestOutput]] = {r.request_id: [] for r in requests()}
    while engine.scheduler.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        if engine.num_steps % 3 == 0 and engine.runner.grammars is not None:
            for request in requests():
                engine.runner.grammars.forget(request.request_id)
    assert_equal(outputs)


def test_forced_text_costs_no_draft_and_fewer_steps() -> None:
    """The names of the properties are forced: a useless draft yields them all the same."""
    grammar = GRAMMARS["person"]
    request = make_request("p", range(9), max_tokens=60, grammar=grammar, logit_bias=LESS_SPACE)
    answer = tokens(TinyEngine(grammars=states()).run([request])[request.request_id])
    drafter = OracleDrafter({request.request_id: answer}, [""])
    for policy in ("chain", "cape", "auto"):
        engine = TinyEngine(CONFIG, lambda config, caches: drafter, grammars=states())
        asked = replace(request, speculation=SpeculationParams(policy=policy))
        outputs = engine.run([asked])[request.request_id]
        assert tokens(outputs) == answer
        assert engine.num_steps < len(answer)
        summary = outputs[-1].speculation
        assert summary is not None
        assert summary.num_accepted > 0


def test_what_is_forced_does_not_move_the_drafts_calibration() -> None:
    grammar = GRAMMARS["person"]
    request = make_request("p", range(9), max_tokens=60, grammar=grammar, logit_bias=LESS_SPACE)
    request = replace(request, speculation=SpeculationParams(policy="auto"))
    engine = TinyEngine(
        CONFIG, lambda config, caches: OracleDrafter({request.request_id: []}, [""]),
        grammars=states(),
    )  # fmt: skip
    assert engine.runner.speculator is not None
    calibration = engine.runner.speculator.auto.calibration
    before = [calibration.chance(c / 10, "trunk") for c in range(10)]
    forced = calibration.chance(0.99, "forced")
    engine.run([request])
    assert [calibration.chance(c / 10, "trunk") for c in range(10)] == before
    assert calibration.chance(0.99, "forced") != forced


def test_the_vocabulary_fits_the_model() -> None:
    assert VOCABULARY.size == 61
    assert len([i for i in range(61) if VOCABULARY.token_bytes(i)]) <= EOS
