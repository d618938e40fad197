"""`POST /v1/chat/completions`."""

import logging

from fastapi import APIRouter, Request, Response

from server.api.body.route import BodyRoute
from server.api.chat.schema import ChatCompletion, ChatRequest
from server.api.chat.shape import ChatShape
from server.api.chat.translate import chat_jobs
from server.api.deps import PartsDep
from server.api.generation import answer
from server.api.generation.job_group import PromptJobs
from server.api.generation.tools import say_dropped
from server.api.http.errors import ERRORS
from server.api.http.receiving import unless_disconnected

router = APIRouter(route_class=BodyRoute)
_logger = logging.getLogger(__name__)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def create_chat_completion(
    body: ChatRequest, http_request: Request, parts: PartsDep
) -> Response:
    """Answers a chat; with `stream` as server-sent events that end with `[DONE]`."""
    group = await unless_disconnected(http_request, chat_jobs(body, parts))
    _logger.debug("%s user=%r metadata=%r", group.id, body.user, body.metadata or {})
    envelope = answer.envelope(group, parts.info)

    def shape(index: int, prompt: PromptJobs) -> ChatShape:
        return ChatShape(
            envelope,
            parts.tokenizer,
            index=index,
            with_logprobs=bool(body.logprobs),
            null_usage=body.include_usage,
            call_mode=prompt.jobs[0].call_mode,
            prompt_token_ids=prompt.token_ids if body.return_token_ids else None,
        )

    response = await answer.send(http_request, parts, group, shape, body)
    say_dropped(response, body.tools)
    return response
