"""The `auto` policy: CaPE's idea, confidence decides the width, made exact for this machine.

Every candidate has a chance of acceptance a, calibrated (`calibration.py`). A trunk token at depth
d is reached and right with the survival product S(d) = a(1) … a(d); a leaf beside it adds
S(d - 1) x its own chance. That is the expected number of tokens the node brings. Nodes of the whole
batch are taken in falling order of it, as long as tokens per second rise:

    (sequences + sum of gains) / (t_verify(rows + nodes) + depth x t_draft)

A node's parent never brings less than the node, so this order keeps trees whole. Zero nodes is one
of the choices: where speculation does not pay, decoding is plain. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.engine.plan import PlannedSequence
from server.engine.speculative.calibration import Calibration
from server.engine.speculative.cost import StepCosts
from server.engine.speculative.proposal import Proposal
from server.engine.speculative.tree import TokenTree, comb
from server.engine.types import RequestId

_PROBE_EVERY = 32
"""Steps after which a draft of depth 1 is tried although it does not seem to pay: otherwise a bad
stretch would switch speculation off for ever."""
_SMOOTHING = 0.05
"""Weight of the newest step in the running survival per depth."""
_DRIFT = 0.005
"""The same for depths that were not drafted, which follow the deepest one that was: otherwise a
depth once found useless would never be tried again."""


class _Gain(NamedTuple):
    """One candidate node."""

    tokens: float
    """Expected tokens it brings."""
    sequence: int
    depth: int
    rank: int
    """0 for the trunk's token, 1 … for its alternatives."""


def _order(gain: _Gain) -> tuple[float, int, int]:
    """Falling gain; of equals the shallower first, so that a parent never comes after its child."""
    return (-gain.tokens, gain.depth, gain.rank)


@dataclass(slots=True)
class _Survival:
    """Running mean of the tokens a draft of each depth was expected to bring per sequence."""

    by_depth: list[float]

    def update(self, depth: int, tokens: float, weight: float = _SMOOTHING) -> None:
        old = self.by_depth[depth - 1]
        self.by_depth[depth - 1] = old + weight * (tokens - old)


class AutoPolicy:
    """Chooses depth before drafting and nodes after it, for the best expected tokens per second.

    Args:
        max_depth: longest draft that is considered.
    """

    def __init__(self, costs: StepCosts, max_depth: int = 8) -> None:
        self.costs = costs
        self.max_depth = max_depth
        self.calibration = Calibration()
        # Optimistic at first: the chance to bring a token halves slowly with depth.
        self._survival = _Survival([0.7 ** (depth + 1) for depth in range(max_depth)])
        self._steps_without = 0
        self._probing = False

    def choose_depth(self, num_sequences: int, num_rows: int) -> int:
        """Tokens to draft for each of num_sequences, in a step of num_rows rows without proposals;
        0 for none."""
        if num_sequences == 0:
            return 0
        best, best_rate = 0, num_rows / self.costs.verify(num_rows)
        tokens, draft_seconds = float(num_rows), self.costs.draft(num_sequences)
        for depth in range(1, self.max_depth + 1):
            tokens += num_sequences * self._survival.by_depth[depth - 1]
            verify = self.costs.verify(num_rows + depth * num_sequences)
            rate = tokens / (verify + depth * draft_seconds)
            if rate > best_rate:
                best, best_rate = depth, rate
        self._steps_without = 0 if best else self._steps_without + 1
        self._probing = self._steps_without >= _PROBE_EVERY
        if self._probing:
            self._steps_without = 0
            return 1
        return best

    def choose_nodes(
        self, drafted: Sequence[tuple[PlannedSequence, Proposal]], num_rows: int
    ) -> dict[RequestId, TokenTree]:
        """Trees of the drafted sequences; only the root where nothing pays."""
        gains = sorted(
            (g for i, entry in enumerate(drafted) for g in self._gains(i, *entry)), key=_order
        )
        count = self._best_count([g.tokens for g in gains], num_rows)
        # A probe verifies at least a node: what is never verified can't regain its calibration.
        chosen = gains[: max(count, int(self._probing))]
        return {
            planned.request.request_id: _comb(
                planned, proposal, [g for g in chosen if g.sequence == i]
            )
            for i, (planned, proposal) in enumerate(drafted)
        }

    def learn(
        self, proposal: Proposal, tree: TokenTree, path: Sequence[int]
    ) -> list[tuple[float, bool]]:
        """What a verified tree teaches.

        Args:
            path: committed nodes, the root first.

        Returns:
            (confidence, accepted) of the nodes whose parent was accepted.
        """
        observed = list[tuple[float, bool]]()
        for depth, (tokens, confidences) in enumerate(
            zip(proposal.candidates, proposal.confidences, strict=True), start=1
        ):
            parent = depth - 1
            if parent >= len(path) or path[parent] != parent:
                break  # the trunk was left above: nothing was learned about what is below
            accepted = path[depth] if depth < len(path) else None
            for rank, (token_id, confidence) in enumerate(zip(tokens, confidences, strict=True)):
                node = tree.child(parent, token_id)
                if node is not None:
                    self.calibration.observe(confidence, rank > 0, node == accepted)
                    observed.append((confidence, node == accepted))
        return observed

    def _gains(self, index: int, planned: PlannedSequence, proposal: Proposal) -> list[_Gain]:
        gains, survival, chance = list[_Gain](), 1.0, 1.0
        for depth, confidences in enumerate(proposal.confidences, start=1):
            chances = [
                self.calibration.chance(confidence, rank > 0)
                for rank, confidence in enumerate(confidences)
            ]
            gains += [
                # A leaf beside the trunk can't be likelier than what the trunk leaves over.
                _Gain(survival * (c if rank == 0 else min(c, 1 - chances[0])), index, depth, rank)
                for rank, c in enumerate(chances)
            ]
            chance = chances[0]
            survival *= chance
            self._survival.update(depth, survival)
        if gains:
            for depth in range(len(proposal.confidences) + 1, self.max_depth + 1):
                survival *= chance
                self._survival.update(depth, survival, _DRIFT)
        gains.sort(key=_order)
        return gains[: planned.max_nodes - 1]

    def _best_count(self, gains: Sequence[float], num_rows: int) -> int:
        """How many of the sorted gains to take; drafting is paid for already."""
        best, best_rate, tokens = 0, num_rows / self.costs.verify(num_rows), float(num_rows)
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
