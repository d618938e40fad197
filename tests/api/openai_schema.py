"""Documents held against OpenAI's published OpenAPI schema (`openai_schemas/`, MIT licence: the
schemas that answers need, without their descriptions)."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

PUBLISHED: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "openai_schemas" / "schemas.json").read_text()
)

_CHUNK, _COMPLETION = "CreateChatCompletionStreamResponse", "CreateCompletionResponse"
_RESPONSE = "Response"
_ZERO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
JUSTIFIED_NULLS: Final[dict[tuple[str, str], Any]] = {
    # A completion's chunks have no schema of their own: they are answers that have not ended.
    (_COMPLETION, "choices.*.finish_reason"): "stop",
    (_COMPLETION, "usage"): _ZERO_USAGE,
    # An echoed prompt's first token follows nothing, so that it has no logprob.
    (_COMPLETION, "choices.*.logprobs.token_logprobs.0"): 0.0,
    (_COMPLETION, "choices.*.logprobs.top_logprobs.0"): {},
    # OpenAI's own chunks say null for what only the last ones have.
    (_CHUNK, "choices.*.finish_reason"): "stop",
    (_CHUNK, "choices.*.logprobs"): {"content": [], "refusal": []},
    (_CHUNK, "choices.*.logprobs.refusal"): [],
    (_CHUNK, "usage"): _ZERO_USAGE,
    # A page without entries has no first one.
    ("ResponseItemList", "first_id"): "",
    ("ResponseItemList", "last_id"): "",
    # OpenAI's own responses say null where no user was given, and until they have ended.
    (_RESPONSE, "user"): "",
    (_RESPONSE, "usage"): {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    },
}
"""Nulls that OpenAI's answers have and its schema doesn't, and a value that the schema has for
them."""


def without_justified_nulls(name: str, document: Any, path: tuple[str, ...] = ()) -> Any:
    """The document with what the schema wants in place of those nulls.

    Args:
        name: Of the schema.
    """
    if path == ("response",):  # in an event of a response's stream
        return without_justified_nulls(_RESPONSE, document)
    if document is None:
        *above, last = path or ("",)
        place = ".".join((*("*" if part.isdigit() else part for part in above), last))
        return JUSTIFIED_NULLS.get((name, place))
    if isinstance(document, Mapping):
        return {
            key: without_justified_nulls(name, value, (*path, str(key)))
            for key, value in document.items()
        }
    if isinstance(document, list):
        entries = enumerate(document)
        return [without_justified_nulls(name, entry, (*path, str(i))) for i, entry in entries]
    return document


def check(name: str, document: Any) -> None:
    """Checks a document by OpenAI's schema of that name.

    Raises:
        AssertionError: the document isn't what the schema of that name says.
    """
    errors = [*_validator(name).iter_errors(without_justified_nulls(name, document))]
    assert not errors, (name, [(error.json_path, error.message) for error in errors])


@cache
def event_schemas() -> dict[str, str]:
    """The schema of each event of a response's stream, by its type: an error in a union of 50 would
    say nothing."""
    schemas: dict[str, Any] = PUBLISHED["components"]["schemas"]
    names = [each["$ref"].split("/")[-1] for each in schemas["ResponseStreamEvent"]["anyOf"]]
    return {schemas[n]["properties"]["type"]["enum"][0]: n for n in names}


@cache
def _validator(name: str) -> Draft202012Validator:
    reference = f"#/components/schemas/{name}"
    return Draft202012Validator({"$ref": reference, "components": PUBLISHED["components"]})
