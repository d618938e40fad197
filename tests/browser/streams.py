"""Streams of an answer as bytes, for servers that say what a test wants."""

import json
from typing import Any


def chunk(content: str, source: str = "target", offset: int = 0, **fields: Any) -> bytes:
    """One event of a stream with one token."""
    step: dict[str, Any] = {
        "tokens": [{"token": content, "bytes": [], "source": source, "text_offset": offset}],
        "root": "", "nodes": [], "accepted": [], "source": None,
        "draft_seconds": 0, "verify_seconds": 0.01, "other_seconds": 0,
    }  # fmt: skip
    document = {
        "model": "scripted",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}],
        "speculation_step": step,
        **fields,
    }
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def stream_of(text: str) -> bytes:
    return b"".join(chunk(c, offset=i) for i, c in enumerate(text)) + END
