"""How metrics are made: their prefix, and the labels that all of them have."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

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

    def counter_elsewhere(
        self, name: str, text: str, read: Callable[[], float], **labels: str
    ) -> None:
        """A counter whose value is kept elsewhere and read when the metrics are rendered."""
        family = CounterMetricFamily(f"{PREFIX}:{name}", text, labels=["model_name", *labels])
        values = [self._model_name, *labels.values()]
        self._registry.register(_Elsewhere(family, values, read))


class _Elsewhere(Collector):
    def __init__(
        self, family: CounterMetricFamily, values: Sequence[str], read: Callable[[], float]
    ) -> None:
        self._family = family
        self._values = values
        self._read = read

    def describe(self) -> Iterable[CounterMetricFamily]:
        return [self._family]

    def collect(self) -> Iterable[CounterMetricFamily]:
        self._family.samples.clear()
        self._family.add_metric(self._values, self._read())
        return [self._family]
