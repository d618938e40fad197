"""What `auto` expects of its own choices against what they bring, with the draft that serves.

Under `auto` each step has an expectation: tokens by the calibrated chances of the nodes it
verifies, and seconds by the cost curves, which follow what steps usually take. Seconds that are
reached are above that where steps are held up by something else.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common.engine import encode_question, running
from bench.common.prompts import PROMPTS
from server.cli.terminal import report
from server.config import ModelSettings
from server.engine.outputs import StepStats
from server.engine.types import PolicyName, Request, RequestId, SamplingParams, SpeculationParams
from server.loading.model import LoadedModel, build_model

_NUM_PROMPTS = 8


@dataclass(slots=True)
class Forecast:
    """Sums over the steps of `auto`, and tokens per second, one entry per round."""

    num_steps: int = 0
    expected_tokens: float = 0.0
    expected_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    plain_rates: list[float] = field(default_factory=list[float])
    auto_rates: list[float] = field(default_factory=list[float])

    def observe(self, step: StepStats) -> None:
        """Counts a step that only decoded, all under `auto`."""
        found = step.speculation
        if found is None or not found.expected_seconds:
            return
        self.num_steps += 1
        self.expected_tokens += found.expected_tokens
        self.expected_seconds += found.expected_seconds
        self.tokens += step.num_generation_tokens
        self.seconds += found.decode_seconds


def measure_forecast(settings: ModelSettings, new_tokens: int, rounds: int) -> Forecast:
    """Answers a few questions one after another, plainly and under `auto` in turn; the first round
    warms up and teaches `auto` what this draft is worth here."""
    forecast = Forecast()
    model = build_model(settings, report, forecast.observe)
    asyncio.run(_measure(model, forecast, new_tokens, rounds))
    return forecast


async def _measure(model: LoadedModel, forecast: Forecast, new_tokens: int, rounds: int) -> None:
    async with running(model):
        for index in range(rounds + 1):
            plain = await _rate(model, "off", new_tokens)
            auto = await _rate(model, "auto", new_tokens)
            if index:
                forecast.plain_rates.append(plain)
                forecast.auto_rates.append(auto)
            else:
                forecast.num_steps = forecast.tokens = 0
                forecast.expected_tokens = forecast.expected_seconds = forecast.seconds = 0.0


async def _rate(model: LoadedModel, policy: PolicyName, new_tokens: int) -> float:
    """Tokens per second; prompts included in the time."""
    started, count = time.perf_counter(), 0
    for question in PROMPTS[:_NUM_PROMPTS]:
        request = Request(
            RequestId(f"forecast-{time.monotonic_ns()}"),
            encode_question(model, question),
            SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True),
            speculation=SpeculationParams(policy=policy),
        )
        async for output in model.engine.generate(request):
            count += len(output.token_ids)
    return count / (time.perf_counter() - started)


def print_forecast(forecast: Forecast) -> None:
    """A table for people."""
    console = Console(highlight=False)
    plain, auto = map(statistics.median, (forecast.plain_rates, forecast.auto_rates))
    console.print(
        f"one stream, auto with the draft that serves: {auto:.1f} tokens/s, "
        f"{auto / plain:.2f} x of plain decoding's {plain:.1f}"
    )
    if forecast.num_steps == 0:  # steps on a device don't say what they expect
        return
    table = Table("auto's decoding steps", "tokens/s", "tokens/step", "ms/step")
    for name, tokens, seconds in (
        ("expected", forecast.expected_tokens, forecast.expected_seconds),
        ("reached", forecast.tokens, forecast.seconds),
    ):
        steps = forecast.num_steps
        shown = (f"{tokens / seconds:.1f}", f"{tokens / steps:.2f}", f"{seconds / steps * 1e3:.2f}")
        table.add_row(name, *shown)
    console.print(table)


def forecast_json(forecast: Forecast) -> dict[str, Any]:
    return {
        "auto": {
            "plain_tok_s": forecast.plain_rates,
            "auto_tok_s": forecast.auto_rates,
            "steps": forecast.num_steps,
            "expected_tokens": forecast.expected_tokens,
            "expected_seconds": forecast.expected_seconds,
            "tokens": forecast.tokens,
            "seconds": forecast.seconds,
        }
    }
