"""The metrics of a front and its replicas as one text."""

from server.observe.front_metrics import FrontMetrics
from server.observe.merged import join
from server.replicas.engine import ReplicatedEngine

SECONDS = 2.0
"""How long a replica may take to answer: Prometheus itself waits for 10 seconds."""


class Scrape:
    """Asks every replica when metrics are asked for."""

    def __init__(self, metrics: FrontMetrics, engine: ReplicatedEngine) -> None:
        self._metrics = metrics
        self._engine = engine
        self._num_unanswered = 0
        metrics.count_elsewhere(
            "replica_scrapes_unanswered",
            "Times a replica did not give its metrics in time, and was left out.",
            lambda: self._num_unanswered,
        )
        metrics.count_elsewhere(
            "request_success",
            "Requests that ended, by reason; of the front: with their replicas.",
            lambda: self._engine.num_given_up,
            finished_reason="error",
        )
        metrics.show("num_replicas", "Replicas that requests are sent to, now.", self._num_replicas)

    def _num_replicas(self) -> int:
        return len(self._engine.replicas)

    async def __call__(self) -> bytes:
        """In Prometheus's text format."""
        texts = await self._engine.metrics_texts(SECONDS)
        self._num_unanswered += sum(text is None for text in texts.values())
        answered = [text for text in texts.values() if text is not None]
        return join([self._metrics.render().decode(), *answered]).encode()
