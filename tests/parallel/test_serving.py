"""`glidecape` with two ranks: the same answers as with one, and what happens when one dies."""

import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live import LiveServer, run_glidecape, serve
from tests.parallel.drafts import write_draft
from tests.parallel.test_workers import gone
from tests.weights.train.checkpoints import write_checkpoint

TWO = "--tensor-parallel-size", "2"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 32}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A tiny model with a random draft that glimpses two layers and the hidden state."""
    folder = tmp_path_factory.mktemp("ranks")
    model = write_checkpoint(folder / "model")
    write_draft(folder / "draft")
    named = {"--model": model, "--draft": folder / "draft", "--cache-dir": folder / "cache"}
    return *(str(part) for pair in named.items() for part in pair), "--dtype", "float32"


def ask(server: LiveServer, **fields: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=BODY | fields, timeout=60)


def worker_of(server: LiveServer) -> int:
    match = re.search(r"workers: (\d+)$", server.announcement, re.MULTILINE)
    assert match is not None, server.announcement
    return int(match[1])


@pytest.fixture(scope="module")
def answers(options: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The answers of a single process, by policy."""
    with serve(*options) as server:
        yield {policy: answer(server, policy) for policy in ("off", "cape")}


def answer(server: LiveServer, policy: str) -> dict[str, Any]:
    said = ask(server, temperature=0.7, seed=4, logprobs=True, speculation={"policy": policy})
    assert said.status_code == 200, said.text
    return said.json()


def test_two_ranks_serve_the_same_answers(
    options: tuple[str, ...], answers: dict[str, Any]
) -> None:
    with serve(*options, *TWO) as server:
        for policy, expected in answers.items():
            got = answer(server, policy)
            assert texts(got) == texts(expected)
            if policy == "cape":
                drafted = [said["speculation"]["drafted_tokens"] for said in (got, expected)]
                assert drafted[0] == drafted[1] > 0
        assert ask(server, stream=True).text.rstrip().endswith("data: [DONE]")
        worker = worker_of(server)
    assert gone(worker)


def texts(said: dict[str, Any]) -> list[str]:
    entries = said["choices"][0]["logprobs"]["content"]
    return [said["choices"][0]["message"]["content"], *(entry["token"] for entry in entries)]


def test_a_dead_worker_ends_the_engine_which_says_so(options: tuple[str, ...]) -> None:
    with serve(*options, *TWO, "--no-exit-on-engine-death") as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        worker = worker_of(server)
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while (health := httpx.get(f"{server.url}/health")).status_code == 200:
            assert time.monotonic() < deadline, "the death was not noticed"
            time.sleep(0.05)
        assert health.status_code == 503
        refused = ask(server)
        assert refused.status_code == 500
        assert refused.json()["error"]["code"] == "internal_error"
    assert f"rank 1 of 2 (process {worker}): was ended by signal 9" in "".join(server.log)


def test_workers_end_with_a_killed_server(options: tuple[str, ...]) -> None:
    with serve(*options, *TWO) as server:
        worker = worker_of(server)
        server.process.kill()
        assert gone(worker)


def test_generate_says_the_same_and_leaves_nobody(options: tuple[str, ...]) -> None:
    command = ("generate", "abc", "--max-tokens", "12", "--temperature", "0")
    one = run_glidecape(*command, *options)
    two = run_glidecape(*command, *options, *TWO)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert two.stdout == one.stdout
    match = re.search(r"workers: (\d+)$", two.stderr, re.MULTILINE)
    assert match is not None
    assert gone(int(match[1]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("--tensor-parallel-size", "3"),
            "tensor_parallel_size=3: the model's 4 query heads and 2 KV heads can't be shared out "
            "equally; sizes that fit: 1, 2, 4",
        ),
        ((*TWO, "--quantization", "int8"), "quantization='int8': needs the native kernels"),
        (("--tensor-parallel-size", "0"), "tensor_parallel_size='0'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    options: tuple[str, ...], given: tuple[str, ...], said: str
) -> None:
    done = run_glidecape("generate", "abc", *options, *given)
    assert done.returncode == 2
    assert said in done.stderr
