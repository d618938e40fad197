"""Answers parsed with the `openai` package's own models, strictly: no value converted, and no field
that OpenAI's don't have but those that `docs/api.md` documents as extensions."""

import json
from collections.abc import Mapping
from typing import Any

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel

EXTENSIONS = frozenset(
    (
        "speculation",
        "speculation_trace",
        "speculation_step",
        "prompt_token_ids",
        "token_ids",
        "max_model_len",
        # Of the published schema or of OpenResponses, but not of the client's models.
        "presence_penalty",
        "frequency_penalty",
        "store",
    )
)
_OLDER = {"ResponseFunctionCallArgumentsDoneEvent": frozenset(("name",))}
"""Fields that openai 2's models require and openai 3's don't have."""
_MODELS: Mapping[str, type[BaseModel]] = {
    "chat.completion": ChatCompletion,
    "chat.completion.chunk": ChatCompletionChunk,
    "text_completion": Completion,
    "response": Response,
    "model": Model,
}
"""By the document's `object`."""


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
        return [parse(entry) for entry in document["data"]][-1]
    text = json.dumps(_chunk_like_openai(document) if kind == "text_completion" else document)
    parsed = _MODELS[kind].model_validate_json(text, strict=True)
    check_extras(parsed)
    return parsed


def _chunk_like_openai(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without the nulls that OpenAI sends too, but its models leave out: a chunk's finish_reason,
    and the first logprobs of an echoed prompt, which follow nothing."""
    return {**document, "choices": [_choice_like_openai(each) for each in document["choices"]]}


def _choice_like_openai(choice: Mapping[str, Any]) -> dict[str, Any]:
    like = dict(choice)
    if like["finish_reason"] is None:
        like["finish_reason"] = "stop"
    logprobs = like["logprobs"]
    if logprobs and logprobs["token_logprobs"][:1] == [None]:
        lists = {name: values and values[1:] for name, values in logprobs.items()}
        like["logprobs"] = lists
    return like


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
