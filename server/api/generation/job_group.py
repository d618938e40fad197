"""All generations of one HTTP request, run side by side.

    request ── prompt 0 ── job 0 … job k-1     the best n of k are its choices 0 … n-1
            └─ prompt 1 ── job 0 … job k-1     choices n … 2n-1

Jobs are numbered through. Each prompt's first job computes it; the others find it in the prefix
cache (`Request.shares_prompt_with`).
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple

from server.api.deps import Engine
from server.api.generation.job import Job, Piece, run_job
from server.text.prompt_text import PromptText


@dataclass(frozen=True, slots=True)
class PromptJobs:
    """The generations from one prompt."""

    jobs: tuple[Job, ...]
    num_choices: int
    """How many of the answers are sent: the best ones."""
    echo: PromptText | None = None
    """The prompt, if the answer is to begin with it."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.jobs[0].request.prompt_token_ids


@dataclass(frozen=True, slots=True)
class JobGroup:
    id: str
    """The answer's id."""
    prompts: tuple[PromptJobs, ...]

    @property
    def jobs(self) -> list[Job]:
        return [job for prompt in self.prompts for job in prompt.jobs]

    @property
    def choices(self) -> list[PromptJobs]:
        """The prompt of each choice."""
        return [prompt for prompt in self.prompts for _ in range(prompt.num_choices)]


class JobProgress(NamedTuple):
    job: int
    progress: Piece


def choice_seed(seed: int, index: int) -> int:
    """The seed of a prompt's answer `index`: the first one's is the request's own, the others' are
    the first 8 bytes of BLAKE2b over "seed/index", as a signed little-endian number.

    Not seed + index: the second answer to seed 7 would be the first one to seed 8.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


async def run_group(engine: Engine, group: JobGroup) -> AsyncGenerator[JobProgress, None]:
    """Yields the pieces of all jobs as they come; closing it ends them all.

    Raises:
        EngineDeadError: the engine died.
        GlidecapeError: it gave one of them up; the others are ended.
    """
    jobs = group.jobs
    if len(jobs) == 1:
        async with aclosing(run_job(engine, jobs[0])) as pieces:
            async for piece in pieces:
                yield JobProgress(0, piece)
        return
    merged = _Merged(engine, group)
    try:
        async for piece in merged.pieces():
            yield piece
    finally:
        await merged.aclose()


async def collect_group(engine: Engine, group: JobGroup) -> list[Piece]:
    """All pieces of all jobs, where nothing is streamed; raises as `run_group`."""
    async with aclosing(run_group(engine, group)) as pieces:
        return [piece.progress async for piece in pieces]


class _Merged:
    """A task per job; their pieces in one queue."""

    def __init__(self, engine: Engine, group: JobGroup) -> None:
        self._engine = engine
        # Without a bound, like the queues it is fed from: what a job adds is bounded by max_tokens,
        # and a client that reads slowly must not keep the engine working past a stop string.
        self._queue: asyncio.Queue[JobProgress | Exception] = asyncio.Queue()
        self._tasks = list[asyncio.Task[None]]()
        number = 0
        for prompt in group.prompts:
            scores = _PromptLogprobs()
            # In this order, because tasks start in it: a prompt's first job comes first.
            for job in prompt.jobs:
                self._tasks.append(asyncio.create_task(self._run(number, job, scores)))
                number += 1

    async def pieces(self) -> AsyncGenerator[JobProgress, None]:
        num_open = len(self._tasks)
        while num_open:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            num_open -= item.progress.finish_reason is not None
            yield item

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, number: int, job: Job, scores: "_PromptLogprobs") -> None:
        is_first_piece = True
        try:
            async with aclosing(run_job(self._engine, job)) as pieces:
                async for piece in pieces:
                    if is_first_piece:
                        piece = await scores.complete(job, piece)
                        is_first_piece = False
                    self._queue.put_nowait(JobProgress(number, piece))
        except Exception as error:
            self._queue.put_nowait(error)


class _PromptLogprobs:
    """Logprobs of one prompt: its first job has them computed, and all its answers show them."""

    def __init__(self) -> None:
        self._first: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()

    async def complete(self, job: Job, piece: Piece) -> Piece:
        """A job's first piece, with the prompt's logprobs."""
        if job.request.shares_prompt_with is None:
            self._first.set_result(piece)
            return piece
        if not job.shows_prompt_logprobs:
            return piece
        return replace(piece, prompt_logprobs=(await self._first).prompt_logprobs)


def best_choices(
    prompts: Sequence[PromptJobs], pieces: Mapping[int, list[Piece]]
) -> list[list[Piece]]:
    """The pieces of each choice: where a prompt has more jobs than choices, those with the highest
    mean logprob of a token, the best one first."""
    found: list[list[Piece]] = []
    number = 0
    for prompt in prompts:
        answers = [pieces[number + index] for index in range(len(prompt.jobs))]
        number += len(prompt.jobs)
        if len(answers) > prompt.num_choices:
            answers.sort(key=_mean_logprob, reverse=True)
        found += answers[: prompt.num_choices]
    return found


def _mean_logprob(pieces: Sequence[Piece]) -> float:
    total = sum(piece.logprob_sum for piece in pieces)
    return total / max(pieces[-1].num_output_tokens, 1)
