"""A step's chains: what a grammar forces, what is looked up in the text, and what the draft says.

Its twin is `step/device/draft.py`, which drafts chains for all sequences of a step alike.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from server.engine.drafters.drafter import Drafter, EarlyStop
from server.engine.drafters.ngram import NgramDrafter
from server.engine.grammar.constrain import Follows, constrain, prune
from server.engine.schedule.plan import PlannedSequence, StepPlan
from server.engine.speculation.auto import AutoPolicy, DraftPlan
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.proposal import Proposal, mix
from server.engine.speculation.tree import TokenTree
from server.engine.types import RequestId

Grammars = Mapping[RequestId, Follows]
"""Grammars of a step's sequences that have one, each after the last known token."""
_ENOUGH_FORCED = 2
"""Where a grammar forces at least this many tokens, the draft is not asked."""


class Drafted(NamedTuple):
    """What trees can be made from, by request."""

    chains: Mapping[RequestId, Proposal]
    """One chain of each request, mixed from its drafts, lookups and grammar."""
    said: Mapping[RequestId, tuple[Proposal, ...]]
    """What each of these proposed by itself, to learn from."""
    lengths: tuple[int, ...]
    """Lengths of the chains that the draft gave."""
    beams: Mapping[RequestId, TokenTree]
    """Trees of the requests with policy `beam`."""


