"""Answers of `/v1/responses`: the response object through its states, and a stream's events."""

import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Literal

from server.api.deps import ServingInfo
from server.api.generation.job import Piece
from server.api.generation.speculation import whole_report
from server.api.generation.tools import CallMode, allows_content
from server.api.responses.output import ResponseOutput
from server.api.responses.schema.answer import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseError,
    ResponseObject,
    ResponseText,
    ResponseUsage,
    ShownReasoning,
    ShownTool,
)
from server.api.responses.schema.events import Event, StateEvent
from server.api.responses.schema.request import ResponseRequest, ResponseTool
from server.api.responses.store import ResponseStatus
from server.api.responses.translate import is_strict
from server.text.tokenizer import Tokenizer

_LOGPROB_VALUES = 8
"""Values of JSON in a token's logprob: its text, its bytes."""
_MANY_VALUES = 10_000


class ResponseShape:
    """One response. Call `begin`, `add` for every piece, and one of the ends. Without a stream the
    events are dropped.

    Args:
        response: The response in its first state.
        prompt_token_ids: Counted in its usage.
        with_token_ids: The request asked for them, and for those of the output.
        call_mode: Which calls of functions the answer may have.
        num_logprobs: Alternatives that each token of its text comes with; None for no logprobs.
    """

    def __init__(
        self,
        response: ResponseObject,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        with_token_ids: bool = False,
        call_mode: CallMode = "none",
        num_logprobs: int | None = None,
    ) -> None:
        self.response = response
        """The response in its latest state."""
        self._prompt_token_ids = prompt_token_ids
        self._token_ids: list[int] | None = [] if with_token_ids else None
        self._values_per_token = 1
        if num_logprobs is not None:
            self._values_per_token += _LOGPROB_VALUES * (1 + num_logprobs)
        self._numbers = count()
        only_calls = not allows_content(call_mode)
        self._output = ResponseOutput(tokenizer, self._numbers, only_calls=only_calls)
        self._last: Piece | None = None
        self._traced: list[Piece] = []

    @property
    def is_long(self) -> bool:
        """Whether writing the output as JSON takes longer than a token of another request may
        wait."""
        num_tokens = 0 if self._last is None else self._last.num_output_tokens
        return num_tokens * self._values_per_token > _MANY_VALUES

    def begin(self) -> Iterator[Event]:
        yield self._state("response.created")
        yield self._state("response.in_progress")

    def add(self, piece: Piece) -> Iterator[Event]:
        self._last = piece
        if piece.sources is not None:
            self._traced.append(piece)
        if self._token_ids is not None:
            self._token_ids += piece.token_ids or ()
        yield from self._output.add(piece)

    def finish(self) -> Iterator[Event]:
        """Ends the response after the last piece, which has the reason."""
        is_cut = self._last is not None and self._last.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        cuts_call = self._last is not None and self._last.cuts_call
        yield from self._output.finish("incomplete" if cuts_call else status)
        self._end(status)
        if is_cut:
            self.response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        else:
            self.response.completed_at = int(time.time())
        yield self._state("response.incomplete" if is_cut else "response.completed")

    def fail(self, error: ResponseError) -> Event:
        """Ends the response where it is, by an error."""
        self._end("failed")
        self.response.error = error
        return self._state("response.failed")

    def cancel(self) -> None:
        """Ends the response where it is. There is no event: the client has left."""
        self._end("cancelled")

    def _state(
        self,
        kind: Literal[
            "response.created",
            "response.in_progress",
            "response.completed",
            "response.incomplete",
            "response.failed",
        ],
    ) -> Event:
        return StateEvent(type=kind, sequence_number=next(self._numbers), response=self.response)

    def _end(self, status: ResponseStatus) -> None:
        """Makes a new response object: events of earlier states hold the old one."""
        last = self._last
        self.response = self.response.model_copy(
            update={
                "status": status,
                "output": self._output.items("incomplete"),
                "usage": None if last is None else _usage(len(self._prompt_token_ids), last),
            }
        )
        if self._token_ids is not None:
            self.response.prompt_token_ids = list(self._prompt_token_ids)
            self.response.token_ids = self._token_ids
        if last is not None:
            self.response.speculation = whole_report([self._traced or [last]])


def first_state(
    body: ResponseRequest, response_id: str, created_at: int, info: ServingInfo, *, is_kept: bool
) -> ResponseObject:
    """What a response says from the start: the request, with its defaults."""
    choice, default = body.tool_choice, info.default_sampling
    return ResponseObject(
        id=response_id,
        created_at=created_at,
        frequency_penalty=body.frequency_penalty or 0.0,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=info.model_name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=body.presence_penalty or 0.0,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=None if body.reasoning is None else ShownReasoning(effort=body.reasoning.effort),
        safety_identifier=body.safety_identifier,
        store=is_kept,
        temperature=default.temperature if body.temperature is None else body.temperature,
        text=ResponseText(format=_text_format(body)),
        tool_choice="auto" if choice is None else _as_sent(choice),
        tools=[_tool(tool) for tool in body.tools or [] if isinstance(tool, ResponseTool)],
        top_logprobs=body.top_logprobs or 0,
        top_p=default.top_p if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


def _text_format(body: ResponseRequest) -> dict[str, Any]:
    given = None if body.text is None else body.text.format
    if given is None:
        return {"type": "text"}
    return given.model_dump(by_alias=True, exclude_none=True)


def _as_sent(choice: Any) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump()


def _tool(tool: ResponseTool) -> ShownTool:
    return ShownTool(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=is_strict(tool),
    )


def _usage(num_prompt_tokens: int, last: Piece) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=num_prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=last.num_cached_tokens),
        output_tokens=last.num_output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=last.num_thinking_tokens),
        total_tokens=num_prompt_tokens + last.num_output_tokens,
    )
