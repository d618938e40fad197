"""The engine in its thread: streams, clients that leave, crashes."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest

from server.engine.async_engine import AsyncEngine
from server.engine.grammar.compile.compiler import CompiledGrammar
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.outputs import StepStats
from server.engine.schedule.plan import StepPlan, StepResult
from server.engine.types import FinishReason, Grammar, RequestId
from server.errors import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    ShuttingDownError,
)
from tests.engine.tiny import VOCAB_SIZE, TinyEngine, make_request, tokens


class Harness:
    """A tiny engine behind its asyncio front, with a hook before each step."""

    def __init__(self, step_timeout: float | None = None) -> None:
        self.tiny = TinyEngine()
        self.before_step: Callable[[StepPlan], None] = lambda plan: None
        self.after_step: Callable[[StepStats], None] = lambda stats: None
        self.stats: list[StepStats] = []
        self.plans: list[StepPlan] = []
        self.grammars = SlowGrammars()
        self.engine = AsyncEngine(
            self.tiny.scheduler, self, self.observe, self.grammars, step_timeout
        )

    def observe(self, stats: StepStats) -> None:
        self.stats.append(stats)
        self.after_step(stats)

    def execute(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        self.before_step(plan)
        return self.tiny.runner.execute(plan)

    def forget(self, request_id: RequestId) -> None:
        self.tiny.runner.forget(request_id)

    def reasons(self) -> list[FinishReason]:
        """Finish reasons of the requests that ended, by the engine's own count."""
        return [ended.reason for step in self.stats for ended in step.finished]

    async def ended(self, count: int) -> None:
        """Waits until this many requests have ended and been counted."""
        for _ in range(2000):
            if len(self.reasons()) >= count:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the engine is still busy")


class SlowGrammars(GrammarCompiler):
    """Compiles nothing, and says when it is asked and when it may answer."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def compile(self, grammar: Grammar, owner: Hashable = None) -> CompiledGrammar:
        self.asked.set()
        await self.go_on.wait()
        return cast(CompiledGrammar, None)


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    harness.engine.start()
    yield harness
    await harness.engine.stop()


async def collect(engine: AsyncEngine, name: str, prompt: list[int], **params: object) -> list[int]:
    return tokens(
        [output async for output in engine.generate(make_request(name, prompt, **params))]
    )


async def test_concurrent_requests_get_what_they_get_alone(harness: Harness) -> None:
    prompts = [[i, i + 1, i + 2] for i in range(8)]
    got = await asyncio.gather(
        *(collect(harness.engine, f"r{i}", p) for i, p in enumerate(prompts))
    )
    for i, prompt in enumerate(prompts):
        expected = TinyEngine().run([make_request("x", prompt)])[RequestId("x")]
        assert got[i] == tokens(expected)
    assert max(len(plan.sequences) for plan in harness.plans) > 1


async def test_leaving_early_frees_the_blocks_within_one_step(harness: Harness) -> None:
    request = make_request("a", [1, 2, 3], max_tokens=200, ignore_eos=True)
    async with aclosing(harness.engine.generate(request)) as outputs:
        async for _ in outputs:
            break
    steps_at_leaving = len(harness.plans)
    await harness.ended(1)
    # One step may have been running, and one may have been planned before the message came.
    assert len(harness.plans) <= steps_at_leaving + 2
    assert harness.tiny.scheduler.pool.num_free == harness.tiny.scheduler.config.num_blocks
    assert harness.reasons() == ["abort"]


async def test_cancellation_aborts_too(harness: Harness) -> None:
    long = {"max_tokens": 200, "ignore_eos": True}
    task = asyncio.create_task(collect(harness.engine, "a", [1], **long))
    while not harness.plans:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await harness.ended(1)
    harness.tiny.scheduler.check_integrity()


async def test_a_request_that_ends_from_outside_counts_with_its_reason(harness: Harness) -> None:
    request = make_request("a", [1], max_tokens=200, ignore_eos=True)
    async with aclosing(harness.engine.generate(request)) as outputs:
        async for _ in outputs:
            harness.engine.finish(request.request_id, "stop")
            break
    await harness.ended(1)
    assert harness.reasons() == ["stop"]


async def test_a_crash_reaches_every_request_and_later_ones(harness: Harness) -> None:
    def crash(plan: StepPlan) -> None:
        if len(plan.sequences) == 2:
            raise RuntimeError("boom")

    harness.before_step = crash
    long = {"max_tokens": 200, "ignore_eos": True}
    results = await asyncio.gather(
        collect(harness.engine, "a", [1], **long),
        collect(harness.engine, "b", [2], **long),
        return_exceptions=True,
    )
    assert all(isinstance(result, EngineDeadError) for result in results)
    assert "boom" in str(results[0])
    assert not harness.engine.is_ready
    assert harness.reasons() == ["error", "error"]
    with pytest.raises(EngineDeadError):
        harness.engine.check_health()
    with pytest.raises(EngineDeadError):
        await collect(harness.engine, "c", [3])


LONG = {"max_tokens": 200, "ignore_eos": True}


async def death_of_all(engine: AsyncEngine, count: int) -> str:
    """What open requests and a later one are told, which has to be the same."""
    tasks = [asyncio.create_task(collect(engine, f"r{i}", [i], **LONG)) for i in range(count)]
    done, waiting = await asyncio.wait(tasks, timeout=60)
    assert not waiting
    with pytest.raises(EngineDeadError) as later:
        await collect(engine, "later", [1])
    assert {str(task.exception()) for task in done} == {str(later.value)}
    assert not engine.is_ready
    return str(later.value)


async def test_an_observer_that_fails_harms_no_step(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stats: StepStats) -> None:
        raise ZeroDivisionError("in an observer")

    expected = await collect(harness.engine, "a", [1, 2])
    harness.after_step = fail
    assert await collect(harness.engine, "b", [1, 2]) == expected
    harness.engine.check_health()
    (told,) = [record for record in caplog.records if "observer" in record.getMessage()]
    assert told.exc_info is not None


@pytest.mark.parametrize("fault", [ZeroDivisionError, MemoryError, SystemExit])
async def test_an_observer_that_fails_keeps_no_death_from_clients(
    harness: Harness, fault: type[BaseException]
) -> None:
    """Not even with what ends threads."""

    def crash(plan: StepPlan) -> None:
        if len(plan.sequences) == 16:
            raise RuntimeError("boom")

    def fail(stats: StepStats) -> None:
        if stats.finished:
            raise fault

    harness.before_step, harness.after_step = crash, fail
    assert "boom" in await death_of_all(harness.engine, 16)


@pytest.mark.parametrize("part", ["finish_all", "take_stats"])
async def test_a_scheduler_that_fails_keeps_no_death_from_clients(
    harness: Harness, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(plan: StepPlan) -> None:
        monkeypatch.setattr(harness.tiny.scheduler, part, lambda *_: 1 / 0)
        raise RuntimeError("boom")

    harness.before_step = crash
    assert "boom" in await death_of_all(harness.engine, 3)


async def test_a_death_while_a_grammar_compiles(harness: Harness) -> None:
    """The request is told that came before the death, but was not with the engine yet."""

    def crash(plan: StepPlan) -> None:
        raise RuntimeError("boom")

    harness.before_step = crash
    grammars = harness.grammars
    waiting = asyncio.create_task(collect(harness.engine, "a", [1], grammar=Grammar("regex", "a")))
    await grammars.asked.wait()
    await death_of_all(harness.engine, 1)
    grammars.go_on.set()
    with pytest.raises(EngineDeadError, match="boom"):
        await asyncio.wait_for(waiting, 60)


async def test_a_step_that_hangs_is_a_death(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(step_timeout=2)
    let_go = threading.Event()
    harness.engine.start()
    try:
        await asyncio.sleep(2.2)  # nothing to do is no hanging
        await collect(harness.engine, "quick", [1])

        def hang(plan: StepPlan) -> None:
            let_go.wait()

        harness.before_step = hang
        told = await death_of_all(harness.engine, 4)
        assert not await harness.engine.stop(0.1)
    finally:
        let_go.set()
    assert await harness.engine.stop(20)
    assert "StepTimeoutError: a step has not ended within 2 seconds" in told
    assert "let_go.wait()" in caplog.text
    assert harness.reasons()[1:] == ["error"] * 4


async def test_slow_steps_that_go_on_are_no_death() -> None:
    harness = Harness(step_timeout=2)
    harness.engine.start()
    harness.before_step = lambda plan: time.sleep(0.15)
    assert len(await collect(harness.engine, "a", [1], max_tokens=20, ignore_eos=True)) == 20
    assert await harness.engine.stop()


async def test_ending_all_requests(harness: Harness) -> None:
    tasks = [asyncio.create_task(collect(harness.engine, f"r{i}", [i], **LONG)) for i in range(3)]
    compiling = asyncio.create_task(
        collect(harness.engine, "g", [1], grammar=Grammar("regex", "a"))
    )
    await harness.grammars.asked.wait()
    harness.engine.end_requests()
    harness.grammars.go_on.set()
    ended = await asyncio.gather(*tasks, compiling, return_exceptions=True)
    assert [type(error) for error in ended] == [ShuttingDownError] * 4
    with pytest.raises(ShuttingDownError):
        await collect(harness.engine, "later", [1])
    harness.engine.check_health()
    await harness.ended(3)
    assert harness.reasons() == ["abort"] * 3


EXIT_DURING_A_STEP = """
import asyncio, sys
from tests.engine.test_async_engine import Harness
from tests.engine.tiny import make_request

