"""What constrains the answers of the requests in the engine, by request."""

from collections.abc import Callable, Collection, Sequence

from server.engine.grammar.budget import end_dearest
from server.engine.grammar.compile.compiler import CompiledGrammar, Vocabulary
from server.engine.grammar.compile.spilling import SpillingTokens
from server.engine.grammar.state import GrammarState
from server.engine.grammar.thinking import ThinkingState
from server.engine.types import Grammar, Request, RequestId

AnswerState = GrammarState | ThinkingState
"""What constrains the tokens of one request."""


class GrammarStates:
    """The states of the requests in the engine.

    Args:
        find: the compiled form of a grammar.
        vocabulary: the model's, with its end tokens.
        spilling: that requests had prepared; None where none has.
    """

    def __init__(
        self,
        find: Callable[[Grammar], CompiledGrammar],
        vocabulary: Vocabulary,
        spilling: SpillingTokens | None = None,
    ) -> None:
        self._find = find
        self._vocabulary = vocabulary
        self._spilling = spilling or SpillingTokens(vocabulary)
        self._states: dict[RequestId, AnswerState] = {}

    def behind(self, request: Request, output_ids: Sequence[int]) -> AnswerState:
        """The state of what constrains a request, after its output so far.

        Raises:
            ValueError: nothing constrains it.
        """
        state = self._states.get(request.request_id)
        if state is None:
            state = self._states[request.request_id] = self._new(request)
        state.catch_up(output_ids)
        return state

    def _new(self, request: Request) -> AnswerState:
        params = request.params
        stop_ids = self._vocabulary.eos_ids | params.stop_token_ids
        grammar = None
        if params.grammar is not None:
            grammar = GrammarState(self._find(params.grammar), stop_ids)
        if params.thinking is not None:
            return ThinkingState(
                params.thinking, self._vocabulary, self._spilling, grammar, stop_ids
            )
        if grammar is None:
            raise ValueError(f"request {request.request_id!r} has no grammar")
        return grammar

    def exceeding(self, request_ids: Collection[RequestId]) -> dict[RequestId, str]:
        """Requests whose grammars took too much in the step that has just run, and of which
        resource. They have to end."""
        meters = {each: self._states[each].meter for each in request_ids}
        end_dearest(meters.values())
        return {each: meter.exceeded for each, meter in meters.items() if meter.exceeded}

    def forget(self, request_id: RequestId) -> None:
        """Drops the state of a request that has ended."""
        self._states.pop(request_id, None)
