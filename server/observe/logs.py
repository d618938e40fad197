"""How log lines look: for people, or a JSON object each."""

import json
import logging
import sys
import time
from collections.abc import Mapping

from server.observe.log_queue import QueuedHandler
from server.setting_types import LogFormat

FIELDS = "fields"
"""A record's attribute (`extra={FIELDS: …}`) with the fields that its line has beside the
message."""


class TextFormatter(logging.Formatter):
    """`INFO request id=chatcmpl-1 prompt_tokens=5 …`; texts in JSON's quotes where they need it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = (f" {key}={_plain(value)}" for key, value in _fields(record).items())
        return super().formatMessage(record) + "".join(fields)


class JsonFormatter(logging.Formatter):
    """One object a line: `time` (UTC, ISO 8601), `level`, `logger`, `message`, the record's fields
    and, where there is one, the `exception`'s traceback."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str, form: LogFormat) -> None:
    """Sends what is logged to stderr, and Python's warnings with it. Logging never
    blocks."""
    handler = QueuedHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def num_dropped_lines() -> int:
    """Lines that were not read in time, and never written."""
    handlers = logging.getLogger().handlers
    return sum(each.num_dropped for each in handlers if isinstance(each, QueuedHandler))


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    return getattr(record, FIELDS, {})


def _plain(value: object) -> str:
    text = str(value)
    if isinstance(value, str) and (not text.isprintable() or not text or set(text) & set(' "=')):
        return json.dumps(value, ensure_ascii=False)
    return text
