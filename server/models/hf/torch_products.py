"""Which of a model's weights torch itself multiplies, found out while the model runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "convolution"}
    | {"_grouped_mm", "mkldnn_rnn_layer", "_int_mm", "_scaled_mm"}
)
"""Operations that everything which multiplies matrices comes down to."""
_COPIES = frozenset({"_to_copy", "clone", "index", "index_select", "gather", "cat", "stack"})
"""Operations whose result has a weight's values at another place in memory."""


class TorchProducts(TorchDispatchMode):
    """While it is entered, notes the weights that torch multiplies: themselves, views of them, or
    copies in another precision."""

    def __init__(self, *parts: torch.nn.Module) -> None:
        super().__init__()
        named = [pair for part in parts for pair in part.named_parameters() if pair[1].dim() > 1]
        self.found = dict[str, None]()
        """Their names, in the order of the products."""
        self._names = {_memory(weight): name for name, weight in named}
        self._kept = list[torch.Tensor]()
        """Copies, so that nothing else gets their memory."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket.__name__
        if kind in _PRODUCTS:
            self.found.update(dict.fromkeys(self._weights_of(args)))
        elif kind in _COPIES:
            for name in self._weights_of(args):
                self._names[_memory(result)] = name
                self._kept.append(result)
        return result

    def _weights_of(self, args: Sequence[Any]) -> list[str]:
        flat = [part for arg in args for part in (arg if isinstance(arg, list) else [arg])]
        places = [_memory(part) for part in flat if isinstance(part, torch.Tensor)]
        return [self._names[place] for place in places if place in self._names]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
