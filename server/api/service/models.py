"""`GET /v1/models`: the one model served here, as OpenAI's clients or Anthropic's read it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel

from server.api.deps import Parts, PartsDep
from server.api.generation.translate import check_model
from server.api.http.anthropic_errors import VERSION_HEADER, AnthropicErrorBody
from server.api.http.errors import ERRORS, ErrorBody

router = APIRouter()

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**error, "model": ErrorBody | AnthropicErrorBody} for status, error in ERRORS.items()
}


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["glidecape"] = "glidecape"
    root: str
    """The name that answers have, whatever name was asked for."""
    max_model_len: int
    """Longest sequence (prompt and answer) in tokens."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class AnthropicCard(BaseModel):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: datetime
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    """Longest sequence (prompt and answer) in tokens, as is the next one."""
    max_tokens: int


class AnthropicModels(BaseModel):
    """A page; there is one."""

    data: list[AnthropicCard]
    first_id: str
    last_id: str
    has_more: Literal[False] = False


AnthropicVersion = Annotated[str | None, Header(alias=VERSION_HEADER)]
"""What Anthropic's clients send, and others don't."""


@router.get("/v1/models", responses=_ERRORS)
async def list_models(
    parts: PartsDep, version: AnthropicVersion = None
) -> ModelList | AnthropicModels:
    """The models that requests can name."""
    names = parts.info.names
    if version is None:
        return ModelList(data=[_card(parts, name) for name in names])
    cards = [_anthropic_card(parts, name) for name in names]
    return AnthropicModels(data=cards, first_id=cards[0].id, last_id=cards[-1].id)


# A path, because hub ids have a slash in them.
@router.get("/v1/models/{model_id:path}", responses=_ERRORS)
async def get_model(
    model_id: str, parts: PartsDep, version: AnthropicVersion = None
) -> ModelCard | AnthropicCard:
    """One model."""
    check_model(model_id, parts)
    return _card(parts, model_id) if version is None else _anthropic_card(parts, model_id)


def _card(parts: Parts, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=parts.info.created,
        root=parts.info.model_name,
        max_model_len=parts.engine.max_model_len,
    )


def _anthropic_card(parts: Parts, name: str) -> AnthropicCard:
    return AnthropicCard(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(parts.info.created, UTC),
        max_input_tokens=parts.engine.max_model_len,
        max_tokens=parts.engine.max_model_len,
    )
