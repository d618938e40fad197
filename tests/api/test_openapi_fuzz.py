"""schemathesis over `/openapi.json`: bodies that fit the document, and bodies that don't.

`GLIDECAPE_FUZZ_EXAMPLES=200` runs so many examples of each operation; 40 are what a test run has
time for. A failure prints the request as a curl command.
"""

import os
from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.config import (
    GenerationConfig,
    PhasesConfig,
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

from tests.api.harness import make_app
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


@schema.parametrize()
def test_operation(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
