"""Which form a model's linear weights take when they are kept in 4 or 8 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from server.errors import UnsupportedModelError
from server.kernels.quantized import (
    GROUP,
    QuantizedKind,
    QuantizedWeight,
    Weight,
    concatenate,
    quantize,
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How linear weights are kept: stored blocks are used as they are, other weights are
    rounded."""

    kind: QuantizedKind
    """The kind to which weights are rounded that are not stored in blocks."""
    stored: Mapping[str, QuantizedWeight] = field(default_factory=dict[str, QuantizedWeight])
    """Checkpoint name -> the weight in blocks."""

    def of(self, names: Sequence[str], weight: torch.Tensor) -> Weight:
        """One matrix of the named ones, in the form it is kept in.

        Args:
            weight: [sum of their outputs, inputs] in floats; returned as it is where its inputs
                can't be cut into groups.

        Raises:
            UnsupportedModelError: stored blocks are of another shape.
        """
        found = [self.stored[name] for name in names if name in self.stored]
        if names and len(found) == len(names) and len({part.kind for part in found}) == 1:
            stored = concatenate(found)
            if stored.shape != tuple(weight.shape):
                expected, there = list(weight.shape), list(stored.shape)
                raise UnsupportedModelError(
                    f"the blocks of {names[0]} have shape {there}, the model needs {expected}"
                )
            return stored
        if weight.shape[1] % GROUP:
            return weight
        return quantize(weight, self.kind)


DRAFT_QUANTIZATION = Quantization("q4_1")
"""How drafts are kept: a drafting step costs what reading their weights costs, and proposals are as
good as with 8 bits (measured in `docs/log.md`)."""
