"""Stage 1 of `glidecape train`: the target writes the text that its draft is trained on.

A fixed number of workers share one list of jobs, so that the engine always has a full batch; each
answer goes to disk when it ends. A run that is killed and started again goes on where it was: the
answers it would have given are the same, because everything random is keyed by the prompt.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from server.engine.types import Request, RequestId, SamplingParams
from server.errors import ConfigError, GlidecapeError, UnsupportedModelError
from weights.train.text.jobs import FilePrompt, Job, SelfPrompt, draw, jobs, keyed, kind_for
from weights.train.text.loops import LoopDetector
from weights.train.text.prompts import Prompt, user_turn
from weights.train.text.self_prompts import (
    SelfPrompts,
    UserHeader,
    opening,
    user_header,
    write_prompt,
)
from weights.train.text.store import Answer, AnswerKind, Finish, TextStore, answer_key
from weights.train.text.target import TextTarget


class Recorder(Protocol):
    """Is told of the requests for answers (`features/recorded.py`)."""

    def begin(self, request_id: RequestId) -> None:
        """To be called before the request is made."""
        ...

    def end(self, request_id: RequestId, answer: Answer | None) -> None:
        """The answer has been written; None where there is none."""
        ...

    def flush(self) -> None:
        """There will be no more answers."""
        ...


TEXT_FILE, PROMPTS_FILE = "text.jsonl", "prompts.jsonl"
_MIN_ROOM = 16
"""Tokens a prompt has to leave of the context for its answer."""
_MAX_DROPPED = 256
"""Self-written prompts dropped in a row before the stage gives up."""
_REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How much text, and how."""

    num_tokens: int
    """Response tokens in all, those of earlier runs included."""
    seconds: float | None = None
    """Most seconds of this run; None for no limit."""
    concurrency: int = 32
    """Requests in flight."""
    max_new_tokens: int = 160
    """Longest answer."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the stage is."""

    num_tokens: int
    """Response tokens so far: earlier runs, this one, and answers that are being given."""
    num_answers: int
    """On disk."""
    tokens_per_second: float
    """Rate of response tokens, over this run."""
    seconds: float
    """Since this run began."""
    num_skipped: int
    """Answers not given because their prompts leave them no room in the context."""


async def generate_text(
    target: TextTarget,
    prompts: Sequence[Prompt],
    folder: Path,
    config: GenerationConfig,
    report: Callable[[Progress], None],
    recorder: Recorder | None = None,
) -> Progress:
    """Writes text until there are `num_tokens`, the time is up, or all prompts are answered.

    Args:
        target: its engine is started, and serves nobody else.
        prompts: of the user; none where the target is to write its own.
        folder: of this run and those it resumes; gets `text.jsonl` and `prompts.jsonl`.
        report: called about twice a second.
        recorder: is told of every answer, in the order in which they are written.

    Raises:
        CheckpointError: a file of the folder is broken or can't be written.
        UnsupportedModelError: there are no prompts, and the template has no user header.
        ConfigError: the target does not write usable prompts.
        EngineDeadError: the engine crashed.
    """
    header = _header(target, needed=not prompts)
    with (
        closing(TextStore(folder / TEXT_FILE)) as store,
        closing(SelfPrompts(folder / PROMPTS_FILE)) as self_prompts,
    ):
        work = jobs(prompts, can_write_itself=header is not None)
        generation = _Generation(target, header, store, self_prompts, work, config, recorder)
        done = await generation.run(report)
        if recorder is not None:
            recorder.flush()
        return done


def _header(target: TextTarget, *, needed: bool) -> UserHeader | None:
    """None where the target can't write prompts itself, and need not."""
    try:
        if target.template is None:
            raise UnsupportedModelError("the target has no chat template, so it needs prompts")
        return user_header(target.template, target.tokenizer)
    except GlidecapeError:
        if needed:
            raise
        return None


