"""The real server, engine's thread and all, around a model that does what a prompt tells it: for
tests of what happens when things go wrong. It has the options of `glidecape serve`.

    python -m tests.api.http.faulty_server --port 0 --drain-seconds 1

Every answer is `aaa…`, a token each 10 ms. A prompt that has one of these words makes

    crash     the step raise
    unseen    the observers of the crash raise too
    hang      the step never return
"""

import sys
import threading
import time
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager

import typer
from fastapi import FastAPI

from server.api.app import create_app
from server.api.deps import Parts, ServingInfo
from server.api.middleware.stack import middleware_config
from server.build import Served
from server.cli.options import with_settings
from server.cli.serve import bind, run
from server.config import ServerSettings
from server.engine.async_engine import AsyncEngine
from server.engine.outputs import StepStats
from server.engine.schedule.plan import PlannedSequence, SequenceResult, StepPlan, StepResult
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.types import Grammar, RequestId
from server.observe.logs import configure_logging
from server.observe.observers import Observers
from tests.doubles import EOS_ID, PlainTemplate, byte_tokenizer, ids

MODEL = "tiny/model"
COMMAND = (sys.executable, "-m", "tests.api.http.faulty_server")

SECONDS_PER_STEP = 0.01

_IDS = {word: tuple(ids(word)) for word in ("a", "crash", "unseen", "hang")}

LIMITS = SchedulerConfig(
    num_blocks=4096,
    block_size=16,
    max_model_len=8192,
    max_num_seqs=64,
    max_num_batched_tokens=4096,
    prefix_caching=True,
    eos_token_ids=frozenset({EOS_ID}),
)


class FaultyRunner:
    def __init__(self) -> None:
        self.is_unseen = False

    def execute(self, plan: StepPlan) -> StepResult:
        self.is_unseen = any(_has(sequence, "unseen") for sequence in plan.sequences)
        if any(_has(sequence, "crash") for sequence in plan.sequences):
            raise RuntimeError("a step that crashes")
        if any(_has(sequence, "hang") for sequence in plan.sequences):
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        time.sleep(SECONDS_PER_STEP)
        return StepResult({s.request.request_id: _said(s) for s in plan.sequences})

    def forget(self, request_id: RequestId) -> None: ...


def _has(sequence: PlannedSequence, word: str) -> bool:
    """Whether a prompt has it; a token is a byte."""
    prompt, wanted = sequence.request.prompt_token_ids, _IDS[word]
    return any(
        prompt[start : start + len(wanted)] == wanted
        for start in range(len(prompt) - len(wanted) + 1)
    )


def _said(sequence: PlannedSequence) -> SequenceResult:
    return SequenceResult(sequence.num_nodes, _IDS["a"] if sequence.wants_token else (), None)


class NoGrammars:
    """Nobody asks for one."""

    async def compile(self, grammar: Grammar, owner: Hashable = None) -> object: ...

    def find(self, grammar: Grammar) -> object | None: ...

    async def check_schemas(self, schemas: Sequence[object], owner: Hashable = None) -> None: ...


@with_settings(ServerSettings)
def serve(settings: ServerSettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    listener = bind(settings.host, settings.port)
    observers = Observers(settings, MODEL)
    observers.start_log(settings, byte_tokenizer())
    runner = FaultyRunner()

    def observe(step: StepStats) -> None:
        if runner.is_unseen:
            raise ZeroDivisionError("an observer that fails")
        observers.record(step)

    engine = AsyncEngine(Scheduler(LIMITS), runner, observe, None, settings.step_timeout)
    tokenizer = byte_tokenizer()
    info = ServingInfo(MODEL, 0, "1", EOS_ID + 1, "fp_0")
    parts = Parts(engine, tokenizer, PlainTemplate(), observers.metrics, info, NoGrammars())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        engine.start()
        yield
        await engine.stop(1.0)

    app = create_app(parts, middleware_config(settings), lifespan)
    run(Served(app, engine, MODEL, "off"), settings, listener)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(serve)
    app()
