"""Outputs of replicas on their way to fronts: sockets of our own beside Ray's calls, whose streams
take milliseconds for each item.

    front      binds a socket, and says in each request where it is
    replica    connects to it, and sends what a step has for all of that front's requests at once

The sockets are ZeroMQ's: they connect again by themselves, and encrypt and prove who they are by
CURVE (RFC 26/ZMTP-CURVE). What a broken connection loses is noticed by the tokens' count: see
`Attempt.next_output`.
"""

import asyncio
import copyreg
import errno
import logging
import pickle
import time
import uuid
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple

import zmq

from server.engine.outputs import (
    FinishedRequest,
    RequestOutput,
    SourceFigures,
    SpeculationSummary,
)
from server.engine.types import RequestId
from server.errors import GlidecapeError, StartupError
from server.replicas.calls import Batch, FrontAddress, PackedError

_LINGER_MS = 2000
"""How long a socket that is closed tries to send what it has."""
_RECONNECT_MS, _MAX_RECONNECT_MS = 10, 2000
_ALIVE_MS, _SILENT_MS = 2000, 5000
"""A connection is asked whether it lives after so long, and given up after so much longer. Together
less than a front waits for outputs of a call that is over."""
_HANDSHAKE_SECONDS = 10.0
_PORTS = 10002, 20000
"""Those that Ray's own workers take by default: a firewall that lets Ray pass has them open."""
_MAX_MESSAGE_BYTES = 2**26
"""Log-probabilities of a long prompt take some megabytes."""

logger = logging.getLogger(__name__)


def _pickled_by_fields(kind: type[Any]) -> None:
    """Has `pickle` take the fields of a dataclass as they are, and call the class with them. What
    dataclasses with slots bring for it takes three times as long: a hundredth of a step."""
    taken = attrgetter(*(field.name for field in fields(kind)))
    copyreg.pickle(kind, lambda value: (kind, taken(value)))


for _kind in (RequestOutput, SpeculationSummary, SourceFigures, Batch):
    _pickled_by_fields(_kind)


class FrontUnreachableError(GlidecapeError):
    """Outputs can't be sent to the front."""


class KeyPair(NamedTuple):
    """A key of CURVE and its secret half, in ZeroMQ's printable form."""

    public: bytes
    secret: bytes

    @classmethod
    def new(cls) -> "KeyPair":
        return cls(*zmq.curve_keypair())


class OutputReceiver:
    """Where one front takes outputs.

    Args:
        host: Address of this machine, as the replicas' machines reach it.

    Raises:
        StartupError: no socket can be bound there.
    """

    def __init__(self, host: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        # Who connects has to prove that it has the secret key that travels with the requests. In
        # CURVE that is the part of the server, whichever end of the connection it is.
        own, theirs = KeyPair.new(), KeyPair.new()
        self._socket.curve_publickey, self._socket.curve_secretkey = own
        self._socket.curve_serverkey = theirs.public
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        self._socket.set(zmq.IPV6, int(":" in host))
        _keep_alive(self._socket)
        shown = f"[{host}]" if ":" in host else host
        try:
            port = self._bind(shown)
        except (zmq.ZMQError, zmq.ZMQBindError) as error:
            self.close()
            reason = f"no socket for the replicas' outputs at {host}: {error}"
            raise StartupError(reason) from None
        self.address = FrontAddress(uuid.uuid4().hex, f"tcp://{shown}:{port}", *theirs)

    def _bind(self, host: str) -> int:
        """Binds a port, and returns it."""
        try:
            return self._socket.bind_to_random_port(f"tcp://{host}", *_PORTS)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise
        # The address by which others reach this machine need not be one of its own interfaces'.
        return self._socket.bind_to_random_port("tcp://*", *_PORTS)

    def start(self, deliver: Callable[[Batch], None]) -> None:
        """Delivers what comes, in the running event loop."""
        self._deliver = deliver
        asyncio.get_running_loop().add_reader(self._socket.FD, self._read)
        self._read()

    def _read(self) -> None:
        """Takes all there is: ZeroMQ's descriptor does not tell again of what was left."""
        while True:
            try:
                content = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._deliver(pickle.loads(content))
            except Exception:  # the messages behind it are of other requests
                logger.exception("what a replica sent can't be read")

    def close(self) -> None:
        self._socket.close()


class OutputSender:
    """Sends to one front, from the replica's event loop. What is put before the event loop's next
    turn travels together, as most of what one step brings does.
    """

    def __init__(self, front: FrontAddress) -> None:
        self.num_open = 0
        """Requests of this front."""
        self.idle_since = time.monotonic()
        """Since when it has had none, if it has none."""
        self.is_broken = False
        """Nothing can be sent any more; another one may still reach the front."""
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.curve_server = True
        self._socket.curve_publickey = front.public_key
        self._socket.curve_secretkey = front.secret_key
        self._socket.set(zmq.SNDHWM, 0)  # a front that is slow for a while loses nothing
        self._socket.set(zmq.LINGER, _LINGER_MS)
        self._socket.set(zmq.IPV6, int("[" in front.endpoint))
        self._socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._socket.set(zmq.RECONNECT_IVL_MAX, _MAX_RECONNECT_MS)
        _keep_alive(self._socket)
        self._endpoint = front.endpoint
        self._is_connected = asyncio.Event()
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._event_loop = asyncio.get_running_loop()
        self._event_loop.add_reader(self._monitor.FD, self._look_for_handshake)
        self._socket.connect(front.endpoint)
        self._look_for_handshake()  # only then does the descriptor tell of what comes
        self._outputs = list[RequestOutput]()
        self._errors = list[tuple[RequestId, PackedError]]()
        self._ended = list[FinishedRequest]()
        self._is_sending = False

    async def connected(self) -> None:
        """Returns when the front has been reached once.

        Raises:
            FrontUnreachableError: it takes too long. Where a firewall is in between, the front
                would otherwise know after the whole answer only.
        """
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await self._is_connected.wait()
        except TimeoutError:
            raise FrontUnreachableError(f"nobody answers at {self._endpoint}") from None

    def _look_for_handshake(self) -> None:
        if self._monitor.get(zmq.EVENTS) & zmq.POLLIN:
            self._is_connected.set()
            self._stop_looking()

    def _stop_looking(self) -> None:
        if not self._monitor.closed:
            self._event_loop.remove_reader(self._monitor.FD)
            # First: ZeroMQ's thread would wait for ever for somebody who takes the next event.
            self._socket.disable_monitor()
            self._monitor.close()

    def put(self, output: RequestOutput) -> None:
        self._outputs.append(output)
        self._send_soon()

    def put_error(self, request_id: RequestId, error: PackedError) -> None:
        self._errors.append((request_id, error))
        self._send_soon()

    def put_ended(self, request: FinishedRequest) -> None:
        self._ended.append(request)
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        if not self._is_sending:
            return
        self._is_sending = False
        batch = Batch(tuple(self._outputs), tuple(self._errors), tuple(self._ended))
        self._outputs.clear()
        self._errors.clear()
        self._ended.clear()
        content = pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)
        try:
            self._socket.send(content, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self.is_broken = True
            logger.warning("outputs for %s are lost: %s", self._endpoint, error.strerror)

    def close(self) -> None:
        """Goes on sending what it has for a moment."""
        self._send()
        self._stop_looking()
        self._socket.close()


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Has a connection end whose other end is gone without a word."""
    socket.set(zmq.HEARTBEAT_IVL, _ALIVE_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, _SILENT_MS)
