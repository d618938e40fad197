"""`POST /v1/chat/completions`."""

import logging

from fastapi import APIRouter, Request, Response

from server.api import answer, translate
from server.api.deps import PartsDep
from server.api.routes.responses import ERRORS
from server.api.schemas.chat import ChatCompletion, ChatRequest
from server.api.shapes.chat import ChatShape
from server.api.unknown_fields import BodyRoute

router = APIRouter(route_class=BodyRoute)
_logger = logging.getLogger(__name__)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def create_chat_completion(
    body: ChatRequest, http_request: Request, parts: PartsDep
) -> Response:
    """Answers a chat; with `stream` as server-sent events that end with `[DONE]`."""
    job = await translate.chat_job(body, parts)
    _logger.debug("%s user=%r metadata=%r", job.request.request_id, body.user, body.metadata or {})
    shape = ChatShape(
        answer.head(job, parts.info),
        parts.tokenizer,
        with_logprobs=bool(body.logprobs),
        null_usage=body.include_usage,
        call_mode=job.call_mode,
    )
    return await answer.send(http_request, parts, job, shape, body)
