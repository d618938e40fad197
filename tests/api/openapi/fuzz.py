"""schemathesis over `/openapi.json`: bodies that fit the document, and bodies that don't.

    GLIDECAPE_FUZZ_EXAMPLES=200 pytest tests/api/openapi/fuzz.py

runs so many examples of each operation; 40 are what a test run has time for. A failure prints the
request as a curl command. `test_fuzz.py` runs it: schemathesis works out its cases while tests are
collected, which takes seconds, and every worker collects all of the suite's.
"""

import os
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.config import (
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.schema.fields import MAX_PARTS
from tests.api.harness import MODEL, Json, make_app
from tests.api.speculating import SPECULATING, SpeculatingEngine
from tests.api.tool_chats import call_text
from tests.doubles import one_by_one

NUM_EXAMPLES = int(os.environ.get("GLIDECAPE_FUZZ_EXAMPLES", "40"))

engine = SpeculatingEngine(one_by_one(f"Hé 🙂 {call_text()}"), max_model_len=4096)
config = SchemathesisConfig(
    projects=ProjectsConfig(
        default=ProjectConfig(
            generation=GenerationConfig(max_examples=NUM_EXAMPLES, deterministic=True),
        )
    )
)


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Json) -> None:
    """Bodies with one entry more than 10,000 take minutes to make, and are too long anyway. What is
    longer than allowed is sent by tests/api/body/test_hostile_bodies.py."""
    _without_long_lists(raw_schema)


def _without_long_lists(part: Any) -> None:
    if isinstance(part, dict):
        if part.get("maxItems", 0) >= MAX_PARTS:
            del part["maxItems"]
        for inside in part.values():
            _without_long_lists(inside)
    elif isinstance(part, list):
        for inside in part:
            _without_long_lists(inside)


schema = schemathesis.openapi.from_asgi(
    "/openapi.json", make_app(engine, info=SPECULATING), config=config
)

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


ONE_OF = ("response_format", "regex", "choice", "grammar")


def without_contradictions(body: Json) -> Json:
    """Fields that the document can't say of that they need or exclude each other: each alone is
    valid, and most bodies would else be refused for nothing but these."""
    asked = [field for field in ONE_OF if body.get(field) is not None]
    body = {field: value for field, value in body.items() if field not in asked[1:]}
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    if "top_logprobs" in body:
        body["logprobs"] = True
    if "stream_options" in body:
        body["stream"] = True
    if "max_completion_tokens" in body:
        body.pop("max_tokens", None)
    return body


each_operation: Callable[[Callable[[Any], None]], Callable[[Any], None]] = schema.parametrize()


@each_operation
def test_operation(case: Any) -> None:
    if case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        case.body = without_contradictions(case.body)
    case.call_and_validate(checks=CHECKS)
