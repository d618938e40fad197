"""A request's state in its grammar: masks, rollback, the end, forced tokens; and how the sampler
uses the masks."""

import itertools
import json
from typing import Any

import pytest
import torch

from server.engine.grammar.budget import Meter
from server.engine.grammar.state import GrammarState
from server.engine.step.sampler import SamplerRow, sample
from server.engine.types import Grammar, SamplingParams
from tests.engine.grammar.bytes import compiler as bytes_compiler
from tests.engine.grammar.vocabulary import (
    GRAMMARS,
    PIECES,
    SPECIAL,
    encode,
    schema,
    state,
    states,
    text_of,
)
from tests.engine.tiny import CONFIG, EOS, TinyEngine, make_request, tokens

NAMES = Grammar("choice", json.dumps(["name", "na"]))
DIGITS = Grammar("regex", "[12]+")
STOP = PIECES.index(b"\n")


def allowed(grammar_state: Any) -> set[str]:
    """What may come next; `END` for the end token."""
    forbidden = grammar_state.forbidden()
    ids = [i for i in range(61) if not forbidden[i]]
    return {"END" if i == EOS else PIECES[i].decode() for i in ids}


def test_masks_follow_the_text_in_whatever_pieces() -> None:
    name = state(NAMES)
    assert allowed(name) == {"n", "na", "name"}
    assert name.accept(PIECES.index(b"n"))
    assert allowed(name) == {"a"}
    assert not name.accept(PIECES.index(b"name"))
    assert name.accept(PIECES.index(b"a"))
    assert allowed(name) == {"END", "me"}
    assert name.accept(EOS)
    assert name.forbidden() is None
    assert not name.accept(EOS)


def test_special_tokens_are_never_text() -> None:
    anything = state(Grammar("regex", r"[\s\S]*"))
    forbidden = anything.forbidden()
    assert forbidden is not None
    assert forbidden[SPECIAL]
    assert not anything.accept(SPECIAL)


def test_catch_up_from_anywhere() -> None:
    digits = state(DIGITS)
    one, two, both = (PIECES.index(p) for p in (b"1", b"2", b"12"))
    digits.catch_up([one, two])
    digits.catch_up([one, two, both])
    assert digits.num_accepted == 3
    digits.catch_up([one])
    assert digits.num_accepted == 1
    digits.catch_up([both, one])
    assert digits.num_accepted == 2
    with pytest.raises(RuntimeError, match="leaves the grammar"):
        digits.catch_up([both, PIECES.index(b"a")])


def test_forced_tokens_leave_out_the_last_which_may_be_joined() -> None:
    person = state(GRAMMARS["person"])
    person.catch_up(encode('{"'))
    assert text_of(person.forced_tokens(9)) == "name"
    person.catch_up(encode('{"na'))
    assert text_of(person.forced_tokens(9)) == "me"
    assert person.num_accepted == 2
    person.catch_up(encode('{"name": '))
    assert person.forced_tokens(9) == []
    person.catch_up([*encode('{"name": "ab", "age": 1, "tags": []}'), EOS])
    assert person.forced_tokens(9) == []


def test_half_a_character_is_no_forced_text() -> None:
    """Both texts go on with the same first byte of two."""
    split = GrammarState(bytes_compiler().get(Grammar("choice", '["éa", "êa"]')), frozenset({256}))
    assert split.forced_tokens(9) == []
    assert split.accept(0xC3)
    assert split.forced_tokens(9) == []


def test_what_no_token_can_write_is_no_choice() -> None:
    assert text_of(state(Grammar("choice", '["éab", "êa"]')).forced_tokens(9)) == "é"


def test_forced_text_is_found_as_far_as_it_is_asked_for() -> None:
    """Also where it has no end."""
    endless = state(Grammar("ebnf", 'root ::= "12" root | "b"'))
    endless.catch_up(encode("1"))
    assert endless.forced_tokens(9) == []
    long = state(Grammar("choice", json.dumps(["12" * 5000])))
    assert text_of(long.forced_tokens(6)) == "12" * 6
    assert text_of(long.forced_tokens(500)) == "12" * 31
    assert long.num_accepted == 0


def test_a_mask_is_made_once_for_proposing_and_verifying() -> None:
    name = state(Grammar("choice", json.dumps(["nab", "na12"])))
    clock = itertools.count()
    name.meter = Meter(lambda: float(next(clock)) * 1e-9, lambda: 0)
    assert name.forced_tokens(9) == []
    num_calls = next(clock)
    assert allowed(name) == {"n", "na"}
    assert name.accept(PIECES.index(b"n"))
    assert allowed(name) == {"a", "ab"}
    assert next(clock) == num_calls + 3  # a call begins and ends: only the token was new
    name.catch_up(encode("na"))
    assert allowed(name) == {"b", "1", "12"}


