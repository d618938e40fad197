"""While one client attacks, another one's stream goes on and `/health` answers: a server in a
process of its own, and what is known to have stopped servers."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.api.body.test_hostile_bodies import HOSTILE
from tests.api.harness import CHAT, chat_body
from tests.api.raw_http import exchange, statuses

Address = tuple[str, int]
Attack = Callable[[Address], None]

PATIENCE = 60.0
"""Seconds that an answer may take on a machine that has much else to do."""

MOST_STALL = 1.0
"""CPU seconds between two turns of the event loop."""

BODY = json.dumps(chat_body(stream=True)).encode()
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()


@pytest.fixture(scope="module")
def address() -> Generator[Address]:
    command = [sys.executable, "-m", "tests.api.http.attacked"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("no stdout")
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGKILL)


class Bystander:
    """Reads a stream in a thread of its own."""

    def __init__(self, address: Address) -> None:
        self.num_events = 0
        self.has_ended = False
        self._client = socket.create_connection(address, timeout=PATIENCE)
        self._client.sendall(HEAD + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self._client.recv(65536):
                self.num_events += data.count(b"data: {")
        except OSError:
            pass
        self.has_ended = True

    def wait_for_more(self, count: int) -> None:
        aim, end = self.num_events + count, time.monotonic() + PATIENCE
        while self.num_events < aim:
            assert not self.has_ended
            assert time.monotonic() < end, "the stream stands still"
            time.sleep(0.01)

    def close(self) -> None:
        self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._client.close()


@contextmanager
def bystander(address: Address) -> Generator[Bystander]:
    found = Bystander(address)
    try:
        yield found
    finally:
        found.close()


def posted(path: str, body: str) -> Attack:
    """Three times at once."""
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    raw = f"{head}connection: close\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content

    def attack(address: Address) -> None:
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(exchange(address, [raw])))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [statuses(answer) for answer in answers] == [[400]] * 3

    return attack


def sent(*pieces: bytes) -> Attack:
    def attack(address: Address) -> None:
        exchange(address, pieces)

    return attack


def held_open(*heads: bytes, count: int) -> Attack:
    """So many connections that say no more than that; the server closes some of them."""

    def attack(address: Address) -> None:
        with ExitStack() as stack:
            for number in range(count):
                client = stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
                client.sendall(heads[number % len(heads)])

    return attack


def never_read(address: Address) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
            client.sendall(HEAD + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))
        time.sleep(1)


GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

NAMES = (
    "numbers for messages",
    "objects for messages",
    "empty messages",
    "unknown fields",
    "unknown fields of each message",
    "a long stop string",
    "includes",
    "a mixed prompt",
    "lists of ids",
    "a long text",
)

ATTACKS: dict[str, Attack] = {
    **{name: posted(*HOSTILE[name]) for name in NAMES},
    "a long header": sent(GET[:-2] + b"x: ", *[b"a" * 1_000_000] * 30),
    "many headers": sent(GET[:-2], *[b"a: b\r\n" * 100_000] * 10),
    "tiny chunks": sent(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 300_000),
    "requests before answers": sent(GET * 500 + LAST),
    "idle connections": held_open(b"", GET[:9], GET[:-2], HEAD, count=600),
    "bodies that don't come": held_open(HEAD + b"content-length: 4000000\r\n\r\n{", count=400),
    "readers that never read": never_read,
}


def health(url: str) -> int:
    """Asked over a new connection, as of a stranger. One that is idle may have to give way to
    others before its request has come; whoever meets that tries again."""
    for _ in range(3):
        with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
            return httpx.get(f"{url}/health", timeout=PATIENCE).status_code
    return 0


@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_served_meanwhile(address: Address, name: str) -> None:
    with bystander(address) as other, httpx.Client(timeout=PATIENCE) as client:
        url = f"http://{address[0]}:{address[1]}"
        other.wait_for_more(5)
        client.get(f"{url}/stall")
        failed: list[BaseException] = []

        def attack() -> None:
            try:
                ATTACKS[name](address)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=attack)
        thread.start()
        while thread.is_alive():
            assert health(url) == 200
            other.wait_for_more(1)
        thread.join()
        other.wait_for_more(5)
        assert failed == []
        assert httpx.get(f"{url}/stall", timeout=PATIENCE).json() < MOST_STALL