class Drafting:
    """Decides whose next tokens are looked up or drafted, and how far, and asks for them.

    Args:
        auto: decides for requests with policy `auto`.
        lookup: prompt lookup beside a draft with a model; None where the draft is to be seen alone.
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
        self._turn = 0
        """Where the next trial begins among the sequences, so that trials take turns."""

    def __call__(self, plan: StepPlan, grammars: Grammars) -> Drafted:
        """Chains and beams of the sequences that may propose something in this step."""
        open_to = [p for p in plan.sequences if p.max_nodes > 1]
        beams = [p for p in open_to if p.request.speculation.policy == "beam"]
        chains = [p for p in open_to if p.request.speculation.policy in ("chain", "cape", "auto")]
        num_rows = sum(p.num_nodes for p in plan.sequences)
        drafted = self._chains(chains, num_rows, grammars)
        return drafted._replace(beams=self._beams(beams, grammars))

    def _chains(
        self, sequences: Sequence[PlannedSequence], num_rows: int, grammars: Grammars
    ) -> Drafted:
        """One drafting for all policies that start from a chain. What is found in the text joins
        what the draft says; under `auto` it can take the draft's place, since it costs nothing."""
        forced = _forced(sequences, grammars)
        open_to = [p for p in sequences if p.request_id not in forced]
        autos = [p for p in open_to if p.request.speculation.policy == "auto"]
        looked_up = open_to
        if autos and not self.auto.looks_up(len(autos)):
            looked_up = [p for p in open_to if p.request.speculation.policy != "auto"]
        found = self._looked_up(looked_up, grammars)
        unsure = [p for p in autos if not self._is_sure(found.get(p.request_id))]
        plan = self.auto.plan_draft(len(unsure), num_rows)
        skipped = {p.request_id for p in autos} - {p.request_id for p in unsure}
        skipped |= self._passed_over(unsure, plan)
        drafted = self._draft([p for p in open_to if p.request_id not in skipped], plan, grammars)
        said = {
            p.request_id: tuple(
                source[p.request_id]
                for source in (forced, drafted, found)
                if p.request_id in source
            )
            for p in sequences
        }
        chains = {name: self._mixed(*each) for name, each in said.items() if each}
        lengths = tuple(chain.num_proposed for chain in drafted.values())
        return Drafted(chains, said, lengths, {})

    def _is_sure(self, found: Proposal | None) -> bool:
        return found is not None and self.auto.prefers(found)

    def _mixed(self, first: Proposal, second: Proposal | None = None) -> Proposal:
        return first if second is None else mix(first, second, self.auto.calibration.chance)

    def _passed_over(self, autos: Sequence[PlannedSequence], plan: DraftPlan) -> set[RequestId]:
        """Sequences that are not drafted where the plan is for fewer. They change from trial to
        trial, so that each sequence is tried in turn."""
        if plan.depth == 0:
            return {planned.request_id for planned in autos}
        if plan.num_sequences >= len(autos):
            return set()
        start, self._turn = self._turn % len(autos), self._turn + plan.num_sequences
        in_turn = [*autos[start:], *autos[:start]]
        return {planned.request_id for planned in in_turn[plan.num_sequences :]}

    def _looked_up(
        self, sequences: Sequence[PlannedSequence], grammars: Grammars
    ) -> dict[RequestId, Proposal]:
        """What lookup finds in the sequences' own text or in recent answers."""
        if self.lookup is None:
            return {}
        depths = [self._depth(p, self.auto.max_depth) for p in sequences]
        proposals = self.lookup.draft(sequences, depths, EarlyStop.never(len(depths)))
        pairs = zip(sequences, proposals, strict=True)
        found = {p.request_id: _constrained(p, proposal, grammars) for p, proposal in pairs}
        return {name: proposal for name, proposal in found.items() if proposal.num_proposed}

    def _draft(
        self, sequences: Sequence[PlannedSequence], plan: DraftPlan, grammars: Grammars
    ) -> dict[RequestId, Proposal]:
        """The draft's proposals for the sequences that have any depth to draft."""
        depths = [self._depth(planned, plan.depth) for planned in sequences]
        wanted = [(p, depth) for p, depth in zip(sequences, depths, strict=True) if depth > 0]
        if not wanted:
            return {}
        least = tuple(
            plan.least_survival if p.request.speculation.policy == "auto" else 0.0
            for p, _ in wanted
        )
        stop = EarlyStop(self.auto.calibration.lines("trunk"), least)
        proposals = self.drafter.draft([p for p, _ in wanted], [d for _, d in wanted], stop)
        found = dict[RequestId, Proposal]()
        for (planned, _), proposal in zip(wanted, proposals, strict=True):
            chain = _constrained(planned, proposal, grammars)
            if planned.request.speculation.policy == "auto":
                self.auto.observe_draft(chain)
            found[planned.request_id] = chain
        return found

    def _depth(self, planned: PlannedSequence, auto_depth: int) -> int:
        """Tokens to draft: what the request says, else the policy's own depth, within the plan."""
        speculation = planned.request.speculation
        own = {
            "chain": self.config.chain_depth,
            "cape": self.config.cape_depth,
            "auto": auto_depth,
        }
        depth = speculation.max_depth or own[speculation.policy]
        return min(depth, planned.max_depth, planned.max_nodes - 1)

    def _beams(
        self, sequences: Sequence[PlannedSequence], grammars: Grammars
    ) -> dict[RequestId, TokenTree]:
        """Runs the beam searches. A beam whose full width would not fit the nodes is made
        shallower."""
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
            p.request_id: prune(tree, grammars[p.request_id]) if p.request_id in grammars else tree
            for p, tree in zip(fitting, trees, strict=True)
        }


def _forced(sequences: Sequence[PlannedSequence], grammars: Grammars) -> dict[RequestId, Proposal]:
    """Chains of the sequences whose grammar forces several tokens: for these nothing is drafted."""
    constrained = [p for p in sequences if p.request_id in grammars]
    found = {p.request_id: _constrained(p, Proposal((), ()), grammars) for p in constrained}
    return {name: p for name, p in found.items() if p.num_forced >= _ENOUGH_FORCED}


def _constrained(planned: PlannedSequence, proposal: Proposal, grammars: Grammars) -> Proposal:
    grammar = grammars.get(planned.request_id)
    if grammar is None:
        return proposal
    return constrain(proposal, grammar, min(planned.max_depth, planned.max_nodes - 1))
