"""The metrics of several processes as one text: those of replicas with a label that names them."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL = "replica"


def merge(own: bytes, of_replicas: Mapping[str, str]) -> bytes:
    """One text in Prometheus's format.

    Args:
        own: This process's metrics.
        of_replicas: Those of each replica, by its name.
    """
    families: dict[str, Metric] = {}
    _add(families, own.decode(), None)
    for name, text in of_replicas.items():
        _add(families, text, name)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(families.values()))
    return generate_latest(registry)


def _add(families: dict[str, Metric], text: str, replica: str | None) -> None:
    for family in text_string_to_metric_families(text):
        if not family.samples:
            continue
        found = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        for sample in family.samples:
            labels = sample.labels if replica is None else sample.labels | {LABEL: replica}
            found.samples.append(sample._replace(labels=labels))


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
