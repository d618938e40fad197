"""`GET /v1/models`: the one model served here."""

from fastapi import APIRouter

from server.api.deps import Parts, PartsDep
from server.api.generation.translate import check_model
from server.api.openapi.error_answers import ERRORS
from server.api.service.models_schema import ModelCard, ModelList

router = APIRouter()


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
