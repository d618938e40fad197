"""The metrics of several processes as one text in Prometheus's format: those of replicas with a
label that names them.

Each replica puts the label on its own, and who joins the texts only sorts their lines: parsing
those of many replicas would hold up an event loop for longer than a step takes.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

LABEL = "replica"
_HEAD = "# HELP "


def render_labelled(registry: CollectorRegistry, replica: str) -> bytes:
    """A process's metrics, with its name on every sample."""
    labelled = CollectorRegistry(auto_describe=False)
    labelled.register(_Fixed([_with_label(family, replica) for family in registry.collect()]))
    return generate_latest(labelled)


def join(texts: Iterable[str]) -> str:
    """One text of several whose samples differ in their labels; each family is described once, as
    it is where it comes first."""
    families: dict[str, list[str]] = {}
    for text in texts:
        for block in f"\n{text}".split(f"\n{_HEAD}")[1:]:
            help_line, type_line, *rest = block.split("\n", 2)
            samples = "".join(rest).rstrip("\n")
            if samples:
                name = help_line.split(" ", 1)[0]
                known = families.setdefault(name, [f"{_HEAD}{help_line}\n{type_line}\n"])
                known.append(f"{samples}\n")
    return "".join(part for parts in families.values() for part in parts)


def _with_label(family: Metric, replica: str) -> Metric:
    labelled = Metric(family.name, family.documentation, family.type)
    labelled.samples = [
        sample._replace(labels=sample.labels | {LABEL: replica}) for sample in family.samples
    ]
    return labelled


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
