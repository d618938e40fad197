"""`GET /v1/models`: the one model served here."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.deps import Parts, PartsDep
from server.api.generation.translate import check_model
from server.api.http.errors import ERRORS

router = APIRouter()


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["glidecape"] = "glidecape"
    root: str
    """The model that this one was made of: itself. vLLM's."""
    max_model_len: int
    """Longest sequence (prompt and answer) in tokens."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/v1/models", responses=ERRORS)
async def list_models(parts: PartsDep) -> ModelList:
    """The models that requests can name."""
    return ModelList(data=[_card(parts)])


# A path, because hub ids have a slash in them.
@router.get("/v1/models/{model_id:path}", responses=ERRORS)
async def get_model(model_id: str, parts: PartsDep) -> ModelCard:
    """One model."""
    check_model(model_id, parts)
    return _card(parts)


def _card(parts: Parts) -> ModelCard:
    return ModelCard(
        id=parts.info.model_name,
        created=parts.info.created,
        root=parts.info.model_name,
        max_model_len=parts.engine.max_model_len,
    )
