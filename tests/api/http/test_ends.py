"""How a server ends, or goes on when things go wrong: real processes, real signals, and a model
that crashes or hangs when a prompt says so."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.api.harness import CHAT, COMPLETIONS, assert_error, chat_body, events
from tests.api.http.faulty import SECONDS, eventually, exit_code, faulty
from tests.api.http.faulty_server import COMMAND
from tests.live import LiveServer

Json = dict[str, Any]
RESPONSES = "/v1/responses"
LONG: Json = {"max_tokens": 4000, "ignore_eos": True}


class Client(httpx.AsyncClient):
    def __init__(self, server: LiveServer) -> None:
        super().__init__(base_url=server.url, timeout=SECONDS)

    def ask(self, path: str = CHAT, **fields: object) -> asyncio.Task[httpx.Response]:
        """A request of its own task; chats by default."""
        body = chat_body(**fields) if path == CHAT else fields
        return asyncio.create_task(self.post(path, json=body))

    async def metric(self, name: str) -> float:
        text = (await self.get("/metrics")).text
        found = re.search(rf"^glidecape:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        assert found is not None
        return float(found[1])

    async def running(self, count: int) -> None:
        """Returns when so many generations are in the engine."""
        deadline = time.monotonic() + SECONDS
        while await self.metric("num_requests_running") != count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def says(text: str, **fields: object) -> Json:
    return {"messages": [{"role": "user", "content": text}], **fields}


def assert_cut(response: httpx.Response, message: str) -> None:
    """A stream that began, and that ends with an error and with what ends every stream."""
    assert response.status_code == 200
    *before, error, done = events(response.text)
    assert len(before) > 1 and done == "[DONE]"
    assert isinstance(error, dict)
    assert error["error"]["message"] == message
    assert error["error"]["type"] == "server_error"


def assert_told(answers: Sequence[httpx.Response]) -> None:
    """Streams and whole answers in turn, all of which have heard of the engine's death."""
    for number, answer in enumerate(answers):
        assert "a step that crashes" not in answer.text
        if number % 2 == 0:
            assert_cut(answer, "the engine has stopped")
        else:
            assert_error(answer, 500, "internal_error")


def assert_failed(response: httpx.Response, message: str) -> None:
    """A streamed Response that began."""
    last = response.text.rstrip().rsplit("\n\n", 1)[-1]
    assert last.startswith("event: response.failed\n")
    assert message in last


