"""Where an answer stands in its grammar: masks of the next token, per request.

Belongs to the output tokens alone and can be made again from them at any time, so preemption,
prefix hits and chunked prompts don't concern it. Holds xgrammar's matcher, from which everything
comes; the engine's thread alone uses it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from server.engine.types import Grammar, Request, RequestId

if TYPE_CHECKING:
    from server.engine.grammar.compiler import CompiledGrammar


class GrammarState:
    """One request's matcher.

    Args:
        stop_ids: tokens that end the answer, not empty; allowed only where it is complete.
    """

    def __init__(self, compiled: "CompiledGrammar", stop_ids: frozenset[int]) -> None:
        self._vocabulary = compiled.vocabulary
        self._stop_ids = sorted(stop_ids)
        self._textless_ids = compiled.textless_ids - stop_ids
        self._matcher = compiled.new_matcher(self._stop_ids)
        self._accepted = list[int]()
        words = -(-compiled.vocabulary.size // 32)
        self._bits = torch.zeros(1, words, dtype=torch.int32)

    @property
    def num_accepted(self) -> int:
        return len(self._accepted)

    def catch_up(self, output_ids: Sequence[int]) -> None:
        """Comes to stand behind these output tokens, from wherever it stood.

        Raises:
            RuntimeError: they leave the grammar, which nothing drawn under its masks does.
        """
        common = min(len(self._accepted), len(output_ids))
        if self._accepted[:common] != list(output_ids[:common]):
            common = 0
        self.rollback(len(self._accepted) - common)
        for token_id in output_ids[common:]:
            if not self.accept(token_id):
                raise RuntimeError(f"token {token_id} was drawn and leaves the grammar")

    def accept(self, token_id: int) -> bool:
        """Goes on by a token; False, and no change, if the grammar forbids it."""
        # xgrammar would write a warning for a token without a text.
        if token_id in self._textless_ids or self._matcher.is_terminated():
            return False
        if not self._matcher.accept_token(token_id):
            return False
        self._accepted.append(token_id)
        return True

    def rollback(self, num_tokens: int) -> None:
        """Takes the last accepted tokens back."""
        if num_tokens:
            self._matcher.rollback(num_tokens)
            del self._accepted[-num_tokens:]

    def forbidden(self) -> torch.Tensor | None:
        """[vocab] bool on the CPU: tokens that may not come next; None where all may. Valid until
        the next call.

        Behind a stop token everything may come: nobody reads it.
        """
        if self._matcher.is_terminated():
            return None
        if not self._matcher.fill_next_token_bitmask(self._bits):
            return None
        # numpy's unpacking takes a tenth of the time that xgrammar's own kernel for masking takes.
        inverted = ~self._bits[0].numpy().view(np.uint8)
        bits = np.unpackbits(inverted, bitorder="little", count=self._vocabulary.size)
        if bits.all():  # the vocabulary has no token for what must follow: the answer ends here
            bits[self._stop_ids] = 0
        return torch.from_numpy(bits).view(torch.bool)

    def forced_tokens(self) -> list[int]:
        """Tokens of the text that must follow; empty where there is a choice.

        The last token of that text is left out: what follows may be joined to it.
        """
        if self._matcher.is_terminated():
            return []
        try:
            text = self._matcher.find_jump_forward_string()
        except UnicodeDecodeError:  # it begins or ends inside of a character
            return []
        if not text:
            return []
        count, token_ids = 0, self._vocabulary.encode(text)[:-1]
        while count < len(token_ids) and self.accept(token_ids[count]):
            count += 1
        self.rollback(count)
        return token_ids[:count]


class GrammarStates:
    """The states of the requests in the engine.

    Args:
        find: the compiled form of a grammar.
        eos_token_ids: the model's end tokens.
    """

    def __init__(
        self, find: "Callable[[Grammar], CompiledGrammar]", eos_token_ids: frozenset[int]
    ) -> None:
        self._find = find
        self._eos_token_ids = eos_token_ids
        self._states: dict[RequestId, GrammarState] = {}

    def behind(self, request: Request, output_ids: Sequence[int]) -> GrammarState:
        """The state of a request with a grammar behind its output so far.

        Raises:
            ValueError: the request has no grammar.
        """
        grammar = request.params.grammar
        if grammar is None:
            raise ValueError(f"request {request.request_id!r} has no grammar")
        state = self._states.get(request.request_id)
        if state is None:
            stop_ids = self._eos_token_ids | request.params.stop_token_ids
            state = GrammarState(self._find(grammar), stop_ids)
            self._states[request.request_id] = state
        state.catch_up(output_ids)
        return state

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        self._states.pop(request_id, None)
