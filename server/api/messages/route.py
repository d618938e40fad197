"""`/v1/messages`."""

import logging

from fastapi import APIRouter, Request, Response

from server.api.body.route import BodyRoute
from server.api.deps import PartsDep
from server.api.generation.tools import say_dropped
from server.api.http.anthropic_errors import ANTHROPIC_ERRORS
from server.api.http.receiving import unless_disconnected
from server.api.messages.answer import send_stream, send_whole
from server.api.messages.schema.answer import Message, TokenCount
from server.api.messages.schema.request import CountRequest, MessageRequest
from server.api.messages.shape import MessageShape
from server.api.messages.translate import is_long, message_jobs, message_prompt

router = APIRouter(route_class=BodyRoute)
_logger = logging.getLogger(__name__)


@router.post("/v1/messages", response_model=Message, responses=ANTHROPIC_ERRORS)
async def create_message(body: MessageRequest, http_request: Request, parts: PartsDep) -> Response:
    """Answers a conversation; with `stream` as server-sent events that end with `message_stop`."""
    counts_cache = await parts.long_work.run(is_long(body), body.has_cache_control)
    group = await unless_disconnected(http_request, message_jobs(body, parts))
    _logger.debug("%s user=%r metadata=%r", group.id, body.user, body.metadata)
    (prompt,) = group.prompts
    shape = MessageShape(
        group.id,
        parts.info.model_name,
        prompt.token_ids,
        max_tokens=body.max_tokens,
        cache_block=parts.info.cache_block if counts_cache else 0,
        with_token_ids=bool(body.return_token_ids),
        call_mode=prompt.jobs[0].call_mode,
        thoughts_shown=body.thoughts_shown,
    )
    send = send_stream if body.stream else send_whole
    answer = await send(http_request, parts, group, shape)
    say_dropped(answer, body.tools)
    return answer


@router.post("/v1/messages/count_tokens", responses=ANTHROPIC_ERRORS)
async def count_tokens(body: CountRequest, http_response: Response, parts: PartsDep) -> TokenCount:
    """How many tokens the prompt of such a request has, without answering it."""
    token_ids = await message_prompt(body, parts)
    say_dropped(http_response, body.tools)
    return TokenCount(input_tokens=len(token_ids))
