"""The protocol, with a worker that needs nothing installed."""

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.peers.worker import Worker, WorkerError

SCRIPT = Path(__file__).parent / "fake_worker.py"


def start(job_seconds: float = 60.0, **options: Any) -> Worker:
    command = (sys.executable, str(SCRIPT), json.dumps(options))
    return Worker("fake", command, dict(os.environ), job_seconds=job_seconds)


@pytest.fixture
def worker() -> Generator[Worker, None, None]:
    worker = start()
    yield worker
    worker.close()


def status(worker: Worker) -> str:
    return psutil.Process(worker.pid).status()


def test_jobs_are_answered_whatever_libraries_print(worker: Worker) -> None:
    assert worker.about == {"version": "1", "weights": "none", "way": "echo"}
    for tokens in (2, 3):
        answer = worker.ask("generate", prompts=[[1, 2], [3]], new_tokens=tokens)
        assert answer == {"seconds": 0.5, "token_ids": [[2] * tokens, [3] * tokens]}


def test_it_is_stopped_between_jobs(worker: Worker) -> None:
    assert status(worker) == psutil.STATUS_STOPPED
    worker.ask("generate", prompts=[[1]], new_tokens=1)
    assert status(worker) == psutil.STATUS_STOPPED
    assert worker.resident_bytes() > 2**20


def test_a_long_answer_comes_whole(worker: Worker) -> None:
    answer = worker.ask("generate", prompts=[[7]], new_tokens=200_000)
    assert answer["token_ids"] == [[7] * 200_000]


def test_a_failed_job_names_the_system_and_leaves_it_usable(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="fake: RuntimeError: no memory"):
        worker.ask("break", reason="no memory")
    assert worker.ask("generate", prompts=[[1]], new_tokens=1)["token_ids"] == [[1]]


def test_one_that_dies_says_its_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"fake: ended with exit code 3: .*out of luck"):
        worker.ask("die")
    with pytest.raises(WorkerError, match="exit code 3"):
        worker.ask("generate", prompts=[[1]], new_tokens=1)
    assert worker.resident_bytes() == 0


def test_one_that_hangs_is_given_up() -> None:
    worker = start(job_seconds=0.2)
    with pytest.raises(WorkerError, match="fake: no answer in time"):
        worker.ask("hang")
    worker.close()
    assert not psutil.pid_exists(worker.pid)


def test_one_that_does_not_load() -> None:
    with pytest.raises(WorkerError, match="fake: ValueError: no such model"):
        start(fails="no such model")


def test_one_that_is_not_there() -> None:
    with pytest.raises(WorkerError, match="/no/python: No such file"):
        Worker("fake", ["/no/python"], {})
