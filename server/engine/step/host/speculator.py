"""Speculation around a step's forward: what is proposed before it, what is learned after it."""

from collections.abc import Sequence
from typing import NamedTuple

from server.engine.drafters.drafter import Committed, Drafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import StepSpeculationStats
from server.engine.schedule.plan import StepPlan, StepSeconds
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tree import TokenTree
from server.engine.step.host.commit import Walk, committed_chunk, committed_tokens
from server.engine.step.host.draft import Drafted, Drafting, Grammars
from server.engine.step.host.expand import expand
from server.engine.step.host.verify import Verified
from server.engine.step.stats import NOTHING_EXPECTED, Expected, Observation, step_stats
from server.engine.step.walk import TreeWalk
from server.engine.types import RequestId


class Proposed(NamedTuple):
    """What a step proposes, and what its trees were made from."""

    trees: dict[RequestId, TokenTree]
    """Trees of the sequences for which something is proposed."""
    drafted: Drafted
    expected_gain: float = 0.0
    """Tokens that `auto` expects of the nodes that it chose."""


NOTHING = Proposed({}, Drafted({}, {}, (), {}))
"""The proposals of a step without a speculator."""


class Speculator:
    """Proposes the trees of a step, and learns from what became of them.

    Args:
        lookup: prompt lookup beside a draft with a model; see `Drafting`.
    """

    def __init__(
        self,
        drafter: Drafter,
        config: PolicyConfig,
        auto: AutoPolicy,
        lookup: NgramDrafter | None = None,
    ) -> None:
        self.drafting = Drafting(drafter, config, auto, lookup)

    @property
    def drafter(self) -> Drafter:
        return self.drafting.drafter

    @property
    def config(self) -> PolicyConfig:
        return self.drafting.config

    @property
    def auto(self) -> AutoPolicy:
        return self.drafting.auto

    def propose(self, plan: StepPlan, grammars: Grammars) -> Proposed:
        """Drafts, and grows the trees to be verified."""
        drafted = self.drafting(plan, grammars)
        trees, gain = expand(plan.sequences, drafted, self.config, self.auto)
        return Proposed(trees, drafted, gain)

    def commit(
        self,
        plan: StepPlan,
        verified: Verified,
    ) -> None:
        """Lets the drafter complete its state for what was accepted."""
        walk_of = {planned.request_id: walk for planned, walk in verified.walks}
        committed = list[Committed]()
        for planned, first_row in zip(plan.sequences, verified.first_rows, strict=True):
            walk = walk_of.get(planned.request_id)
            if walk is None:
                committed.append(committed_chunk(planned, None))
                continue
            last = verified.hidden[first_row + planned.num_nodes - 1 + walk.path[-1]]
            if len(walk.tree) == 1:
                committed.append(committed_chunk(planned, last))
            else:
                # A beam search writes KV to other slots than verification, except the root's.
                num_written = walk.proposal.num_written if walk.proposal is not None else 1
                committed.append(committed_tokens(planned, walk, num_written, last))
        self.drafter.commit(committed)

    def learn(self, proposed: Proposed, walks: Sequence[Walk]) -> list[Observation]:
        """Learns from the drawn tokens how good each source's proposal was, whether verified or
        not."""
        observations = list[Observation]()
        for planned, walk in walks:
            for said in proposed.drafted.said.get(planned.request_id, ()):
                observations += self.auto.learn(said, walk.token_ids)
        return observations

    def stats(
        self,
        plan: StepPlan,
        proposed: Proposed,
        walks: Sequence[TreeWalk],
        nums_emitted: Sequence[int],
        observations: Sequence[Observation],
        seconds: StepSeconds,
    ) -> StepSpeculationStats:
        """Figures of the step that was just committed; `auto` learns from its times.

        Args:
            nums_emitted: how many of each walk's tokens are emitted.
        """
        costs = self.auto.costs
        figures = plan, walks, nums_emitted, observations, seconds, costs.verify
        if any(p.num_nodes > 1 or not p.wants_token for p in plan.sequences):
            return step_stats(*figures)
        num_rows = sum(len(walk.tree) for walk in walks)
        lengths = proposed.drafted.lengths
        num_forwards = max(lengths, default=0)
        expected = NOTHING_EXPECTED
        if all(p.request.speculation.policy == "auto" for p in plan.sequences):
            expected_seconds = costs.verify(num_rows)
            if num_forwards:
                expected_seconds += costs.draft_start + num_forwards * costs.draft(len(lengths))
            expected = Expected(len(walks) + proposed.expected_gain, expected_seconds)
        costs.observe_verify(num_rows, seconds.verify + seconds.other)
        if num_forwards:
            costs.observe_draft(len(lengths), num_forwards, seconds.draft)
        return step_stats(*figures, expected)

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        self.drafter.forget(request_id)
        if self.drafting.lookup is not None:
            self.drafting.lookup.forget(request_id)