def test_a_dear_mask_is_not_made_for_a_proposal() -> None:
    forced = state(Grammar("choice", '["name"]'))
    clock = itertools.count()
    forced.meter = Meter(lambda: next(clock) * 0.002, lambda: 0)
    assert forced.forbidden() is not None
    assert forced.forced_tokens(9) == []


def test_without_a_token_for_what_must_follow_the_answer_ends() -> None:
    """No piece has a `z`."""
    stuck = state(Grammar("regex", "az"))
    stuck.catch_up(encode("a"))
    assert allowed(stuck) == {"END"}


def test_other_stop_tokens_wait_for_the_end_too() -> None:
    """A line break that is a stop token ends the answer, and is no text any more."""
    stops = frozenset({EOS, STOP})
    lines = state(Grammar("regex", "1\n*2"), stops)
    lines.catch_up(encode("1"))
    assert allowed(lines) == {"2"}
    lines.catch_up(encode("12"))
    assert allowed(lines) == {"END", "\n"}


def draw(grammar: Grammar, output: list[int], **params: Any) -> int:
    """One greedy token; the model prefers the end by far, then pieces in their order."""
    logits = torch.linspace(1.0, 0.0, 61)[None].clone()
    logits[0, EOS] = 9.0
    eos = frozenset({EOS})
    given = SamplingParams(max_tokens=9, temperature=0.0, grammar=grammar, **params)
    follows = state(grammar)
    follows.catch_up(output)
    avoided = eos if given.ignore_eos else frozenset[int]()
    row = SamplerRow(given, (0,), output, eos, follows, avoided)
    return sample(logits, [row]).token_ids[0]


def test_the_grammar_comes_before_everything() -> None:
    assert draw(NAMES, []) == PIECES.index(b"n")
    bias = {PIECES.index(b"a"): 50.0, PIECES.index(b"n"): -60.0}
    assert draw(NAMES, [], logit_bias=bias) in (PIECES.index(b"na"), PIECES.index(b"name"))


def test_min_tokens_waits_as_long_as_something_else_is_allowed() -> None:
    out = encode("12")
    assert draw(DIGITS, out) == EOS
    assert draw(DIGITS, out, min_tokens=5) == PIECES.index(b"1")
    assert draw(NAMES, encode("name"), min_tokens=5) == EOS


def test_ignore_eos_goes_on_as_long_as_something_else_is_allowed() -> None:
    assert draw(DIGITS, encode("12"), ignore_eos=True) == PIECES.index(b"1")
    assert draw(NAMES, encode("name"), ignore_eos=True) == EOS


def test_logprobs_are_the_models_own() -> None:
    logits = torch.zeros(1, 61)
    logits[0, EOS] = 2.0
    params = SamplingParams(max_tokens=9, temperature=0.0, logprobs=1, grammar=NAMES)
    row = SamplerRow(params, (0,), (), frozenset({EOS}), state(NAMES))
    drawn = sample(logits, [row])
    expected = logits[0].log_softmax(dim=0)
    (found,) = drawn.logprobs
    assert found is not None
    assert found.logprob == pytest.approx(float(expected[drawn.token_ids[0]]))
    assert found.top == ((EOS, pytest.approx(float(expected[EOS]))),)


@pytest.mark.parametrize("params", [{}, {"min_tokens": 20}, {"ignore_eos": True}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_complete_answer_ends_with_stop(params: dict[str, Any], temperature: float) -> None:
    request = make_request(
        "c", [1, 2, 3], max_tokens=30, grammar=NAMES, temperature=temperature, **params
    )
    outputs = TinyEngine(CONFIG, grammars=states()).run([request])[request.request_id]
    found = tokens(outputs)
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == ("stop", EOS)
    assert text_of(found[:-1]) in (["name"] if params else ["name", "na"])


def test_a_stop_token_of_the_request_ends_a_complete_answer() -> None:
    request = make_request(
        "c", [1], max_tokens=30, grammar=DIGITS, ignore_eos=True,
        stop_token_ids=frozenset({STOP}), logit_bias={STOP: 90.0},
    )  # fmt: skip
    outputs = TinyEngine(CONFIG, grammars=states()).run([request])[request.request_id]
    assert outputs[-1].stop_token_id == STOP
    assert set(text_of(tokens(outputs)[:-1])) <= {"1", "2"}
    assert len(tokens(outputs)) == 2


def test_an_engine_without_grammars_does_not_ignore_one() -> None:
    with pytest.raises(RuntimeError, match="the engine knows no grammars"):
        TinyEngine(CONFIG).run([make_request("c", [1], grammar=NAMES)])


def test_a_request_that_is_over_is_forgotten() -> None:
    engine = TinyEngine(CONFIG, grammars=states())
    request = make_request("c", [1], grammar=schema({"const": "na"}))
    first = tokens(engine.run([request])[request.request_id])
    other = make_request("c", [1], grammar=NAMES)
    assert text_of(first[:-1]) == '"na"'
    assert text_of(tokens(engine.run([other])[other.request_id])[:-1]) in ("name", "na")
