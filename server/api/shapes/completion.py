"""Answers of `/v1/completions`."""

from collections.abc import Iterable, Sequence

from server.api.generation import Progress
from server.api.schemas.chat import FinishReason
from server.api.schemas.common import Usage
from server.api.schemas.completion import Completion, CompletionChoice, CompletionLogprobs
from server.api.shapes.base import MIN_LOGPROB, Head
from server.api.shapes.speculation import count_sources, report
from server.engine.types import TokenLogprobs
from server.text.stream import PlacedLogprobs
from server.text.tokenizer import Tokenizer


class CompletionShape:
    """See `Shape`.

    Args:
        num_logprobs: How many alternatives the request asked for, None for no logprobs.
        null_usage: See `ChatShape`.
    """

    def __init__(
        self, head: Head, tokenizer: Tokenizer, *, num_logprobs: int | None, null_usage: bool
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._num_logprobs = num_logprobs
        self._null_usage = null_usage

    def first_chunk(self) -> None:
        return None

    def chunks(self, piece: Progress) -> Iterable[Completion]:
        if piece.text or piece.logprobs or piece.sources:
            chunk = self._chunk(piece.text, [piece], None)
            chunk.speculation_trace = count_sources([piece])
            yield chunk
        if piece.finish_reason is not None:
            chunk = self._chunk("", [], piece.finish_reason)
            chunk.speculation = report(piece.speculation)
            yield chunk

    def usage_chunk(self, usage: Usage) -> Completion:
        return Completion(**self._head, object="text_completion", choices=[], usage=usage)

    def whole(self, pieces: list[Progress], usage: Usage) -> Completion:
        text = "".join(piece.text for piece in pieces)
        answer = self._chunk(text, pieces, pieces[-1].finish_reason)
        answer.usage = usage
        answer.speculation = report(pieces[-1].speculation, count_sources(pieces))
        return answer

    def _chunk(
        self, text: str, pieces: Sequence[Progress], finish_reason: FinishReason | None
    ) -> Completion:
        choice = CompletionChoice(
            index=0, text=text, logprobs=self._logprobs(pieces), finish_reason=finish_reason
        )
        chunk = Completion(**self._head, object="text_completion", choices=[choice])
        if self._null_usage:
            chunk.usage = None  # now it counts as set, and is written
        return chunk

    def _logprobs(self, pieces: Sequence[Progress]) -> CompletionLogprobs | None:
        placed = [entry for piece in pieces for entry in piece.logprobs]
        if self._num_logprobs is None or not pieces:
            return None
        name = self._tokenizer.token_string
        return CompletionLogprobs(
            tokens=[name(entry.logprobs.token_id) for entry in placed],
            token_logprobs=[max(entry.logprobs.logprob, MIN_LOGPROB) for entry in placed],
            top_logprobs=[self._top(entry) for entry in placed] if self._num_logprobs else None,
            text_offset=[entry.text_offset for entry in placed],
        )

    def _top(self, entry: PlacedLogprobs[TokenLogprobs]) -> dict[str, float]:
        """The most probable tokens, and the chosen one where it isn't among them."""
        name = self._tokenizer.token_string
        chosen = entry.logprobs
        top = {name(token_id): max(logprob, MIN_LOGPROB) for token_id, logprob in chosen.top}
        top.setdefault(name(chosen.token_id), max(chosen.logprob, MIN_LOGPROB))
        return top
