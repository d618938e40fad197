"""Answers of `/v1/chat/completions`."""

from collections.abc import Iterable, Sequence

from server.api.generation import Progress
from server.api.schemas.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    FinishReason,
    TokenLogprob,
    TopLogprob,
)
from server.api.schemas.common import Usage
from server.api.schemas.speculation import SpeculationReport
from server.api.shapes.base import MIN_LOGPROB, Head, joined_ids
from server.api.shapes.speculation import count_sources, report
from server.engine.types import TokenLogprobs
from server.text.stream import PlacedLogprobs
from server.text.tokenizer import Tokenizer


class ChatShape:
    """See `Shape`.

    Args:
        index: Of the choice.
        with_logprobs: The request asked for them.
        null_usage: Chunks say `"usage": null`, as OpenAI's do when the last one has the counts.
        prompt_token_ids: If the request asked for token ids.
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        *,
        index: int = 0,
        with_logprobs: bool,
        null_usage: bool,
        prompt_token_ids: Sequence[int] | None = None,
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._index = index
        self._prompt_token_ids = None if prompt_token_ids is None else list(prompt_token_ids)
        self._with_logprobs = with_logprobs
        self._null_usage = null_usage

    def first_chunk(self) -> ChatChunk:
        chunk = self._chunk(ChatDelta(role="assistant", content=""))
        chunk.prompt_token_ids = self._prompt_token_ids
        return chunk

    def prompt_chunk(self, piece: Progress) -> None:
        """The first chunk has it."""

    def chunks(self, piece: Progress) -> Iterable[ChatChunk]:
        if piece.text or piece.logprobs or piece.sources or piece.token_ids:
            chunk = self._chunk(ChatDelta(content=piece.text), logprobs=self._logprobs([piece]))
            chunk.speculation_trace = count_sources([piece])
            chunk.choices[0].token_ids = joined_ids([piece])
            yield chunk
        if piece.finish_reason is not None:
            chunk = self._chunk(ChatDelta(), finish_reason=piece.finish_reason)
            chunk.speculation = report(piece.speculation)
            yield chunk

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._head, object="chat.completion.chunk", choices=[], usage=usage)

    def choice(self, pieces: Sequence[Progress]) -> ChatChoice:
        return ChatChoice(
            index=self._index,
            message=AssistantMessage(content="".join(piece.text for piece in pieces)),
            logprobs=self._logprobs(pieces),
            finish_reason=pieces[-1].finish_reason or "stop",
            token_ids=joined_ids(pieces),
        )

    def whole(
        self, choices: list[ChatChoice], usage: Usage, speculation: SpeculationReport | None
    ) -> ChatCompletion:
        return ChatCompletion(
            **self._head,
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
        finish_reason: FinishReason | None = None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(
            index=self._index, delta=delta, logprobs=logprobs, finish_reason=finish_reason
        )
        chunk = ChatChunk(**self._head, object="chat.completion.chunk", choices=[choice])
        if self._null_usage:
            chunk.usage = None  # now it counts as set, and is written
        return chunk

    def _logprobs(self, pieces: Sequence[Progress]) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        return ChatLogprobs(
            content=[self._token(placed) for piece in pieces for placed in piece.logprobs],
            refusal=None,
        )

    def _token(self, placed: PlacedLogprobs[TokenLogprobs]) -> TokenLogprob:
        chosen = placed.logprobs
        alternatives = [self._top(token_id, logprob) for token_id, logprob in chosen.top]
        own = self._top(chosen.token_id, chosen.logprob)
        return TokenLogprob(
            token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=alternatives
        )

    def _top(self, token_id: int, logprob: float) -> TopLogprob:
        return TopLogprob(
            token=self._tokenizer.token_string(token_id),
            logprob=max(logprob, MIN_LOGPROB),
            bytes=list(self._tokenizer.token_bytes(token_id)),
        )
