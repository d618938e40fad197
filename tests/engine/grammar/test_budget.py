"""A grammar's share of the engine's steps: what it may take, and what becomes of whoever takes more
and of the others."""

from dataclasses import replace

import psutil
import pytest

from server.engine.async_engine import AsyncEngine
from server.engine.grammar import budget
from server.engine.grammar.budget import Meter, end_dearest, resident_bytes
from server.engine.types import RequestId
from server.errors import GrammarCostError
from tests.engine.grammar.vocabulary import GRAMMARS, compiler, states
from tests.engine.tiny import TinyEngine, make_request, tokens

PLAIN = make_request("plain", [4, 5, 6], max_tokens=20)
STRUCTURED = make_request("structured", [1, 2], max_tokens=20, grammar=GRAMMARS["object"])


class Costs:
    """What each call of the matcher takes."""

    def __init__(self, seconds: float, num_bytes: int = 0) -> None:
        self._seconds, self._num_bytes = seconds, num_bytes
        self._now, self._resident = 0.0, 0

    def clock(self) -> float:
        self._now += self._seconds
        return self._now

    def resident(self) -> int:
        self._resident += self._num_bytes
        return self._resident

    def meter(self) -> Meter:
        return Meter(self.clock, self.resident)


@pytest.mark.parametrize(
    ("costs", "calls_a_step", "last_step", "exceeded"),
    [
        (Costs(0.004), 10, 1000, None),
        (Costs(0.3), 1, 0, "time"),
        (Costs(0.06), 5, 0, "time"),
        (Costs(0.11), 2, 15, "time"),
        (Costs(0.011, 2**20), 1, 261, "memory"),
        (Costs(0.011, -(2**20)), 1, 1000, None),
    ],
    ids=["ordinary", "a call", "a step", "many steps", "memory", "memory is given back"],
)
def test_shares(costs: Costs, calls_a_step: int, last_step: int, exceeded: str | None) -> None:
    meter, step = costs.meter(), 0
    while step < 1000:
        meter.next_step()
        for _ in range(calls_a_step):
            meter.run(lambda: None)
        if meter.exceeded:
            break
        step += 1
    assert (meter.exceeded, step) == (exceeded, last_step)


def test_of_all_grammars_in_a_step_the_dearest_ends() -> None:
    meters = [Costs(seconds).meter() for seconds in (0.1, 0.22, 0.15, 0.08)]
    for meter in meters:
        meter.run(lambda: None)
    end_dearest(meters)
    assert [meter.exceeded for meter in meters] == [None, "time", None, None]


def test_of_all_grammars_the_largest_ends() -> None:
    meters = [Costs(0.06, size * 2**20).meter() for size in (200, 250, 240, 230, 220)]
    for meter in meters:
        meter.run(lambda: None)
        meter.next_step()
        meter.run(lambda: None)
        meter.next_step()
    end_dearest(meters)
    assert [meter.exceeded for meter in meters] == [None, "memory", None, None, None]


def test_memory_is_measured() -> None:
    """Beside what another library says: threads of other tests may give memory back meanwhile."""
    process = psutil.Process()
    for size in (0, 64 * 2**20):
        held = bytearray(size)
        held[:: 2**12] = b"1" * len(held[:: 2**12])
        assert abs(resident_bytes() - process.memory_info().rss) < 16 * 2**20


def test_the_request_ends_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tokens(TinyEngine().run([PLAIN])[PLAIN.request_id])
    monkeypatch.setattr(budget, "STEP_SECONDS", 0.0)
    engine = TinyEngine(grammars=states())
    outputs = engine.run([STRUCTURED, PLAIN])
    assert tokens(outputs[PLAIN.request_id]) == alone
    (last,) = outputs[STRUCTURED.request_id]
    assert (last.finish_reason, last.token_ids) == ("error", ())
    assert last.grammar_exceeded == "time"
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_in_mid_answer_nothing_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, num_steps: int
) -> None:
    whole = tokens(TinyEngine(grammars=states()).run([STRUCTURED])[STRUCTURED.request_id])
    engine = TinyEngine(grammars=states())
    engine.scheduler.add(STRUCTURED, 0.0)
    found = [
        token for _ in range(num_steps) for output in engine.step() for token in output.token_ids
    ]
    monkeypatch.setattr(budget, "STEP_SECONDS", 0.0)
    (last,) = engine.step()
    assert found == whole[:num_steps]
    assert (last.finish_reason, last.num_output_tokens) == ("error", num_steps)
    assert not engine.scheduler.has_work


async def test_whoever_waits_for_it_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "STEP_SECONDS", 0.0)
    tiny = TinyEngine(grammars=states())
    engine = AsyncEngine(tiny.scheduler, tiny.runner, lambda stats: None, compiler())
    engine.start()
    with pytest.raises(GrammarCostError, match="too much time"):
        _ = [output async for output in engine.generate(STRUCTURED)]
    again = replace(PLAIN, request_id=RequestId("again"))
    assert [output async for output in engine.generate(again)][-1].finish_reason == "stop"
    await engine.stop()
