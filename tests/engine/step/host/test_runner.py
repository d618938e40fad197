"""What counts as a step's time, by a clock that the test sets forward."""

import time
from collections.abc import Callable

import pytest

from server.engine.schedule.plan import StepPlan, StepResult, StepSeconds
from server.engine.step.host import runner
from tests.engine.tiny import TinyEngine, make_request


class Clock:
    """Goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(runner.time, "perf_counter", found)
    return found


def seconds_of(engine: TinyEngine) -> list[StepSeconds]:
    """Those of each step that the engine does from now on."""
    found = list[StepSeconds]()
    execute: Callable[[StepPlan], StepResult] = engine.runner.execute

    def noted(plan: StepPlan) -> StepResult:
        result = execute(plan)
        found.append(result.seconds)
        return result

    engine.runner.execute = noted
    return found


def test_what_comes_between_two_steps_of_a_sequence_counts_as_other(clock: Clock) -> None:
    engine = TinyEngine()
    seconds = seconds_of(engine)
    engine.scheduler.add(make_request("a", (1, 2, 3)), time.monotonic())
    engine.step()
    clock.now += 10.0
    engine.step()
    assert seconds == [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0 + 11.0)]


def test_idle_time_does_not_count(clock: Clock) -> None:
    engine = TinyEngine()
    engine.run([make_request("a", (1, 2, 3), max_tokens=2)])
    seconds = seconds_of(engine)
    clock.now += 1000.0
    engine.scheduler.add(make_request("b", (1, 2, 3)), time.monotonic())
    engine.step()
    assert seconds == [(1.0, 1.0, 1.0)]
