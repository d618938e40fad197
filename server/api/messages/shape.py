"""Answers of `/v1/messages`: the message, and a stream's events."""

from collections.abc import Iterator, Sequence

from server.api.generation.job import Piece
from server.api.generation.speculation import whole_report
from server.api.generation.tools import CallMode, allows_content
from server.api.messages.content import MessageContent
from server.api.messages.schema.answer import Message, MessageUsage, OutputDetails, StopReason
from server.api.messages.schema.events import (
    Event,
    MessageDelta,
    MessageStart,
    MessageStop,
    StopDelta,
)
from server.api.messages.schema.request import ThoughtsShown


class MessageShape:
    """One message. Call `begin`, `add` for every piece, and `finish`. Without a stream the events
    are dropped, and `message` is the answer.

    Args:
        prompt_token_ids: Counted in its usage.
        max_tokens: As the request has it; the context may have had room for fewer.
        cache_block: See `ServingInfo.cache_block`; 0 if nothing that is added to the prefix cache
            is to be counted.
        with_token_ids: The request asked for them.
        call_mode: Which calls of tools the answer may have.
        thoughts_shown: What it has of the thoughts.
    """

    def __init__(
        self,
        message_id: str,
        model: str,
        prompt_token_ids: Sequence[int],
        *,
        max_tokens: int,
        cache_block: int = 0,
        with_token_ids: bool = False,
        call_mode: CallMode = "none",
        thoughts_shown: ThoughtsShown = "whole",
    ) -> None:
        self._id = message_id
        self._model = model
        self._prompt_token_ids = prompt_token_ids
        self._max_tokens = max_tokens
        self._cache_block = cache_block
        self._token_ids: list[int] | None = [] if with_token_ids else None
        self._content = MessageContent(
            has_text=allows_content(call_mode) and max_tokens > 0, thoughts_shown=thoughts_shown
        )
        self._traced: list[Piece] = []

    def begin(self, first: Piece | None) -> Iterator[Event]:
        """Begins a stream.

        Args:
            first: The first piece, if it is here: it knows what was in the prefix cache. It is
                then to be added too.
        """
        usage = self._usage(first)
        usage.output_tokens = usage.output_tokens_details.thinking_tokens = 0
        message = self._message(usage, None, None)
        yield MessageStart(message=message)

    def add(self, piece: Piece) -> Iterator[Event]:
        if piece.sources is not None:
            self._traced.append(piece)
        if self._token_ids is not None:
            self._token_ids += piece.token_ids or ()
        yield from self._content.add(piece)

    def finish(self, last: Piece) -> Iterator[Event]:
        """Ends the message after its last piece, which has the reason."""
        yield from self._content.finish()
        message = self.message(last)
        yield MessageDelta(
            delta=StopDelta(
                stop_reason=self._stop_reason(last), stop_sequence=message.stop_sequence
            ),
            usage=message.usage,
            speculation=message.speculation,
            token_ids=message.token_ids,
        )
        yield MessageStop()

    def message(self, last: Piece) -> Message:
        """The whole message, once it is finished."""
        usage = self._usage(last)
        message = self._message(usage, self._stop_reason(last), last.stop_string)
        message.content = self._content.blocks()
        message.speculation = whole_report([self._traced or [last]])
        message.token_ids = self._token_ids
        return message

    def _message(
        self, usage: MessageUsage, stop_reason: StopReason | None, stop_sequence: str | None
    ) -> Message:
        has_ids = self._token_ids is not None
        return Message(
            id=self._id,
            model=self._model,
            content=[],
            stop_reason=stop_reason,
            stop_sequence=stop_sequence,
            usage=usage,
            prompt_token_ids=list(self._prompt_token_ids) if has_ids else None,
        )

    def _stop_reason(self, last: Piece) -> StopReason:
        if last.finish_reason == "length":
            is_full = last.num_output_tokens < self._max_tokens
            return "model_context_window_exceeded" if is_full else "max_tokens"
        if last.stop_string is not None:
            return "stop_sequence"
        return "tool_use" if last.num_calls else "end_turn"

    def _usage(self, piece: Piece | None) -> MessageUsage:
        num_prompt = len(self._prompt_token_ids)
        num_read = 0 if piece is None else piece.num_cached_tokens
        num_created = 0 if piece is None else self._num_created(num_prompt, num_read)
        num_thinking = 0 if piece is None else piece.num_thinking_tokens
        return MessageUsage(
            input_tokens=num_prompt - num_read - num_created,
            cache_creation_input_tokens=num_created,
            cache_read_input_tokens=num_read,
            output_tokens=0 if piece is None else piece.num_output_tokens,
            output_tokens_details=OutputDetails(thinking_tokens=num_thinking),
        )

    def _num_created(self, num_prompt: int, num_read: int) -> int:
        """Tokens of the full blocks of the prompt that were not in the cache."""
        if not self._cache_block:
            return 0
        return max(num_prompt // self._cache_block * self._cache_block - num_read, 0)
