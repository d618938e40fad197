"""Whether drafting pays, and how long a chain is worth being continued. Pure.

What drafts are worth is seen from the latest ones: their survivals S(1), S(2) …, the calibrated
chance that everything up to a depth is accepted. At a rate of r tokens per second, with t_row
seconds for a row more to verify and t_draft for a token more to draft, a node pays if S > r t_row,
and a chain is continued behind depth d if the next token is expected to pay for its drafting too:

    S(d) x a > r (t_row + t_draft)          a: mean chance of a token whose parent was right

Played over the latest chains, this gives the tokens, rows and forwards of a step with a draft, and
so its rate, which is r. Drafting pays if that is clearly above the rate of plain decoding.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from server.engine.speculation.costs import LiveCosts
from server.engine.speculation.priors import (
    FIRST_CHANCE,
    LEAST_GAIN,
    NEAR_LOSS,
    NUM_LATEST,
    REFRESH_EVERY,
)

_NEAR_ROWS = 4
"""Rows per sequence that t_row is the mean of: a curve's first one may be far from typical."""
_ROUNDS = 3
"""Rounds in which r and the rule, which depend on each other, are worked out; it settles in two."""


class Prospect(NamedTuple):
    """What to expect of drafting."""

    pays: bool
    least_survival: float
    """A chain that survives with less is not worth being continued."""
    is_near: bool
    """Whether it pays, or some of what is drafted would, and the whole would cost little."""


class _Played(NamedTuple):
    """Means over the latest chains, per sequence."""

    tokens: float
    rows: float
    forwards: float


class Prospects:
    """Judges by the latest chains whether drafting pays.

    Args:
        max_depth: longest chain.
    """

    def __init__(self, costs: LiveCosts, max_depth: int) -> None:
        self.costs = costs
        first = tuple(FIRST_CHANCE ** (depth + 1) for depth in range(max_depth))
        self._latest = deque([first], maxlen=NUM_LATEST)
        self._mean_chance: float | None = None
        """Of the latest chains; None until it is asked for."""
        self._known: dict[tuple[int, int], Prospect] = {}
        self._num_new = 0
        self._version = costs.version

    def observe(self, survivals: Sequence[float]) -> None:
        """Adds a chain that was drafted.

        Args:
            survivals: survival at each depth.
        """
        if not survivals:
            return
        self._latest.append(tuple(survivals))
        self._mean_chance = None
        self._num_new += 1
        if self._num_new >= REFRESH_EVERY:
            self._num_new = 0
            self._known.clear()

    def __call__(self, num_sequences: int, num_rows: int) -> Prospect:
        """What to expect where num_sequences are drafted in a step of num_rows rows without
        proposals."""
        if self._version != self.costs.version:
            self._version = self.costs.version
            self._known.clear()
        key = num_sequences, num_rows
        if key not in self._known:
            self._known[key] = self._judge(num_sequences, num_rows)
        return self._known[key]

    def _judge(self, num_sequences: int, num_rows: int) -> Prospect:
        verify, draft_seconds = self.costs.verify, self.costs.draft(num_sequences)
        more = _NEAR_ROWS * num_sequences
        row_seconds = (verify(num_rows + more) - verify(num_rows)) / more
        chance = self.mean_chance
        plain = rate = num_rows / verify(num_rows)
        least = expected = 0.0
        played = _Played(0.0, 0.0, 0.0)
        for _ in range(_ROUNDS):
            least = rate * (row_seconds + draft_seconds / num_sequences) / max(chance, 1e-6)
            played = self._play(least, rate * row_seconds)
            tokens = num_rows + num_sequences * played.tokens
            seconds = verify(num_rows + num_sequences * played.rows)
            seconds += self.costs.draft_start + played.forwards * draft_seconds
            expected = tokens / seconds
            rate = max(rate, expected)
        share = num_sequences / num_rows
        pays = rate > plain * (1 + LEAST_GAIN * share)
        costs_little = played.rows > 0 and expected > plain * (1 - NEAR_LOSS * share)
        return Prospect(pays, least, is_near=pays or costs_little)

    @property
    def mean_chance(self) -> float:
        """Mean chance of a token whose parent was right, over the latest chains. Every sequence
        for which something was looked up asks for it in every step."""
        if self._mean_chance is None:
            self._mean_chance = self._find_mean_chance()
        return self._mean_chance

    def _find_mean_chance(self) -> float:
        right = sum(sum(chain) for chain in self._latest)
        parents = sum(1.0 + sum(chain[:-1]) for chain in self._latest)
        return right / parents

    def _play(self, least: float, least_node: float) -> _Played:
        """Plays the latest chains under a rule.

        Args:
            least: smallest survival that is continued.
            least_node: smallest survival that is verified.
        """
        tokens = rows = forwards = 0.0
        for chain in self._latest:
            for survival in chain:
                forwards += 1
                if survival > least_node:
                    tokens, rows = tokens + survival, rows + 1
                if survival < least:
                    break
        count = len(self._latest)
        return _Played(tokens / count, rows / count, forwards / count)
