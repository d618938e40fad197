"""What the layers of a transformers model ask of attention, found out by running the model once
without weights (on torch's meta device).

A config does not tell: whether a layer slides, caps its scores or has a scale of its own stands in
the code of each model. The code tells by calling its attention function, and by the masks that it
has made for it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers import PreTrainedModel as Model

from server.errors import UnsupportedModelError
from server.kernels.types import ScoreRules
from server.models.hf.attention import LayerRules, take_tuning
from server.models.hf.row_weights import CASTS, PRODUCTS

PROBE = "glidecape_probe"
_ROWS = 11
"""A number that is no other size."""
_LONG = 2**18
"""A position at which windows and chunks show; longer windows than this are none."""
_HARMLESS = frozenset(
    {"dropout", "is_causal", "position_ids", "sliding_window", "use_cache"}
    | {"output_attentions", "output_hidden_states", "output_router_logits", "return_dict"}
    | {"position_embeddings", "past_key_values", "cache_position", "input_ids", "layer_idx"}
)
"""What layers may pass to attention without changing what it computes. A window is among them: the
mask says whether it holds."""


_RECORDED: ContextVar[list[tuple[int, LayerRules]]] = ContextVar("_RECORDED")
"""Layers in the order of their calls, of the model that is being run without weights."""


class Probed(NamedTuple):
    """What was found out about a decoder."""

    layers: tuple[LayerRules, ...]
    multiplied: Mapping[str, bool]
    """Parameters that are multiplied as they are, or as a cast of them -> whether their matrices
    are [inputs, outputs], as `@` takes them; else [outputs, inputs], as linear layers do."""


def probe(model: Model) -> Probed:
    """What each layer's attention does, and what the weights are.

    Args:
        model: a decoder without head, on the meta device, with `PROBE` as its attention.

    Raises:
        UnsupportedModelError: naming what our attention can't do for it.
    """
    rows = torch.zeros(1, _ROWS, dtype=torch.int64, device="meta")
    seen = torch.ones(1, _ROWS, dtype=torch.int64, device="meta")
    take_tuning(model)
    token = _RECORDED.set([])
    products = _Products()
    try:
        with torch.no_grad(), products:
            model(input_ids=rows, attention_mask=seen, position_ids=rows, use_cache=False)
        recorded = _RECORDED.get()
    finally:
        _RECORDED.reset(token)
    if products.counts_rows:
        raise UnsupportedModelError(
            f"{type(model).__name__} counts a call's rows as positions; here they are of several "
            "sequences"
        )
    layers = _in_order(type(model).__name__, recorded, model.config.num_hidden_layers)
    named = {id(weight): name for name, weight in model.named_parameters()}
    found = products.transposed.items()
    return Probed(layers, {named[weight]: how for weight, how in found if weight in named})


_WEIGHT_PLACES: Mapping[Callable[..., Any], tuple[int, int, bool]] = {
    F.linear: (1, 2, False),
    torch.addmm: (2, 2, True),
    torch.bmm: (1, 3, True),
} | dict.fromkeys(PRODUCTS, (1, 2, True))
"""Products -> which argument is the weight, of how many dimensions, and whether transposed."""


class _Products(TorchFunctionMode):
    """Notes which weights are multiplied, and whether rows are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.transposed = dict[int, bool]()
        self._casts = dict[int, tuple[torch.Tensor, int]]()
        """A cast's id -> the cast, kept so that no other tensor gets its id, and what was cast."""
        self.counts_rows = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        place, dim, transposed = _WEIGHT_PLACES.get(func, (len(args), 0, False))
        if place < len(args) and args[place].dim() == dim:
            self.transposed[self._original(args[place])] = transposed
        self.counts_rows |= func is torch.arange and _ROWS in args
        result = func(*args, **(kwargs or {}))
        if func in CASTS:
            self._casts[id(result)] = (result, self._original(args[0]))
        return result

    def _original(self, tensor: torch.Tensor) -> int:
        return self._casts[id(tensor)][1] if id(tensor) in self._casts else id(tensor)


def _in_order(
    name: str, recorded: Sequence[tuple[int, LayerRules]], num_layers: int
) -> tuple[LayerRules, ...]:
    found = dict(recorded)
    missing = [layer for layer in range(num_layers) if layer not in found]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
        raise UnsupportedModelError(
            f"{len(missing)} of {num_layers} layers of {name} do not call transformers' attention "
            f"interface (layers {shown}), without which their keys and values can't be paged"
        )
    if len(recorded) != num_layers:
        raise UnsupportedModelError(
            f"{name} calls attention {len(recorded)} times in {num_layers} layers; served are "
            "models that call it once a layer"
        )
    return tuple(found[layer] for layer in range(num_layers))


def _record(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers' that records its arguments; see `paged_attention`."""
    name = type(module).__name__
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise UnsupportedModelError(f"{name} does not know its layer's number (layer_idx)")
    unknown = [k for k, v in kwargs.items() if k not in _HARMLESS and v is not None]
    if unknown:
        raise UnsupportedModelError(
            f"{name} wants {', '.join(unknown)} of its attention, which paged attention here "
            "does not know"
        )
    if attention_mask is None:
        raise UnsupportedModelError(f"{name} has no causal mask; served are decoders alone")
    window, chunk = attention_mask.flatten().tolist()
    if window < 0:
        raise UnsupportedModelError(f"{name}: its mask is neither causal nor a sliding window")
    num_heads, num_kv_heads, head_dim = query.shape[1], key.shape[1], key.shape[-1]
    scores = ScoreRules(
        scale=float(head_dim**-0.5 if scaling is None else scaling),
        window=window or None,
        chunk=chunk or None,
        softcap=None if softcap is None else float(softcap),
    )
    sizes = (num_heads, num_kv_heads, head_dim, value.shape[-1])
    _RECORDED.get().append((index, LayerRules(scores, s_aux is not None, *sizes)))
    return query.new_empty(1, query.shape[2], num_heads, value.shape[-1]), None


def _record_mask(
    mask_function: Callable[..., Any], config: PreTrainedConfig, **kwargs: Any
) -> torch.Tensor:
    """A mask function of transformers' whose mask only says which it is.

    Args:
        mask_function: (batch, head, query position, key position) -> whether the query sees the
            key.

    Returns:
        [1, 1, 1, 2]: the window and the chunk of the layers that get this mask; 0 for none,
        a negative window for other masks, which may be no layer's.
    """
    last = torch.tensor(_LONG - 1)
    keys = torch.arange(_LONG + 1)
    try:
        visible = torch.as_tensor(mask_function(0, 0, last, keys))
    except RuntimeError:  # transformers' chunks count padding, in a tensor that has no values here
        return torch.tensor([0, config.attention_chunk_size]).view(1, 1, 1, 2)
    seen = keys[visible.expand(len(keys))]
    if len(seen) == 0 or int(seen[-1]) != _LONG - 1 or int(seen[-1] - seen[0]) + 1 != len(seen):
        return torch.tensor([-1, 0]).view(1, 1, 1, 2)
    window = 0 if len(seen) == _LONG else len(seen)
    return torch.tensor([window, 0]).view(1, 1, 1, 2)


AttentionInterface.register(PROBE, _record)
AttentionMaskInterface.register(PROBE, _record_mask)
