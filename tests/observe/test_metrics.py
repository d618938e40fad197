import re
from dataclasses import replace

import pytest

from server.engine.outputs import (
    SpeculationSummary,
    StepSpeculationStats,
)
from server.observe.metrics import Metrics
from tests.observe.figures import FINISHED, STEP


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"glidecape:{name}", {"model_name": "tiny", **labels})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("num_requests_running", 2),
        ("num_requests_waiting", 3),
        ("kv_cache_usage_perc", 0.25),
        ("prompt_tokens_total", 22),
        ("generation_tokens_total", 8),
        ("num_preemptions_total", 2),
        ("prefix_cache_queries_total", 40),
        ("prefix_cache_hits_total", 32),
        ("time_to_first_token_seconds_count", 2),
        ("time_to_first_token_seconds_sum", 0.06),
        ("inter_token_latency_seconds_count", 8),
        ("inter_token_latency_seconds_sum", 1.12),
        ("e2e_request_latency_seconds_sum", 6.4),
        ("request_queue_time_seconds_sum", 0.8),
        ("request_prefill_time_seconds_sum", 1.2),
        ("request_decode_time_seconds_sum", 4.4),
        ("step_duration_seconds_count", 2),
    ],
)
def test_two_steps(name: str, expected: float) -> None:
    metrics = Metrics("tiny")
    metrics.record(STEP)
    metrics.record(STEP)
    assert value(metrics, name) == pytest.approx(expected)


def test_several_tokens_in_a_step_are_several_short_intervals() -> None:
    metrics = Metrics("tiny")
    metrics.record(STEP)
    # 0.06 s for three tokens is 0.02 s each; the fourth took 0.5 s.
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.025") == 3
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.5") == 4


SPECULATION = StepSpeculationStats(
    num_drafts=2,
    num_draft_tokens=9,
    num_accepted_tokens=3,
    accepted_per_position=(2, 1),
    depths=(4, 1),
    num_nodes=11,
    calibration=((0.95, True), (0.95, True), (1.0, False), (0.3, True), (0.0, False), (0.19, True)),
    draft_seconds=0.25,
    verify_seconds=0.5,
    other_seconds=0.125,
    decode_seconds=0.875,
    plain_seconds=1.75,
)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("num_drafts_total", {}, 4),
        ("num_draft_tokens_total", {}, 18),
        ("num_accepted_tokens_total", {}, 6),
        ("num_accepted_tokens_per_pos_total", {"position": "0"}, 4),
        ("num_accepted_tokens_per_pos_total", {"position": "1"}, 2),
        ("num_accepted_tokens_per_pos_total", {"position": "15"}, 0),
        ("num_nodes_total", {}, 22),
        ("draft_depth_count", {}, 4),
        ("draft_depth_sum", {}, 10),
        ("draft_depth_bucket", {"le": "1.0"}, 2),
        ("calibration_total", {"bin": "0.9-1.0", "accepted": "true"}, 4),
        ("calibration_total", {"bin": "0.9-1.0", "accepted": "false"}, 2),
        ("calibration_total", {"bin": "0.3-0.4", "accepted": "true"}, 2),
        ("calibration_total", {"bin": "0.1-0.2", "accepted": "true"}, 2),
        ("calibration_total", {"bin": "0.0-0.1", "accepted": "false"}, 2),
        ("calibration_total", {"bin": "0.0-0.1", "accepted": "true"}, 0),
        ("seconds_total", {"part": "draft"}, 0.5),
        ("seconds_total", {"part": "verify"}, 1.0),
        ("seconds_total", {"part": "other"}, 0.25),
        ("decode_seconds_total", {}, 1.75),
        ("plain_seconds_total", {}, 3.5),
    ],
)
def test_two_speculative_steps(name: str, labels: dict[str, str], expected: float) -> None:
    metrics = Metrics("tiny")
    assert value(metrics, f"spec_decode_{name}", **labels) == 0
    for step in (STEP, replace(STEP, speculation=SPECULATION), STEP):
        metrics.record(step)
    metrics.record(replace(STEP, speculation=SPECULATION))
    assert value(metrics, f"spec_decode_{name}", **labels) == pytest.approx(expected)


