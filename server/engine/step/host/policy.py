"""From a request's policy to the tree of a step.

| policy | proposal |
|---|---|
| off   | the root alone: plain decoding |
| chain | the draft's greedy chain |
| cape  | the chain, and alternatives beside tokens the draft is unsure of (`cape.py`) |
| beam  | the tree of a beam search: the paper's baseline |
| auto  | the nodes that are worth their cost on this machine (`auto.py`) |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from server.engine.drafters.drafter import Committed, Drafter, EarlyStop
from server.engine.drafters.ngram import NgramDrafter
from server.engine.grammar.constrain import Follows, constrain, prune
from server.engine.schedule.plan import PlannedSequence, StepPlan, StepSeconds
from server.engine.speculation.auto import AutoPolicy, DraftPlan
from server.engine.speculation.cape import CapeConfig, expand
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree, comb
from server.engine.step.host.accept import Verification
from server.engine.step.host.commit import Walk, committed_chunk, committed_tokens
from server.engine.step.host.stats import Observation, step_stats
from server.engine.types import PolicyName, RequestId, StepSpeculationStats

_ENOUGH_FORCED = 2
"""Tokens that a grammar forces, from which on no draft is asked."""


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
        lookup: prompt lookup beside a draft with a model, for `auto` alone: other policies show the
            draft as it is.
    """

    def __init__(
        self,
        drafter: Drafter,
        config: PolicyConfig,
        auto: AutoPolicy,
        lookup: NgramDrafter | None = None,
    ) -> None:
        self.drafter = drafter
        self.config = config
        self.auto = auto
        self.lookup = lookup
        self._drafted: dict[RequestId, Proposal] = {}
        """Chains of the current step, drafted or looked up."""
        self._unused: dict[RequestId, Proposal] = {}
        """Lookups in whose place the draft was asked: they are learned from all the same."""
        self._observations = list[Observation]()
        self._turn = 0
        """Of the sequences that trials draft."""
        self._grammars: Mapping[RequestId, Follows] = {}

    def propose(
        self, plan: StepPlan, grammars: Mapping[RequestId, Follows] | None = None
    ) -> dict[RequestId, TokenTree]:
        """Trees of the sequences for which something is proposed; the others decode plainly.

        Args:
            grammars: of the sequences that have one, each behind its last known token.
        """
        self._drafted, self._unused = {}, {}
        self._grammars = grammars or {}
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
            self._learn(_name(planned), walk.token_ids)
            last = hidden[first_row + planned.num_nodes - 1 + walk.path[-1]]
            if len(walk.tree) == 1:
                committed.append(committed_chunk(planned, last))
            else:
                committed.append(self._committed_path(planned, walk, last))
        self.drafter.commit(committed)

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        self.drafter.forget(request_id)
        if self.lookup is not None:
            self.lookup.forget(request_id)

    def proposal_of(self, request_id: RequestId) -> Proposal | None:
        """The chain that this step's tree was made from; None for beams."""
        return self._drafted.get(request_id)

    def stats(
        self, plan: StepPlan, walks: Sequence[Verification], seconds: StepSeconds
    ) -> StepSpeculationStats:
        """Figures of the step that was just committed; `auto` learns from its times."""
        if all(p.num_nodes == 1 and p.wants_token for p in plan.sequences):
            num_rows = sum(len(walk.tree) for walk in walks)
            self.auto.costs.observe_verify(num_rows, seconds.verify + seconds.other)
            lengths = [p.num_proposed for p in self._drafted.values() if p.source == "draft"]
            if max(lengths, default=0):
                self.auto.costs.observe_draft(len(lengths), max(lengths), seconds.draft)
        return step_stats(plan, walks, self._observations, seconds, self.auto.costs.verify)

    def _learn(self, name: RequestId, drawn: Sequence[int]) -> None:
        if name in self._drafted:
            self._observations += self.auto.learn(self._drafted[name], drawn)
        if name in self._unused:
            self.auto.learn(self._unused[name], drawn)

    def _committed_path(
        self, planned: PlannedSequence, walk: Verification, hidden: torch.Tensor
    ) -> Committed:
        proposal = self._drafted.get(planned.request.request_id)
        if proposal is None:  # beams, whose KV lies elsewhere but for the root's
            return committed_tokens(planned, walk, 1, hidden)
        num_written = proposal.num_proposed if proposal.source == "draft" else 0
        return committed_tokens(planned, walk, num_written, hidden)

    def _combs(self, chains: list[PlannedSequence], num_rows: int) -> dict[RequestId, TokenTree]:
        """One drafting for all policies that start from a chain."""
        forced = self._forced(chains)
        open_to = [p for p in chains if _name(p) not in forced]
        autos = [p for p in open_to if p.request.speculation.policy == "auto"]
        found = self._looked_up(autos)
        sure = {name: p for name, p in found.items() if self.auto.prefers(p)}
        plan = self.auto.plan_draft(len(autos) - len(sure), num_rows)
        # Where drafting doesn't pay, a lookup costs nothing.
        self._drafted = dict(sure if plan.depth else found)
        passed_over = self._passed_over([p for p in autos if _name(p) not in sure], plan)
        self._drafted |= {name: found[name] for name in passed_over if name in found}
        self._unused = {name: p for name, p in found.items() if name not in self._drafted}
        skipped = passed_over | self._drafted.keys()
        self._drafted |= self._draft([p for p in open_to if _name(p) not in skipped], plan)
        self._drafted |= forced
        trees: dict[RequestId, TokenTree] = {}
        undecided = list[tuple[PlannedSequence, Proposal]]()
        for planned in chains:
            proposal = self._drafted.get(_name(planned))
            if proposal is None:
                continue
            if planned.request.speculation.policy == "auto":
                undecided.append((planned, proposal))
            else:
                trees[_name(planned)] = self._fixed(planned, proposal)
        return trees | self.auto.choose_nodes(undecided, num_rows)

    def _passed_over(self, autos: Sequence[PlannedSequence], plan: DraftPlan) -> set[RequestId]:
        """Those that a plan for fewer does not draft: others at each time, so that a trial hears
        from all."""
        if plan.num_sequences >= len(autos):
            return set()
        start, self._turn = self._turn % len(autos), self._turn + plan.num_sequences
        in_turn = [*autos[start:], *autos[:start]]
        return {_name(planned) for planned in in_turn[plan.num_sequences :]}

    def _looked_up(self, sequences: Sequence[PlannedSequence]) -> dict[RequestId, Proposal]:
        """What is found in the sequences themselves."""
        if self.lookup is None:
            return {}
        depths = [self._depth(p, self.auto.max_depth) for p in sequences]
        proposals = self.lookup.draft(sequences, depths, EarlyStop.never(len(depths)))
        pairs = zip(sequences, proposals, strict=True)
        found = {_name(p): self._constrained(p, proposal) for p, proposal in pairs}
        return {name: proposal for name, proposal in found.items() if proposal.num_proposed}

    def _forced(self, chains: Sequence[PlannedSequence]) -> dict[RequestId, Proposal]:
        """Where a grammar leaves several tokens no choice, nothing is drafted."""
        found = {
            _name(p): self._constrained(p, Proposal((), ()))
            for p in chains
            if _name(p) in self._grammars
        }
        return {name: p for name, p in found.items() if p.num_forced >= _ENOUGH_FORCED}

    def _constrained(self, planned: PlannedSequence, proposal: Proposal) -> Proposal:
        grammar = self._grammars.get(_name(planned))
        if grammar is None:
            return proposal
        return constrain(proposal, grammar, min(planned.max_depth, planned.max_nodes - 1))

    def _draft(
        self, chains: Sequence[PlannedSequence], plan: DraftPlan
    ) -> dict[RequestId, Proposal]:
        """What the draft says, for those for which it is to say something."""
        depths = [self._depth(planned, plan.depth) for planned in chains]
        wanted = [(p, depth) for p, depth in zip(chains, depths, strict=True) if depth > 0]
        if not wanted:
            return {}
        least = tuple(
            plan.least_survival if p.request.speculation.policy == "auto" else 0.0
            for p, _ in wanted
        )
        stop = EarlyStop(self.auto.calibration.lines("trunk"), least)
        proposals = self.drafter.draft([p for p, _ in wanted], [d for _, d in wanted], stop)
        pairs = zip(wanted, proposals, strict=True)
        return {_name(p): self._constrained(p, proposal) for (p, _), proposal in pairs}

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
        return {
            _name(p): prune(tree, self._grammars[_name(p)]) if _name(p) in self._grammars else tree
            for p, tree in zip(fitting, trees, strict=True)
        }


def _name(planned: PlannedSequence) -> RequestId:
    return planned.request.request_id
