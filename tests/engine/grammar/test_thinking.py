"""Thinking budgets, and grammars behind the thinking: which tokens they force, and that they change
no other, whatever is proposed, cached or preempted."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from server.engine.drafters.drafter import Drafter
from server.engine.grammar.states import AnswerState
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import Grammar, PolicyName, Request, SpeculationParams, Thinking
from server.kernels.tree import LayerCache
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.drafting import ALL_PATTERNS
from tests.engine.grammar.test_equality import DRAFTERS, ENGINES, LESS_SPACE, run
from tests.engine.grammar.vocabulary import GRAMMARS, PIECES, encode, states, token_bytes
from tests.engine.tiny import CONFIG, EOS, TinyEngine, make_request, tokens


def marks(begin: str, end: str, answer: str = "", after: str = "", **options: Any) -> Thinking:
    """Thinking between marks of the tiny vocabulary; a text behind the end if it is forced."""
    return Thinking(
        begin.encode(), end.encode(), answer.encode(),
        begin_ids=tuple(encode(begin)), end_ids=tuple(encode(end + after)),
        answer_ids=tuple(encode(answer)), next_ids=tuple(encode("}")) if answer else (), **options,
    )  # fmt: skip


TAGS = marks("tags", "null")
"""Marks that are one token each, but can be written in others too."""
LONG = marks("ab12", "e12")
"""Marks of several tokens."""
CHANNELS = marks("{d12", "true", "{u12", "}{u12")
"""Messages with a header each, as gpt-oss writes them."""
OPEN = replace(TAGS, is_open=True)
PERSON = GRAMMARS["person"]
CHOICE = Grammar("choice", '["nab", "name", "true"]')


def asked(name: str, thinking: Thinking | None, seed: int, **params: Any) -> Request:
    rng = random.Random(seed)
    prompt = [rng.randrange(EOS) for _ in range(rng.randrange(20, 50))]
    defaults = {"max_tokens": 40, "temperature": 1.3, "seed": seed, "logit_bias": LESS_SPACE}
    return make_request(name, prompt, **defaults | params, thinking=thinking)


@cache
def requests() -> tuple[Request, ...]:
    forms = {"tags": TAGS, "open": OPEN, "long": replace(LONG, is_open=True), "channels": CHANNELS}
    likes = {"logit_bias": LESS_SPACE | {PIECES.index(b"tags"): 9.0, PIECES.index(b"e"): 4.0}}
    penalised = {"presence_penalty": 0.7, "repetition_penalty": 1.2, "logprobs": 1, "min_tokens": 9}
    made: list[Request] = []
    cases = [*itertools.product(forms, (None, 0, 9), (None, CHOICE)), ("open", 9, PERSON)]
    for number, (name, budget, grammar) in enumerate(cases):
        if budget is None and grammar is None:
            continue
        params: dict[str, Any] = {} if number % 3 else penalised
        params |= {"temperature": 0.0} if number % 4 == 0 else {}
        params |= likes if name == "tags" else {}
        thinking = replace(forms[name], budget=budget)
        label = f"{name}-{budget}-{'none' if grammar is None else grammar.kind}"
        made.append(asked(label, thinking, number, grammar=grammar, **params))
    return tuple(made)


@cache
def alone() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for request in requests():
        outputs = TinyEngine(grammars=states()).run([request])
        found[request.request_id] = tokens(outputs[request.request_id])
    return found


def oracle(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    return OracleDrafter({r.request_id: alone()[r.request_id] for r in requests()}, ALL_PATTERNS)


@pytest.mark.parametrize(
    ("policy", "drafter", "name"),
    [
        ("off", "ngram", "few blocks, chunks of 7"),
        ("chain", "oracle", "roomy"),
        ("chain", "ngram", "few blocks, chunks of 7"),
        ("cape", "oracle", "few blocks, chunks of 7"),
        ("cape", "glide", "roomy"),
        ("beam", "draft_model", "roomy"),
        ("beam", "oracle", "roomy"),
        ("auto", "oracle", "roomy"),
        ("auto", "glide", "few blocks, chunks of 7"),
    ],
)
def test_tokens_equal_plain_decoding(policy: PolicyName, drafter: str, name: str) -> None:
    speculation = SpeculationParams(policy=policy)
    speculated = [replace(r, speculation=speculation) for r in requests()]
    make = oracle if drafter == "oracle" else DRAFTERS[drafter]
    engine = TinyEngine(ENGINES[name], make, grammars=states())
    for _ in range(2):  # then with what the first run left in the prefix cache
        got = run(engine, speculated)
        assert {each: tokens(outputs) for each, outputs in got.items()} == alone()


def test_a_state_that_is_lost_is_made_again() -> None:
    engine = TinyEngine(CONFIG, oracle, grammars=states())
    for request in requests():
        speculation = SpeculationParams(policy="cape")
        engine.scheduler.add(replace(request, speculation=speculation), 0.0)
    found: dict[str, list[int]] = {request.request_id: [] for request in requests()}
    while engine.scheduler.has_work:
        for output in engine.step():
            found[output.request_id] += output.token_ids
        if engine.num_steps % 3 == 0 and engine.runner.grammars is not None:
            for request in requests():
                engine.runner.grammars.forget(request.request_id)
    assert found == alone()


def continued(request: Request, output: Sequence[int], *, begin: int, **params: Any) -> list[int]:
    """What an unconstrained request says whose prompt has the first part of an output."""
    prompt = (*request.prompt_token_ids, *output[:begin])
    left = request.params.max_tokens - begin
    plain = replace(request.params, max_tokens=left, thinking=None, grammar=None, **params)
    again = replace(request, prompt_token_ids=prompt, params=plain)
    return tokens(TinyEngine(grammars=states()).run([again])[request.request_id])


@pytest.mark.parametrize("budget", [0, 1, 7])
@pytest.mark.parametrize("thinking", [OPEN, replace(LONG, is_open=True)])
def test_a_budget_forces_the_end_and_nothing_else(thinking: Thinking, budget: int) -> None:
    """Before and behind the forced end every token is what it is without a budget."""
    end_ids = list(thinking.end_ids)
    num_forced = 0
    for seed in range(6):
        request = asked("a", replace(thinking, budget=budget), seed)
        output = tokens(TinyEngine(grammars=states()).run([request])[request.request_id])
        free = continued(request, output, begin=0)
        if thinking.end in b"".join(map(token_bytes, free[:budget])):
            continue
        if EOS in free[:budget]:
            assert output == free
            continue
        assert output[:budget] == free[:budget]
        behind = budget + len(end_ids)
        assert output[budget:behind] == end_ids or output[: budget + 1] == free[: budget + 1]
        if output[budget:behind] == end_ids:
            num_forced += 1
            assert output[behind:] == continued(request, output, begin=behind)
    assert num_forced > 3


def test_thinking_without_a_budget_changes_nothing() -> None:
    for thinking in (TAGS, OPEN, CHANNELS):
        request = asked("a", thinking, 3)
        assert not request.params.is_constrained
        output = tokens(TinyEngine(grammars=states()).run([request])[request.request_id])
        assert output == continued(request, output, begin=0)


def test_answers_behind_the_thinking_follow_their_grammar() -> None:
    num_thoughts = num_answers = 0
    for request in requests():
        grammar, thinking = request.params.grammar, request.params.thinking
        assert thinking is not None
        if grammar is None or grammar.kind != "choice":
            continue
        output = alone()[request.request_id]
        text = _text(output)
        answer = behind_thinking(text, thinking)
        if answer is None:
            assert len(output) == request.params.max_tokens
            continue
        num_thoughts += answer != text
        num_answers += 1
        assert answer.strip() in ("nab", "name", "true")
        assert output[-1] == EOS
    assert num_answers > 8
    assert num_thoughts > 6


def _text(output: Sequence[int]) -> str:
    return b"".join(map(token_bytes, output)).decode(errors="replace")


def behind_thinking(text: str, thinking: Thinking) -> str | None:
    """The answer of a text; None if the thinking does not end."""
    begin, end, answer = (mark.decode() for mark in (thinking.begin, thinking.end, thinking.answer))
    if answer:
        return text.partition(answer)[2] if answer in text else None
    if not thinking.is_open:
        if not text.lstrip().startswith(begin):
            return text
        text = text.lstrip().removeprefix(begin)
    return text.partition(end)[2] if end in text else None


def new_state(thinking: Thinking, grammar: Grammar | None = None) -> AnswerState:
    request = make_request("a", [1], thinking=thinking, grammar=grammar)
    return states().behind(request, [])


def allowed(state: AnswerState) -> set[str]:
    forbidden = state.forbidden()
    assert forbidden is not None
    ids = [i for i in range(61) if not forbidden[i]]
    return {"END" if i == EOS else token_bytes(i).decode() for i in ids}


def accept(state: AnswerState, text: str) -> None:
    for token_id in encode(text):
        assert state.accept(token_id), PIECES[token_id]


def test_an_answer_may_begin_with_thinking_or_without() -> None:
    state = new_state(TAGS, CHOICE)
    assert allowed(state) == {"n", "na", "name", "tags", "t", "true"}
    accept(state, "tags")
    assert "END" not in allowed(state)
    assert len(allowed(state)) > 50
    accept(state, "12, null")
    assert allowed(state) == {"n", "na", "name", "t", "true"}
    accept(state, "na")
    assert allowed(state) == {"b", "me"}
    state.rollback(2)
    accept(state, "null")
    assert allowed(state) == {"n", "na", "name", "t", "true"}
    state.rollback(len(encode("tags12, null")))
    accept(state, "true")
    assert allowed(state) == {"END"}


def test_what_begins_like_the_mark_can_still_be_the_answer() -> None:
    """The grammar's own text begins with the mark's first token."""
    state = new_state(LONG, Grammar("choice", '["abc", "ab1"]'))
    accept(state, "ab")
    assert allowed(state) == {"c", "1", "12"}
    accept(state, "1")
    assert allowed(state) == {"END"}
    state.rollback(1)
    accept(state, "12")
    assert "END" not in allowed(state)
    accept(state, "ce12")
    assert allowed(state) == {"a", "ab"}


def test_a_mark_that_the_answer_can_not_begin_with_is_written_to_its_end() -> None:
    state = new_state(marks("[12", "null"), CHOICE)
    assert "[" in allowed(state)
    accept(state, "[")
    assert allowed(state) == {"12"}
    assert not state.accept(PIECES.index(b"n"))


def test_the_end_is_found_in_whatever_tokens() -> None:
    state = new_state(replace(OPEN, budget=9), CHOICE)
    for piece in ("n", "u", "null"):
        assert state.accept(PIECES.index(piece.encode()))
    assert allowed(state) == {"n", "na", "name", "t", "true"}


def test_text_in_the_token_that_ends_the_thinking_is_not_lost() -> None:
    """A token with the last of the mark and the first of the answer would be out of the grammar."""
    state = new_state(marks("ab", "]", is_open=True), CHOICE)
    assert "], " not in allowed(state)
    assert "]" in allowed(state)
    assert not state.accept(PIECES.index(b"], "))
    state = new_state(marks("ab", "2}", is_open=True), CHOICE)
    assert "}, " in allowed(state)
    accept(state, "12")
    assert "}, " not in allowed(state)
    free = new_state(marks("ab", "]", is_open=True, budget=5))
    assert free.accept(PIECES.index(b"], "))


def test_the_end_is_forced() -> None:
    state = new_state(replace(LONG, is_open=True, budget=2))
    assert state.forbidden() is None
    accept(state, "na")
    assert state.forbidden() is None
    accept(state, "e")
    assert allowed(state) == {"12"}  # it was begun already
    assert state.forced_tokens(8) == encode("12")
    state.rollback(1)
    accept(state, "b")
    assert allowed(state) == {"e"}
    assert state.forced_tokens(8) == encode("e12")
    assert state.forced_tokens(1) == encode("e")
    assert not state.accept(PIECES.index(b"b"))
    accept(state, "e12")
    assert state.forbidden() is None


def test_messages_of_channels() -> None:
    state = new_state(replace(CHANNELS, budget=4), CHOICE)
    assert allowed(state) == {"{"}
    accept(state, "{")
    assert allowed(state) == {"d", "u"}
    accept(state, "d")
    assert state.forced_tokens(5) == encode("12")
    accept(state, "12")
    assert "END" not in allowed(state)
    accept(state, "ctrue")
    assert allowed(state) == {"}"}
    accept(state, "}{d12")
    accept(state, "be")
    assert state.forced_tokens(9) == encode("true}{u12")
    accept(state, "true}{u12")
    assert allowed(state) == {"n", "na", "name", "t", "true"}
    accept(state, "true")
    assert allowed(state) == {"END"}


@pytest.mark.parametrize("thinking", [TAGS, OPEN, LONG, CHANNELS])
def test_steps_back_leave_no_trace(thinking: Thinking) -> None:
    """Random walks to and fro, against a state that has only gone the last way."""
    rng = random.Random(8)
    for grammar, budget in itertools.product((CHOICE, PERSON), (None, 3)):
        constrained = replace(thinking, budget=budget)
        state, path = new_state(constrained, grammar), list[int]()
        for _ in range(60):
            if path and (path[-1] == EOS or rng.random() < 0.4):  # nothing follows an end
                num_back = rng.randrange(1, len(path) + 1)
                state.rollback(num_back)
                del path[-num_back:]
            else:
                likely = [*constrained.begin_ids, *constrained.end_ids, *constrained.answer_ids]
                open_ids = [i for i in range(61) if _is_open(state, i)]
                token_id = rng.choice([i for i in likely if i in open_ids] or open_ids)
                assert state.accept(token_id)
                path.append(token_id)
                closed = [i for i in range(61) if not _is_open(state, i)]
                assert not closed or not state.accept(rng.choice(closed))
            fresh = new_state(constrained, grammar)
            fresh.catch_up(path)
            assert [_is_open(state, i) for i in range(61)] == [
                _is_open(fresh, i) for i in range(61)
            ]
            assert state.forced_tokens(4) == fresh.forced_tokens(4)


def _is_open(state: AnswerState, token_id: int) -> bool:
    forbidden = state.forbidden()
    return forbidden is None or not bool(forbidden[token_id])


def test_masks_of_a_step_that_thinks_from_end_to_end() -> None:
    """What the grammar had read before the step turns out to be the mark."""
    state = new_state(LONG, Grammar("choice", '["abc", "ab1"]'))
    state.catch_up(encode("ab"))
    assert allowed(state) == {"c", "1", "12"}
    accept(state, "12e12")
    assert allowed(state) == {"a", "ab"}
    accept(state, "ab")
    assert allowed(state) == {"c", "1"}
    state.rollback(len(encode("12e12ab")))
    assert allowed(state) == {"c", "1", "12"}
