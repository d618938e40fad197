"""One client's connection: uvicorn's HTTP/1.1 with h11, and limits of what a client can hold open.

h11 and not httptools, which is faster: httptools takes the body of a request that offers an
upgrade (`Upgrade: h2c`, as every Java client's) for the connection's next request, and has no limit
of a head's length. Knows neither the app nor its routes; what it refuses has not reached them.
"""

import asyncio
import collections
import time
from http import HTTPStatus
from typing import Any, Literal, TypedDict

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from server.api.http.errors import ErrorBody, ErrorDetail
from server.api.http.limits import ConnectionLimits
from server.api.http.open_connections import OpenConnections
from server.api.http.strict_http import StrictConnection
from server.errors import ErrorCode

_PIECE = 16_384
"""Bytes that are parsed at once. What was read is up to 256 KB: a head in it could be as long, and
a body of tiny chunks would take most of a second."""

_SLICE_SECONDS = 0.02
"""Longest time of parsing before the event loop turns to other work."""

_LEAST_READ = 16_384
"""Bytes that a client has to take in `send_seconds`; one byte a minute is not reading."""

_LAST = (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)
"""No request can follow: what comes still is dropped."""

_READING = (h11.IDLE, h11.SEND_BODY)
"""States in which a head or a body is read. In others a whole request is here, and what comes after
it (pipelining) waits for its answer."""


class HttpOptions(TypedDict):
    """Options of `uvicorn.Config`."""

    http: type[asyncio.Protocol]
    ws: Literal["none"]
    timeout_keep_alive: int


def http_options(limits: ConnectionLimits) -> HttpOptions:
    """How uvicorn serves the app's connections; to be called once for each server."""
    # uvicorn takes a class and makes its objects itself.
    opened = OpenConnections(limits.max_connections, limits.max_per_client)
    shared = {"limits": limits, "open_connections": opened}
    connection = type("LimitedConnection", (Connection,), shared)
    return HttpOptions(http=connection, ws="none", timeout_keep_alive=limits.keep_alive_seconds)


class _Flow(FlowControl):
    """Reading rests for two reasons that don't know of each other: uvicorn's, and `is_held`, while
    a part of what was read waits to be parsed."""

    is_held = False

    def pause_reading(self) -> None:
        self.read_paused = True
        self._apply()

    def resume_reading(self) -> None:
        self.read_paused = False
        self._apply()

    def hold(self, is_held: bool) -> None:
        self.is_held = is_held
        self._apply()

    def _apply(self) -> None:
        rests = self.read_paused or self.is_held
        if self._transport.is_closing() or rests is not self._transport.is_reading():
            return
        if rests:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


class Connection(H11Protocol):
    """See the module. `http_options` gives all connections of a server the same limits and list."""

    limits: ConnectionLimits
    open_connections: OpenConnections
    conn: StrictConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = StrictConnection(self.limits.max_head_bytes)
        self._pieces: collections.deque[bytes] = collections.deque()
        self._next_slice: asyncio.Handle | None = None
        self._phase: tuple[object, object] | None = None
        self._phase_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # Opening and closing

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as uvicorn does
        super().connection_made(transport)
        self.flow = self._held_flow = _Flow(transport)
        if self.open_connections.enter(self):
            self._watch_phase()
        else:
            self._refuse(503, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._phase_timer, self._send_timer, self._next_slice):
            if timer is not None:
                timer.cancel()
        self._pieces.clear()
        self.open_connections.leave(self)
        super().connection_lost(exc)
        # uvicorn cancels it only where the client closed in order.
        self._unset_keepalive_if_required()

    @property
    def host(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def has_unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    def cut(self) -> None:
        self.transport.abort()

    @property
    def _exchange(self) -> RequestResponseCycle | None:
        """The latest; None before the first."""
        return self.cycle

    # Receiving

    def data_received(self, data: bytes) -> None:
        self._pieces.extend(data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        self._parse()

    def _parse(self) -> None:
        """Parses what was read, as far as the request that is being answered allows, and for no
        longer than a slice of time."""
        self._next_slice = None
        end = time.monotonic() + _SLICE_SECONDS
        while self._pieces and not self.transport.is_closing():
            if self.conn.their_state in _LAST:
                self._pieces.clear()
            if self.conn.their_state not in _READING:
                break
            if time.monotonic() > end:
                self._next_slice = self.loop.call_soon(self._parse)
                break
            super().data_received(self._pieces.popleft())
            self._watch_phase()
        self._held_flow.hold(bool(self._pieces))

    def _should_upgrade(self) -> bool:
        # There is nothing here to upgrade to, and a client that offers it takes a plain answer.
        return False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()
            return
        self.open_connections.set_idle(self, self.conn.their_state in _READING)
        if not self.conn.waits:
            self._watch_phase()
        if self._pieces and self._next_slice is None:
            self._next_slice = self.loop.call_soon(self._parse)

    # Time

    def _watch_phase(self) -> None:
        """Starts the clock of a head or a body when it begins, and stops it when it is here."""
        state = self.conn.their_state
        self.open_connections.set_idle(self, state in _READING)
        phase = (state, self.cycle)
        if phase == self._phase:
            return
        self._phase = phase
        if self._phase_timer is not None:
            self._phase_timer.cancel()
            self._phase_timer = None
        seconds = {h11.IDLE: self.limits.head_seconds, h11.SEND_BODY: self.limits.body_seconds}
        if state in seconds:
            self._phase_timer = self.loop.call_later(seconds[state], self._too_late)

    def _too_late(self) -> None:
        self._phase_timer = None
        if self.conn.waits:
            self.transport.close()  # Not a byte of a request: there is nothing to answer.
            self._watch_sending()
        else:
            self._refuse(408, "the request did not arrive in time")

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_sending()

    def shutdown(self) -> None:
        # Once it is closing, the answer is written, and h11 may be in any state.
        if not self.transport.is_closing():
            super().shutdown()
        if self.transport.is_closing():
            self._watch_sending()

    # Sending

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None and not self.transport.is_closing():
            self._send_timer.cancel()
            self._send_timer = None

    def _watch_sending(self) -> None:
        """Starts the clock of a client that has to read: what it has not taken is much, or the
        last."""
        if self._send_timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._send_timer = self.loop.call_later(self.limits.send_seconds, self._check_sending)

    def _check_sending(self) -> None:
        self._send_timer = None
        if self.transport.get_write_buffer_size() > self._unsent - _LEAST_READ:
            self.transport.abort()
        else:
            self._watch_sending()

    def send_400_response(self, msg: str) -> None:
        error = self.conn.error
        if error is None:
            self._refuse(400, msg)
        else:
            self._refuse(error.error_status_hint, f"no valid HTTP: {error}")

    def _refuse(self, status: int, message: str) -> None:
        """Answers in the API's shape, where no answer has begun, and closes. By hand: h11 may be
        in any state."""
        exchange = self._exchange
        if exchange is None or exchange.response_complete:
            # Not where the request at fault has its answer, and only its body still came.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.write(_answer(status, message))
        elif not exchange.response_started:
            self.transport.write(_answer(status, message))
            # Its app must not answer too.
            exchange.disconnected = True
            exchange.message_event.set()
        self.transport.close()
        self._watch_sending()


def _answer(status: int, message: str) -> bytes:
    code: ErrorCode = "rate_limit_exceeded" if status == 503 else "invalid_value"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = ErrorDetail(message=message, type=kind, param=None, code=code)
    body = ErrorBody(error=error).model_dump_json().encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
