"""`glidecape serve --replicas 2` over a real Ray of its own, asked over HTTP as users do."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.live import GLIDECAPE, LiveServer, serve
from tests.weights.train.checkpoints import write_checkpoint

TWO = "--replicas", "2"
PATIENCE = 120.0
CHAT = "/v1/chat/completions"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("replicas")
    model = write_checkpoint(folder / "model")
    named = {"--model": model, "--draft": "ngram", "--cache-dir": folder / "cache"}
    texts = (str(part) for pair in named.items() for part in pair)
    return *texts, "--dtype", "float32", "--kv-memory", "4M"


@pytest.fixture(scope="module")
def single(options: tuple[str, ...]) -> Iterator[LiveServer]:
    with serve(*options) as server:
        yield server


@pytest.fixture(scope="module")
def double(options: tuple[str, ...]) -> Iterator[LiveServer]:
    with serve(*options, *TWO, "--log-format", "json", "--max-num-seqs", "1") as server:
        yield server
        started = psutil.Process(server.process.pid).children(recursive=True)
        assert len(started) > len(replicas(server)) == 2
    assert server.process.returncode == 0
    until(lambda: not [process for process in started if process.is_running()])


def test_an_end_while_it_loads_leaves_nothing(options: tuple[str, ...]) -> None:
    """Of what Ray has started until then."""
    command = *GLIDECAPE, "serve", "--port", "0", *options, *TWO
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    front = psutil.Process(process.pid)

    def names() -> list[str]:
        return [child.name() for child in front.children(recursive=True)]

    until(lambda: any(name.startswith("ray::Serve") for name in names()))
    started = front.children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    until(lambda: not [each for each in started if each.is_running()])


def body(text: str, **fields: object) -> Json:
    fields = {"max_tokens": 24, "temperature": 0} | fields
    return {"messages": [{"role": "user", "content": text}], **fields}


def ask(server: LiveServer, text: str, **fields: object) -> Json:
    said = httpx.post(f"{server.url}{CHAT}", json=body(text, **fields), timeout=PATIENCE)
    assert said.status_code == 200, said.text
    return said.json()


def replicas(server: LiveServer) -> list[psutil.Process]:
    """The processes of the replicas."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [p for p in children if p.name().startswith("ray::ServeRepl")]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


REQUESTS: dict[str, Json] = {
    "greedy": {},
    "seeded": {"temperature": 0.9, "seed": 5},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "a stop string": {"stop": ["e", "k"]},
    "a grammar": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "schema": {"type": "object", "properties": {"k": {"enum": ["x", "yy"]}}},
            },
        }
    },
    "several choices": {"n": 3, "temperature": 0.9, "seed": 1},
    "speculation": {"speculation": {"policy": "chain"}},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answers_are_those_of_one_engine(
    single: LiveServer, double: LiveServer, name: str
) -> None:
    answers = [ask(server, "abcabcabc", **REQUESTS[name])["choices"] for server in (single, double)]
    assert answers[0] == answers[1]


def test_errors_are_those_of_one_engine(single: LiveServer, double: LiveServer) -> None:
    wrong: list[Json] = [
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": "x" * 600}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}},
        {"structured_outputs": {"regex": "("}},
        {"model": "another"},
    ]
    for fields in wrong:
        both = [
            httpx.post(f"{server.url}{CHAT}", json=body("Hi") | fields, timeout=PATIENCE)
            for server in (single, double)
        ]
        assert both[0].status_code == both[1].status_code >= 400
        assert both[0].json() == both[1].json()


def converse(server: LiveServer, number: int) -> list[int]:
    """Prompt tokens that each of three turns found in the cache."""
    messages: list[Json] = []
    cached: list[int] = []
    for turn in range(3):
        messages.append({"role": "user", "content": f"{number} says {turn}: abcabcabcabcabc"})
        said = ask(server, "", messages=messages)
        messages.append(said["choices"][0]["message"])
        cached.append(said["usage"]["prompt_tokens_details"]["cached_tokens"])
    return cached


