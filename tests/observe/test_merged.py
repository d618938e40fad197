"""Metrics of several processes as one text."""

import re

from server.observe.front_metrics import FrontMetrics
from server.observe.merged import merge
from server.observe.metrics import Metrics


def test_replicas_have_a_label_and_each_family_is_described_once() -> None:
    front = FrontMetrics("tiny")
    front.count_http("/v1/models", 200)
    texts = {name: Metrics("tiny").render().decode() for name in ("a", "b")}
    text = merge(front.render(), texts).decode()
    assert 'glidecape:num_requests_running{model_name="tiny",replica="a"} 0.0\n' in text
    assert 'glidecape:num_requests_running{model_name="tiny",replica="b"} 0.0\n' in text
    assert 'glidecape:num_requests_running{model_name="tiny"}' not in text
    assert 'glidecape:http_requests_total{route="/v1/models",status="200"} 1.0\n' in text
    described = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(described) == len(set(described)) > 20


def test_values_and_kinds_are_those_of_the_replica() -> None:
    text = Metrics("tiny").render().decode()
    merged = merge(b"", {"a": text}).decode()
    kinds = re.compile(r"^# TYPE (.*)$", re.MULTILINE)
    with_samples = set(kinds.findall(merged))
    assert with_samples <= set(kinds.findall(text))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len([line for line in merged.splitlines() if not line.startswith("#")]) == len(samples)
