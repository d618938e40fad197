"""Metrics of the process that has the API: what serves, since when, and how it answered."""

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from server.observe.metric_factory import PREFIX, MetricFactory


class FrontMetrics:
    """In a registry of their own.

    Args:
        model_name: Value of the label `model_name`.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        self._make = MetricFactory(self.registry, model_name)
        self._http = Counter(
            f"{PREFIX}:http_requests",
            "HTTP answers, by route and status; 499: the client left before there was one.",
            ["route", "status"],
            registry=self.registry,
        )

    def describe_server(self, facts: Mapping[str, str]) -> None:
        """Says what serves here, in the labels of a metric that is always 1; the server's uptime
        counts from now on.

        Args:
            facts: Such as `{"version": "1.0", "draft": "none"}`.
        """
        server = Gauge(
            f"{PREFIX}:server_info",
            "What serves here; always 1.",
            ["model_name", *facts],
            registry=self.registry,
        )
        server.labels(self._model_name, *facts.values()).set(1)
        started = time.monotonic()
        # A span and no time of day: the reader's clock may differ from this one.
        uptime = self._make.gauge("uptime_seconds", "Seconds since the model was loaded.")
        uptime.set_function(lambda: time.monotonic() - started)

    def count_http(self, route: str, status: int) -> None:
        self._http.labels(route, str(status)).inc()

    def watch_log(self, num_dropped: Callable[[], int]) -> None:
        """Shows how many lines of the log were dropped so far; to be called once."""
        self.count_elsewhere(
            "log_lines_dropped",
            "Lines of the log that came faster than they were read, and were never written.",
            num_dropped,
        )

    def count_elsewhere(
        self, name: str, text: str, read: Callable[[], float], **labels: str
    ) -> None:
        """Adds a counter whose value is kept elsewhere."""
        self._make.counter_elsewhere(name, text, read, **labels)

    def show(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge whose value is kept elsewhere."""
        self._make.gauge(name, text).set_function(read)

    def render(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