async def main():
    harness = Harness()
    harness.engine.start()
    async for _ in harness.engine.generate(make_request("a", [1], max_tokens=250, ignore_eos=True)):
        print("running", flush=True)
        sys.exit(3)

asyncio.run(main())
"""


def test_a_process_may_exit_while_the_engine_computes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT_DURING_A_STEP],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "running\n"), done.stderr


async def test_a_prompt_without_room_is_refused(harness: Harness) -> None:
    with pytest.raises(ContextLengthError, match=r"256 tokens.*holds 256"):
        await collect(harness.engine, "a", [1] * 256)


async def test_no_request_can_stop_the_engine(harness: Harness) -> None:
    """An empty prompt, a taken id, and stop ids that leave nothing to draw."""
    with pytest.raises(InvalidRequestError, match="empty"):
        await collect(harness.engine, "a", [])
    everything = frozenset(range(VOCAB_SIZE))
    hopeless = {"stop_token_ids": everything, "min_tokens": 3, "temperature": 1.0}
    long = asyncio.create_task(collect(harness.engine, "long", [1], max_tokens=60))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequestError, match="taken"):
        await collect(harness.engine, "long", [1])
    assert len(await collect(harness.engine, "b", [1], **hopeless)) == 1
    assert len(await long) > 0
    assert harness.engine.is_ready


async def test_stats_add_up(harness: Harness) -> None:
    answer = await collect(harness.engine, "a", [1, 2, 3], max_tokens=6, ignore_eos=True)
    assert sum(s.num_generation_tokens for s in harness.stats) == len(answer) == 6
    assert sum(s.num_prompt_tokens for s in harness.stats) == 3
    assert sum(len(s.times_to_first_token) for s in harness.stats) == 1
    assert harness.stats[-1].num_running == 0
    assert harness.stats[-1].kv_usage == 0.0
