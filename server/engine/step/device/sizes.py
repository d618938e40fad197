"""The shape of a step for the sequences that are in it."""

from collections.abc import Sequence

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.tiers import (
    PLAIN,
    Sampling,
    StepShape,
    Tier,
    TierChoice,
    at_least,
    batch_sizes,
    context_sizes,
)
from server.engine.step.device.seats import Controls
from server.engine.types import PolicyName

MOST_NODES = 64
"""Most nodes of a sequence in a step."""


def tier_for(depth: int, nodes: int) -> Tier:
    """The smallest tier that is enough."""
    return Tier(depth, 1 << (nodes - 1).bit_length()) if depth else PLAIN


class Sizes:
    """Chooses the shapes of steps.

    Args:
        config: depths and widths of the fixed policies.
        choice: chooses the tier for `auto`.
        can_draft: whether there is a draft.
        most_nodes: of a sequence in a step, whatever its request asks for.
    """

    def __init__(
        self,
        config: PolicyConfig,
        choice: TierChoice,
        max_num_seqs: int,
        max_model_len: int,
        can_draft: bool,
        most_nodes: int = MOST_NODES,
    ) -> None:
        self.config = config
        self.choice = choice
        self.costs = choice.costs
        self.can_draft = can_draft
        self.most_nodes = most_nodes
        self.batches = batch_sizes(max_num_seqs)
        self.contexts = context_sizes(max_model_len + MOST_NODES)

    def limits(self, planned: PlannedSequence) -> tuple[int, int]:
        """Depth and nodes that a sequence's policy takes at most, without regard to where its
        answer ends. For `auto` they are those of the largest tier."""
        asked = planned.request.speculation
        if asked.policy == "off" or not self.can_draft:
            return PLAIN
        if asked.policy != "auto":
            return self.fixed(asked.policy, asked.max_depth, asked.max_nodes)
        largest = Tier(*map(max, zip(*self.choice.tiers, strict=True)))
        depth = min(asked.max_depth or largest.depth, largest.depth)
        return depth, min(largest.nodes, asked.max_nodes)

    def fixed(self, policy: PolicyName, depth: int | None, max_nodes: int) -> tuple[int, int]:
        """Depth and nodes of `chain` or `cape`.

        Args:
            depth: the depth that the request asks for.
        """
        config = self.config
        if policy == "chain":
            depth = depth or config.chain_depth
            nodes = depth + 1
        else:
            depth = depth or config.cape_depth
            nodes = 1 + depth * (1 + max(config.cape.leaves))
        nodes = min(nodes, max_nodes, self.most_nodes)
        return min(depth, nodes - 1), nodes

    def shape(
        self, rows: Sequence[tuple[PlannedSequence, Controls]], longest_context: int
    ) -> StepShape:
        """The next step's shape; longest_context: its sequences' longest context at its start."""
        batch = at_least(len(rows), self.batches)
        depth, nodes = PLAIN
        autos = 0
        for planned, _ in rows:
            if self.can_draft and planned.request.speculation.policy == "auto":
                autos += 1
            else:
                own = self.limits(planned)
                depth, nodes = max(depth, own[0]), max(nodes, own[1])
        if autos:
            tier = self.choice(batch)
            depth, nodes = max(depth, tier.depth), max(nodes, tier.nodes)
        tier = tier_for(depth, nodes)
        # What is launched ahead counts the most that a step may commit, and tiers are rounded up:
        # the sum may be beyond the longest sequence there is; no row is.
        most = min(longest_context + max(tier.nodes, tier.depth), self.contexts[-1])
        context = at_least(most, self.contexts)
        return StepShape(batch, tier, context, _sampling([controls for _, controls in rows]))


def _sampling(rows: Sequence[Controls]) -> Sampling:
    drawn = [row for row in rows if row.temperature > 0]
    if any(row.top_k > 0 or row.top_p < 1 or row.min_p > 0 for row in drawn):
        return "truncated"
    return "drawn" if drawn else "greedy"
