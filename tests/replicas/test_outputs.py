"""What replicas send to fronts, over real sockets."""

import asyncio
import pickle
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import zmq

from server.engine.outputs import RequestOutput
from server.engine.types import RequestId
from server.errors import EngineDeadError, StartupError
from server.replicas import outputs
from server.replicas.calls import Batch, FrontAddress, PackedError
from server.replicas.outputs import (
    FrontUnreachableError,
    KeyPair,
    OutputReceiver,
    OutputSender,
)
from tests.replicas.fake_serve import until


def output(number: int) -> RequestOutput:
    return RequestOutput(RequestId(f"r{number}"), (number,), None, None, None, 1, 1, 0)


class Wire:
    """A front that listens, and replicas' senders."""

    def __init__(self) -> None:
        self.receiver = OutputReceiver("127.0.0.1")
        self.came = list[Batch]()
        self.receiver.start(self.came.append)
        self._senders = list[OutputSender]()

    def sender(self, address: FrontAddress | None = None) -> OutputSender:
        self._senders.append(OutputSender(address or self.receiver.address))
        return self._senders[-1]

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
        self.receiver.close()


@pytest.fixture
async def wire() -> AsyncGenerator[Wire, None]:
    wire = Wire()
    yield wire
    wire.close()


async def test_what_comes_together_is_one_batch(wire: Wire) -> None:
    sender = wire.sender()
    for number in range(3):
        sender.put(output(number))
    sender.put_error(RequestId("r9"), PackedError.of(EngineDeadError("dead")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sender.put(output(7))
    await until(lambda: len(wire.came) == 2)
    first, later = wire.came
    assert [each.token_ids for each in first.outputs] == [(0,), (1,), (2,)]
    assert [request_id for request_id, _ in first.errors] == ["r9"]
    assert later == Batch((output(7),))


async def test_nothing_is_lost_to_a_front_that_is_slow(wire: Wire) -> None:
    """More than ZeroMQ holds by itself, from two replicas at once."""
    senders = wire.sender(), wire.sender()
    for number in range(3000):
        for sender in senders:
            sender.put(output(number))
            sender._send()  # pyright: ignore[reportPrivateUsage]
    await until(lambda: len(wire.came) == 6000)
    counts = [batch.outputs[0].token_ids[0] for batch in wire.came]
    assert sorted(counts) == sorted([*range(3000)] * 2)


async def test_what_was_sent_before_an_end_arrives(wire: Wire) -> None:
    sender = wire.sender()
    sender.put(output(1))
    sender.close()
    await until(lambda: wire.came)
    assert wire.came == [Batch((output(1),))]


async def test_who_does_not_know_the_key_is_not_heard(wire: Wire) -> None:
    """What comes is unpickled: it must come of a replica."""
    address = wire.receiver.address
    stranger = wire.sender(FrontAddress("f", address.endpoint, *KeyPair.new()))
    stranger.put(output(1))
    plain = zmq.Context.instance().socket(zmq.PUSH)
    plain.set(zmq.LINGER, 0)
    plain.connect(address.endpoint)
    plain.send(b"cos\nsystem\n(S'true'\ntR.")
    await asyncio.sleep(0.3)
    known = wire.sender()
    known.put(output(2))
    await until(lambda: wire.came)
    plain.close()
    assert wire.came == [Batch((output(2),))]


async def test_an_address_that_is_no_interfaces_is_reached_by_another(wire: Wire) -> None:
    """As that of a machine behind NAT, by which others know it."""
    receiver = OutputReceiver("192.0.2.1")
    came = list[Batch]()
    receiver.start(came.append)
    name, endpoint, *keys = receiver.address
    assert endpoint.startswith("tcp://192.0.2.1:")
    here = f"tcp://127.0.0.1:{endpoint.rpartition(':')[2]}"
    wire.sender(FrontAddress(name, here, *keys)).put(output(1))
    await until(lambda: came)
    receiver.close()


def test_without_a_port_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(outputs, "_PORTS", (port, port + 1))
        with pytest.raises(StartupError, match="no socket for the replicas"):
            OutputReceiver("127.0.0.1")


async def test_a_front_that_is_not_reached_is_told_of_at_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wire.sender().connected()
    monkeypatch.setattr(outputs, "_HANDSHAKE_SECONDS", 0.05)
    nobody = FrontAddress("f", "tcp://127.0.0.1:1", *KeyPair.new())
    with pytest.raises(FrontUnreachableError, match=r"nobody answers at tcp://127\.0\.0\.1:1"):
        await wire.sender(nobody).connected()
    stranger = FrontAddress("f", wire.receiver.address.endpoint, *KeyPair.new())
    with pytest.raises(FrontUnreachableError):
        await wire.sender(stranger).connected()


async def test_a_message_that_can_not_be_read_holds_up_no_other(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    sender = wire.sender()
    sender._socket.send(b"of another version")  # pyright: ignore[reportPrivateUsage]
    sender.put(output(1))
    await until(lambda: wire.came)
    assert "what a replica sent can't be read" in caplog.text


async def test_a_socket_that_takes_no_more_says_so(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Its replica makes another one for the next request."""
    sender = wire.sender()
    await sender.connected()
    sender._socket.close()  # pyright: ignore[reportPrivateUsage]
    sender.put(output(1))
    await until(lambda: sender.is_broken)
    assert f"outputs for {wire.receiver.address.endpoint} are lost" in caplog.text


async def test_a_connection_that_breaks_is_made_again(wire: Wire) -> None:
    """More than once, though only the first time is waited for. What is sent before the sender
    notices that it broke may be lost."""
    sender = wire.sender()
    await sender.connected()
    wire.receiver.close()
    for number in range(3):
        async with _another(wire.receiver.address) as again, asyncio.timeout(30):
            while not again.poll(0):
                sender.put(output(number))
                await asyncio.sleep(0.05)
            batch: Batch = pickle.loads(again.recv())
        assert batch.outputs[0].token_ids == (number,)


@asynccontextmanager
async def _another(address: FrontAddress) -> AsyncGenerator[zmq.Socket[bytes]]:
    """A front's socket at the same address, with the same key."""
    made = zmq.Context.instance().socket(zmq.PULL)
    made.set(zmq.LINGER, 0)
    made.curve_publickey, made.curve_secretkey = KeyPair.new()
    made.curve_serverkey = address.public_key
    try:
        async with asyncio.timeout(30):
            while True:  # the one before is closed in the background
                try:
                    made.bind(address.endpoint)
                    break
                except zmq.ZMQError:
                    await asyncio.sleep(0.01)
        yield made
    finally:
        made.close()
