"""Hands each step's figures to the metrics, the log, and to traces where they are asked for."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from server import __version__
from server.config import ServerSettings
from server.engine.outputs import StepStats
from server.errors import ConfigError
from server.observe.front_metrics import FrontMetrics
from server.observe.logs import num_dropped_lines
from server.observe.metrics import Metrics
from server.observe.request_log import RequestLog
from server.text.prompt_text import decode_prompt
from server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from server.observe.tracing import RequestTracer

logger = logging.getLogger(__name__)

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOL = "http/protobuf"
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set counts."""


class Observers:
    """All observers of one server; `record` is called in the engine's thread.

    Args:
        counts_steps: Whether steps are counted here; else those who make them count them.

    Raises:
        ConfigError: traces are asked for, and the extra `otel` is not installed.
    """

    def __init__(
        self, settings: ServerSettings, model_name: str, counts_steps: bool = True
    ) -> None:
        self._engine_metrics = Metrics(model_name) if counts_steps else None
        self.metrics = self._engine_metrics or FrontMetrics(model_name)
        self._records = list[Callable[[StepStats], None]]()
        if self._engine_metrics is not None:
            self._records.append(self._engine_metrics.record)
        self.metrics.watch_log(num_dropped_lines)
        self._tracer = _tracer(settings, model_name)
        if self._tracer is not None:
            self._records.append(self._tracer.record)
        self._faults: set[tuple[Callable[[StepStats], None], type[Exception]]] = set()
        """Failures that have been logged."""

    def describe_cache(self, block_size: int, num_blocks: int) -> None:
        """Shows the KV cache of the engine whose steps are counted here."""
        if self._engine_metrics is not None:
            self._engine_metrics.describe_cache(block_size, num_blocks)

    def start_log(self, settings: ServerSettings, tokenizer: Tokenizer) -> None:
        """Logs requests from now on; to be called before the engine starts."""

        def decode(token_ids: Sequence[int]) -> str:
            return decode_prompt(tokenizer, token_ids).text

        self._records.append(RequestLog(decode if settings.log_prompts else None).record)

    def record(self, step: StepStats) -> None:
        """Hands a step to each observer. One that fails disturbs neither the others nor the
        engine."""
        for record in self._records:
            try:
                record(step)
            except Exception as error:
                self._complain(record, error)

    def _complain(self, record: Callable[[StepStats], None], error: Exception) -> None:
        """Logs each kind of failure once: it may come with every step."""
        fault = (record, type(error))
        if fault not in self._faults:
            self._faults.add(fault)
            name = type(getattr(record, "__self__", record)).__name__
            logger.error("%s failed at a step; like failures are not told", name, exc_info=error)

    def close(self) -> None:
        """Sends the last traces; may take seconds."""
        if self._tracer is not None:
            self._tracer.close()


def _asked_by_environment() -> str | None:
    """The variable that asks for traces; none where others switch them off, as OpenTelemetry's
    specification has it."""
    environ = os.environ
    name = next((name for name in _ENDPOINT_VARIABLES if environ.get(name)), None)
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if name is None or disabled or environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    protocol = next((environ[name] for name in _PROTOCOL_VARIABLES if environ.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        logger.warning(
            "%s is set, but with the protocol %s: traces are sent by %s alone, so none are",
            *(name, protocol, _PROTOCOL),
        )
        return None
    return name


def _tracer(settings: ServerSettings, model_name: str) -> "RequestTracer | None":
    endpoint = settings.otlp_endpoint
    asked_by = None if endpoint is not None else _asked_by_environment()
    if endpoint is None and asked_by is None:
        return None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError("otlp_endpoint", endpoint, "expected such as http://127.0.0.1:4318")
    try:
        from server.observe.tracing import RequestTracer
    except ModuleNotFoundError as error:
        reason = f"traces need the extra otel: pip install 'glidecape[otel]' ({error})"
        if endpoint is None:
            # Set for every program of a machine, maybe: no reason not to serve.
            logger.warning("%s is set, but %s", asked_by, reason)
            return None
        raise ConfigError("otlp_endpoint", endpoint, reason) from None
    return RequestTracer(endpoint, model_name, __version__)
