"""Processes that compile: their limits, and who may use them."""

import os
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import pytest

from server.engine.grammar.compile.worker import Compile, Proven
from server.engine.grammar.compile.workers import Workers
from server.engine.types import Grammar
from server.errors import GrammarError
from tests.engine.grammar.bytes import BYTES

PATIENCE = 120.0
"""Seconds; no test takes so long unless it fails."""


class Shared:
    """Workers that do what their jobs say, and the names of the jobs in the order of their ends."""

    def __init__(self, seconds: float = 5.0, quick_seconds: float = 5.0) -> None:
        self._workers = Workers(
            BYTES.tokens,
            seconds,
            quick_seconds,
            program="tests.engine.grammar.compile.scripted_worker",
        )
        self.ended = list[str]()

    def submit(self, text: str, name: str = "", owner: str | None = None) -> "Future[Any]":
        def finish(answer: Any) -> tuple[int, int]:
            self.ended.append(name)
            pid, priority = answer_text(answer).split()
            return int(pid), int(priority)

        return self._workers.submit(Compile(Grammar("regex", text)), owner, finish)

    def process(self, text: str = "say") -> int:
        """That did a job."""
        return self.submit(text).result(PATIENCE)[0]


def answer_text(answer: Any) -> str:
    if not isinstance(answer, Proven):
        raise GrammarError(answer.reason)
    return answer.text.text


def test_a_process_is_kept() -> None:
    shared = Shared()
    assert shared.process() == shared.process() != os.getpid()


@pytest.mark.parametrize("text", ["spin 60", "sleep 60"])
def test_what_takes_too_long_is_ended(text: str) -> None:
    shared = Shared(seconds=0.3, quick_seconds=0.1)
    first = shared.process()
    with pytest.raises(GrammarError, match=r"more than 0\.3 seconds"):
        shared.process(text)
    assert not os.path.exists(f"/proc/{first}")
    assert shared.process() != first


def test_a_process_that_dies_is_replaced() -> None:
    shared = Shared()
    with pytest.raises(GrammarError, match="too much memory"):
        shared.process("die")
    assert shared.process()


def test_slow_jobs_leave_room_for_others() -> None:
    shared = Shared(seconds=30.0, quick_seconds=0.1)
    slow = [shared.submit("spin 0.6", f"slow {i}", "anna") for i in range(3)]
    quick = shared.submit("say", "quick", "berta")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert quick.result(PATIENCE)[1] == own
    assert [future.result(PATIENCE)[1] for future in slow] == [10, 10, 10]
    assert shared.ended.index("quick") < 2
    assert sorted(shared.ended) == ["quick", "slow 0", "slow 1", "slow 2"]


def test_slow_jobs_of_several_take_turns() -> None:
    shared = Shared(seconds=30.0, quick_seconds=0.1)
    futures = [shared.submit("spin 0.4", f"anna {i}", "anna") for i in range(4)]
    futures.append(shared.submit("spin 0.4", "berta", "berta"))
    for future in futures:
        future.result(PATIENCE)
    assert shared.ended[-1] != "berta"


def test_whoever_has_the_least_running_is_next() -> None:
    shared = Shared()
    futures = [shared.submit("sleep 0.2", f"anna {i}", "anna") for i in range(6)]
    futures.append(shared.submit("say", "berta", "berta"))
    for future in futures:
        future.result(PATIENCE)
    assert shared.ended.index("berta") <= 3


def test_what_is_cancelled_while_it_waits_is_not_begun() -> None:
    shared = Shared()
    first = [shared.submit("sleep 0.3", "first") for _ in range(2)]
    cancelled, last = shared.submit("say", "cancelled"), shared.submit("say", "last")
    assert cancelled.cancel()
    for future in (*first, last):
        future.result(PATIENCE)
    assert "cancelled" not in shared.ended


def test_what_is_slow_and_cancelled_is_ended() -> None:
    shared = Shared(seconds=PATIENCE, quick_seconds=0.05)
    process = shared.process()
    slow = shared.submit("spin 1000")
    waiting = shared.submit("spin 1000")
    assert shared.submit("say").result(PATIENCE)
    assert slow.cancel()
    assert waiting.cancel()
    assert shared.submit("spin 0.2").result(PATIENCE)[0] != process
    assert not os.path.exists(f"/proc/{process}")


def test_the_real_process() -> None:
    job = Compile(Grammar("ebnf", 'root ::= "a"'))
    answer = Workers(BYTES.tokens).submit(job, None, lambda answer: answer).result(PATIENCE)
    assert answer_text(answer) == 'root ::= "a"'


IMPORTS = """
import sys
from server.engine.grammar.compile import worker
worker._import_xgrammar_alone()
import xgrammar
assert xgrammar.Grammar.from_regex("a")
sys.exit(any(name.startswith(("torch.", "transformers.")) for name in sys.modules))
"""
MEMORY = """
from server.engine.grammar.compile import worker
worker._limit_memory()
held = bytearray(worker.MAX_BYTES // 2)
try:
    bytearray(worker.MAX_BYTES)
except MemoryError:
    raise SystemExit(0)
raise SystemExit(1)
"""


@pytest.mark.parametrize("code", [IMPORTS, MEMORY], ids=["imports", "memory"])
def test_the_process_stays_small(code: str) -> None:
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
