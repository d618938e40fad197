"""`/v1/models`."""

from typing import Literal

from pydantic import BaseModel


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
