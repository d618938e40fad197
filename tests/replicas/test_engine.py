"""What becomes of requests whose replicas fail, against a double of Ray Serve."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import pytest

from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.types import Request, RequestId, SamplingParams
from server.errors import EngineDeadError
from server.replicas import deliveries
from server.replicas.calls import AddressedCall, RunCall
from server.replicas.engine import ReplicatedEngine
from server.replicas.outputs import OutputReceiver
from server.replicas.routing.directory import Directory
from tests.replicas.fake_serve import FakeServe, Response, ended, error, facts, output, until

ID = RequestId("r")
REQUEST = Request(ID, (1, 2, 3), SamplingParams(4))


class Scene:
    """An engine over two replicas, in the running event loop."""

    def __init__(self) -> None:
        self.serve = FakeServe("a", "b")
        self.directory = Directory()
        self.directory.set_names(("a", "b"))
        self.told = list[FinishedRequest]()
        self.receiver = OutputReceiver("127.0.0.1")
        deployment = cast("Any", self.serve)
        self.engine = ReplicatedEngine(
            deployment,
            self.directory,
            self.receiver,
            facts("first"),
            16,
            60.0,
            lambda ended: self.told.extend(ended),
        )
        self.engine.start()

    async def ask(self) -> list[RequestOutput]:
        async with aclosing(self.engine.generate(REQUEST)) as outputs:
            return [each async for each in outputs]

    async def attempt(self, number: int) -> tuple[RunCall, Response]:
        """The attempt of that number, once it is sent."""
        await until(lambda: len(self.serve.runs) >= number)
        return self.serve.runs[number - 1]

    def close(self) -> None:
        self.serve.close()
        self.receiver.close()


@pytest.fixture
async def scene() -> AsyncGenerator[Scene, None]:
    scene = Scene()
    yield scene
    scene.close()


async def test_what_comes_late_of_a_lost_replica_reaches_nobody(scene: Scene) -> None:
    asked = asyncio.create_task(scene.ask())
    first, lost = await scene.attempt(1)
    lost.future.set_exception(RuntimeError("killed"))
    second, _ = await scene.attempt(2)
    of_a, of_b = scene.serve.sender(first), scene.serve.sender(second)
    of_a.put(output(first, 1, 10))
    of_a.put(output(first, 2, 11, "length"))
    of_a.put_error(*error(first, EngineDeadError("late")))
    of_a.put_ended(ended(first, "abort"))
    of_b.put(output(second, 1, 10))
    await asyncio.sleep(0.01)
    of_b.put(output(second, 2, 12, "length"))
    of_b.put_ended(ended(second, "length"))
    outputs = await asked
    assert [each.token_ids for each in outputs] == [(10,), (12,)]
    assert {each.request_id for each in outputs} == {ID}
    assert [(each.request, each.reason) for each in scene.told] == [(REQUEST, "length")]


async def test_siblings_of_a_prompt_know_each_other_in_the_replica(scene: Scene) -> None:
    follower = Request(RequestId("s"), (1, 2), SamplingParams(1), shares_prompt_with=ID)
    both = [REQUEST, follower]
    asked = [asyncio.ensure_future(anext(scene.engine.generate(each))) for each in both]
    await until(lambda: len(scene.serve.runs) == 2)
    leader, sent = (call.request for call, _ in scene.serve.runs)
    assert sent.shares_prompt_with == leader.request_id
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize(
    "reason",
    [
        RuntimeError("Ray's own"),
        asyncio.CancelledError(),
        KeyError("a fault"),
        EngineDeadError("dead before the request came"),
    ],
    ids=lambda reason: type(reason).__name__,
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_call_that_fails_is_made_to_another_replica_up_to_twice(
    scene: Scene, reason: BaseException, at_once: bool
) -> None:
    def fail(call: RunCall, response: Response) -> None:
        if at_once:
            raise reason
        response.future.set_exception(reason)

    scene.serve.on_run = fail
    with pytest.raises(EngineDeadError, match="replica is gone"):
        await scene.ask()
    assert len(scene.serve.runs) == 3
    assert scene.serve.runs[0][0].avoid == frozenset()
    assert [each.reason for each in scene.told] == ["error"]
    assert scene.engine.num_given_up == 1


async def test_no_other_replica_gets_a_request_that_was_in_a_crashed_step(scene: Scene) -> None:
    asked = asyncio.create_task(scene.ask())
    call, _ = await scene.attempt(1)
    scene.serve.sender(call).put_error(*error(call, EngineDeadError("a step crashed")))
    with pytest.raises(EngineDeadError, match="a step crashed"):
        await asked
    assert len(scene.serve.runs) == 1
    assert [each.request for each in scene.told] == [REQUEST]


async def test_a_replica_that_dies_ends_begun_answers(scene: Scene) -> None:
    outputs, _, response = await begun(scene)
    response.future.set_exception(RuntimeError("killed"))
    with pytest.raises(EngineDeadError, match="replica is gone"):
        await anext(outputs)
    assert len(scene.serve.runs) == 1


async def test_tokens_that_a_broken_connection_loses_are_missed(scene: Scene) -> None:
    outputs, call, response = await begun(scene)
    scene.serve.sender(call).put(output(call, 3, 12))
    with pytest.raises(EngineDeadError, match="the connection to it broke"):
        await anext(outputs)
    await until(lambda: response.is_cancelled)
    assert len(scene.serve.runs) == 1


async def test_lost_first_tokens_have_the_request_sent_to_another_replica(scene: Scene) -> None:
    asked = asyncio.create_task(scene.ask())
    first, response = await scene.attempt(1)
    scene.serve.sender(first).put(output(first, 2, 11))
    second, _ = await scene.attempt(2)
    assert response.is_cancelled
    scene.serve.sender(second).put(output(second, 1, 10, "length"))
    assert [each.token_ids for each in await asked] == [(10,)]


def unknown(call: AddressedCall, response: Response) -> None:
    if call.on_unknown is not None:
        call.on_unknown()


def broken(call: AddressedCall, response: Response) -> None:
    response.future.set_exception(RuntimeError("lost"))


def cancelled(call: AddressedCall, response: Response) -> None:
    response.future.cancel()


def gone(call: AddressedCall, response: Response) -> None:
    raise RuntimeError("no such deployment")


async def begun(scene: Scene) -> tuple[AsyncGenerator[RequestOutput, None], RunCall, Response]:
    outputs = scene.engine.generate(REQUEST)
    first = asyncio.ensure_future(anext(outputs))
    call, response = await scene.attempt(1)
    scene.serve.sender(call).put(output(call, 1, 10))
    await first
    return outputs, call, response


@pytest.mark.parametrize("answer", [unknown, broken, cancelled, gone])
async def test_a_replica_that_can_not_be_told_to_finish_has_its_call_cancelled(
    scene: Scene, answer: Callable[[AddressedCall, Response], None]
) -> None:
    scene.serve.on_addressed = answer
    outputs, call, response = await begun(scene)
    scene.engine.finish(ID, "stop")
    await outputs.aclose()
    await until(lambda: response.is_cancelled)
    assert [name for name, _ in scene.serve.finished] == ["a"]
    scene.serve.sender(call).put_ended(ended(call, "abort"))
    await until(lambda: scene.told)
    assert scene.told[0].reason == "stop"


async def test_a_drained_replica_is_not_told_to_finish(scene: Scene) -> None:
    """The router does not know it any more, and what waits there holds up all requests."""
    outputs, _, response = await begun(scene)
    scene.directory.set_names(("b",))
    scene.engine.finish(ID, "stop")
    await until(lambda: response.is_cancelled)
    await outputs.aclose()
    assert scene.serve.finished == []


async def test_a_replica_that_was_told_to_finish_is_not_cancelled(scene: Scene) -> None:
    scene.serve.on_addressed = lambda call, response: response.future.set_result(None)
    outputs, call, response = await begun(scene)
    scene.engine.finish(ID, "stop")
    await outputs.aclose()
    await until(lambda: scene.serve.finished)
    assert scene.serve.finished[0][1].request_id == call.request.request_id
    response.future.set_result(None)
    await asyncio.sleep(0)
    assert not response.is_cancelled


@pytest.mark.parametrize("answer", [unknown, broken, cancelled, gone])
async def test_metrics_of_a_replica_that_fails_are_left_out(
    scene: Scene, answer: Callable[[AddressedCall, Response], None]
) -> None:
    def on_addressed(call: AddressedCall, response: Response) -> None:
        if call.replica == "a":
            answer(call, response)
        else:
            response.future.set_result("text")

    scene.serve.on_addressed = on_addressed
    assert await scene.engine.metrics_texts(60.0) == {"a": None, "b": "text"}


async def test_requests_that_no_engine_has_begun_are_forgotten(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_ENDING_SECONDS", 0.0)
    asked = asyncio.create_task(scene.ask())
    call, response = await scene.attempt(1)
    asked.cancel()
    await until(lambda: response.is_cancelled)
    await asyncio.sleep(0.05)
    scene.serve.sender(call).put_ended(ended(call, "abort"))
    await asyncio.sleep(0.05)
    assert scene.told == []


async def test_a_call_that_is_cancelled_before_it_is_sent_says_so(scene: Scene) -> None:
    """For the router, which counts it as open."""
    scene.serve.names = ()
    asked = asyncio.create_task(scene.ask())
    await until(lambda: scene.serve.runs)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    ((call, response),) = scene.serve.runs
    await until(lambda: response.is_cancelled)
    assert call.is_given_up


async def test_a_replica_that_computes_otherwise_is_told_of_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.serve.identities["b"] = "second"
    for number in range(1, 5):
        asked = asyncio.create_task(scene.ask())
        call, response = await scene.attempt(number)
        scene.serve.sender(call).put(output(call, 1, 10, "length"))
        await asked
        response.future.set_result(None)
    await until(lambda: caplog.messages)
    (said,) = caplog.messages
    assert said.startswith("replica b is unlike the first one")
    assert "it has second, and the first one first" in said
