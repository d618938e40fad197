"""The scheduler on its own, with a runner that only counts: order, budget, preemption, and random
traffic that must leave no block behind."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.outputs import RequestOutput
from server.engine.schedule.plan import SequenceResult, StepPlan, StepResult
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.types import BlockId, Request, RequestId
from tests.engine.tiny import EOS, make_request

CONFIG = SchedulerConfig(
    num_blocks=16,
    block_size=4,
    max_model_len=64,
    max_num_seqs=8,
    max_num_batched_tokens=32,
    prefix_caching=True,
    eos_token_ids=frozenset({EOS}),
)


def results(plan: StepPlan, token_id: int = 1) -> StepResult:
    return StepResult(
        {
            p.request.request_id: SequenceResult(
                p.num_nodes, (token_id,) if p.wants_token else (), None
            )
            for p in plan.sequences
        }
    )


def step(scheduler: Scheduler, token_id: int = 1) -> tuple[StepPlan, list[RequestOutput]]:
    plan = scheduler.schedule(0.0)
    assert plan is not None
    outputs = scheduler.update(plan, results(plan, token_id), 0.0)
    scheduler.check_integrity()
    return plan, outputs


def shape(plan: StepPlan) -> dict[str, tuple[int, int]]:
    """request -> (committed before, nodes)"""
    return {p.request.request_id: (p.num_computed, p.num_nodes) for p in plan.sequences}


def add(scheduler: Scheduler, *requests: Request) -> None:
    for request in requests:
        scheduler.add(request, 0.0)


def test_decoding_comes_first_and_prompts_share_what_is_left() -> None:
    scheduler = Scheduler(replace(CONFIG, max_num_batched_tokens=8))
    add(scheduler, make_request("a", [1, 2, 3]))
    assert shape(step(scheduler)[0]) == {"a": (0, 3)}
    add(scheduler, make_request("b", range(12)), make_request("c", [9]))
    assert shape(step(scheduler)[0]) == {"a": (3, 1), "b": (0, 7)}
    assert shape(step(scheduler)[0]) == {"a": (4, 1), "b": (7, 5), "c": (0, 1)}


def test_first_come_first_served_among_equals_and_by_priority_otherwise() -> None:
    scheduler = Scheduler(replace(CONFIG, max_num_seqs=1))
    late_but_urgent = replace(make_request("urgent", [1], max_tokens=1), priority=-1)
    add(scheduler, make_request("a", [1], max_tokens=1), make_request("b", [1], max_tokens=1))
    add(scheduler, late_but_urgent)
    served = [step(scheduler)[1][0].request_id for _ in range(3)]
    assert served == ["urgent", "a", "b"]


def test_an_urgent_newcomer_takes_the_seat_of_a_less_urgent_one() -> None:
    scheduler = Scheduler(replace(CONFIG, max_num_seqs=1))
    add(scheduler, make_request("a", [1, 2]))
    step(scheduler)
    add(scheduler, replace(make_request("urgent", [5], max_tokens=1), priority=-1))
    plan, _ = step(scheduler)
    assert shape(plan) == {"urgent": (0, 1)}
    assert plan.num_preemptions == 1
    assert shape(step(scheduler)[0]) == {"a": (0, 3)}  # prompt and its one token, recomputed


def test_an_urgent_prompt_comes_before_one_already_begun() -> None:
    scheduler = Scheduler(replace(CONFIG, max_num_batched_tokens=8))
    add(scheduler, replace(make_request("long", range(40)), priority=5))
    step(scheduler)
    add(scheduler, make_request("urgent", [1, 2, 3]))
    assert shape(step(scheduler)[0]) == {"urgent": (0, 3), "long": (8, 5)}


def test_an_urgent_newcomer_needs_no_budget_left_over() -> None:
    """Two less urgent sequences decode and use up the budget of two."""
    scheduler = Scheduler(replace(CONFIG, max_num_batched_tokens=2))
    add(scheduler, *(replace(make_request(name, [1]), priority=5) for name in "ab"))
    step(scheduler)
    add(scheduler, make_request("urgent", [7]))
    assert shape(step(scheduler)[0]) == {"a": (1, 1), "urgent": (0, 1)}


def test_nobody_is_preempted_in_vain() -> None:
    """Without `low` there would still be no room for `next` beside `first`."""
    scheduler = Scheduler(CONFIG)
    first, low = make_request("first", range(36)), make_request("low", [9] * 8)
    add(scheduler, first, replace(low, priority=5))
    for _ in range(3):
        step(scheduler)
    add(scheduler, replace(make_request("next", [8] * 40), priority=1))
    plan, _ = step(scheduler)
    assert plan.num_preemptions == 0
    assert set(shape(plan)) == {"first", "low"}


def test_an_equal_newcomer_waits() -> None:
    scheduler = Scheduler(replace(CONFIG, max_num_seqs=1))
    add(scheduler, make_request("a", [1, 2]), make_request("b", [5]))
    assert shape(step(scheduler)[0]) == {"a": (0, 2)}
    plan, _ = step(scheduler)
    assert shape(plan) == {"a": (2, 1)}
    assert plan.num_preemptions == 0


def test_the_last_come_gives_way_when_blocks_run_out() -> None:
    config = replace(CONFIG, num_blocks=4, max_model_len=16, prefix_caching=False)
    scheduler = Scheduler(config)
    add(scheduler, make_request("a", range(4)), make_request("b", range(3)))
    plans = [step(scheduler)[0]]
    while plans[-1].num_preemptions == 0:
        plans.append(step(scheduler)[0])
    assert list(shape(plans[-1])) == ["a"]
    outputs = step(scheduler)[1]
    while outputs[0].finish_reason is None:
        outputs = step(scheduler)[1]
    assert outputs[0].request_id == "a"
    assert outputs[0].finish_reason == "length"
    assert list(shape(step(scheduler)[0])) == ["b"]


def test_a_cached_prefix_is_not_computed_again_but_its_last_token_is() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, make_request("a", range(8), max_tokens=1))
    step(scheduler)
    add(scheduler, make_request("b", range(8), max_tokens=1))
    plan, outputs = step(scheduler)
    assert shape(plan) == {"b": (4, 4)}  # the second block holds the last token
    assert (plan.prefix_cache_queries, plan.prefix_cache_hits) == (8, 4)
    assert outputs[0].num_cached_tokens == 4


def test_requests_side_by_side_share_a_published_prefix() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, make_request("a", range(9)))
    step(scheduler)
    add(scheduler, make_request("b", range(9)))
    step(scheduler)
    a, b = scheduler.running
    assert a.block_ids[:2] == b.block_ids[:2]
    assert a.block_ids[2] != b.block_ids[2]


@pytest.mark.parametrize(
    ("params", "token_ids", "kept", "reason"),
    [
        ({"max_tokens": 2}, (1, 2, 3), (1, 2), "length"),
        ({}, (1, EOS, 3), (1, EOS), "stop"),
        ({"ignore_eos": True}, (1, EOS, 3), (1, EOS, 3), None),
        ({"stop_token_ids": frozenset({3}), "ignore_eos": True}, (1, 3, EOS), (1, 3), "stop"),
        ({"max_tokens": 2}, (1, EOS), (1, EOS), "stop"),
        ({"max_tokens": 100}, tuple(range(1, 15)), tuple(range(1, 13)), "length"),
    ],
)
def test_a_step_of_several_tokens_is_cut_where_the_request_ends(
    params: dict[str, object], token_ids: tuple[int, ...], kept: tuple[int, ...], reason: str | None
) -> None:
    """The last row: the context of 16 ends after 12 tokens on a prompt of 4."""
    scheduler = Scheduler(replace(CONFIG, max_model_len=16))
    add(scheduler, make_request("a", [1, 2, 3, 4], **params))
    plan = scheduler.schedule(0.0)
    assert plan is not None
    result = StepResult({RequestId("a"): SequenceResult(4, token_ids, None)})
    (output,) = scheduler.update(plan, result, 0.0)
    assert output.token_ids == kept
    assert output.finish_reason == reason
    assert output.stop_token_id == (kept[-1] if reason == "stop" else None)
    assert output.num_output_tokens == len(kept)


def test_a_finished_or_aborted_request_leaves_no_block() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, make_request("a", range(9)), make_request("b", range(5)))
    step(scheduler)
    scheduler.finish(RequestId("a"), "abort", 0.0)
    scheduler.finish(RequestId("a"), "abort", 0.0)
    scheduler.check_integrity()
    step(scheduler, EOS)
    assert not scheduler.has_work
    assert scheduler.pool.num_free == CONFIG.num_blocks
    reasons = [ended.reason for ended in scheduler.take_stats(None, 0.0).finished]
    assert reasons == ["abort", "stop"]


def test_stats_count_tokens_and_latencies_once() -> None:
    scheduler = Scheduler(CONFIG)
    scheduler.add(make_request("a", [1, 2, 3], max_tokens=2), now=1.0)
    for now in (2.0, 5.0):
        plan = scheduler.schedule(now - 0.5)
        assert plan is not None
        scheduler.update(plan, results(plan), now)
    stats = scheduler.take_stats(None, 0.0)
    assert stats.times_to_first_token == (1.0,)
    assert stats.inter_token == ((3.0, 1),)
    assert (stats.num_prompt_tokens, stats.num_generation_tokens) == (3, 2)
    (ended,) = stats.finished
    assert (ended.queue_seconds, ended.prefill_seconds) == (0.5, 0.5)
    assert (ended.decode_seconds, ended.e2e_seconds) == (3.0, 4.0)
    assert scheduler.take_stats(None, 0.0).num_generation_tokens == 0


def test_impossible_requests_and_pools_are_refused() -> None:
    scheduler = Scheduler(CONFIG)
    with pytest.raises(ValueError, match="64 tokens"):
        add(scheduler, make_request("long", [1] * 64))
    with pytest.raises(ValueError, match="0 tokens"):
        add(scheduler, make_request("empty", []))
    add(scheduler, make_request("a", [1]))
    with pytest.raises(ValueError, match="taken"):
        add(scheduler, make_request("a", [1]))
    with pytest.raises(ValueError, match="smaller than one sequence"):
        Scheduler(replace(CONFIG, num_blocks=15))


def check_plan(plan: StepPlan, config: SchedulerConfig) -> None:
    """Budget kept, tables long enough, and no written block is in two tables."""
    assert sum(p.num_nodes for p in plan.sequences) <= config.max_num_batched_tokens
    assert len(plan.sequences) <= config.max_num_seqs
    written = list[BlockId]()
    for p in plan.sequences:
        end = p.num_computed + p.num_nodes
        assert p.num_nodes >= 1
        assert len(p.block_ids) * config.block_size >= end
        first, last = p.num_computed // config.block_size, (end - 1) // config.block_size
        written.extend(p.block_ids[first : last + 1])
    tables = [block for p in plan.sequences for block in p.block_ids]
    assert all(tables.count(block) == 1 for block in written)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_traffic_leaks_nothing_and_serves_everybody(data: st.DataObject) -> None:
    config = replace(
        CONFIG,
        num_blocks=data.draw(st.integers(8, 20)),
        max_model_len=32,
        max_num_seqs=data.draw(st.integers(1, 6)),
        max_num_batched_tokens=data.draw(st.integers(1, 40)),
        prefix_caching=data.draw(st.booleans()),
    )
    scheduler = Scheduler(config)
    received: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for index in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()):
            prompt = [0, 1, 2, 3, 4, 5][: data.draw(st.integers(0, 6))]
            prompt += data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20))
            tokens = data.draw(st.integers(1, 12))
            request = make_request(f"r{index}", prompt, max_tokens=tokens)
            request = replace(request, priority=data.draw(st.integers(0, 2)))
            wanted[request.request_id] = min(tokens, config.max_model_len - len(prompt))
            received[request.request_id] = 0
            add(scheduler, request)
        if data.draw(st.integers(0, 5)) == 0 and wanted:
            leaving = data.draw(st.sampled_from(sorted(wanted)))
            scheduler.finish(RequestId(leaving), "abort", 0.0)
            wanted[leaving] = -1
        run_step(scheduler, received)
    for _ in range(2000):
        if not scheduler.has_work:
            break
        run_step(scheduler, received)
    assert not scheduler.has_work
    assert scheduler.pool.num_free == config.num_blocks
    assert all(received[name] == count for name, count in wanted.items() if count >= 0)


def run_step(scheduler: Scheduler, received: dict[str, int]) -> None:
    plan = scheduler.schedule(0.0)
    if plan is None:
        return
    check_plan(plan, scheduler.config)
    count(scheduler.update(plan, results(plan), 0.0), received)
    scheduler.check_integrity()


def count(outputs: Sequence[RequestOutput], received: dict[str, int]) -> None:
    for output in outputs:
        received[output.request_id] += len(output.token_ids)
        assert output.num_output_tokens == received[output.request_id]
