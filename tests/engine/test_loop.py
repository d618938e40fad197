"""The engine's thread when there is nothing to do: what it checks then, and what it leaves for the
end."""

import queue
from collections.abc import Iterator, Sequence

import pytest

from server.engine.loop import EngineLoop, Finish
from server.engine.outputs import RequestOutput, StepStats
from server.engine.types import BlockId, RequestId
from tests.engine.tiny import TinyEngine, make_request

UNKNOWN = Finish(RequestId("nobody"), "abort")
"""Wakes the engine, and leaves it nothing to compute."""


class Watched:
    """A tiny engine's loop, and what it says."""

    def __init__(self) -> None:
        self.tiny = TinyEngine()
        self.told: queue.SimpleQueue[StepStats | BaseException] = queue.SimpleQueue()
        self.loop = EngineLoop(
            self.tiny.scheduler, self.tiny.runner, self.publish, self.told.put, self.told.put
        )

    def publish(self, outputs: list[RequestOutput]) -> None: ...

    def idle(self) -> StepStats | BaseException:
        """What is told of a turn without a step."""
        self.loop.submit(UNKNOWN)
        return self.told.get(timeout=60)


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    watched.loop.start()
    yield watched
    watched.loop.stop()


def test_the_blocks_are_checked_in_full_at_the_end_alone(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full check of a large pool would keep the next request waiting."""
    pool, checks = watched.tiny.scheduler.pool, list[int]()
    check = pool.check_integrity

    def counted(held: Sequence[Sequence[BlockId]] = ()) -> None:
        checks.append(len(held))
        check(held)

    monkeypatch.setattr(pool, "check_integrity", counted)
    watched.loop.submit(make_request("a", [1, 2, 3], max_tokens=1))
    assert isinstance(watched.told.get(timeout=60), StepStats)
    for _ in range(3):
        assert isinstance(watched.idle(), StepStats)
    assert checks == []
    watched.loop.stop()
    assert checks == [0]


def test_a_leaked_block_is_noticed_when_there_is_nothing_to_do(watched: Watched) -> None:
    assert isinstance(watched.idle(), StepStats)
    watched.tiny.scheduler.pool.allocate()
    told = watched.idle()  # the figures of a crash come first
    error = watched.told.get(timeout=60) if isinstance(told, StepStats) else told
    assert str(error) == "1 KV blocks are held though no request is open"
