"""Thinking as a constraint on an answer: its end is forced when its budget is spent, and a grammar
begins behind it.

Like a grammar's state (`state.py`) it follows from the output tokens alone, and is asked at a
node behind the node's own ancestors. So it is exact whatever is proposed, preempted or cached, and
it changes no token but those that it forces.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from server.engine.grammar.budget import Meter
from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.compile.spilling import SpillingTokens
from server.engine.grammar.state import GrammarState
from server.engine.grammar.thinking_place import Place, first_place, forced_token, next_place
from server.engine.types import Thinking


class ThinkingState:
    """One request's thinking, in front of its grammar if it has one.

    Under a grammar only the thinking's marks and the grammar's text are let through around the
    thinking, and no end token within it: an answer that never came would not follow the grammar.

    Args:
        grammar: constrains the answer; at its beginning.
        stop_ids: tokens that end the answer.
    """

    def __init__(
        self,
        thinking: Thinking,
        vocabulary: Vocabulary,
        spilling: SpillingTokens,
        grammar: GrammarState | None,
        stop_ids: frozenset[int],
    ) -> None:
        self.meter = Meter() if grammar is None else grammar.meter
        self._thinking = thinking
        self._vocabulary = vocabulary
        self._spilling = spilling
        self._grammar = grammar
        self._stop_ids = stop_ids
        self._accepted: list[int] = []
        self._places = [first_place(thinking)]
        """One in front of each accepted token, and one behind the last."""
        self._num_read = [0]
        """How many of its phase's tokens the grammar has read, at each place."""

    @property
    def _place(self) -> Place:
        return self._places[-1]

    def catch_up(self, output_ids: Sequence[int]) -> None:
        """Moves to the state after these output tokens, at the beginning of a step.

        Raises:
            RuntimeError: they leave what is allowed, which nothing drawn here does.
        """
        common = min(len(self._accepted), len(output_ids))
        if self._accepted[:common] != list(output_ids[:common]):
            common = 0
        self.rollback(len(self._accepted) - common)
        for token_id in output_ids[common:]:
            if not self.accept(token_id) and not self.meter.exceeded:
                raise RuntimeError(f"token {token_id} was drawn and is not allowed")
        if self._grammar is not None:
            self._grammar.catch_up(self._read_at(len(self._accepted)))

    def accept(self, token_id: int) -> bool:
        """Advances by a token; False, and no change, if it may not come here."""
        thinking, place = self._thinking, self._place
        forced = forced_token(thinking, place, self._accepted)
        if forced is not None and token_id != thinking.end_ids[forced]:
            return False
        raw = self._vocabulary.token_bytes(token_id)
        moved = next_place(thinking, place, raw, len(self._accepted) + 1, forced)
        num_read = self._pass_on(token_id, moved, is_forced=forced is not None)
        if num_read is None:
            return False
        self._accepted.append(token_id)
        self._places.append(moved)
        self._num_read.append(num_read)
        return True

    def rollback(self, num_tokens: int) -> None:
        """Takes the last accepted tokens back."""
        if not num_tokens:
            return
        num_left = len(self._accepted) - num_tokens
        if self._grammar is not None:
            self._take_back(self._grammar, num_left)
        del self._accepted[num_left:], self._places[num_left + 1 :], self._num_read[num_left + 1 :]

    def _take_back(self, grammar: "GrammarState", num_left: int) -> None:
        """Brings the grammar to what it had read when so many tokens were accepted."""
        num_read, num_wanted = self._num_read[-1], self._num_read[num_left]
        if self._places[num_left].since == self._place.since and num_wanted <= num_read:
            grammar.rollback(num_read - num_wanted)
            return
        grammar.rollback(num_read)
        for token_id in self._read_at(num_left):
            grammar.accept(token_id)

    def forbidden(self) -> torch.Tensor | None:
        """[vocab] bool on the CPU: tokens that may not come next; None where all may."""
        forced = forced_token(self._thinking, self._place, self._accepted)
        if forced is not None:
            return self._all_but([self._thinking.end_ids[forced]])
        if self._grammar is None or self.meter.exceeded:
            return None
        match self._place.phase:
            case "opening":
                return self._forbidden_at_first(self._grammar)
            case "thinking":
                return self._forbidden_within
            case "between":
                return self._all_but(self._leads())
            case "answer":
                return self._grammar.forbidden()

    def forced_tokens(self, most: int) -> list[int]:
        """Up to `most` tokens that must follow; empty where there is a choice."""
        found: list[int] = []
        while len(found) < most and (token_id := self._only_token()) is not None:
            if not self.accept(token_id):
                break
            found.append(token_id)
        self.rollback(len(found))
        if found or self._grammar is None or self._place.phase != "answer":
            return found
        return self._grammar.forced_tokens(most)

    def _only_token(self) -> int | None:
        forced = forced_token(self._thinking, self._place, self._accepted)
        if forced is not None:
            return self._thinking.end_ids[forced]
        if self._grammar is None or self._place.phase != "between":
            return None
        leads = self._leads()
        return leads.pop() if len(leads) == 1 else None

    def _pass_on(self, token_id: int, moved: Place, *, is_forced: bool) -> int | None:
        """Lets the grammar read a token of the answer.

        Returns:
            How many tokens of its phase it has read then; None if the token may not come here.
        """
        if self._grammar is None:
            return 0
        if is_forced:
            return 0
        match self._place.phase:
            case "opening":
                return self._open(self._grammar, token_id, moved)
            case "thinking":
                return None if token_id in self._stop_ids or moved.spills else 0
            case "between":
                return 0 if token_id in self._leads() else None
            case "answer":
                return self._num_read[-1] + 1 if self._grammar.accept(token_id) else None

    def _open(self, grammar: "GrammarState", token_id: int, moved: Place) -> int | None:
        """The same for a token that is thinking's mark or the answer's text, or can be both."""
        num_read = self._num_read[-1]
        reads = num_read == len(self._accepted) and grammar.accept(token_id)
        if moved.phase == "answer" and moved.since == 0:
            return num_read + 1 if reads else None
        is_mark = token_id in self._mark_ids()
        if moved.phase == "opening":
            return num_read + reads if reads or is_mark else None
        grammar.rollback(num_read + reads if reads or is_mark else reads)
        return 0 if reads or is_mark else None

    def _mark_ids(self) -> set[int]:
        """The token with which the mark of thinking goes on, if all tokens so far are of it."""
        begin_ids, num_known = self._thinking.begin_ids, len(self._accepted)
        goes_on = tuple(self._accepted) == begin_ids[:num_known]
        return set(begin_ids[num_known : num_known + 1]) if goes_on else set()

    def _leads(self) -> set[int]:
        """Tokens with which the next message goes on, be it thinking or the answer."""
        thinking, since = self._thinking, self._place.since
        header = thinking.next_ids if since else ()
        written = tuple(self._accepted[since:])
        leads = [(*header, *ids) for ids in (thinking.begin_ids, thinking.answer_ids)]
        return {
            lead[len(written)]
            for lead in leads
            if lead[: len(written)] == written and len(lead) > len(written)
        }

    def _forbidden_at_first(self, grammar: "GrammarState") -> torch.Tensor | None:
        allowed = self._mark_ids()
        if self._num_read[-1] < len(self._accepted):
            return self._all_but(allowed)
        forbidden = grammar.forbidden()
        if forbidden is not None and allowed:
            forbidden = forbidden.clone()
            forbidden[list(allowed)] = False
        return forbidden

    @property
    def _forbidden_within(self) -> torch.Tensor:
        spilling: list[int] = []
        if not self._thinking.answer:
            spilling = self._spilling.behind(self._place.tail, self._thinking.end)
        if not spilling:
            return self._stops
        forbidden = self._stops.clone()
        forbidden[spilling] = True
        return forbidden

    @cached_property
    def _stops(self) -> torch.Tensor:
        forbidden = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        forbidden[list(self._stop_ids)] = True
        return forbidden

    def _all_but(self, allowed: Sequence[int] | set[int]) -> torch.Tensor:
        forbidden = torch.ones(self._vocabulary.size, dtype=torch.bool)
        forbidden[list(allowed)] = False
        return forbidden

    def _read_at(self, num_tokens: int) -> list[int]:
        """The tokens that the grammar has read once so many were accepted."""
        since = self._places[num_tokens].since
        return self._accepted[since : since + self._num_read[num_tokens]]
