"""Answers held against OpenAI's published schema, and parsed with the `openai` package's own
models, strictly: no value converted, and no field that OpenAI's don't have but those that
`docs/api.md` documents as extensions."""

import json
from collections.abc import Mapping
from typing import Any

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import BaseModel

from tests.api.openai_schema import check, without_justified_nulls

EXTENSIONS = frozenset(
    (
        "speculation",
        "speculation_trace",
        "speculation_step",
        "prompt_token_ids",
        "token_ids",
        "reasoning_content",
        "max_model_len",
        "root",
        # Of the published schema or of OpenResponses, but not of the client's models.
        "presence_penalty",
        "frequency_penalty",
        "store",
    )
)
_OLDER = {"ResponseFunctionCallArgumentsDoneEvent": frozenset(("name",))}
"""Fields that openai 2's models require and openai 3's don't have."""
_MODELS: Mapping[str, tuple[type[BaseModel], str]] = {
    "chat.completion": (ChatCompletion, "CreateChatCompletionResponse"),
    "chat.completion.chunk": (ChatCompletionChunk, "CreateChatCompletionStreamResponse"),
    "text_completion": (Completion, "CreateCompletionResponse"),
    "response": (Response, "Response"),
    "response.input_tokens": (InputTokenCountResponse, "TokenCountsResource"),
    "model": (Model, "Model"),
}
"""By the document's `object`: the client's model and the published schema."""


def parse(document: Mapping[str, Any]) -> BaseModel:
    """One answer or one chunk as OpenAI's model of it.

    Raises:
        ValidationError: it is none.
        AssertionError: it has a field that is neither OpenAI's nor a documented extension.
    """
    kind = document["object"]
    # In a list of models each one is checked; the list's own class is a page of the client.
    if kind == "list":
        assert set(document) == {"object", "data"}
        check("ListModelsResponse", document)
        return [parse(entry) for entry in document["data"]][-1]
    model, schema = _MODELS[kind]
    check(schema, document)
    text = json.dumps(without_justified_nulls(schema, document))
    parsed = model.model_validate_json(text, strict=True)
    check_extras(parsed)
    return parsed


def check_extras(value: object) -> None:
    """Fails on a field that the model doesn't have."""
    if isinstance(value, list):
        for entry in value:
            check_extras(entry)
    if isinstance(value, BaseModel):
        extras = set(value.model_extra or {}) - _OLDER.get(type(value).__name__, frozenset())
        assert extras <= EXTENSIONS, f"{type(value).__name__} has no {extras - EXTENSIONS}"
        for name in type(value).model_fields:
            check_extras(getattr(value, name))
