"""Which form a model's linear weights take when they are kept in blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from server.errors import UnsupportedModelError
from server.kernels.quantized import (
    GROUP,
    PartWeight,
    QuantizedKind,
    QuantizedWeight,
    RoundedKind,
    Weight,
    can_stack,
    concatenate,
    quantize,
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How linear weights are kept: stored blocks are used as they are, other weights are
    rounded."""

    kind: RoundedKind
    """The kind to which weights are rounded that are not stored in blocks."""
    stored: Mapping[str, QuantizedWeight] = field(default_factory=dict[str, QuantizedWeight])
    """Checkpoint name -> the weight in blocks."""
    rounded: Mapping[str, str] = field(default_factory=dict[str, str])
    """Checkpoint name -> its form there, such as `q3_k` or `floats`, of the model's weights that
    are not stored in blocks which are used."""

    @property
    def kinds(self) -> set[QuantizedKind]:
        """The kinds that the model's weights have, stored and rounded."""
        kinds: set[QuantizedKind] = {weight.kind for weight in self.stored.values()}
        if self.rounded or not kinds:
            kinds.add(self.kind)
        return kinds

    def of(self, parts: Mapping[str, int], weight: torch.Tensor) -> Weight:
        """One matrix of the named ones, in the form it is kept in.

        Args:
            parts: checkpoint name -> outputs, in order.
            weight: [sum of their outputs, inputs] in floats; returned as it is where its inputs
                can't be cut into groups. Has no values (torch's meta device) where all are stored.

        Raises:
            UnsupportedModelError: stored blocks are of another shape.
        """
        if weight.shape[1] % GROUP:
            return weight
        outputs = list(parts.values())
        kinds = {self.stored[name].kind if name in self.stored else self.kind for name in parts}
        if not any(name in self.stored for name in parts):
            return quantize(weight, self.kind)
        named = list(zip(parts, weight.split(outputs), strict=True))
        if len(kinds) > 1 and not can_stack(outputs):
            floats = [self._floats(name, part) for name, part in named]
            return quantize(torch.cat(floats), self.kind)
        return concatenate([self._blocks(name, part) for name, part in named])

    def of_one(self, name: str, weight: torch.Tensor) -> PartWeight:
        """The same for a matrix that is not put together."""
        return weight if weight.shape[1] % GROUP else self._blocks(name, weight)

    def _floats(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        stored = self.stored.get(name)
        return weight if stored is None else stored.dequantize().to(weight.dtype)

    def _blocks(self, name: str, weight: torch.Tensor) -> QuantizedWeight:
        stored = self.stored.get(name)
        if stored is None:
            return quantize(weight, self.kind)
        if stored.shape != tuple(weight.shape):
            expected, there = list(weight.shape), list(stored.shape)
            raise UnsupportedModelError(
                f"the blocks of {name} have shape {there}, the model needs {expected}"
            )
        return stored


DRAFT_QUANTIZATION = Quantization("q4_1")
"""How drafts are kept: a drafting step costs what reading their weights costs, and proposals are as
good as with 8 bits (measured in `docs/log.md`)."""
