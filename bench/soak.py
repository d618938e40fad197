"""A random soak: all kinds of requests on a KV pool that is too small for them.

    python -m bench.soak [--seconds 180] [--at-once 24] [--seed 0]

Requests of random prompts (half of them begin alike), policies, sampling, grammars, logprobs and
priorities run side by side, are preempted, and a third of them is given up in mid-answer. Each is
then asked for again, in other company and without speculation, and must give the same tokens. At
the end no block may be held, and memory may not have grown. Exits with 1 where one of that fails.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import psutil
import typer

from bench.common.engine import POLICIES, running
from server.cli.terminal import one_line_errors, report
from server.config import ModelSettings, load_settings
from server.engine.outputs import RequestOutput, StepStats
from server.engine.types import Grammar, Request, RequestId, SamplingParams, SpeculationParams
from server.loading.model import LoadedModel, build_model

CONTEXT = 768
POOL = "48M"
"""Some two thousand tokens of the default model: less than three of the longest sequences."""
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
GRAMMARS = (
    Grammar("choice", json.dumps(["yes", "no", "perhaps, but not before the end of the year"])),
    Grammar("regex", "([0-9]{2}, ){3,9}[0-9]{2}"),
    Grammar("json_schema", SCHEMA),
    Grammar("json_object", ""),
)
_MEMORY_SLACK = 96 * 2**20
"""Growth of resident memory, in bytes, between a third of the time and the end, that is no leak."""


@dataclass(slots=True)
class Tally:
    """What happened, and what went wrong."""

    answers: int = 0
    given_up: int = 0
    tokens: int = 0
    accepted: int = 0
    preemptions: int = 0
    prefix_hits: int = 0
    kv_usage: float = 0.0
    """Share of the KV blocks that were held after the latest step."""
    differing: list[str] = field(default_factory=list[str])

    def observe(self, stats: StepStats) -> None:
        """Called by the engine after each step."""
        self.preemptions += stats.num_preemptions
        self.prefix_hits += stats.prefix_cache_hits
        self.kv_usage = stats.kv_usage
        if stats.speculation is not None:
            self.accepted += stats.speculation.num_accepted_tokens


def main(
    seconds: Annotated[float, typer.Option(help="New requests begin so long.", min=0)] = 180,
    at_once: Annotated[int, typer.Option(help="Requests side by side.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Of the requests.")] = 0,
) -> None:
    """Send random requests, each twice, and compare."""
    tally = Tally()
    settings = load_settings(
        ModelSettings, max_model_len=CONTEXT, kv_memory=POOL, max_num_seqs=max(at_once // 2, 1)
    )
    model = build_model(settings, report, tally.observe)
    growth = asyncio.run(soak(model, tally, seconds, at_once, random.Random(seed)))
    failures = list(tally.differing)
    if tally.kv_usage:
        failures.append(f"{tally.kv_usage:.1%} of the KV blocks are still held")
    if growth > _MEMORY_SLACK:
        failures.append(f"resident memory grew by {growth / 2**20:.0f} MiB")
    for failure in failures:
        report(failure)
    print(json.dumps(summary(tally) | {"memory_growth_mib": round(growth / 2**20, 1)}))
    raise typer.Exit(1 if failures else 0)


def summary(tally: Tally) -> dict[str, Any]:
    """The tally as figures."""
    return {
        "answers": tally.answers,
        "given_up": tally.given_up,
        "tokens": tally.tokens,
        "accepted_tokens": tally.accepted,
        "preemptions": tally.preemptions,
        "prefix_cache_hits": tally.prefix_hits,
        "differing": len(tally.differing),
    }


async def soak(
    model: LoadedModel, tally: Tally, seconds: float, at_once: int, randomness: random.Random
) -> int:
    """Runs the requests; starts and stops the engine. Returns by how many bytes resident memory
    grew after the first third of the time."""
    process = psutil.Process()
    start = time.monotonic()
    memory: list[int] = []

    async def client(index: int, choices: random.Random) -> None:
        count = 0
        while time.monotonic() < start + seconds:
            if not memory and time.monotonic() > start + seconds / 3:
                memory.append(process.memory_info().rss)
            await _twice(model, tally, f"{index}-{count}", choices)
            count += 1

    async with running(model):
        seeds = [random.Random(randomness.random()) for _ in range(at_once)]
        await asyncio.gather(*(client(i, choices) for i, choices in enumerate(seeds)))
    return process.memory_info().rss - memory[0] if memory else 0


async def _twice(model: LoadedModel, tally: Tally, name: str, choices: random.Random) -> None:
    """One random request, given up or not, and the same again without speculation."""
    request = random_request(name, model.facts.vocab_size, choices)
    limit = choices.randrange(1, 40) if choices.random() < 1 / 3 else None
    first = await _tokens(model, request, limit)
    plain = SpeculationParams(policy="off")
    again = replace(
        request,
        request_id=RequestId(f"{name}-again"),
        speculation=plain,
        priority=choices.randrange(-1, 2),
        cache_salt=choices.choice([None, name]),
    )
    second = await _tokens(model, again, limit)
    tally.answers += limit is None
    tally.given_up += limit is not None
    tally.tokens += len(first) + len(second)
    # Both were left behind the step that reached the limit, which may have gone beyond it.
    if first[:limit] != second[:limit]:
        tally.differing.append(f"{name} differs: {request.params}, {request.speculation}")


async def _tokens(model: LoadedModel, request: Request, limit: int | None) -> list[int]:
    """The answer's tokens; leaves it, which aborts it, as soon as there are `limit`."""
    token_ids: list[int] = []
    outputs: AsyncGenerator[RequestOutput, None] = model.engine.generate(request)
    async with aclosing(outputs):
        async for output in outputs:
            token_ids.extend(output.token_ids)
            if limit is not None and len(token_ids) >= limit:
                break
    return token_ids