def test_a_conversation_finds_its_beginning_again(single: LiveServer, double: LiveServer) -> None:
    for number in range(4):
        here, there = converse(single, number), converse(double, number)
        assert there[1:] == here[1:]
        assert there[2] > there[1] > 0


def chunks(server: LiveServer, text: str = "Hi", **fields: object) -> Generator[tuple[float, Json]]:
    """A long stream's events, and when each came."""
    fields = {"ignore_eos": True, "speculation": {"policy": "off"}} | fields
    sent = body(text, stream=True, **fields)
    with httpx.stream("POST", f"{server.url}{CHAT}", json=sent, timeout=PATIENCE) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                yield time.monotonic(), json.loads(line[6:])


def test_tokens_come_one_by_one(double: LiveServer) -> None:
    """Not all at the end. A machine that pauses just then is given other chances."""

    def comes_early() -> bool:
        started = time.monotonic()
        times = [when - started for when, _ in chunks(double, max_tokens=200)]
        assert len(times) > 100
        return times[2] < times[-1] / 2

    assert any(comes_early() for _ in range(5))


def test_a_client_that_leaves_frees_its_blocks(double: LiveServer) -> None:
    before = double.metric("request_success_total", 'finished_reason="abort"')
    stream = chunks(double, max_tokens=400)
    next(stream)
    stream.close()
    until(lambda: double.metric("request_success_total", 'finished_reason="abort"') > before)
    until(lambda: double.metric("kv_cache_usage_perc") == 0)


def test_requests_are_logged_as_with_one_engine(double: LiveServer) -> None:
    head = {"x-request-id": "mine"}
    said = httpx.post(f"{double.url}{CHAT}", json=body("Log me"), headers=head, timeout=PATIENCE)

    def logged() -> list[Json]:
        lines = [json.loads(line) for line in double.log if line.startswith("{")]
        return [line for line in lines if line.get("http_request_id") == "mine"]

    until(lambda: bool(logged()))
    (line,) = logged()
    assert said.headers["x-request-id"] == "mine"
    assert line["id"] == said.json()["id"]
    assert line["prompt_tokens"] == said.json()["usage"]["prompt_tokens"]
    assert line["finish_reason"] == "length"


def test_metrics_have_both_replicas_and_one_front(double: LiveServer) -> None:
    text = httpx.get(f"{double.url}/metrics").text
    samples = [line for line in text.splitlines() if line.startswith("glidecape:num_requests_run")]
    assert len({line.split('replica="')[1] for line in samples}) == len(samples) == 2
    assert double.metric("num_replicas") == 2
    assert double.metric("http_requests_total", CHAT) > 0


def test_a_killed_replica_takes_one_stream_with_it_and_is_replaced(double: LiveServer) -> None:
    """Each replica runs one request and lets another one wait: of four, the one that runs on the
    replica that is killed has an error, and the one that waits there is answered by the other."""
    victim = replicas(double)[0]
    begun = threading.Semaphore(0)

    def stream(name: str) -> Json:
        last: Json = {}
        text = f"{name * 32}"  # so that none has the beginning of another
        for number, (_, event) in enumerate(chunks(double, text, max_tokens=400)):
            if number == 1:
                begun.release()
            last = event
        return last

    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(stream, name) for name in "wxyz"]
        for _ in range(2):
            assert begun.acquire(timeout=PATIENCE)
        os.kill(victim.pid, signal.SIGKILL)
        ends = [each.result() for each in asked]
    errors = [end for end in ends if "error" in end]
    assert [end["choices"][0]["finish_reason"] for end in ends if "error" not in end] == [
        "length"
    ] * 3
    assert len(errors) == 1
    assert errors[0]["error"]["type"] == "server_error"
    assert errors[0]["error"]["code"] == "internal_error"
    assert double.metric("request_success_total", 'finished_reason="error"') == 1
    until(lambda: double.metric("num_replicas") == 2 and len(replicas(double)) == 2)
    assert victim.pid not in {process.pid for process in replicas(double)}
    assert httpx.get(f"{double.url}/health").status_code == 200
    assert ask(double, "And now?")["choices"]
