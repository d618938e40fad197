"""What replicas bring and cost: prefixes found again, the way through Ray, deaths.

    python -m bench.replicas [--part PART] [--model MODEL]   ->   tables, then one JSON line

    cache   8 conversations of 10 turns: two replicas behind the router, two servers in turn, one
    path    to the first token and from token to token, through Ray and directly, in turn
    kills   200 requests while a replica is killed five times

Servers are processes of their own, started as users start them.
"""

import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import httpx
import psutil
import typer
from rich.console import Console
from rich.table import Table

from server.cli.terminal import one_line_errors
from server.config import DEFAULT_MODEL

CONVERSATIONS, TURNS, TURN_TOKENS = 8, 10, 16
STREAMS, ROUNDS, PATH_TOKENS = (1, 8), 16, 48
REQUESTS, AT_ONCE, KILLS, KILL_TOKENS, SEED = 200, 8, 5, 24, 7
TIMEOUT = 300.0
Figures = dict[str, Any]


class Answer(NamedTuple):
    """One streamed answer. Times in seconds."""

    text: str
    first: float
    per_token: float
    prompt_tokens: int
    cached_tokens: int


class Failed(Exception):
    """A request that was answered with an error, or not at all; `kind` says which."""

    def __init__(self, kind: Literal["error", "broken"]) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(slots=True)
