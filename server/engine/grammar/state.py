"""Where an answer stands in its grammar: masks of the next token, per request.

The state follows from the output tokens alone and can be made again from them at any time, so
preemption, prefix hits and chunked prompts don't concern it. It wraps xgrammar's matcher. The
engine's thread alone uses it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from server.engine.grammar.budget import Meter
from server.engine.grammar.compile.compiler import CompiledGrammar

_Words = NDArray[np.uint32]

_MAX_FORCED_BYTES = 64
_BYTES_PER_TOKEN = 8
_MAX_CHAIN = 32
"""Where more tokens than this are allowed there is a choice, and no forced text."""
_DEAR_SECONDS = 0.001
"""Once a mask has taken this long, no further one is made only to look for forced text."""


class GrammarState:
    """One request's matcher.

    Once the grammar has taken more than its share (`budget.py`), the matcher is not asked any more:
    everything is allowed, nothing is accepted, and whoever runs the step ends the request.

    Args:
        stop_ids: tokens that end the answer, not empty; allowed only where it is complete.
    """

    def __init__(
        self,
        compiled: CompiledGrammar,
        stop_ids: frozenset[int],
        meter: Meter | None = None,
    ) -> None:
        self.meter = meter or Meter()
        self._vocabulary = compiled.vocabulary
        self._stop_ids = sorted(stop_ids)
        self._textless_ids = compiled.textless_ids - stop_ids
        self._matcher = self.meter.run(compiled.new_matcher, self._stop_ids)
        self._accepted = list[int]()
        self._num_known = 0
        """Accepted tokens that are the request's output; those after them are only proposed."""
        self._masks: dict[tuple[int, ...], _Words | None] = {}
        """Masks by the proposed tokens before them: verification needs those of drafting again."""
        self._fill_seconds = 0.0

    @property
    def num_accepted(self) -> int:
        return len(self._accepted)

    def catch_up(self, output_ids: Sequence[int]) -> None:
        """Moves to the state after these output tokens, at the beginning of a step.

        Raises:
            RuntimeError: they leave the grammar, which nothing drawn under its masks does.
        """
        self.meter.next_step()
        common = min(len(self._accepted), len(output_ids))
        if self._accepted[:common] != list(output_ids[:common]):
            common = 0
        self.rollback(len(self._accepted) - common)
        for token_id in output_ids[common:]:
            if not self.accept(token_id) and not self.meter.exceeded:
                raise RuntimeError(f"token {token_id} was drawn and leaves the grammar")
        self._num_known = len(self._accepted)
        self._masks.clear()

    def accept(self, token_id: int) -> bool:
        """Advances by a token; False, and no change, if the grammar forbids it."""
        # xgrammar would write a warning for a token without a text.
        if self.meter.exceeded or token_id in self._textless_ids or self._matcher.is_terminated():
            return False
        if not self.meter.run(self._matcher.accept_token, token_id):
            return False
        self._accepted.append(token_id)
        return True

    def rollback(self, num_tokens: int) -> None:
        """Takes the last accepted tokens back."""
        if num_tokens and not self.meter.exceeded:
            self._matcher.rollback(num_tokens)
            del self._accepted[-num_tokens:]
            if len(self._accepted) < self._num_known:
                self._num_known = len(self._accepted)
                self._masks.clear()

    def forbidden(self) -> torch.Tensor | None:
        """[vocab] bool on the CPU: tokens that may not come next; None where all may.

        After a stop token every token may come: it is not used.
        """
        allowed = self._allowed()
        if allowed is None or self.meter.exceeded:
            return None
        # numpy's unpacking takes a tenth of the time that xgrammar's own kernel for masking takes.
        bits = _unpacked(~allowed, self._vocabulary.size)
        if bits.all():  # the vocabulary has no token for what must follow: the answer ends here
            bits[self._stop_ids] = 0
        return torch.from_numpy(bits).view(torch.bool)

    def forced_tokens(self, most: int) -> list[int]:
        """Up to `most` tokens of the text that must follow; empty where there is a choice.

        The last token of that text is left out: the next token may join it to what follows.
        """
        if self._fill_seconds > _DEAR_SECONDS:
            return []
        text = self._forced_text(min(most * _BYTES_PER_TOKEN, _MAX_FORCED_BYTES))
        count, token_ids = 0, self._vocabulary.encode(text)[:-1][:most] if text else []
        while count < len(token_ids) and self.accept(token_ids[count]):
            count += 1
        self.rollback(count)
        return token_ids[:count]

    def _forced_text(self, most: int) -> str:
        """The forced text, found token by token: xgrammar's own search does not end where the text
        does not."""
        text, count = b"", 0
        while len(text) < most:
            token_id = self._forced_token()
            if token_id is None or not self.accept(token_id):
                break
            text += self._vocabulary.token_bytes(token_id)
            count += 1
        self.rollback(count)
        try:
            return text.decode()
        except UnicodeDecodeError as error:  # it begins or ends inside a character
            return text[: error.start].decode()

    def _forced_token(self) -> int | None:
        """The shortest of the allowed tokens if all others only go on from it."""
        allowed = self._allowed()
        if allowed is None or int(np.bitwise_count(allowed).sum()) > _MAX_CHAIN:
            return None
        ids = [int(i) for i in np.flatnonzero(_unpacked(allowed, self._vocabulary.size))]
        if not ids or not set(ids).isdisjoint(self._stop_ids):
            return None
        texts = {token_id: self._vocabulary.token_bytes(token_id) for token_id in ids}
        shortest = min(ids, key=lambda token_id: len(texts[token_id]))
        is_forced = all(text.startswith(texts[shortest]) for text in texts.values())
        return shortest if is_forced and texts[shortest] else None

    def _allowed(self) -> "_Words | None":
        """A bit per token that may come next; None where all may."""
        if self.meter.exceeded or self._matcher.is_terminated():
            return None
        proposed = tuple(self._accepted[self._num_known :])
        if proposed not in self._masks:
            words = np.zeros((1, -(-self._vocabulary.size // 32)), dtype=np.int32)
            before = self.meter.step_seconds
            masks = self.meter.run(self._matcher.fill_next_token_bitmask, words)
            self._fill_seconds = self.meter.step_seconds - before
            self._masks[proposed] = words[0].view(np.uint32) if masks else None
        return self._masks[proposed]


def _unpacked(words: "_Words", size: int) -> NDArray[np.uint8]:
    """[size] bits as bytes of 0 and 1."""
    return np.unpackbits(words.view(np.uint8), bitorder="little", count=size)
