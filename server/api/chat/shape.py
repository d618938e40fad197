"""Answers of `/v1/chat/completions`."""

from collections.abc import Iterable, Sequence

from server.api.chat.schema import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
)
from server.api.generation.job import Piece
from server.api.generation.schema.common import FinishReason, Usage
from server.api.generation.schema.speculation import SpeculationReport
from server.api.generation.schema.tools import (
    AnswerFunction,
    AnswerToolCall,
    FunctionDelta,
    ToolCallDelta,
)
from server.api.generation.shape import Envelope, has_content, joined_ids, token_logprob
from server.api.generation.speculation import count_sources, report, step_record
from server.api.generation.tools import CallMode, allows_content
from server.text.tokenizer import Tokenizer
from server.text.tools.events import (
    AnswerEvent,
    ArgumentsDelta,
    CallStart,
    ContentDelta,
    ThinkingDelta,
    whole_answer,
)
from server.text.tools.functions import FunctionCall


class ChatShape:
    """See `Shape`.

    Args:
        index: The choice's.
        with_logprobs: The request asked for them.
        null_usage: Chunks say `"usage": null`, as OpenAI's do when the last one has the counts.
        prompt_token_ids: Given if the request asked for token ids.
        call_mode: Which calls of functions the answer may have.
    """

    def __init__(
        self,
        envelope: Envelope,
        tokenizer: Tokenizer,
        *,
        index: int = 0,
        with_logprobs: bool,
        null_usage: bool,
        prompt_token_ids: Sequence[int] | None = None,
        call_mode: CallMode = "none",
    ) -> None:
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._index = index
        self._prompt_token_ids = None if prompt_token_ids is None else list(prompt_token_ids)
        self._with_logprobs = with_logprobs
        self._null_usage = null_usage
        self._call_mode: CallMode = call_mode

    def first_chunk(self) -> ChatChunk:
        chunk = self._chunk(_first_delta(self._call_mode))
        chunk.prompt_token_ids = self._prompt_token_ids
        return chunk

    def prompt_chunk(self, piece: Piece) -> None:
        """The first chunk has it."""

    def chunks(self, piece: Piece, usage: Usage | None) -> Iterable[ChatChunk]:
        for chunk in self._chunks(piece):
            if usage is not None:
                chunk.usage = usage
            yield chunk

    def _chunks(self, piece: Piece) -> Iterable[ChatChunk]:
        if has_content(piece):
            first, *others = _deltas(piece)
            chunk = self._chunk(first, logprobs=self._logprobs([piece]))
            chunk.speculation_trace = count_sources([piece])
            chunk.speculation_step = step_record(self._tokenizer, piece)
            chunk.choices[0].token_ids = joined_ids([piece])
            yield chunk
            yield from map(self._chunk, others)
        if piece.finish_reason is not None:
            chunk = self._chunk(ChatDelta(), finish_reason=self._finish_reason(piece))
            chunk.speculation = report(piece.speculation)
            yield chunk

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._envelope, object="chat.completion.chunk", choices=[], usage=usage)

    def choice(self, pieces: Sequence[Piece]) -> ChatChoice:
        return ChatChoice(
            index=self._index,
            message=self._message(pieces),
            logprobs=self._logprobs(pieces),
            finish_reason=self._finish_reason(pieces[-1]),
            token_ids=joined_ids(pieces),
        )

    def whole(
        self, choices: list[ChatChoice], usage: Usage, speculation: SpeculationReport | None
    ) -> ChatCompletion:
        return ChatCompletion(
            **self._envelope,
            choices=choices,
            usage=usage,
            speculation=speculation,
            prompt_token_ids=self._prompt_token_ids,
        )

    def _chunk(
        self,
        delta: ChatDelta,
        *,
        logprobs: ChatLogprobs | None = None,
        finish_reason: ChatFinishReason | None = None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(
            index=self._index, delta=delta, logprobs=logprobs, finish_reason=finish_reason
        )
        chunk = ChatChunk(**self._envelope, object="chat.completion.chunk", choices=[choice])
        if self._null_usage:
            chunk.usage = None  # now it counts as set, and is written
        return chunk

    def _message(self, pieces: Sequence[Piece]) -> AssistantMessage:
        if pieces[-1].events is None:
            return AssistantMessage(content="".join(piece.text for piece in pieces))
        events = [event for piece in pieces for event in piece.events or ()]
        return _message_of(events, self._call_mode)

    def _finish_reason(self, piece: Piece) -> ChatFinishReason:
        reason = piece.finish_reason or "stop"
        if piece.cuts_call:
            return reason
        return _finish_reason(reason, piece.num_calls, self._call_mode)

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        entries = (placed.logprobs for piece in pieces for placed in piece.logprobs)
        content = [token_logprob(self._tokenizer, entry) for entry in entries]
        return ChatLogprobs(content=content, refusal=None)


def _deltas(piece: Piece) -> list[ChatDelta]:
    """What a piece adds; one delta at least, because logprobs may come without text."""
    if piece.events is None:
        return [ChatDelta(content=piece.text)]
    return [_delta(event) for event in piece.events] or [ChatDelta()]


def _message_of(events: Sequence[AnswerEvent], mode: CallMode) -> AssistantMessage:
    """The message that an answer's events add up to."""
    content, calls, thinking = whole_answer(events)
    if not calls:
        shown = content if allows_content(mode) else None
        return AssistantMessage(content=shown, reasoning_content=thinking or None)
    return AssistantMessage(
        content=content or None,
        tool_calls=[_whole(call) for call in calls],
        reasoning_content=thinking or None,
    )


def _first_delta(mode: CallMode) -> ChatDelta:
    """The delta before any text. Its content is null where the answer may turn out to be calls."""
    return ChatDelta(role="assistant", content="" if mode == "none" else None)


def _delta(event: AnswerEvent) -> ChatDelta:
    """One event in a stream."""
    match event:
        case ContentDelta(text):
            return ChatDelta(content=text)
        case ThinkingDelta(text):
            return ChatDelta(reasoning_content=text)
        case CallStart(index, call_id, name):
            function = FunctionDelta(name=name, arguments="")
            call = ToolCallDelta(index=index, id=call_id, type="function", function=function)
            return ChatDelta(tool_calls=[call])
        case ArgumentsDelta(index, text):
            call = ToolCallDelta(index=index, function=FunctionDelta(arguments=text))
            return ChatDelta(tool_calls=[call])


def _finish_reason(reason: FinishReason, num_calls: int, mode: CallMode) -> ChatFinishReason:
    """The reason as OpenAI gives it: a call that the model chose to make ends an answer by
    `tool_calls`; where the request named the function, the answer simply stops."""
    if reason == "stop" and num_calls and mode != "named":
        return "tool_calls"
    return reason


def _whole(call: FunctionCall) -> AnswerToolCall:
    function = AnswerFunction(name=call.name, arguments=call.arguments)
    return AnswerToolCall(id=call.call_id, function=function)
