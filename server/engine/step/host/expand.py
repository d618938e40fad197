"""From chains to the trees of a step, by each request's policy (`speculation/policies.py`).

Its twin is `step/device/expand.py`, which does the same for all sequences at once.
"""

from collections.abc import Sequence

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation import cape
from server.engine.speculation.auto import AutoPolicy, Choice
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree, comb
from server.engine.step.host.draft import Drafted


def expand(
    sequences: Sequence[PlannedSequence], drafted: Drafted, config: PolicyConfig, auto: AutoPolicy
) -> Choice:
    """Trees of the sequences for which something is proposed; the others decode plainly. What is
    expected of them is told of those under `auto` alone.

    Args:
        sequences: all of the step's, since `auto` weighs nodes against the rows that are there.
    """
    trees = dict(drafted.beams)
    undecided = list[tuple[PlannedSequence, Proposal]]()
    for planned in sequences:
        proposal = drafted.chains.get(planned.request_id)
        if proposal is None:
            continue
        if planned.request.speculation.policy == "auto":
            undecided.append((planned, proposal))
        else:
            trees[planned.request_id] = _fixed(planned, proposal, config)
    chosen = auto.choose_nodes(undecided, sum(p.num_nodes for p in sequences))
    trees |= chosen.trees
    return Choice({n: tree for n, tree in trees.items() if len(tree) > 1}, chosen.expected_gain)


def _fixed(planned: PlannedSequence, proposal: Proposal, config: PolicyConfig) -> TokenTree:
    root = planned.token_ids[-1]
    if planned.request.speculation.policy == "chain":
        return comb(root, proposal.trunk, ())
    return cape.expand(
        root, proposal.candidates, proposal.confidences, config.cape, planned.max_nodes
    )
