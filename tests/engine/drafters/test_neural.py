"""Drafting depth by depth in Python, as a draft model and a GliDe without a kernel do it."""

from collections.abc import Sequence

import torch

from server.engine.drafters.drafter import EarlyStop
from server.engine.drafters.neural import NeuralDrafter
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.calibration import Lines
from server.engine.step.inputs import StepInputs
from server.engine.types import BlockId, Request, RequestId, SamplingParams

CONFIDENCES = {5: (0.9, 0.9, 0.9, 0.9), 7: (0.9, 0.5, 0.9, 0.9)}
"""By the sequence's last token: of the trunk's token at each depth."""


class Scripted(NeuralDrafter):
    """Says token 1 for sequences that end in 5, token 2 for those in 7, as sure as told."""

    name = "scripted"

    def __init__(self) -> None:
        super().__init__(block_size=16, device=torch.device("cpu"))
        self.asked = list[list[int]]()
        """First tokens of the sequences in each forward."""

    def _logits(
        self,
        inputs: StepInputs,
        rows: torch.Tensor,
        sequences: Sequence[PlannedSequence],
        depth: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.asked.append([sequence.token_ids[-1] for sequence in sequences])
        probs = torch.full((len(sequences), 3), 0.0)
        for row, sequence in enumerate(sequences):
            sure = CONFIDENCES[sequence.token_ids[-1]][depth - 1]
            token = 1 if sequence.token_ids[-1] == 5 else 2
            probs[row] = (1 - sure) / 2
            probs[row, token] = sure
        return probs.log(), None

    def _fill(self, inputs: StepInputs) -> None:
        raise NotImplementedError


def sequence(last: int) -> PlannedSequence:
    request = Request(RequestId(str(last)), (1, last), SamplingParams(max_tokens=9))
    return PlannedSequence(request, [1, last], 1, 1, [BlockId(0)], 32, 8)


def test_a_chain_ends_where_its_survival_is_too_small() -> None:
    """0.9, 0.81, 0.729 … and 0.9, 0.45: the second is below 0.5 behind its second token."""
    drafter = Scripted()
    stop = EarlyStop(Lines((0.0,), (1.0,)), (0.5, 0.5))
    proposals = drafter.draft([sequence(5), sequence(7)], [4, 4], stop)
    assert [p.trunk for p in proposals] == [(1, 1, 1, 1), (2, 2)]
    assert drafter.asked == [[5, 7], [5, 7], [5], [5]]


def test_chances_decide_not_confidences() -> None:
    """Whatever the confidence, the chance is 0.6: 0.6, 0.36."""
    drafter = Scripted()
    proposals = drafter.draft([sequence(5)], [4], EarlyStop(Lines((0.6,), (0.0,)), (0.5,)))
    assert [p.trunk for p in proposals] == [(1, 1)]


def test_whole_chains() -> None:
    proposals = Scripted().draft([sequence(7), sequence(5)], [4, 2], EarlyStop.never(2))
    assert [p.trunk for p in proposals] == [(2, 2, 2, 2), (1, 1)]