def test_the_seconds_by_part_are_of_all_steps_and_say_so() -> None:
    """The status page and the dashboard divide them by the number of all steps."""
    metrics = Metrics("tiny")
    metrics.record(replace(STEP, speculation=replace(SPECULATION, num_drafts=0)))
    metrics.record(replace(STEP, speculation=SPECULATION))
    for part, seconds in (("draft", 0.25), ("verify", 0.5), ("other", 0.125)):
        assert value(metrics, "spec_decode_seconds_total", part=part) == 2 * seconds
    assert value(metrics, "step_duration_seconds_count") == 2
    said = "spec_decode_seconds_total Seconds of all steps, with proposals or without, "
    assert said in metrics.render().decode()


def test_every_proposed_token_is_in_one_bin() -> None:
    metrics = Metrics("tiny")
    calibration = tuple((index / 1000, True) for index in range(1001))
    metrics.record(replace(STEP, speculation=StepSpeculationStats(calibration=calibration)))
    counts = [
        value(metrics, "spec_decode_calibration_total", bin=f"0.{i}-{j}", accepted="true")
        for i, j in enumerate([*(f"0.{k}" for k in range(1, 10)), "1.0"])
    ]
    assert counts == [*[100] * 9, 101]


def test_the_speedup_query_is_in_the_help() -> None:
    text = Metrics("tiny").render().decode()
    names = set(re.findall(r"rate\((glidecape:\w+)\[", text))
    assert len(names) == 2
    assert all(f'{name}{{model_name="tiny"}} 0.0' in text for name in names)


def test_where_no_step_ran_none_took_time() -> None:
    metrics = Metrics("tiny")
    metrics.record(replace(STEP, step_seconds=0.0))
    assert value(metrics, "step_duration_seconds_count") == 0
    assert value(metrics, "e2e_request_latency_seconds_count") == 1


def test_finished_by_reason() -> None:
    metrics = Metrics("tiny")
    metrics.record(STEP)
    assert value(metrics, "request_success_total", finished_reason="length") == 1
    # Known from the start, so that rates begin at zero and not at the first event.
    assert value(metrics, "request_success_total", finished_reason="error") == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("requests", 2),
        ("tokens", 14),
        ("decode_seconds", 4.4),
        ("steps", 3),
        ("draft_tokens", 12),
        ("accepted_tokens", 4),
    ],
)
def test_figures_of_a_policy(name: str, expected: float) -> None:
    """One of two requests speculated; figures of other policies stay at zero."""
    metrics = Metrics("tiny")
    summary = SpeculationSummary(num_steps=3, num_drafted=12, num_accepted=4)
    finished = (FINISHED, replace(FINISHED, speculation=summary))
    metrics.record(replace(STEP, finished=finished))
    name = f"spec_decode_policy_{name}_total"
    assert value(metrics, name, policy="cape") == pytest.approx(expected)
    assert value(metrics, name, policy="auto") == 0


def test_two_servers_in_one_process_do_not_mix() -> None:
    first, second = Metrics("tiny"), Metrics("tiny")
    first.record(STEP)
    assert value(second, "num_requests_running") == 0


def test_render_is_prometheus_text() -> None:
    text = Metrics("tiny").render().decode()
    assert "# TYPE glidecape:time_to_first_token_seconds histogram" in text
    assert 'glidecape:num_requests_running{model_name="tiny"} 0.0' in text


def test_lines_of_the_log_that_were_dropped() -> None:
    metrics = Metrics("tiny")
    counts = iter((3, 5))
    metrics.watch_log(lambda: next(counts))
    assert b'glidecape:log_lines_dropped_total{model_name="tiny"} 3.0' in metrics.render()
    assert value(metrics, "log_lines_dropped_total") == 5


def test_the_caches_size_is_said_in_labels() -> None:
    metrics = Metrics("tiny")
    metrics.describe_cache(block_size=16, num_blocks=1536)
    labels = 'block_size="16",model_name="tiny",num_gpu_blocks="1536"'
    assert f"glidecape:cache_config_info{{{labels}}} 1.0" in metrics.render().decode()


def test_what_serves_is_said_in_labels() -> None:
    metrics = Metrics("tiny")
    facts = {"version": "1.0", "draft": 'a "draft"', "kernels": "native"}
    metrics.describe_server(facts)
    assert value(metrics, "server_info", **facts) == 1
    before = value(metrics, "uptime_seconds")
    assert before is not None
    assert (value(metrics, "uptime_seconds") or 0) > before >= 0
