"""What a JSON schema costs per token, and what speculation does for it.

python -m bench.structured [ROUNDS [NEW_TOKENS]]   ->   a table, then one JSON line

The same prompts with and without a schema, with speculation off and auto, interleaved. Each request
is timed from its first token to its last; compiling and the prompt are not in it.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench.common.engine import encode_question, load, running
from server.cli.terminal import one_line_errors
from server.config import ModelSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.types import (
    Grammar,
    PolicyName,
    Request,
    RequestId,
    SamplingParams,
    SpeculationParams,
)
from server.loading.model import LoadedModel

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "occupation": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "favourite_colour": {"enum": ["red", "green", "blue", "yellow"]},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
        "hobbies": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "occupation", "age", "favourite_colour", "address", "hobbies"],
    "additionalProperties": False,
}
PROMPTS = [
    f"Describe a {who} as a JSON object with name, occupation, age, address and hobbies."
    for who in ("teacher", "sailor", "painter")
]
POLICIES: tuple[PolicyName, ...] = ("off", "auto")


@dataclass(slots=True)
class Timings:
    """Times of one combination, over all rounds."""

    seconds: list[float] = field(default_factory=list[float])
    """Seconds per token, one entry for each request."""
    num_tokens: int = 0
    num_steps: int = 0

    @property
    def milliseconds(self) -> float:
        """Median milliseconds per token."""
        return statistics.median(self.seconds) * 1000


Case = tuple[bool, PolicyName]
"""Whether the request has a schema, and its policy."""


async def measure(model: LoadedModel, rounds: int, new_tokens: int) -> dict[Case, Timings]:
    cases: list[Case] = [
        (structured, policy) for policy in POLICIES for structured in (False, True)
    ]
    timings = {case: Timings() for case in cases}
    for index in range(rounds + 1):
        for case in cases:
            for prompt in PROMPTS:
                seconds, outputs = await _answer(model, prompt, case, new_tokens)
                count = outputs[-1].num_output_tokens - len(outputs[0].token_ids)
                if index > 0 and count > 0:  # the first round warms up and compiles
                    timings[case].seconds.append(seconds / count)
                    timings[case].num_tokens += count
                    timings[case].num_steps += len(outputs) - 1
    return timings


async def _answer(
    model: LoadedModel, prompt: str, case: Case, new_tokens: int
) -> tuple[float, list[RequestOutput]]:
    """(seconds from the first token to the last, outputs)"""
    structured, policy = case
    grammar = Grammar("json_schema", json.dumps(SCHEMA)) if structured else None
    request = Request(
        RequestId(f"structured-{time.monotonic_ns()}"),
        encode_question(model, prompt),
        SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True, grammar=grammar),
        speculation=SpeculationParams(policy=policy),
    )
    times, outputs = list[float](), list[RequestOutput]()
    async for output in model.engine.generate(request):
        times.append(time.perf_counter())
        outputs.append(output)
    return times[-1] - times[0], outputs


def show(timings: dict[Case, Timings]) -> None:
    """A table, then one JSON line."""
    table = Table("speculation", "answer", "ms/token", "tokens/step", "against no schema", "gain")
    for (structured, policy), entry in timings.items():
        plain, off = timings[False, policy], timings[structured, "off"]
        table.add_row(
            policy,
            "JSON schema" if structured else "any text",
            f"{entry.milliseconds:.2f}",
            f"{entry.num_tokens / entry.num_steps:.2f}",
            f"{entry.milliseconds / plain.milliseconds - 1:+.1%}" if structured else "",
            f"{off.milliseconds / entry.milliseconds:.2f}" if policy != "off" else "",
        )
    Console(highlight=False).print(table)
    print(json.dumps(dict(_as_json(timings))))


def _as_json(timings: dict[Case, Timings]) -> Iterator[tuple[str, dict[str, float]]]:
    for (structured, policy), entry in timings.items():
        name = f"{'schema' if structured else 'text'}_{policy}"
        tokens_per_step = entry.num_tokens / entry.num_steps
        yield name, {"ms_per_token": entry.milliseconds, "tokens_per_step": tokens_per_step}


def main(rounds: int = 3, new_tokens: int = 96) -> None:
    model = load(load_settings(ModelSettings))

    async def run() -> dict[Case, Timings]:
        async with running(model):
            return await measure(model, rounds, new_tokens)

    show(asyncio.run(run()))


if __name__ == "__main__":
    with one_line_errors("bench.structured"):
        main(*map(int, sys.argv[1:]))
