"""Prometheus metrics, under vLLM's names and buckets (prefix `glidecape:`), so that dashboards
port by a rename.

The engine's thread calls `record` after each step, the event loop counts HTTP answers;
prometheus-client locks each value.
"""

from typing import get_args

from prometheus_client import Counter, Gauge

from server.engine.outputs import FinishedRequest, StepStats
from server.engine.types import FinishReason
from server.observe.front_metrics import FrontMetrics
from server.observe.metric_factory import PREFIX, MetricFactory
from server.observe.speculation_metrics import SpeculationMetrics

# fmt: off
_FIRST_TOKEN_BUCKETS = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
    640, 2560,
)
# vLLM's begin at .01; speculation and small models are faster than that.
_INTER_TOKEN_BUCKETS = (
    .001, .0025, .005, .0075, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5,
    10, 20, 40, 80,
)
_REQUEST_BUCKETS = (
    .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)
_STEP_BUCKETS = (.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2.5, 5, 10)
# fmt: on


class Metrics(FrontMetrics):
    """All metrics of a server with one engine.

    Args:
        model_name: Value of the label `model_name`.
    """

    def __init__(self, model_name: str) -> None:
        super().__init__(model_name)
        make = self._make
        self._make_gauges(make)
        self._make_counters(make)
        self._make_request_times(make)
        self._make_step_times(make)
        self._speculation = SpeculationMetrics(make)
        self._finished = self._make_finished(make)

    def describe_cache(self, block_size: int, num_blocks: int) -> None:
        """Says how large the KV cache is, in the labels of a metric that is always 1. Gateways that
        route by prefix read it, under vLLM's names; on a CPU the blocks are no GPU's either.
        """
        cache = Gauge(
            f"{PREFIX}:cache_config_info",
            "The KV cache: tokens in a block, and blocks; always 1.",
            ["model_name", "block_size", "num_gpu_blocks"],
            registry=self.registry,
        )
        cache.labels(self._model_name, str(block_size), str(num_blocks)).set(1)

    def record(self, step: StepStats) -> None:
        """Adds one engine step."""
        self._running.set(step.num_running)
        self._waiting.set(step.num_waiting)
        self._kv_usage.set(step.kv_usage)
        self._prompt_tokens.inc(step.num_prompt_tokens)
        self._generation_tokens.inc(step.num_generation_tokens)
        self._preemptions.inc(step.num_preemptions)
        self._prefix_queries.inc(step.prefix_cache_queries)
        self._prefix_hits.inc(step.prefix_cache_hits)
        if step.step_seconds > 0:
            self._step_time.observe(step.step_seconds)
        for seconds in step.times_to_first_token:
            self._first_token.observe(seconds)
        for seconds, num_tokens in step.inter_token:
            # A step that brings three tokens counts as three intervals of a third.
            for _ in range(num_tokens):
                self._inter_token.observe(seconds / num_tokens)
        for request in step.finished:
            self._record_finished(request)
        if step.speculation is not None:
            self._speculation.record(step.speculation)

    def _record_finished(self, request: FinishedRequest) -> None:
        self._finished[request.reason].inc()
        self._e2e.observe(request.e2e_seconds)
        self._queue.observe(request.queue_seconds)
        self._prefill.observe(request.prefill_seconds)
        self._decode.observe(request.decode_seconds)
        self._speculation.record_finished(request)

    def _make_finished(self, make: MetricFactory) -> dict[FinishReason, Counter]:
        reasons: tuple[FinishReason, ...] = get_args(FinishReason)
        counters = make.counters(
            "request_success",
            "Requests that ended, by reason: stop, length, abort (client left), error.",
            ["finished_reason"],
            [(reason,) for reason in reasons],
        )
        return dict(zip(reasons, counters, strict=True))

    def _make_gauges(self, make: MetricFactory) -> None:
        self._running = make.gauge("num_requests_running", "Requests in the running batch, now.")
        self._waiting = make.gauge("num_requests_waiting", "Requests waiting to be scheduled, now.")
        self._kv_usage = make.gauge(
            "kv_cache_usage_perc", "Share of the KV cache's blocks held by requests, 0 to 1."
        )

    def _make_counters(self, make: MetricFactory) -> None:
        self._prompt_tokens = make.counter(
            "prompt_tokens",
            "Prompt tokens of requests whose first token came, cached ones included.",
        )
        self._generation_tokens = make.counter("generation_tokens", "Tokens generated.")
        self._preemptions = make.counter(
            "num_preemptions", "Times a running request lost its blocks and was queued again."
        )
        self._prefix_queries = make.counter(
            "prefix_cache_queries", "Prompt tokens looked up in the prefix cache."
        )
        self._prefix_hits = make.counter(
            "prefix_cache_hits", "Prompt tokens whose KV the prefix cache had."
        )

    def _make_request_times(self, make: MetricFactory) -> None:
        self._e2e = make.histogram(
            "e2e_request_latency_seconds", "Seconds from arrival to the end.", _REQUEST_BUCKETS
        )
        self._queue = make.histogram(
            "request_queue_time_seconds",
            "Seconds from arrival to first being scheduled.",
            _REQUEST_BUCKETS,
        )
        self._prefill = make.histogram(
            "request_prefill_time_seconds",
            "Seconds from first being scheduled to the first token.",
            _REQUEST_BUCKETS,
        )
        self._decode = make.histogram(
            "request_decode_time_seconds",
            "Seconds from the first to the last token.",
            _REQUEST_BUCKETS,
        )

    def _make_step_times(self, make: MetricFactory) -> None:
        self._first_token = make.histogram(
            "time_to_first_token_seconds",
            "Seconds from arrival to the first token.",
            _FIRST_TOKEN_BUCKETS,
        )
        self._inter_token = make.histogram(
            "inter_token_latency_seconds",
            "Seconds between tokens: a step's interval divided by its new tokens, once for each.",
            _INTER_TOKEN_BUCKETS,
        )
        self._step_time = make.histogram(
            "step_duration_seconds", "Seconds that one engine step took.", _STEP_BUCKETS
        )
