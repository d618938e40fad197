"""The `auto` policy: CaPE's idea, confidence decides the width, made exact for this machine.

Every candidate has a chance of acceptance a, calibrated (`calibration.py`). A trunk token at depth
d is reached and right with the survival product S(d) = a(1) … a(d); a leaf beside it adds
S(d - 1) x its own chance. That is the expected number of tokens the node brings. Nodes of the whole
batch are taken in falling order of it, as long as tokens per second rise:

    (sequences + sum of gains) / (t_verify(rows + nodes) + depth x t_draft)

A node's parent never brings less than the node, so this order keeps trees whole. Zero nodes is one
of the choices: where speculation does not clearly pay, decoding is plain. Whether to draft at all,
and how small a survival ends a chain, is `prospect.py`'s. Pure.
"""

from collections.abc import Sequence
from typing import NamedTuple

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.calibration import Calibration
from server.engine.speculation.costs import LiveCosts
from server.engine.speculation.priors import LEAST_GAIN, NEAR_PROBE_EVERY, PROBE_EVERY
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.prospect import Prospects
from server.engine.speculation.tree import TokenTree, comb
from server.engine.types import RequestId

_PROBED = 2
"""Sequences that a trial drafts, and nodes that it verifies at least where it can be afforded:
enough to learn from. Without a larger step now and then its cost would stay as measured."""
_TRIAL_SHARE = 0.01
"""Share of the time that verifying for the sake of a trial may take: where each row costs a whole
step, two nodes are three steps."""
_IDLE_LOOKUPS, _LOOKUP_EVERY, _LEAST_OFTEN = 16, 4, 32
"""After so many steps in which nothing that was looked up was verified, only every fourth step
looks up, with more than four sequences only one step in as many: looking up, and choosing among
what was found, takes 4 % of a step of sixteen sequences. Text that repeats itself goes on for
longer than that."""

_LEAST_TOKENS = 0.02
"""Leaves that bring less are not looked at: where rows cost anything, none of them pays."""


class DraftPlan(NamedTuple):
    """How far to draft."""

    depth: int
    """Most tokens of a chain where a request doesn't say; 0 for no draft."""
    least_survival: float
    """A chain that survives with less is not continued."""
    num_sequences: int
    """Sequences to draft, of those asked about."""


class Choice(NamedTuple):
    """What a step verifies under `auto`."""

    trees: dict[RequestId, TokenTree]
    """Only the root where nothing pays."""
    expected_gain: float
    """Tokens that all their nodes beside the roots are expected to bring."""


class _Gain(NamedTuple):
    """One candidate node. In rising order tokens fall; of equals the shallower comes first, so that
    a parent never comes after its child."""

    tokens: float
    """Expected tokens it brings, negative."""
    depth: int
    rank: int
    """0 for the trunk's token, 1 … for its alternatives."""
    sequence: int


