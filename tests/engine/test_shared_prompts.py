"""Several answers to one prompt: it is computed once, its blocks are shared, and each answer is the
one that its seed gives alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import FinishReason, PolicyName, Request, RequestId, SpeculationParams
from tests.engine.answers import ENGINES, logprobs
from tests.engine.drafting import POLICIES, glide, ngram
from tests.engine.tiny import CONFIG, TinyEngine, make_request, tokens

PROMPT = (*range(30), *range(7), *range(12, 0, -1))
SIZES = dict[str, object](temperature=1.0, top_p=0.95, max_tokens=30, ignore_eos=True, logprobs=2)


def siblings(
    count: int = 4, prompt: Sequence[int] = PROMPT, policy: PolicyName = "off", **fields: object
) -> list[Request]:
    params = SIZES | fields
    made = [make_request(f"s{index}", prompt, seed=index, **params) for index in range(count)]
    made = [replace(r, speculation=SpeculationParams(policy)) for r in made]
    return [made[0], *(replace(r, shares_prompt_with=RequestId("s0")) for r in made[1:])]


@cache
def alone() -> dict[str, list[RequestOutput]]:
    found: dict[str, list[RequestOutput]] = {}
    for request in siblings():
        own = replace(request, shares_prompt_with=None)
        found[own.request_id] = TinyEngine().run([own])[own.request_id]
    return found


def assert_equal_to_alone(outputs: dict[RequestId, list[RequestOutput]]) -> None:
    for name, wanted in alone().items():
        got = outputs[RequestId(name)]
        assert tokens(got) == tokens(wanted), name
        assert logprobs(got) == pytest.approx(logprobs(wanted), abs=1e-5)


def test_seeds_give_different_answers() -> None:
    assert len({tuple(tokens(outputs)) for outputs in alone().values()}) == 4


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_each_answer_is_that_of_its_seed(policy: PolicyName, name: str) -> None:
    engine = TinyEngine(ENGINES[name], glide)
    for _ in range(2):
        assert_equal_to_alone(engine.run(siblings(policy=policy)))
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


def run_counting(engine: TinyEngine, requests: Sequence[Request]) -> dict[str, int]:
    """Runs all and says how many nodes of its prompt each computed."""
    for request in requests:
        engine.scheduler.add(request, 0.0)
    computed = {str(request.request_id): 0 for request in requests}
    while (plan := engine.scheduler.schedule(0.0)) is not None:
        for planned in plan.sequences:
            within = len(planned.request.prompt_token_ids) - planned.num_computed
            computed[planned.request.request_id] += max(min(planned.num_nodes, within), 0)
        engine.scheduler.update(plan, engine.runner.execute(plan), 0.0)
        engine.scheduler.check_integrity()
    return computed


@pytest.mark.parametrize("max_num_batched_tokens", [128, 7])
def test_the_prompt_is_computed_once(max_num_batched_tokens: int) -> None:
    """49 tokens: twelve blocks of 4 are shared, and the 49th each computes for itself."""
    config = replace(CONFIG, max_num_batched_tokens=max_num_batched_tokens)
    computed = run_counting(TinyEngine(config), siblings())
    assert computed == {"s0": 49, "s1": 1, "s2": 1, "s3": 1}


def test_a_prompt_of_full_blocks() -> None:
    """The last block is computed by each: the step must yield the next token's logits."""
    computed = run_counting(TinyEngine(), siblings(prompt=PROMPT[:48]))
    assert computed == {"s0": 48, "s1": 4, "s2": 4, "s3": 4}


def test_without_a_prefix_cache_nobody_waits() -> None:
    engine = TinyEngine(replace(CONFIG, prefix_caching=False))
    assert run_counting(engine, siblings()) == dict.fromkeys(("s0", "s1", "s2", "s3"), 49)


def test_other_salts_share_nothing() -> None:
    own = [replace(r, cache_salt="a") for r in siblings(2)]
    other = replace(siblings(1)[0], request_id=RequestId("other"), cache_salt="b")
    unsalted = replace(siblings(1)[0], request_id=RequestId("unsalted"))
    again = replace(own[0], request_id=RequestId("again"))
    engine = TinyEngine()
    assert run_counting(engine, own) == {"s0": 49, "s1": 1}
    assert run_counting(engine, [other]) == {"other": 49}
    assert run_counting(engine, [unsalted]) == {"unsalted": 49}
    assert run_counting(engine, [again]) == {"again": 1}


def test_shared_blocks_are_counted_once() -> None:
    """A pool of 24 blocks: four prompts of 12 would fill it twice, one and four answers of a block
    fit."""
    config = replace(CONFIG, num_blocks=24, max_model_len=64)
    engine = TinyEngine(config)
    for request in siblings(max_tokens=4):
        engine.scheduler.add(request, 0.0)
    engine.step()  # the first one's prompt
    engine.step()
    assert len(engine.scheduler.running) == 4
    assert engine.num_preemptions == 0
    assert config.num_blocks - engine.scheduler.pool.num_free == 12 + 4


def test_waiting_for_a_prompt_counts_as_waiting() -> None:
    engine = TinyEngine(replace(CONFIG, max_num_batched_tokens=16))
    for request in siblings():
        engine.scheduler.add(request, 0.0)
    engine.step()
    assert len(engine.scheduler.running) == 1
    assert engine.scheduler.take_stats(None, 0.0).num_waiting == 3


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, prefix_caching=False)])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5, 12])
@pytest.mark.parametrize("reason", ["abort", "stop"])
def test_all_ended_at_any_time_leave_nothing(
    reason: FinishReason, num_steps: int, config: SchedulerConfig
) -> None:
    for order in (1, -1):
        engine = TinyEngine(replace(config, max_num_batched_tokens=20), ngram)
        for request in siblings(policy="cape"):
            engine.scheduler.add(request, 0.0)
        for _ in range(num_steps):
            engine.step()
        for request in siblings()[::order]:
            engine.scheduler.finish(request.request_id, reason, 0.0)
            engine.scheduler.check_integrity()
        assert not engine.scheduler.has_work
        assert engine.scheduler.schedule(0.0) is None
        assert engine.scheduler.pool.num_free == CONFIG.num_blocks


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
@pytest.mark.parametrize("leaving", [0, 1])
def test_one_that_leaves_changes_nothing_for_the_others(leaving: int, num_steps: int) -> None:
    """Also the one that computes the prompt, before it is done."""
    engine = TinyEngine(replace(CONFIG, max_num_batched_tokens=20))
    for request in siblings():
        engine.scheduler.add(request, 0.0)
    outputs: dict[RequestId, list[RequestOutput]] = {r.request_id: [] for r in siblings()}
    for _ in range(num_steps):
        for output in engine.step():
            outputs[output.request_id].append(output)
    engine.scheduler.finish(RequestId(f"s{leaving}"), "abort", 0.0)
    while engine.scheduler.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    staying = [name for name in alone() if name != f"s{leaving}"]
    for name in staying:
        assert tokens(outputs[RequestId(name)]) == tokens(alone()[name])
    assert engine.scheduler.pool.num_free == CONFIG.num_blocks