def random_request(name: str, vocab_size: int, choices: random.Random) -> Request:
    """Anything that the API could ask for."""
    shared = random.Random(choices.randrange(4))
    beginning = _some_tokens(shared, vocab_size, 200) if choices.random() < 0.5 else ()
    own = _some_tokens(choices, vocab_size, choices.choice([1, 15, 16, 17, 120, 400]))
    return Request(
        RequestId(name),
        (*beginning, *own),
        random_params(choices, vocab_size),
        priority=choices.randrange(-1, 2),
        speculation=SpeculationParams(
            choices.choice(POLICIES), choices.choice([None, 1, 3, 8]), choices.choice([2, 8, 32])
        ),
    )


def random_params(choices: random.Random, vocab_size: int) -> SamplingParams:
    """Sampling of every kind, greedy in a third of the requests."""
    grammar = choices.choice(GRAMMARS) if choices.random() < 0.25 else None
    penalised = choices.random() < 0.25
    return SamplingParams(
        max_tokens=choices.choice([1, 2, 17, 60, 120]),
        temperature=choices.choice([0.0, 0.7, 1.3]),
        top_k=choices.choice([0, 0, 5, 50]),
        top_p=choices.choice([1.0, 1.0, 0.9]),
        min_p=choices.choice([0.0, 0.0, 0.05]),
        seed=choices.getrandbits(63),
        presence_penalty=0.5 if penalised else 0.0,
        repetition_penalty=1.2 if penalised else 1.0,
        logit_bias={choices.randrange(100, vocab_size): 3.0} if penalised else {},
        logprobs=choices.choice([None, None, 3]),
        prompt_logprobs=choices.choice([None] * 7 + [1]),
        ignore_eos=grammar is None and choices.random() < 0.5,
        grammar=grammar,
    )


def _some_tokens(choices: random.Random, vocab_size: int, count: int) -> tuple[int, ...]:
    return tuple(choices.randrange(100, vocab_size) for _ in range(count))


if __name__ == "__main__":
    with one_line_errors("bench.soak"):
        typer.run(main)
