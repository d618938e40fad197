"""Answers of `/v1/completions`."""

from collections.abc import Iterable, Sequence

from server.api.completions.schema import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from server.api.generation.job import Piece
from server.api.generation.job_group import PromptJobs
from server.api.generation.schema.common import FinishReason, Usage
from server.api.generation.schema.speculation import SpeculationReport
from server.api.generation.shape import MIN_LOGPROB, Envelope, has_content, joined_ids
from server.api.generation.speculation import count_sources, report, step_record
from server.engine.outputs import TokenLogprobs
from server.text.stream import PlacedLogprobs
from server.text.tokenizer import Tokenizer


class CompletionShape:
    """See `Shape`.

    Args:
        index: The choice's.
        prompt: The choice's.
        body: Says what is shown: logprobs, the prompt, token ids. With usage at its end, a stream's
            chunks say `"usage": null`, as OpenAI's do.
    """

    def __init__(
        self,
        envelope: Envelope,
        tokenizer: Tokenizer,
        index: int,
        prompt: PromptJobs,
        body: CompletionRequest,
    ) -> None:
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._index = index
        self._echo = prompt.echo
        self._prompt_ids = prompt.token_ids
        self._shows_ids = bool(body.return_token_ids)
        self._num_logprobs = body.logprobs
        self._null_usage = body.include_usage

    def first_chunk(self) -> None:
        return None

    def prompt_chunk(self, piece: Piece) -> Completion | None:
        if self._echo is None and not self._shows_ids:
            return None
        text = "" if self._echo is None else self._echo.text
        logprobs = self._logprobs((), piece) if self._echo is not None else None
        choice = CompletionChoice(
            index=self._index, text=text, logprobs=logprobs, finish_reason=None
        )
        if self._shows_ids:
            choice.prompt_token_ids = list(self._prompt_ids)
        return self._chunk(choice)

    def chunks(self, piece: Piece, usage: Usage | None) -> Iterable[Completion]:
        for chunk in self._chunks(piece):
            if usage is not None:
                chunk.usage = usage
            yield chunk

    def _chunks(self, piece: Piece) -> Iterable[Completion]:
        if has_content(piece):
            chunk = self._chunk(self._choice(piece.text, self._logprobs([piece]), None))
            chunk.speculation_trace = count_sources([piece])
            chunk.speculation_step = step_record(self._tokenizer, piece)
            chunk.choices[0].token_ids = joined_ids([piece])
            yield chunk
        if piece.finish_reason is not None:
            chunk = self._chunk(self._choice("", None, piece.finish_reason))
            chunk.speculation = report(piece.speculation)
            yield chunk

    def usage_chunk(self, usage: Usage) -> Completion:
        return Completion(**self._envelope, object="text_completion", choices=[], usage=usage)

    def choice(self, pieces: Sequence[Piece]) -> CompletionChoice:
        text = "".join(piece.text for piece in pieces)
        if self._echo is not None:
            text = self._echo.text + text
        logprobs = self._logprobs(pieces, pieces[0] if self._echo is not None else None)
        choice = self._choice(text, logprobs, pieces[-1].finish_reason)
        choice.token_ids = joined_ids(pieces)
        choice.prompt_token_ids = list(self._prompt_ids) if self._shows_ids else None
        return choice

    def whole(
        self,
        choices: list[CompletionChoice],
        usage: Usage,
        speculation: SpeculationReport | None,
    ) -> Completion:
        return Completion(
            **self._envelope,
            object="text_completion",
            choices=choices,
            usage=usage,
            speculation=speculation,
        )

    def _choice(
        self, text: str, logprobs: CompletionLogprobs | None, finish_reason: FinishReason | None
    ) -> CompletionChoice:
        return CompletionChoice(
            index=self._index, text=text, logprobs=logprobs, finish_reason=finish_reason
        )

    def _chunk(self, choice: CompletionChoice) -> Completion:
        chunk = Completion(**self._envelope, object="text_completion", choices=[choice])
        if self._null_usage:
            chunk.usage = None  # now it counts as set, and is written
        return chunk

    def _logprobs(
        self, pieces: Sequence[Piece], prompt: Piece | None = None
    ) -> CompletionLogprobs | None:
        """Makes the logprobs of the tokens that pieces bring.

        Args:
            prompt: The piece with the prompt's own, which come first.
        """
        if self._num_logprobs is None:
            return None
        found = self._no_logprobs() if prompt is None else self._of_prompt(prompt)
        offset = 0 if self._echo is None else len(self._echo.text)
        for placed in (entry for piece in pieces for entry in piece.logprobs):
            self._append(found, placed._replace(text_offset=offset + placed.text_offset))
        return found

    def _no_logprobs(self) -> CompletionLogprobs:
        return CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])

    def _of_prompt(self, piece: Piece) -> CompletionLogprobs:
        found = self._no_logprobs()
        starts = () if self._echo is None else self._echo.starts
        # Nothing comes before the first token.
        found.tokens.append(self._tokenizer.token_string(self._prompt_ids[0]))
        found.token_logprobs.append(None)
        found.text_offset.append(0)
        found.top_logprobs.append(None)
        for logprobs, start in zip(piece.prompt_logprobs or (), starts[1:], strict=True):
            self._append(found, PlacedLogprobs(logprobs, start))
        return found

    def _append(self, found: CompletionLogprobs, entry: PlacedLogprobs[TokenLogprobs]) -> None:
        found.tokens.append(self._tokenizer.token_string(entry.logprobs.token_id))
        found.token_logprobs.append(max(entry.logprobs.logprob, MIN_LOGPROB))
        found.text_offset.append(entry.text_offset)
        found.top_logprobs.append(self._top(entry))

    def _top(self, entry: PlacedLogprobs[TokenLogprobs]) -> dict[str, float]:
        """The most probable tokens, and the chosen one where it isn't among them."""
        name = self._tokenizer.token_string
        chosen = entry.logprobs
        top = {name(token_id): max(logprob, MIN_LOGPROB) for token_id, logprob in chosen.top}
        top.setdefault(name(chosen.token_id), max(chosen.logprob, MIN_LOGPROB))
        return top
