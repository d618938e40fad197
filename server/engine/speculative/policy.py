"""From a request's policy to the tree of a step.

| policy | proposal |
|---|---|
| off   | the root alone: plain decoding |
| chain | the draft's greedy chain |
| cape  | the chain, and alternatives beside tokens the draft is unsure of (`cape.py`) |
| beam  | the tree of a beam search: the paper's baseline |
| auto  | the nodes that are worth their cost on this machine (`auto.py`) |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from server.engine.plan import PlannedSequence, StepPlan, StepSeconds
from server.engine.speculative.accept import Verification
from server.engine.speculative.auto import AutoPolicy
from server.engine.speculative.cape import CapeConfig, expand
from server.engine.speculative.commit import Walk, committed_chunk, committed_tokens
from server.engine.speculative.drafter import Committed, Drafter, EarlyStop
from server.engine.speculative.proposal import Proposal
from server.engine.speculative.step_stats import Observation, step_stats
from server.engine.speculative.tree import TokenTree, comb
from server.engine.types import PolicyName, RequestId, StepSpeculationStats


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Depths and widths of the fixed policies; the paper's by default."""

    chain_depth: int = 5
    cape_depth: int = 4
    beam_depth: int = 4
    beam_width: int = 4
    cape: CapeConfig = field(default_factory=CapeConfig)


class Speculator:
    """Proposes the trees of a step.

    Args:
        auto: decides for requests with policy `auto`.
    """

    def __init__(self, drafter: Drafter, config: PolicyConfig, auto: AutoPolicy) -> None:
        self.drafter = drafter
        self.config = config
        self.auto = auto
        self._drafted: dict[RequestId, Proposal] = {}
        """Chains of the current step."""
        self._observations = list[Observation]()

    def propose(self, plan: StepPlan) -> dict[RequestId, TokenTree]:
        """Trees of the sequences for which something is proposed; the others decode plainly."""
        self._drafted = {}
        self._observations = []
        open_to = [p for p in plan.sequences if p.max_nodes > 1]
        by_policy: dict[PolicyName, list[PlannedSequence]] = {}
        for planned in open_to:
            by_policy.setdefault(planned.request.speculation.policy, []).append(planned)
        trees: dict[RequestId, TokenTree] = {}
        chains = [p for name in ("chain", "cape", "auto") for p in by_policy.get(name, ())]
        trees |= self._combs(chains, num_rows=sum(p.num_nodes for p in plan.sequences))
        trees |= self._beams(by_policy.get("beam", []))
        return {name: tree for name, tree in trees.items() if len(tree) > 1}

    def commit(
        self, plan: StepPlan, walks: Sequence[Walk], hidden: torch.Tensor, first_rows: Sequence[int]
    ) -> None:
        """Lets the drafter complete its state for what was accepted, and learns from it.

        Args:
            hidden: [num_rows, hidden] the target's final hidden states of the step.
            first_rows: row of each planned sequence's first node.
        """
        walk_of = {planned.request.request_id: walk for planned, walk in walks}
        committed = list[Committed]()
        for planned, first_row in zip(plan.sequences, first_rows, strict=True):
            walk = walk_of.get(planned.request.request_id)
            if walk is None:
                committed.append(committed_chunk(planned, None))
                continue
            last = hidden[first_row + planned.num_nodes - 1 + walk.path[-1]]
            if len(walk.tree) == 1:
                committed.append(committed_chunk(planned, last))
            else:
                committed.append(self._committed_path(planned, walk, last))
        self.drafter.commit(committed)

    def stats(
        self, plan: StepPlan, walks: Sequence[Verification], seconds: StepSeconds
    ) -> StepSpeculationStats:
        """Figures of the step that was just committed."""
        return step_stats(plan, walks, self._observations, seconds, self.auto.costs.verify)

    def _committed_path(
        self, planned: PlannedSequence, walk: Verification, hidden: torch.Tensor
    ) -> Committed:
        proposal = self._drafted.get(planned.request.request_id)
        if proposal is None:  # beams, whose KV lies elsewhere but for the root's
            return committed_tokens(planned, walk, 1, hidden)
        self._observations += self.auto.learn(proposal, walk.tree, walk.path)
        return committed_tokens(planned, walk, len(proposal.candidates), hidden)

    def _combs(self, chains: list[PlannedSequence], num_rows: int) -> dict[RequestId, TokenTree]:
        """One drafting for all policies that start from a chain."""
        auto = self.auto.plan_draft(
            sum(p.request.speculation.policy == "auto" for p in chains), num_rows
        )
        depths = {p.request.request_id: self._depth(p, auto.depth) for p in chains}
        drafting = [p for p in chains if depths[p.request.request_id] > 0]
        if not drafting:
            return {}
        wanted = [depths[p.request.request_id] for p in drafting]
        least = tuple(
            auto.least_survival if p.request.speculation.policy == "auto" else 0.0 for p in drafting
        )
        stop = EarlyStop(self.auto.calibration.trunk_lines(), least)
        proposals = self.drafter.draft(drafting, wanted, stop)
        names = [p.request.request_id for p in drafting]
        self._drafted = dict(zip(names, proposals, strict=True))
        trees: dict[RequestId, TokenTree] = {}
        undecided = list[tuple[PlannedSequence, Proposal]]()
        for planned, proposal in zip(drafting, proposals, strict=True):
            if planned.request.speculation.policy == "auto":
                undecided.append((planned, proposal))
            else:
                trees[planned.request.request_id] = self._fixed(planned, proposal)
        return trees | self.auto.choose_nodes(undecided, num_rows)

    def _depth(self, planned: PlannedSequence, auto_depth: int) -> int:
        """Tokens to draft: what the request says, else the policy's own depth, within the plan."""
        speculation = planned.request.speculation
        if speculation.policy == "auto":
            depth = auto_depth
        else:
            own = {"chain": self.config.chain_depth, "cape": self.config.cape_depth}
            depth = speculation.max_depth or own[speculation.policy]
        return min(depth, planned.max_depth, planned.max_nodes - 1)

    def _fixed(self, planned: PlannedSequence, proposal: Proposal) -> TokenTree:
        root = planned.token_ids[-1]
        if planned.request.speculation.policy == "chain":
            return comb(root, proposal.trunk, ())
        return expand(
            root, proposal.candidates, proposal.confidences, self.config.cape, planned.max_nodes
        )

    def _beams(self, sequences: Sequence[PlannedSequence]) -> dict[RequestId, TokenTree]:
        """A beam whose full width would not fit the nodes is made shallower."""
        fitting = list[PlannedSequence]()
        depths = list[int]()
        for planned in sequences:
            depth = planned.request.speculation.max_depth or self.config.beam_depth
            room = (planned.max_nodes - 1) // self.config.beam_width
            if min(depth, planned.max_depth, room) > 0:
                fitting.append(planned)
                depths.append(min(depth, planned.max_depth, room))
        trees = self.drafter.draft_beams(fitting, depths, self.config.beam_width)
        return {p.request.request_id: t for p, t in zip(fitting, trees, strict=True)}
