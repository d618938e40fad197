import pytest

from server.engine.types import FinishedRequest, StepStats
from server.metrics import Metrics

FINISHED = FinishedRequest(
    reason="length",
    num_prompt_tokens=5,
    num_output_tokens=7,
    queue_seconds=0.4,
    prefill_seconds=0.6,
    decode_seconds=2.2,
    e2e_seconds=3.2,
)

STEP = StepStats(
    num_running=2,
    num_waiting=3,
    kv_usage=0.25,
    num_prompt_tokens=11,
    num_generation_tokens=4,
    num_preemptions=1,
    prefix_cache_queries=20,
    prefix_cache_hits=16,
    times_to_first_token=(0.03,),
    inter_token=((0.06, 3), (0.5, 1)),
    finished=(FINISHED,),
    step_seconds=0.04,
)


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


def test_finished_by_reason() -> None:
    metrics = Metrics("tiny")
    metrics.record(STEP)
    assert value(metrics, "request_success_total", finished_reason="length") == 1
    # Known from the start, so that rates begin at zero and not at the first event.
    assert value(metrics, "request_success_total", finished_reason="error") == 0


def test_two_servers_in_one_process_do_not_mix() -> None:
    first, second = Metrics("tiny"), Metrics("tiny")
    first.record(STEP)
    assert value(second, "num_requests_running") == 0


def test_render_is_prometheus_text() -> None:
    text = Metrics("tiny").render().decode()
    assert "# TYPE glidecape:time_to_first_token_seconds histogram" in text
    assert 'glidecape:num_requests_running{model_name="tiny"} 0.0' in text
