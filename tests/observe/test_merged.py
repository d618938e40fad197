"""Metrics of several processes as one text."""

import re

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from server.observe.front_metrics import FrontMetrics
from server.observe.merged import LABEL, join, render_labelled
from server.observe.metrics import Metrics


def of_replica(name: str) -> str:
    return render_labelled(Metrics("tiny").registry, name).decode()


def test_replicas_have_a_label_and_each_family_is_described_once() -> None:
    front = FrontMetrics("tiny")
    front.count_http("/v1/models", 200)
    text = join([front.render().decode(), of_replica("a"), of_replica("b")])
    assert 'glidecape:num_requests_running{model_name="tiny",replica="a"} 0.0\n' in text
    assert 'glidecape:num_requests_running{model_name="tiny",replica="b"} 0.0\n' in text
    assert 'glidecape:num_requests_running{model_name="tiny"}' not in text
    assert 'glidecape:http_requests_total{route="/v1/models",status="200"} 1.0\n' in text
    described = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(described) == len(set(described)) > 20


def test_values_and_kinds_are_those_of_the_replica() -> None:
    metrics = Metrics("tiny")
    text = metrics.render().decode()
    joined = join([render_labelled(metrics.registry, "a").decode()])
    kinds = re.compile(r"^# TYPE (.*)$", re.MULTILINE)
    assert set(kinds.findall(joined)) <= set(kinds.findall(text))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    joined = joined.replace(',replica="a"', "")
    assert [line for line in joined.splitlines() if not line.startswith("#")] == samples


@pytest.mark.parametrize("odd", ["plain", 'a "quoted"\n# HELP x y\nline', "back\\slash", "ü{}"])
def test_odd_texts_stay_what_they_are(odd: str) -> None:
    """In descriptions, labels and names: read again by Prometheus's own parser."""
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry in registries:
        Counter("c", odd, ["kind"], registry=registry).labels(odd).inc(2)
        Gauge("g", odd, registry=registry).set(3)
        Histogram("h", odd, buckets=(1.0,), registry=registry).observe(0.5)
        Gauge("none", "No samples.", ["kind"], registry=registry)
    names = ("a", odd)
    texts = [
        render_labelled(each, name).decode() for each, name in zip(registries, names, strict=True)
    ]
    families = {each.name: each for each in text_string_to_metric_families(join(texts))}
    assert {"c", "g", "h"} <= set(families) and "none" not in families
    counts = [each for each in families["c"].samples if each.name == "c_total"]
    assert [each.labels for each in counts] == [{"kind": odd, LABEL: name} for name in names]
    assert [each.value for each in families["g"].samples] == [3, 3]
    assert families["g"].documentation == odd


def test_a_replica_shows_nothing_of_a_front() -> None:
    text = of_replica("a")
    assert "uptime_seconds" not in text
    assert "http_requests" not in join([text])
