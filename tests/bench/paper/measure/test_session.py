"""Answers of the tiny model under a draft that is right where a script says so."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.paper.measure.methods import Method, MethodName, method
from bench.paper.measure.rounds import Answer, position_counts
from bench.paper.measure.session import GREEDY, Session, StepRecorder
from server.engine.async_engine import AsyncEngine
from server.engine.schedule.scheduler import Scheduler
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.step.host.runner import Runner
from server.engine.types import RequestId, SamplingDefaults
from tests.engine.answers import alone
from tests.engine.drafters.oracle import OracleDrafter, Pattern
from tests.engine.tiny import (
    CONFIG,
    CPU,
    FREE_DRAFTS,
    TinyEngine,
    make_request,
    tiny_caches,
    tiny_model,
    tokens,
)

PROMPT = (3, 14, 15, 9, 26, 5)
NEW_TOKENS = 25


def session(sampling: SamplingDefaults) -> tuple[Session, AsyncEngine]:
    recorder = StepRecorder()
    runner = Runner(tiny_model(), tiny_caches(CONFIG), CONFIG.block_size, frozenset(), CPU)
    config = replace(CONFIG, prefix_caching=False, eos_token_ids=frozenset(), speculates=True)
    engine = AsyncEngine(Scheduler(config), runner, recorder.observe)
    return Session(engine, runner, recorder, sampling), engine


def plain_tokens() -> list[int]:
    request = make_request("r", PROMPT, max_tokens=NEW_TOKENS, ignore_eos=True)
    return tokens(TinyEngine().run([request])[request.request_id])


def scripted(name: MethodName, patterns: Sequence[Pattern]) -> Method:
    """A method whose draft is an oracle for whatever the session asks first, second, …"""
    answers = {RequestId(f"eval-{i}"): plain_tokens() for i in range(8)}
    drafter = OracleDrafter(answers, patterns)
    return method(name, drafter, PolicyConfig(), AutoPolicy(FREE_DRAFTS))


def answers(
    *methods: Method, turn: int = 0, sampling: SamplingDefaults = GREEDY
) -> dict[str, Answer]:
    async def run() -> dict[str, Answer]:
        compared, engine = session(sampling)
        engine.start()
        try:
            return await compared.compare(methods, PROMPT, NEW_TOKENS, turn)
        finally:
            await engine.stop()

    return asyncio.run(run())


def test_drawn_answers_are_those_of_plain_decoding_too() -> None:
    """Drawn, and not greedy: the oracle, which knows the greedy answer, is hardly ever right."""
    sampling = SamplingDefaults(temperature=1.5, top_p=0.95)
    found = answers(scripted("plain", [""]), scripted("chain", ["TTTTT"]), sampling=sampling)
    assert found["plain"].token_ids == found["chain"].token_ids != tuple(plain_tokens())
    assert len(found["chain"].token_ids) == NEW_TOKENS


@pytest.mark.parametrize("turn", range(3))
def test_all_methods_give_the_plain_answer_in_any_order(turn: int) -> None:
    found = answers(
        scripted("plain", [""]), scripted("chain", ["TTTTT"]), scripted("cape", ["TL"]), turn=turn
    )
    assert set(found) == {"plain", "chain", "cape"}
    for answer in found.values():
        assert list(answer.token_ids) == plain_tokens()
        assert answer.decode_seconds > 0


def test_plain_decoding_takes_a_step_per_token() -> None:
    plain = answers(scripted("plain", [""]))["plain"]
    assert len(plain.steps) == NEW_TOKENS - 1
    assert all(step.num_tokens == step.num_nodes == 1 for step in plain.steps)
    assert plain.seconds("draft") == 0


def test_a_perfect_chain() -> None:
    """24 tokens after the first in rounds of 6: four steps, everything accepted."""
    chain = answers(scripted("chain", ["TTTTT"]))["chain"]
    assert [step.num_tokens for step in chain.steps] == [6, 6, 6, 6]
    assert [step.depth for step in chain.steps] == [5, 5, 5, 5]
    assert [step.num_nodes for step in chain.steps] == [6, 6, 6, 6]
    assert chain.seconds("draft") > 0
    counts = position_counts(chain.steps)
    assert counts.accepted == counts.judged == (4, 4, 4, 4, 4)


def test_a_chain_that_is_right_twice() -> None:
    """Rounds of 3 tokens, the third draft token wrong: 24 / 3 = 8 rounds, α = 16 / 24. The last
    round may propose only as deep as tokens are left, and has no third position."""
    chain = answers(scripted("chain", ["TTx"]))["chain"]
    assert [step.num_tokens for step in chain.steps] == [3] * 8
    counts = position_counts(chain.steps)
    assert counts.accepted == (8, 8, 0)
    assert counts.judged == (8, 8, 7)


def test_a_leaf_is_an_accepted_token() -> None:
    """Trunk right, then a leaf: three tokens a step."""
    cape = answers(scripted("cape", ["TL"]))["cape"]
    assert [step.num_tokens for step in cape.steps[:-1]] == [3] * (len(cape.steps) - 1)
    assert all(step.num_accepted == 2 for step in cape.steps[:-1])


def test_an_answer_that_ends_with_its_first_token_has_no_steps() -> None:
    async def run() -> Answer:
        compared, engine = session(GREEDY)
        engine.start()
        try:
            return await compared.answer(scripted("chain", ["T"]), PROMPT, 1)
        finally:
            await engine.stop()

    answer = asyncio.run(run())
    assert len(answer.token_ids) == 1
    assert answer.steps == ()


def test_a_recorder_refuses_steps_of_others() -> None:
    with pytest.raises(RuntimeError, match="other requests"):
        StepRecorder().take(next(iter(alone().values())))
