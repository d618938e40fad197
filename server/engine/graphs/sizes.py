"""The shape of a step for the sequences that are in it."""

from collections.abc import Sequence

from server.engine.graphs.seats import Controls
from server.engine.graphs.tiers import (
    PLAIN,
    Sampling,
    StepShape,
    Tier,
    TierChoice,
    at_least,
    batch_sizes,
    context_sizes,
    node_bucket,
)
from server.engine.plan import PlannedSequence
from server.engine.speculative.policy import PolicyConfig

MOST_NODES = 64
"""Of a sequence in a step."""


class Sizes:
    """Chooses shapes.

    Args:
        config: of the fixed policies.
        choice: of `auto`.
        can_draft: there is a draft.
    """

    def __init__(
        self,
        config: PolicyConfig,
        choice: TierChoice,
        max_num_seqs: int,
        max_model_len: int,
        can_draft: bool,
    ) -> None:
        self.config = config
        self.choice = choice
        self.costs = choice.costs
        self.can_draft = can_draft
        self.batches = batch_sizes(max_num_seqs)
        self.contexts = context_sizes(max_model_len + MOST_NODES)

    def limits(self, planned: PlannedSequence) -> tuple[int, int]:
        """Depth and nodes that a sequence's policy takes at most, without regard to its answer's
        end; of `auto` those of the largest tier."""
        policy, asked = planned.request.speculation.policy, planned.request.speculation
        if policy == "off" or not self.can_draft:
            return PLAIN
        config = self.config
        largest = Tier(*map(max, zip(*self.choice.tiers, strict=True)))
        own = {"chain": config.chain_depth, "cape": config.cape_depth, "auto": largest.depth}
        depth = asked.max_depth or own[policy]
        if policy == "auto":
            depth = min(depth, largest.depth)
        nodes = {
            "chain": depth + 1,
            "cape": 1 + depth * (1 + max(config.cape.leaves)),
            "auto": largest.nodes,
        }[policy]
        return depth, min(nodes, asked.max_nodes, MOST_NODES)

    def shape(
        self, rows: Sequence[tuple[PlannedSequence, Controls]], longest_context: int
    ) -> StepShape:
        """Of the next step; longest_context: of its sequences when it begins."""
        batch = at_least(len(rows), self.batches)
        depth, nodes = PLAIN
        autos = 0
        for planned, _ in rows:
            if self.can_draft and planned.request.speculation.policy == "auto":
                autos += 1
            else:
                own = self.limits(planned)
                depth, nodes = max(depth, min(own[0], own[1] - 1)), max(nodes, own[1])
        if autos:
            tier = self.choice(batch)
            depth, nodes = max(depth, tier.depth), max(nodes, tier.nodes)
        tier = Tier(depth, node_bucket(nodes)) if depth else PLAIN
        context = at_least(longest_context + max(tier.nodes, tier.depth), self.contexts)
        return StepShape(batch, tier, context, _sampling([controls for _, controls in rows]))


def _sampling(rows: Sequence[Controls]) -> Sampling:
    drawn = [row for row in rows if row.temperature > 0]
    if any(row.top_k > 0 or row.top_p < 1 or row.min_p > 0 for row in drawn):
        return "truncated"
    return "drawn" if drawn else "greedy"
