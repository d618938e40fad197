"""The target's forward over a step's trees, and over prompts and plain sequences beside them.

Its twin is `verify` in `step/device/step.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from server.engine.grammar.states import AnswerState
from server.engine.schedule.outcome import stop_ids
from server.engine.schedule.plan import PlannedSequence, StepPlan
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree, lone_root
from server.engine.step.host.accept import Verification
from server.engine.step.inputs import build_inputs, planned_nodes, rows_of
from server.engine.step.model import Model
from server.engine.step.sampler import SamplerRow
from server.engine.types import RequestId
from server.kernels.tree import LayerCache


class Verified(NamedTuple):
    """A step after the target's forward."""

    hidden: torch.Tensor
    """[num_rows, hidden] final hidden states of all nodes."""
    first_rows: list[int]
    """Row of each planned sequence's first node."""
    logits: torch.Tensor | None
    """[nodes, vocab] float32 of the trees of all walks; None where no sequence wants one."""
    walks: list[tuple[PlannedSequence, Verification]]
    """Walks of the sequences that want a token, still at their roots."""


@dataclass
class Verifier:
    """Runs the target over its paged KV cache."""

    model: Model
    caches: Sequence[LayerCache]
    block_size: int
    eos_token_ids: frozenset[int]
    device: torch.device
    observe: Callable[[StepPlan, Verified], None] | None = None
    """Sees each step's forward."""

    def __call__(
        self,
        plan: StepPlan,
        trees: Mapping[RequestId, TokenTree],
        chains: Mapping[RequestId, Proposal],
        grammars: Mapping[RequestId, AnswerState],
    ) -> Verified:
        """One forward over everything that is planned; logits of the trees' nodes alone.

        Args:
            chains: proposals that the trees were made from.
        """
        nodes = [planned_nodes(p, trees.get(p.request_id)) for p in plan.sequences]
        inputs = build_inputs(nodes, self.block_size, self.device)
        hidden = self.model(inputs.token_ids, self.caches, inputs.batch)
        logit_rows, walks = list[int](), list[tuple[PlannedSequence, Verification]]()
        for planned, first_row in zip(plan.sequences, inputs.first_rows, strict=True):
            if not planned.wants_token:
                continue
            tree = trees.get(planned.request_id) or lone_root(planned.token_ids[-1])
            # The root is the chain's last node; a proposed tree replaces a chain of one.
            root_row = first_row + planned.num_nodes - 1
            row = self.sampler_row(planned, grammars.get(planned.request_id))
            chain = chains.get(planned.request_id)
            walk = Verification(tree, proposal=chain, first_row=len(logit_rows), row=row)
            walks.append((planned, walk))
            logit_rows.extend(range(root_row, root_row + len(tree)))
        logits = None
        if walks:
            logits = self.model.logits(rows_of(hidden, logit_rows))
        verified = Verified(hidden, inputs.first_rows, logits, walks)
        if self.observe is not None:
            self.observe(plan, verified)
        return verified

    def sampler_row(self, planned: PlannedSequence, grammar: AnswerState | None) -> SamplerRow:
        """The sampler's row for the token after a sequence's last known one."""
        params = planned.request.params
        prompt = planned.request.prompt_token_ids
        avoids_eos = params.grammar is not None and params.ignore_eos
        return SamplerRow(
            params,
            prompt,
            planned.token_ids[len(prompt) :],
            stop_ids(params, self.eos_token_ids),
            grammar,
            self.eos_token_ids - params.stop_token_ids if avoids_eos else frozenset(),
        )
