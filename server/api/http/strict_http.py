"""HTTP/1.1 as h11 reads it, less what two readers could read differently.

A proxy in front that takes a request's end for another place than this server does lets a client
put its own words into other clients' requests. Where a request gives its length twice, h11 follows
the standard's order. The standard also allows to refuse such a request, which is done here.
"""

import re
from typing import Any

import h11
from h11 import NEED_DATA, PAUSED
from h11._receivebuffer import ReceiveBuffer

MAX_HEADERS = 128

_ODD_LINES = re.compile(rb"(?<!\r)\n|\n[ \t]")
"""A line that ends without CR, or that goes on with the one before (folding): h11 reads both, other
readers take the first for a part of a header's value, the second for a header of its own."""

_FREE_CHUNKS = 16_384
_BYTES_PER_CHUNK = 64
"""Least mean length of a body's chunks beyond the first `_FREE_CHUNKS`: each costs as much time as
hundreds of bytes in a long one."""


class _StrictLines(ReceiveBuffer):
    """h11's buffer, which cuts heads and trailers into lines."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        before = bytes(self._data)
        lines = super().maybe_extract_lines()
        if lines is not None and _ODD_LINES.search(before, 0, len(before) - len(self._data)):
            raise h11.RemoteProtocolError("illegal end of a line")
        return lines


class StrictConnection(h11.Connection):
    """The server's side of a connection.

    Args:
        max_head_bytes: Longest request line with its headers.
    """

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._receive_buffer = _StrictLines()
        self.error: h11.RemoteProtocolError | None = None
        """What was wrong with what the client sent."""
        self._head = bytearray()
        """What has arrived of the next request's head, and perhaps more."""
        self._num_chunks = self._num_body_bytes = 0
        self._is_head = False
        """The request asks for the headers alone."""
        self._sends_chunks = False
        """The answer's body is being sent, in chunks."""

    @property
    def waits(self) -> bool:
        """Whether the next request has not begun to arrive."""
        return self.their_state is h11.IDLE and not self._head

    def receive_data(self, data: bytes) -> None:
        if self.their_state is h11.IDLE:
            self._head += data
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self._head += self.trailing_data[0]

    def next_event(self) -> h11.Event | type[NEED_DATA] | type[PAUSED]:
        """The next event of the connection, once it is checked.

        Raises:
            RemoteProtocolError: it is no HTTP, or of the kind described above.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._num_chunks = self._num_body_bytes = 0
                self._head.clear()
                _check(event)
                self._is_head = event.method == b"HEAD"
            elif isinstance(event, h11.Data):
                self._count(len(event.data))
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        return event

    def _count(self, num_bytes: int) -> None:
        self._num_chunks += 1
        self._num_body_bytes += num_bytes
        if self._num_chunks > _FREE_CHUNKS + self._num_body_bytes // _BYTES_PER_CHUNK:
            raise h11.RemoteProtocolError("the body's chunks are too small", error_status_hint=413)

    def send(self, event: Any) -> Any:
        if type(event) is h11.Data and self._sends_chunks:
            # As h11 writes it, in a fifth of the time: this is done for each token of each stream.
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        self._sends_chunks = False
        if type(event) is h11.Response:
            return self._send_head(event)
        return super().send(event)

    def _send_head(self, response: h11.Response) -> bytes:
        if self.they_are_waiting_for_100_continue:
            # Answered without its body: the client may leave that out or send it, and what comes
            # next on this connection could be either.
            headers = [*response.headers, (b"connection", b"close")]
            response = h11.Response(
                status_code=response.status_code, headers=headers, reason=response.reason
            )
        head = super().send(response)
        has_body = not self._is_head and response.status_code not in (204, 304)
        self._sends_chunks = has_body and b"\r\ntransfer-encoding: chunked\r\n" in head.lower()
        return head


def _check(request: h11.Request) -> None:
    if not request.http_version.startswith(b"1."):
        raise h11.RemoteProtocolError("only HTTP/1.1 and 1.0", error_status_hint=505)
    names = [name for name, _ in request.headers]
    if len(names) > MAX_HEADERS:
        raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")
        if request.http_version < b"1.1":
            raise h11.RemoteProtocolError("Transfer-Encoding before HTTP/1.1")