async def test_a_signal_lets_open_requests_finish() -> None:
    with faulty() as server:
        async with Client(server) as client:
            answers = [
                client.ask(stream=True, max_tokens=300, ignore_eos=True),
                client.ask(max_tokens=300, ignore_eos=True),
            ]
            await client.running(2)
            server.process.send_signal(signal.SIGTERM)
            while (ready := await client.get("/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200
            for path in (CHAT, COMPLETIONS, RESPONSES, "/tokenize"):
                refused = await client.ask(path, prompt="a")
                assert_error(refused, 503, "shutting_down")
                assert refused.headers["retry-after"] == "1"
                assert refused.headers["connection"] == "close"
            streamed, whole = await asyncio.gather(*answers)
        assert events(streamed.text)[-1] == "[DONE]"
        assert '"finish_reason":"length"' in streamed.text
        assert whole.json()["usage"]["completion_tokens"] == 300
        assert exit_code(server) == 0
    assert "Traceback" not in "".join(server.log)


async def test_what_does_not_finish_is_ended_with_an_error() -> None:
    """Wherever it is: in the engine, for a place, before its body is here, unread by its client."""
    options = ("--drain-seconds", "0.5", "--max-concurrent-requests", "7")
    with faulty(*options) as server:
        async with Client(server) as client:
            streams = [
                client.ask(stream=True, **LONG),
                client.ask(stream=True, n=2, **LONG),
                client.ask(COMPLETIONS, prompt="a", stream=True, **LONG),
            ]
            response = client.ask(RESPONSES, input="a", stream=True, max_output_tokens=4000)
            whole = client.ask(**LONG)
            _, deaf_writer = await connection(server)
            deaf_writer.write(head(CHAT, DEAF))
            await client.running(7)
            waiting = [client.ask(), client.ask(stream=True)]
            slow_reader, slow_writer = await connection(server)
            slow_writer.write(head(CHAT, b'{"messages": [')[:-5])
            # Streams have to have begun; waiting requests have to be for a place.
            await asyncio.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            for cut in await asyncio.gather(*streams):
                assert_cut(cut, "the server is shutting down")
            assert_failed(await response, "the server is shutting down")
            for answer in await asyncio.gather(whole, *waiting):
                assert_error(answer, 503, "shutting_down")
            slow = await slow_reader.read()
            assert slow.startswith(b"HTTP/1.1 503 ") and b"shutting_down" in slow
        assert exit_code(server) == 0
        deaf_writer.close()
        slow_writer.close()
    log = "".join(server.log)
    assert "Traceback" not in log
    assert re.search(r"WARNING ending: \d+ open requests are cut", log)


DEAF = b'{"messages": [{"role": "user", "content": "a"}], "stream": true, "max_tokens": 4000}'


async def connection(server: LiveServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = httpx.URL(server.url)
    return await asyncio.open_connection(url.host, url.port, limit=1024)


def head(path: str, body: bytes) -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    return f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    with faulty("--drain-seconds", "600") as server:
        async with Client(server) as client:
            stream = client.ask(stream=True, **LONG)
            await client.running(1)
            server.process.send_signal(number)
            await eventually(lambda: any("ending:" in line for line in server.log))
            assert server.process.poll() is None
            server.process.send_signal(number)
            assert exit_code(server) == 128 + number
            with pytest.raises(httpx.RemoteProtocolError):
                await stream
    assert "Traceback" not in "".join(server.log)


def test_a_signal_while_the_model_loads() -> None:
    """Also for the first process of a container, which would not notice the signal by default."""
    code = (
        "import signal, sys, types, server.cli\n"
        "stop = lambda *_: signal.raise_signal(signal.SIGTERM)\n"
        "sys.modules['server.build'] = types.SimpleNamespace(build=stop)\n"
        "server.cli.main()\n"
    )
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


@pytest.mark.parametrize("words", ["crash", "crash unseen"])
async def test_a_crash_is_told_to_everyone_and_ends_the_process(words: str) -> None:
    """Even where the observers of the crash fail."""
    with faulty() as server:
        async with Client(server) as client:
            answers = [client.ask(stream=number % 2 == 0, **LONG) for number in range(16)]
            await client.running(16)
            await asyncio.sleep(0.2)
            answers.append(asyncio.create_task(client.post(CHAT, json=says(words))))
            assert_told(await asyncio.gather(*answers[:16]))
            assert_error(await answers[16], 500, "internal_error")
        assert exit_code(server) == 1
    assert "RuntimeError: a step that crashes" in "".join(server.log)


async def test_a_step_that_hangs() -> None:
    """Here the process stays, as it was told, and says that it should be started again."""
    with faulty("--step-timeout", "4", "--no-exit-on-engine-death") as server:
        async with Client(server) as client:
            answers = [client.ask(stream=number % 2 == 0, **LONG) for number in range(4)]
            await client.running(4)
            await asyncio.sleep(0.2)
            answers.append(asyncio.create_task(client.post(CHAT, json=says("hang"))))
            assert_told(await asyncio.gather(*answers[:4]))
            assert_error(await answers[4], 500, "internal_error")
            for path in ("/health", "/ready"):
                assert_error(await client.get(path), 503, "internal_error")
            assert_error(await client.ask(), 500, "internal_error")
            server.process.send_signal(signal.SIGTERM)
        assert exit_code(server) == 1
    assert "lock.acquire()" in "".join(server.log)


async def test_a_signal_during_a_step_that_hangs() -> None:
    with faulty("--drain-seconds", "0.5") as server:
        async with Client(server) as client:
            answers = [client.ask(), client.ask(stream=True)]
            answers.append(asyncio.create_task(client.post(CHAT, json=says("hang"))))
            await eventually(lambda: all(not answer.done() for answer in answers))
            await asyncio.sleep(0.5)
            assert (await client.get("/health")).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            *_, hung = await asyncio.gather(*answers)
            assert_error(hung, 503, "shutting_down")
        assert exit_code(server) == 0
    assert "Traceback" not in "".join(server.log)


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of another process")
async def test_descriptors_that_run_out_are_told() -> None:
    """And served again when there are some; open requests go on all the time."""
    with faulty() as server:
        pid = server.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        async with Client(server) as client, Client(server) as other:
            await client.ask(stream=True, max_tokens=1)  # Python reads some modules when needed
            stream = client.ask(stream=True, max_tokens=400, ignore_eos=True)
            await client.running(1)
            used = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
            await eventually(lambda: any("are reset until" in line for line in server.log))
            with pytest.raises(httpx.TransportError):
                await other.get("/health")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await eventually(lambda: any("descriptors again" in line for line in server.log))
            assert (await other.get("/health")).status_code == 200
            assert '"finish_reason":"length"' in (await stream).text
    assert sum("are reset until" in line for line in server.log) == 1


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    """A line for each request into a pipe of one page, which nobody empties."""
    import fcntl

    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen([*COMMAND, "--port", "0"], stderr=write_end)
    os.close(write_end)
    try:
        announcement = ""
        while "stream" not in announcement:
            announcement += os.read(read_end, 4096).decode()
        found = re.search(r"http://\S+", announcement)
        assert found is not None
        with httpx.Client(base_url=found[0], timeout=SECONDS) as client:
            for _ in range(40):
                body = {"prompt": "a", "max_tokens": 1}
                assert client.post(COMPLETIONS, json=body).status_code == 200
            assert client.get("/health").status_code == 200
            assert "glidecape:log_lines_dropped_total{" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
