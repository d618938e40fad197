"""The calls of a replica, over an engine that a test directs."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from server.engine.outputs import RequestOutput
from server.engine.types import FinishReason, Request, RequestId, SamplingParams
from server.errors import EngineDeadError, InvalidRequestError
from server.replicas import replica
from server.replicas.calls import AddressedCall, Finish, RunCall
from server.replicas.replica import EngineReplica, ReplicaSettings

REQUEST = Request(RequestId("r#1"), (1, 2, 3), SamplingParams(4))
FRONT = AddressedCall("a", "front")


class Engine:
    """Each request waits for `end`, and then raises `error` where there is one."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.error: Exception | None = None
        self.death: str | None = None
        self.finished = list[tuple[RequestId, FinishReason]]()
        self.num_running = 0

    def start(self) -> None:
        pass

    def check_health(self) -> None:
        if self.death is not None:
            raise EngineDeadError(self.death)

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        self.finished.append((request_id, reason))

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        self.num_running += 1
        try:
            await self.end.wait()
            if self.error is not None:
                raise self.error
            yield RequestOutput(request.request_id, (7,), None, "length", None, 3, 1, 0)
        finally:
            self.num_running -= 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    limits = SimpleNamespace(block_size=16, num_blocks=4)
    model = SimpleNamespace(engine=engine, limits=limits)
    monkeypatch.setattr(replica, "build_model", lambda *_: model)
    return engine


@pytest.fixture
def serving(engine: Engine) -> EngineReplica:
    return EngineReplica(ReplicaSettings({}, "tiny", 300.0))


async def start(serving: EngineReplica, request: Request = REQUEST) -> asyncio.Task[None]:
    task = asyncio.create_task(serving.run(RunCall("front", request)))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_a_fault_of_the_engine_reaches_who_has_called(
    serving: EngineReplica, engine: Engine
) -> None:
    engine.error = KeyError("a fault")
    running = await start(serving)
    engine.end.set()
    with pytest.raises(KeyError):
        await running


async def test_errors_of_the_servers_own_tree_travel_by_the_stream(
    serving: EngineReplica, engine: Engine
) -> None:
    engine.error = InvalidRequestError("no")
    running = await start(serving)
    engine.end.set()
    await running
    batch = await anext(serving.outputs(FRONT))
    ((name, packed),) = batch.errors
    assert (name, str(packed.unpacked())) == (REQUEST.request_id, "no")


async def test_a_request_for_a_dead_engine_was_not_in_its_last_step(
    serving: EngineReplica, engine: Engine
) -> None:
    """So it is the call that fails, and the front sends the request elsewhere."""
    engine.death = "a step crashed"
    with pytest.raises(EngineDeadError):
        await serving.run(RunCall("front", REQUEST))
    assert engine.num_running == 0


async def test_a_second_attempt_does_not_meet_the_first(
    serving: EngineReplica, engine: Engine
) -> None:
    first = await start(serving)
    second = await start(serving, replace(REQUEST, request_id=RequestId("r#2")))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    engine.end.set()
    await second
    batch = await anext(serving.outputs(FRONT))
    assert [output.request_id for output in batch.outputs] == ["r#2"]


async def test_a_request_that_is_finished_from_outside_ends_its_call(
    serving: EngineReplica, engine: Engine
) -> None:
    running = await start(serving)
    await serving.finish(FRONT, Finish(REQUEST.request_id, "stop"))
    await running
    assert engine.finished == [(REQUEST.request_id, "stop")]
    assert engine.num_running == 0
    await serving.finish(FRONT, Finish(REQUEST.request_id, "stop"))  # over already
