"""How metrics are made: their prefix, and the labels that all of them have."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "glidecape"


class MetricFactory:
    """Makes metrics of one registry with the model's name already bound: looking a label up costs
    more than counting."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._registry = registry
        self._model_name = model_name

    def gauge(self, name: str, text: str) -> Gauge:
        metric = Gauge(f"{PREFIX}:{name}", text, ["model_name"], registry=self._registry)
        return metric.labels(self._model_name)

    def counter(self, name: str, text: str) -> Counter:
        metric = Counter(f"{PREFIX}:{name}", text, ["model_name"], registry=self._registry)
        return metric.labels(self._model_name)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(
            f"{PREFIX}:{name}", text, ["model_name"], registry=self._registry, buckets=buckets
        )
        return metric.labels(self._model_name)

    def counters(
        self, name: str, text: str, labels: Sequence[str], rows: Iterable[Sequence[str]]
    ) -> list[Counter]:
        """One counter for each row of label values. All are there from the start, so that rates
        begin at zero and not at the first event."""
        metric = Counter(f"{PREFIX}:{name}", text, ["model_name", *labels], registry=self._registry)
        return [metric.labels(self._model_name, *row) for row in rows]
