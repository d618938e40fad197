"""What `auto` expected beside what it reached, from steps' figures."""

import pytest

from bench.machine.forecast import Forecast, forecast_json, print_forecast
from server.engine.outputs import StepSpeculationStats, StepStats


def step(tokens: int, **speculation: float) -> StepStats:
    found = StepSpeculationStats(**speculation) if speculation else None  # pyright: ignore[reportArgumentType]
    return StepStats(
        num_running=1, num_waiting=0, kv_usage=0.0, num_prompt_tokens=0,
        num_generation_tokens=tokens, num_preemptions=0, prefix_cache_queries=0,
        prefix_cache_hits=0, times_to_first_token=(), inter_token=(), finished=(), step_seconds=0.0,
        speculation=found,
    )  # fmt: skip


def test_only_steps_with_an_expectation_count(capsys: pytest.CaptureFixture[str]) -> None:
    forecast = Forecast(plain_rates=[100.0], auto_rates=[150.0])
    forecast.observe(step(3, expected_tokens=2.5, expected_seconds=0.01, decode_seconds=0.0125))
    forecast.observe(step(1, expected_tokens=1.5, expected_seconds=0.01, decode_seconds=0.0075))
    forecast.observe(step(7, decode_seconds=1.0))
    forecast.observe(step(7))
    print_forecast(forecast)
    shown = capsys.readouterr().out
    assert "150.0 tokens/s, 1.50 x of plain" in " ".join(shown.split())
    lines = [line for line in shown.splitlines() if "expected" in line or "reached" in line]
    figures = [[cell.strip() for cell in line.split("│")[2:5]] for line in lines]
    assert figures == [["200.0", "2.00", "10.00"], ["200.0", "2.00", "10.00"]]
    assert forecast_json(forecast)["auto"]["tokens"] == 4


def test_without_expectations_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_forecast(Forecast(plain_rates=[100.0], auto_rates=[150.0]))
    assert "expected" not in capsys.readouterr().out
