"""The calls of a replica, over an engine that a test directs."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from server.engine.outputs import RequestOutput
from server.engine.types import FinishReason, Request, RequestId, SamplingParams
from server.errors import EngineDeadError, InvalidRequestError
from server.replicas import outputs, replica
from server.replicas.calls import AddressedCall, Batch, Finish, FrontAddress, RunCall
from server.replicas.outputs import FrontUnreachableError, KeyPair, OutputReceiver
from server.replicas.replica import EngineReplica, ReplicaSettings
from tests.replicas.fake_serve import ended, until

REQUEST = Request(RequestId("r#1"), (1, 2, 3), SamplingParams(4))
TO_A = AddressedCall("a")


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

    def cached_blocks(self) -> list[bytes]:
        return []

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
    monkeypatch.setattr(replica, "_ENDING_SECONDS", 0.2)
    return engine


class Front(list[Batch]):
    """What has come of the replica."""

    def __init__(self) -> None:
        self._receiver = OutputReceiver("127.0.0.1")
        self._receiver.start(self.append)
        self.address = self._receiver.address

    def close(self) -> None:
        self._receiver.close()


@pytest.fixture
async def front() -> AsyncGenerator[Front, None]:
    front = Front()
    yield front
    front.close()


@pytest.fixture
def serving(engine: Engine) -> EngineReplica:
    return EngineReplica(ReplicaSettings({}, "tiny", 300.0))


async def start(
    serving: EngineReplica, front: Front, request: Request = REQUEST
) -> asyncio.Task[None]:
    task = asyncio.create_task(serving.run(RunCall(front.address, request)))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_a_fault_of_the_engine_reaches_who_has_called(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    engine.error = KeyError("a fault")
    running = await start(serving, front)
    engine.end.set()
    with pytest.raises(KeyError):
        await running


async def test_errors_of_the_servers_own_tree_are_sent_beside_the_call(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    engine.error = InvalidRequestError("no")
    running = await start(serving, front)
    engine.end.set()
    await running
    await until(lambda: front)
    ((name, packed),) = front[0].errors
    assert (name, str(packed.unpacked())) == (REQUEST.request_id, "no")


async def test_a_request_for_a_dead_engine_was_not_in_its_last_step(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    """So it is the call that fails, and the front sends the request elsewhere."""
    engine.death = "a step crashed"
    with pytest.raises(EngineDeadError):
        await serving.run(RunCall(front.address, REQUEST))
    assert engine.num_running == 0


async def test_a_second_attempt_does_not_meet_the_first(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    first = await start(serving, front)
    second = await start(serving, front, replace(REQUEST, request_id=RequestId("r#2")))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    engine.end.set()
    await second
    await until(lambda: front)
    assert [output.request_id for batch in front for output in batch.outputs] == ["r#2"]


async def test_a_request_that_is_finished_from_outside_ends_its_call(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    running = await start(serving, front)
    await serving.finish(TO_A, Finish(REQUEST.request_id, "stop"))
    await running
    assert engine.finished == [(REQUEST.request_id, "stop")]
    assert engine.num_running == 0
    await serving.finish(TO_A, Finish(REQUEST.request_id, "stop"))  # over already


async def test_fronts_without_requests_are_forgotten_in_time(
    serving: EngineReplica, engine: Engine, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def known() -> dict[str, int]:
        return (await serving.record_routing_stats())["num_open"]

    running = await start(serving, front)
    monkeypatch.setattr(replica, "_KEPT_SECONDS", 0.0)
    assert await known() == {front.address.name: 1}
    engine.end.set()
    await running
    assert await known() == {}


async def test_a_front_that_is_not_reached_fails_the_call(
    serving: EngineReplica, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the whole answer is computed."""
    monkeypatch.setattr(outputs, "_HANDSHAKE_SECONDS", 0.05)
    gone = FrontAddress("gone", "tcp://127.0.0.1:1", *KeyPair.new())
    with pytest.raises(FrontUnreachableError):
        await serving.run(RunCall(gone, REQUEST))
    assert engine.num_running == 0


async def test_a_call_is_over_when_its_end_is_told(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    """Serve may end the process then: also of a request that its client has left."""
    running = await start(serving, front)
    running.cancel()
    await asyncio.sleep(0.01)
    assert not running.done()
    serving._note_ended((ended(RunCall(front.address, REQUEST), "abort"),))  # pyright: ignore[reportPrivateUsage]
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: front)
    assert [(each.reason, each.request.prompt_token_ids) for each in front[0].ended] == [
        ("abort", ())
    ]


async def test_a_broken_connection_is_made_anew_for_the_next_request(
    serving: EngineReplica, engine: Engine, front: Front
) -> None:
    first = await start(serving, front)
    sender = serving._senders[front.address.name]  # pyright: ignore[reportPrivateUsage]
    await sender.connected()
    sender.is_broken = True
    second = await start(serving, front, replace(REQUEST, request_id=RequestId("r#2")))
    engine.end.set()
    await asyncio.gather(first, second)
    await until(lambda: "r#2" in {o.request_id for batch in front for o in batch.outputs})
