"""`/v1/responses`."""

import logging
import time
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from server.api.body.route import BodyRoute
from server.api.chat.from_others import renamed_fields
from server.api.deps import Parts, PartsDep
from server.api.generation.tools import say_dropped
from server.api.http.errors import ERRORS, shown
from server.api.http.receiving import unless_disconnected
from server.api.middleware.auth import key_owner
from server.api.responses.answer import Record, send_stream, send_whole
from server.api.responses.conversation import is_long_turn, read_conversation
from server.api.responses.items import read
from server.api.responses.schema.answer import DeletedResponse, InputTokens, ResponseObject
from server.api.responses.schema.items import ItemList
from server.api.responses.schema.request import (
    InputItemsQuery,
    InputTokensRequest,
    ResponseRequest,
    RetrieveQuery,
)
from server.api.responses.shape import ResponseShape, first_state
from server.api.responses.store import KeptItem, KeptResponse, Turn
from server.api.responses.translate import field_names, response_jobs, response_prompt
from server.errors import InvalidRequestError, NotFoundError, UnsupportedFieldError

router = APIRouter(route_class=BodyRoute)
_logger = logging.getLogger(__name__)


@router.post("/v1/responses", response_model=ResponseObject, responses=ERRORS)
async def create_response(
    body: ResponseRequest, http_request: Request, parts: PartsDep
) -> Response:
    """Answers in a conversation that may be kept; with `stream` as server-sent events, the last of
    which has the whole response."""
    store = parts.response_store if _is_kept(body, parts) else None
    owner = key_owner(http_request.scope)
    talk = await unless_disconnected(http_request, read_conversation(body, parts, owner))
    group = await unless_disconnected(http_request, response_jobs(body, talk, parts))
    group = replace(group, id=group.id.replace("chatcmpl-", "resp_"))
    _logger.debug("%s user=%r metadata=%r", group.id, body.user, body.metadata or {})
    (prompt,) = group.prompts
    response = first_state(body, group.id, int(time.time()), parts.info, is_kept=store is not None)
    shape = ResponseShape(
        response,
        parts.tokenizer,
        prompt.token_ids,
        with_token_ids=bool(body.return_token_ids),
        call_mode=prompt.jobs[0].call_mode,
        num_logprobs=(body.top_logprobs or 0) if body.with_logprobs else None,
    )
    record = Record(store, owner, talk.turn, parts.long_work)
    with renamed_fields(field_names(talk.chat)):
        send = send_stream if body.stream else send_whole
        answer = await send(http_request, parts, group, shape, record)
    say_dropped(answer, body.tools)
    return answer


@router.post("/v1/responses/input_tokens", responses=ERRORS)
async def count_input_tokens(
    body: InputTokensRequest, http_request: Request, http_response: Response, parts: PartsDep
) -> InputTokens:
    """How many tokens the prompt of such a request has, without answering it."""
    talk = await read_conversation(body, parts, key_owner(http_request.scope))
    token_ids = await response_prompt(body, talk, parts)
    say_dropped(http_response, body.tools)
    return InputTokens(input_tokens=len(token_ids))


def _is_kept(body: ResponseRequest, parts: Parts) -> bool:
    if parts.response_store.limits.max_responses:
        return body.store is not False
    if body.store:
        raise UnsupportedFieldError("store: this server keeps no responses", "store")
    return False


@router.get("/v1/responses/{response_id}", response_model=ResponseObject, responses=ERRORS)
async def get_response(
    response_id: str,
    http_request: Request,
    parts: PartsDep,
    query: Annotated[RetrieveQuery, Query()],
) -> Response:
    """A kept response. While it is being streamed its status is `in_progress`, without output."""
    found = _kept(response_id, http_request, parts)
    return Response(found.body, media_type="application/json")


@router.delete("/v1/responses/{response_id}", responses=ERRORS)
async def delete_response(
    response_id: str, http_request: Request, parts: PartsDep
) -> DeletedResponse:
    """Forgets a response. One that is being streamed goes on, and is then not kept."""
    found = _kept(response_id, http_request, parts)
    parts.response_store.delete(found.owner, found.id)
    return DeletedResponse(id=found.id)


@router.get("/v1/responses/{response_id}/input_items", response_model=ItemList, responses=ERRORS)
async def list_input_items(
    response_id: str,
    http_request: Request,
    parts: PartsDep,
    query: Annotated[InputItemsQuery, Query()],
) -> Response:
    """What a kept response was made from, earlier responses of its conversation included."""
    turn = _kept(response_id, http_request, parts).turn
    page = await parts.long_work.run(is_long_turn(turn), partial(_page, turn, query))
    return Response(page, media_type="application/json")


def _page(turn: Turn, query: InputItemsQuery) -> str:
    items = turn.context()
    if query.order == "desc":
        items.reverse()
    begin = 0 if query.after is None else _index(items, query.after) + 1
    page = items[begin : begin + query.limit]
    found = ItemList(
        data=read(page),
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=begin + len(page) < len(items),
    )
    return found.model_dump_json()


def _kept(response_id: str, http_request: Request, parts: Parts) -> KeptResponse:
    found = parts.response_store.get(key_owner(http_request.scope), response_id)
    if found is None:
        raise NotFoundError(f"response {shown(response_id)} is not found", "response_id")
    return found


def _index(items: list[KeptItem], item_id: str) -> int:
    for index, item in enumerate(items):
        if item.id == item_id:
            return index
    raise InvalidRequestError(f"after: there is no item {shown(item_id)}", "after")