class Running:
    """A server's process, and how to ask it."""

    url: str
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=TIMEOUT))

    async def ask(
        self, messages: Sequence[dict[str, str]], max_tokens: int, policy: str = "auto"
    ) -> Answer:
        """Raises Failed where there is no whole answer."""
        body = {
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "speculation": {"policy": policy},
        }
        started, times, text, usage = time.perf_counter(), list[float](), "", dict[str, Any]()
        url = f"{self.url}/v1/chat/completions"
        try:
            async with self.client.stream("POST", url, json=body) as response:
                async for event in _events(response):
                    if "error" in event:
                        raise Failed("error")
                    usage = event.get("usage") or usage
                    delta = event["choices"][0]["delta"] if event["choices"] else {}
                    if delta.get("content"):
                        times.append(time.perf_counter() - started)
                        text += delta["content"]
        except (httpx.HTTPError, ValueError):
            raise Failed("broken") from None
        if not usage or not times:
            raise Failed("broken")
        num_later = max(usage["completion_tokens"] - 1, 1)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        per_token = (times[-1] - times[0]) / num_later
        return Answer(text, times[0], per_token, usage["prompt_tokens"], cached)

    def replicas(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if child.name().startswith("ray::ServeRepl")]


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream, or the one body of another answer."""
    if response.headers["content-type"].startswith("application/json"):
        yield json.loads(await response.aread())
        return
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


@asynccontextmanager
async def server(model: str, *options: str) -> AsyncGenerator[Running, None]:
    """`glidecape serve` until the block ends."""
    command = "-m", "server", "serve", "--port", "0", "--model", model, "--log-level", "warning"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, *options), stderr=subprocess.PIPE
    )
    if process.stderr is None:
        raise RuntimeError("no stderr")
    printed = ""
    while (match := re.search(r"Serving \S+ on (\S+)", printed)) is None:
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError(f"the server ended before it was ready: {printed}")
        printed += line.decode()
    reader = asyncio.create_task(process.stderr.read())
    running = Running(match[1], process)
    try:
        yield running
    finally:
        await running.client.aclose()
        process.terminate()
        await process.wait()
        await reader


# What the prefix caches find.


async def cache(model: str) -> Figures:
    """The three systems one after another, each with all conversations at once."""
    half = "--threads", str(max(1, (os.cpu_count() or 2) // 2))
    found: Figures = {}
    async with server(model, "--replicas", "2") as routed:
        found["router"] = await converse(lambda _: routed)
    async with server(model, *half) as one, server(model, *half) as other:
        found["round robin"] = await converse(lambda count: (one, other)[count % 2])
    async with server(model) as single:
        found["one engine"] = await converse(lambda _: single)
    found["of one engine's"] = found["router"]["share"] / found["one engine"]["share"]
    return found


async def converse(pick: Callable[[int], Running]) -> Figures:
    """All conversations at once.

    Args:
        pick: The server for the request of that number.
    """
    answers, numbers = list[Answer](), iter(range(CONVERSATIONS * TURNS))

    async def conversation(index: int) -> None:
        messages: list[dict[str, str]] = []
        for turn in range(TURNS):
            messages.append({"role": "user", "content": _question(index, turn)})
            said = await pick(next(numbers)).ask(messages, TURN_TOKENS)
            messages.append({"role": "assistant", "content": said.text})
            if turn:  # of the first turn nothing can be known
                answers.append(said)

    await asyncio.gather(*map(conversation, range(CONVERSATIONS)))
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    return {
        "share": sum(answer.cached_tokens for answer in answers) / prompt_tokens,
        "first_ms": 1e3 * statistics.median(answer.first for answer in answers),
    }


def _question(index: int, turn: int) -> str:
    subjects = "rivers", "bridges", "clocks", "owls", "islands", "trains", "candles", "violins"
    return f"Tell me fact number {turn + 1} about {subjects[index % len(subjects)]}, in one line."


# What the way through Ray costs.


async def path(model: str) -> Figures:
    """One engine directly and one behind Ray, in turn; which is first changes with each round.

    Plain decoding, a token a step: what speculation brings depends on what each engine has measured
    when it started.
    """
    times: dict[tuple[str, int], list[list[Answer]]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        servers = {
            "directly": await stack.enter_async_context(server(model)),
            "through Ray": await stack.enter_async_context(server(model, "--autoscale", "1:1")),
        }
        for number in range(ROUNDS + 1):
            for streams in STREAMS:
                for name in list(servers)[:: 1 if number % 2 else -1]:
                    questions = [[user(f"{number} {i}: count to 50")] for i in range(streams)]
                    asked = (
                        servers[name].ask(question, PATH_TOKENS, "off") for question in questions
                    )
                    answers = await asyncio.gather(*asked)
                    if number:  # the first round warms up
                        times[name, streams].append(answers)
    found: Figures = {}
    for streams in STREAMS:
        first, token = (
            [[1e3 * statistics.median(map(read, a)) for a in times[n, streams]] for n in servers]
            for read in (_first, _per_token)
        )
        found[f"{streams} streams"] = {
            "first_ms": dict(zip(servers, map(statistics.median, first), strict=True)),
            "token_ms": dict(zip(servers, map(statistics.median, token), strict=True)),
            "first_more_ms": statistics.median(ray - own for own, ray in zip(*first, strict=True)),
            "token_more_percent": statistics.median(
                100 * (ray / own - 1) for own, ray in zip(*token, strict=True)
            ),
        }
    return found


def _first(answer: Answer) -> float:
    return answer.first


def _per_token(answer: Answer) -> float:
    return answer.per_token


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# What happens when replicas die.


async def kills(model: str) -> Figures:
    """Kills a replica whenever a random number of requests has been answered."""
    chance, outcomes = random.Random(SEED), Counter[str]()
    at = set(chance.sample(range(5, REQUESTS - 20), KILLS))
    numbers, killed = iter(range(REQUESTS)), 0
    async with server(model, "--replicas", "2") as running:

        async def ask_some() -> None:
            nonlocal killed
            for number in numbers:
                if number in at:
                    while not (victims := running.replicas()):
                        await asyncio.sleep(0.1)
                    os.kill(chance.choice(victims).pid, signal.SIGKILL)
                    killed += 1
                try:
                    await running.ask([user(f"Question {number}: why?")], KILL_TOKENS)
                    outcomes["answered"] += 1
                except Failed as failed:
                    outcomes[failed.kind] += 1

        await asyncio.gather(*(ask_some() for _ in range(AT_ONCE)))
    return {"killed": killed, **{kind: outcomes[kind] for kind in ("answered", "error", "broken")}}


PARTS = {"cache": cache, "path": path, "kills": kills}


def show(part: str, found: Figures) -> None:
    table = Table("", *("figure", "value"), title=part)
    for name, value in found.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for key, figure in rows:
            table.add_row(name, str(key), _shown(figure))
    Console().print(table)


def _shown(figure: object) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{key} {_shown(value)}" for key, value in figure.items())
    return f"{figure:.3g}" if isinstance(figure, float) else str(figure)


def main(
    part: Annotated[list[str] | None, typer.Option(help="cache, path or kills; all")] = None,
    model: Annotated[str, typer.Option(help="as for glidecape serve")] = DEFAULT_MODEL,
) -> None:
    """What replicas bring and cost."""
    found: Figures = {}
    for name in part or PARTS:
        if name not in PARTS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(PARTS)}")
        found[name] = asyncio.run(PARTS[name](model))
        show(name, found[name])
    print(json.dumps(found))


if __name__ == "__main__":
    with one_line_errors("bench.replicas"):
        typer.run(main)
