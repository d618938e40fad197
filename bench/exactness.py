"""Does speculation change a token on a real model? Counts answers that differ from plain decoding.

    python -m bench.exactness PROMPTS.jsonl … [--limit 200] [--policy auto] [--at-once 16]

Prompts are JSON lines with `messages`. Greedy and seeded sampling, each policy, alone and sixteen
at once; all are compared with plain decoding of one prompt at a time.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.common.engine import POLICIES, encode_chat, load, running
from server.cli.terminal import one_line_errors, report
from server.config import ModelSettings, load_settings
from server.engine.types import PolicyName, Request, RequestId, SamplingParams, SpeculationParams
from server.loading.model import LoadedModel
from weights.train.text.json_lines import line_error, read_json_lines

OFF = SpeculationParams(policy="off")


def main(
    files: Annotated[list[Path], typer.Argument(help="JSON lines with messages.")],
    draft: Annotated[str, typer.Option(help="As in glidecape serve.")] = "auto",
    dtype: Annotated[str, typer.Option(help="As in glidecape serve.")] = "auto",
    limit: Annotated[int, typer.Option(help="Prompts in all, spread over the files.")] = 50,
    new_tokens: Annotated[int, typer.Option(help="Tokens per answer.")] = 128,
    policy: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    at_once: Annotated[
        list[int] | None, typer.Option(help="Requests at once; repeatable; default: 1, 16.", min=1)
    ] = None,
) -> None:
    """Count answers that speculation changed."""
    settings = load_settings(ModelSettings, draft=draft, dtype=dtype)
    model = load(settings)
    per_file = -(-limit // len(files))
    chats = [chat for path in files for chat in _chats(path, per_file)][:limit]
    prompts = [encode_chat(model, chat) for chat in chats]
    policies = [SpeculationParams(policy=name) for name in _checked(policy)]
    print(
        json.dumps(asyncio.run(compare(model, prompts, policies, new_tokens, at_once or (1, 16))))
    )


def _checked(names: Sequence[str] | None) -> list[PolicyName]:
    unknown = [name for name in names or () if name not in POLICIES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(POLICIES)}")
    return [policy for policy in POLICIES if names is None or policy in names]


def _chats(path: Path, count: int) -> list[Any]:
    chats = list[Any]()
    for number, line in islice(read_json_lines(path), count):
        if "messages" not in line:
            raise line_error(path, number, "has no messages")
        chats.append(line["messages"])
    return chats


async def compare(
    model: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    policies: Sequence[SpeculationParams],
    new_tokens: int,
    at_once: Sequence[int],
) -> dict[str, int]:
    """How many answers of each way differ from those of plain decoding, alone. Starts and stops the
    model's engine."""
    counts = {"prompts": len(prompts), "new_tokens": new_tokens}
    ways = [(policy, places) for places in at_once for policy in policies]
    async with running(model):
        for name, params in (
            ("greedy", SamplingParams(max_tokens=new_tokens, temperature=0.0)),
            ("seeded", SamplingParams(max_tokens=new_tokens, temperature=1.0, top_p=0.9, seed=1)),
        ):
            plain = await _answers(model, prompts, params, OFF, 1)
            counts[f"{name} tokens"] = sum(map(len, plain))
            for speculation, places in ways:
                if (speculation, places) == (OFF, 1):
                    continue
                answers = await _answers(model, prompts, params, speculation, places)
                differ = sum(a != b for a, b in zip(plain, answers, strict=True))
                counts[f"{name} {speculation.policy} at {places} differ"] = differ
                report(f"{name}, {speculation.policy}, {places} at once: {differ} differ")
    return counts


async def _answers(
    model: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    params: SamplingParams,
    speculation: SpeculationParams,
    at_once: int,
) -> list[list[int]]:
    places = asyncio.Semaphore(at_once)

    async def answer(index: int, prompt: tuple[int, ...]) -> list[int]:
        request = Request(RequestId(str(index)), prompt, params)
        request = replace(request, speculation=speculation)
        async with places:
            outputs = [output async for output in model.engine.generate(request)]
        return [token_id for output in outputs for token_id in output.token_ids]

    return await asyncio.gather(*(answer(i, prompt) for i, prompt in enumerate(prompts)))


if __name__ == "__main__":
    with one_line_errors("bench.exactness"):
        typer.run(main)
