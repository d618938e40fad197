"""The default model behind a live server whose log and traces are read."""

import json

import httpx
import pytest

from tests.collector import collector
from tests.live import serve

pytestmark = pytest.mark.real_model

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "My cat is called Mortadella."


@pytest.mark.parametrize("prompts", [False, True])
def test_a_request_is_logged_and_traced(prompts: bool) -> None:
    with collector() as collected:
        options = ["--log-format", "json", "--otlp-endpoint", collected.url]
        with serve(*options, *(["--log-prompts"] if prompts else [])) as server:
            answer = httpx.post(
                f"{server.url}/v1/chat/completions",
                json={"messages": [{"role": "user", "content": SECRET}], "max_tokens": 8},
                headers={"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "mine"},
                timeout=60,
            )
            answer.raise_for_status()
    usage = answer.json()["usage"]
    (line,) = [found for text in server.log if (found := json.loads(text))["message"] == "request"]
    assert (line["id"], line["http_request_id"]) == (answer.json()["id"], "mine")
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["output_tokens"] == usage["completion_tokens"]
    assert line["policy"] == "auto"
    assert any(SECRET in text for text in server.log) == prompts
    assert ("prompt" in line and SECRET in line["prompt"]) == prompts
    spans = collected.named()
    root = spans["chat smollm2-135m-instruct"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert {name for name, span in spans.items() if span.parent_span_id == root.span_id} == {
        "queue",
        "prefill",
        "decode",
    }
    assert all(span.trace_id == root.trace_id for span in spans.values())
    assert SECRET not in str(collected.spans)
