"""`POST /v1/completions`."""

import logging

from fastapi import APIRouter, Request, Response

from server.api.body.route import BodyRoute
from server.api.completions.schema import Completion, CompletionRequest
from server.api.completions.shape import CompletionShape
from server.api.completions.translate import completion_jobs
from server.api.deps import PartsDep
from server.api.generation import answer
from server.api.generation.job_group import PromptJobs
from server.api.http.errors import ERRORS
from server.api.http.receiving import unless_disconnected

router = APIRouter(route_class=BodyRoute)
_logger = logging.getLogger(__name__)


@router.post("/v1/completions", response_model=Completion, responses=ERRORS)
async def create_completion(
    body: CompletionRequest, http_request: Request, parts: PartsDep
) -> Response:
    """Continues a prompt; with `stream` as server-sent events that end with `[DONE]`."""
    group = await unless_disconnected(http_request, completion_jobs(body, parts))
    _logger.debug("%s user=%r", group.id, body.user)
    envelope = answer.envelope(group, parts.info)

    def shape(index: int, prompt: PromptJobs) -> CompletionShape:
        return CompletionShape(envelope, parts.tokenizer, index, prompt, body)

    return await answer.send(http_request, parts, group, shape, body)