class _Generation:
    """One run of the stage; see `generate_text`."""

    def __init__(
        self,
        target: TextTarget,
        header: UserHeader | None,
        store: TextStore,
        self_prompts: SelfPrompts,
        work: Iterator[Job],
        config: GenerationConfig,
        recorder: Recorder | None,
    ) -> None:
        self._target = target
        self._recorder = recorder
        self._header = header
        self._config = config
        self._store = store
        self._self_prompts = self_prompts
        self._jobs = work
        self._started = time.monotonic()
        self._num_at_start = self._store.num_tokens
        self._num_open_tokens = 0
        """Counts the tokens of answers that are being given."""
        self._num_dropped = 0
        """Self-written prompts, since the last one that was kept."""
        self._num_skipped = 0

    async def run(self, report: Callable[[Progress], None]) -> Progress:
        ticker = asyncio.create_task(self._tick(report))
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._config.concurrency):
                    group.create_task(self._work())
        except* GlidecapeError as errors:
            failure = errors.exceptions[0]
        finally:
            ticker.cancel()
        if failure is not None:  # Python 3.11.2 makes a group again of what is raised in except*
            raise failure
        report(self._progress())
        return self._progress()

    async def _work(self) -> None:
        """One place in the engine's batch."""
        while not self._is_over and (job := next(self._jobs, None)) is not None:
            await (self._do_own(job) if isinstance(job, SelfPrompt) else self._do_given(job))

    async def _do_given(self, job: FilePrompt) -> None:
        prompt_ids = job.prompt.encode(self._target.tokenizer)
        kind = kind_for(self._config.seed, prompt_ids, other_way=job.other_way)
        await self._answer(job.prompt.source, prompt_ids, kind)

    async def _do_own(self, job: SelfPrompt) -> None:
        name = f"self-{job.index}"
        if job.index in self._self_prompts:
            text = self._self_prompts[job.index]
        else:
            text = await self._write_prompt(job.index, name)
        if text is None or self._target.template is None:
            return
        rendered = Prompt(name, user_turn(text, self._target.template), is_chat=True)
        prompt_ids = rendered.encode(self._target.tokenizer)
        kind = kind_for(self._config.seed, prompt_ids, other_way=False)
        await self._answer(name, prompt_ids, kind)

    async def _write_prompt(self, index: int, name: str) -> str | None:
        if self._header is None:
            return None
        written = await write_prompt(
            self._target.engine,
            self._target.tokenizer,
            self._header,
            f"{name}-prompt",
            opening(keyed(self._config.seed, "opening", index)),
            keyed(self._config.seed, "prompt", index),
            lambda: self._is_over,
        )
        if self._is_over:  # it may be half of a prompt: not to be noted as one that was dropped
            return None
        text = self._self_prompts.add(index, written)
        self._num_dropped = 0 if text is not None else self._num_dropped + 1
        if self._num_dropped >= _MAX_DROPPED:
            reason = f"the target wrote nothing usable in {_MAX_DROPPED} attempts; give a file"
            raise ConfigError("prompts", None, reason)
        return text

    async def _answer(self, source: str, prompt_ids: tuple[int, ...], kind: AnswerKind) -> None:
        room = self._target.engine.max_model_len - len(prompt_ids)
        key = answer_key(prompt_ids, kind)
        if room < _MIN_ROOM or not prompt_ids:
            self._num_skipped += 1
            return
        if self._is_over or not self._store.claim(key):
            return
        chosen = draw(self._config.seed, prompt_ids, kind)
        params = SamplingParams(
            max_tokens=min(self._config.max_new_tokens, room),
            temperature=chosen.temperature,
            seed=chosen.seed,
        )
        request = Request(RequestId(f"{source}/{key.hex()}"), prompt_ids, params)
        answer: Answer | None = None
        if self._recorder is not None:
            self._recorder.begin(request.request_id)
        try:
            response_ids, finish = await self._listen(request)
            if response_ids:
                ids = prompt_ids, tuple(response_ids)
                given = Answer(source, chosen.temperature, *ids, finish)
                self._store.add(given)
                answer = given
        finally:
            if self._recorder is not None:
                self._recorder.end(request.request_id, answer)

    async def _listen(self, request: Request) -> tuple[list[int], Finish]:
        """The answer, up to its end, to where it goes round in circles, or to the stage's end."""
        response_ids: list[int] = []
        finish: Finish = "cut"
        loop = LoopDetector()
        try:
            async with aclosing(self._target.engine.generate(request)) as outputs:
                async for output in outputs:
                    taken = loop.take(output.token_ids)
                    response_ids += taken
                    self._num_open_tokens += len(taken)
                    if loop.found:
                        finish = "loop"
                        break
                    if output.finish_reason is not None:
                        finish = "stop" if output.finish_reason == "stop" else "length"
                    elif self._is_over:
                        break
        finally:
            self._num_open_tokens -= len(response_ids)
        return response_ids, finish

    @property
    def _is_over(self) -> bool:
        limit = self._config.seconds
        is_late = limit is not None and time.monotonic() - self._started >= limit
        return is_late or self._num_tokens >= self._config.num_tokens

    @property
    def _num_tokens(self) -> int:
        return self._store.num_tokens + self._num_open_tokens

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._started
        num_tokens = self._num_tokens
        rate = (num_tokens - self._num_at_start) / max(seconds, 1e-9)
        num_answers = self._store.num_answers
        return Progress(num_tokens, num_answers, rate, seconds, self._num_skipped)

    async def _tick(self, report: Callable[[Progress], None]) -> None:
        while True:
            report(self._progress())
            await asyncio.sleep(_REPORT_SECONDS)