class AutoPolicy:
    """Chooses whether to draft, when to stop and which nodes to verify, for the best expected
    tokens per second.

    Args:
        costs: of this server; kept up to date by whoever times the steps.
        max_depth: longest draft that is considered where a request doesn't say.
    """

    def __init__(self, costs: LiveCosts, max_depth: int = 8) -> None:
        self.costs = costs
        self.max_depth = max_depth
        self.calibration = Calibration()
        self.prospects = Prospects(costs, max_depth)
        self._steps_without = 0
        self._is_trial = False
        self._steps_untried = 0
        """Since nodes were verified for the sake of a trial."""
        self._steps_without_found = 0

    def looks_up(self, num_sequences: int) -> bool:
        """Whether to look up in this step, for num_sequences."""
        self._steps_without_found += 1
        gap = min(max(num_sequences, _LOOKUP_EVERY), _LEAST_OFTEN)
        return self._steps_without_found <= _IDLE_LOOKUPS or self._steps_without_found % gap == 0

    def plan_draft(self, num_sequences: int, num_rows: int) -> DraftPlan:
        """How far to draft for each of num_sequences, in a step of num_rows rows without
        proposals."""
        self._is_trial = False
        self._steps_untried += 1
        if num_sequences == 0:
            return DraftPlan(0, 0.0, 0)
        prospect = self.prospects(num_sequences, num_rows)
        self._steps_without = 0 if prospect.pays else self._steps_without + 1
        self._is_trial = self._steps_without >= (
            NEAR_PROBE_EVERY if prospect.is_near else PROBE_EVERY
        )
        if self._is_trial:
            self._steps_without = 0
            return DraftPlan(self.max_depth, prospect.least_survival, min(num_sequences, _PROBED))
        depth = self.max_depth if prospect.pays else 0
        return DraftPlan(depth, prospect.least_survival, num_sequences)

    def observe_draft(self, proposal: Proposal) -> None:
        """Takes a draft's proposal into account when it judges whether drafting pays."""
        survivals, survival = list[float](), 1.0
        for depth in range(proposal.num_proposed):
            confidence, kind = proposal.confidences[depth][0], proposal.kinds[depth][0]
            survival *= self.calibration.chance(confidence, kind)
            survivals.append(survival)
        self.prospects.observe(survivals)

    def prefers(self, found: Proposal) -> bool:
        """Whether a lookup is at least as good as what the draft would probably say; it costs
        nothing."""
        chance = self.calibration.chance(found.confidences[0][0], found.kinds[0][0])
        return chance >= self.prospects.mean_chance

    def choose_nodes(
        self, drafted: Sequence[tuple[PlannedSequence, Proposal]], num_rows: int
    ) -> Choice:
        """Trees of the drafted sequences."""
        gains = sorted(g for i, entry in enumerate(drafted) for g in self._gains(i, *entry))
        count = self._best_count([-g.tokens for g in gains], len(drafted), num_rows)
        if self._is_trial and count < _PROBED <= len(gains) and self._affords_trial(num_rows):
            count, self._steps_untried = _PROBED, 0
        chosen = gains[:count]
        kinds = {drafted[g.sequence][1].kinds[g.depth - 1][g.rank] for g in chosen}
        if kinds & {"lookup", "recent"}:
            self._steps_without_found = 0
        trees = {
            planned.request_id: _comb(planned, proposal, [g for g in chosen if g.sequence == i])
            for i, (planned, proposal) in enumerate(drafted)
        }
        return Choice(trees, -sum(g.tokens for g in chosen))

    def learn(self, proposal: Proposal, drawn: Sequence[int]) -> list[tuple[float, bool]]:
        """Updates the calibration by a step. It learns from candidates that were not verified too:
        as long as the trunk was right, the right token in their place is known.

        Args:
            drawn: the step's new tokens.

        Returns:
            (confidence, right) of the draft's candidates whose parent was right.
        """
        observed = list[tuple[float, bool]]()
        depths = zip(proposal.candidates, proposal.confidences, proposal.kinds, drawn, strict=False)
        for tokens, confidences, kinds, right in depths:
            for token_id, confidence, kind in zip(tokens, confidences, kinds, strict=True):
                self.calibration.observe(confidence, kind, token_id == right)
                if kind in ("trunk", "leaf"):
                    observed.append((confidence, token_id == right))
            if tokens[0] != right:
                break
        return observed

    def _gains(self, index: int, planned: PlannedSequence, proposal: Proposal) -> list[_Gain]:
        gains = [
            _Gain(-tokens, depth, rank, index)
            for tokens, depth, rank in self.calibration.gains(proposal)
            if rank == 0 or tokens > _LEAST_TOKENS
        ]
        return sorted(gains)[: planned.max_nodes - 1]

    def _affords_trial(self, num_rows: int) -> bool:
        plain = self.costs.verify(num_rows)
        more = self.costs.verify(num_rows + _PROBED) - plain
        return more <= _TRIAL_SHARE * self._steps_untried * plain

    def _best_count(self, gains: Sequence[float], num_sequences: int, num_rows: int) -> int:
        """How many of the sorted gains of num_sequences to take; drafting is paid for already."""
        least = 1 + LEAST_GAIN * num_sequences / num_rows
        best, best_rate = 0, least * num_rows / self.costs.verify(num_rows)
        tokens = float(num_rows)
        for count, gain in enumerate(gains, start=1):
            tokens += gain
            rate = tokens / self.costs.verify(num_rows + count)
            if rate > best_rate:
                best, best_rate = count, rate
        return best


def _comb(planned: PlannedSequence, proposal: Proposal, chosen: Sequence[_Gain]) -> TokenTree:
    trunk = proposal.trunk[: sum(gain.rank == 0 for gain in chosen)]
    leaves = [
        [proposal.candidates[depth][g.rank] for g in chosen if g.depth == depth + 1 and g.rank > 0]
        for depth in range(len(proposal.candidates))
    ]
    return comb(planned.token_ids[-1], trunk, leaves)
