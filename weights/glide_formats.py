"""The two published formats of GliDe drafts, read into our names and config.

The paper's authors: a whole small model with embedding and head, keys as ours, an optional
`small_model.` prefix, heads named in config.json alone. LongSpec (arXiv 2502.17421): one bare
layer with a norm before the cross-attention; embedding and head are the target's, and there is no
norm before the head.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from server.errors import CheckpointError
from server.models.config import ModelConfig, rope_config
from server.models.glide_config import GlideConfig, TargetShape
from weights.checkpoint import read_json, weight_files

Tensors = dict[str, torch.Tensor]

AUTHORS_CROSS_ROPE_THETA = 10_000.0
"""Their cross-attention's rotary embedding ignores the target's base."""

_NAMES_SHOWN = 8


def read_published(source: Path, target: ModelConfig) -> tuple[GlideConfig, Tensors]:
    """Config and tensors under our names; whether they fit each other and the target is not
    checked yet.

    Raises:
        CheckpointError: the source is unreadable, of no known format, or lacks what tells its
            sizes.
        UnsupportedModelError: sizes that contradict each other.
    """
    raw = _source_config(source)
    tensors = _plain_names(source, _read_tensors(source))
    shapes = _Shapes(source, tensors)
    if any(name.startswith("model.layers.") for name in tensors):
        return _authors_config(shapes, raw, target), tensors
    if "self_attn.q_proj.weight" in tensors:
        return _longspec_config(shapes, raw, target), _longspec_names(tensors)
    shown = ", ".join(sorted(tensors)[:_NAMES_SHOWN]) or "nothing"
    raise CheckpointError(source, f"is of no known GliDe format; it holds {shown}")


def _source_config(source: Path) -> dict[str, Any]:
    """config.json of or beside the source; empty where there is none."""
    path = (source if source.is_dir() else source.parent) / "config.json"
    return read_json(path) if path.exists() else {}


def _read_tensors(source: Path) -> Tensors:
    if source.is_dir():
        pickled = sorted(source.glob("pytorch_model*.bin"))
        has_safetensors = any(source.glob("*.safetensors"))
        files = (
            pickled if pickled and not has_safetensors else [*set(weight_files(source).values())]
        )
    else:
        files = [source]
    tensors = Tensors()
    for file in files:
        tensors |= _read_safetensors(file) if file.suffix == ".safetensors" else _unpickle(file)
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, str(error).splitlines()[0]) from None


def _unpickle(path: Path) -> Tensors:
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(path, f"can't be read as tensors: {reason}") from None
    if not isinstance(loaded, Mapping):
        found = type(loaded).__name__
        raise CheckpointError(path, f"expected names and tensors, found a {found}")
    for name, tensor in loaded.items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(path, f"{name} is a {type(tensor).__name__}, not a tensor")
    return {str(name): tensor for name, tensor in loaded.items()}


def _plain_names(source: Path, tensors: Tensors) -> Tensors:
    """Without the authors' optional prefix, without stored rotary tables."""
    plain = Tensors()
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        short = name.removeprefix("small_model.")
        if short in plain:
            raise CheckpointError(source, f"holds {short} twice, with and without a prefix")
        plain[short] = tensor
    return plain


class _Shapes:
    """Sizes read off a source's tensors.

    Raises (all methods):
        CheckpointError: the tensor is missing, or its size is impossible.
    """

    def __init__(self, source: Path, tensors: Tensors) -> None:
        self.source, self.tensors = source, tensors

    def size(self, name: str, dim: int) -> int:
        if name not in self.tensors:
            raise CheckpointError(self.source, f"is missing 1 tensor: {name}")
        tensor = self.tensors[name]
        if tensor.dim() <= dim:
            reason = f"tensor {name} has shape {list(tensor.shape)}, which is too flat"
            raise CheckpointError(self.source, reason)
        return tensor.shape[dim]

    def per(self, name: str, parts: int, what: str) -> int:
        """Rows of the tensor divided by `parts`."""
        rows = self.size(name, 0)
        if parts < 1 or rows % parts or rows < parts:
            reason = f"tensor {name} has {rows} rows, which {parts} {what} don't divide"
            raise CheckpointError(self.source, reason)
        return rows // parts


def _authors_config(shapes: _Shapes, raw: Mapping[str, Any], target: ModelConfig) -> GlideConfig:
    heads, large_heads = (
        _needed_int(shapes.source, raw, key)
        for key in ("num_attention_heads", "large_num_attention_heads")
    )
    first = "model.layers.0"
    depths = [re.match(r"model\.layers\.(\d+)\.", name) for name in shapes.tensors]
    head_dim = shapes.per(f"{first}.self_attn.q_proj.weight", heads, "heads")
    vocab_size, hidden_size = (shapes.size("model.embed_tokens.weight", dim) for dim in (0, 1))
    return GlideConfig(
        hidden_size=hidden_size,
        intermediate_size=shapes.size(f"{first}.mlp.gate_proj.weight", 0),
        num_layers=1 + max(int(match[1]) for match in depths if match),
        num_heads=heads,
        num_kv_heads=shapes.per(f"{first}.self_attn.k_proj.weight", head_dim, "per head"),
        head_dim=head_dim,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        target=TargetShape(
            hidden_size=int(raw.get("large_hidden_size", target.hidden_size)),
            vocab_size=vocab_size,
            num_layers=target.num_layers,  # this and the next one can't be seen in the file
            num_kv_heads=target.num_kv_heads,
            num_heads=large_heads,
            head_dim=shapes.per(f"{first}.cross_attn.q_proj.weight", large_heads, "heads"),
        ),
        rope=rope_config({"max_position_embeddings": 2048, **raw}),
        cross_norm=False,
        cross_rope_theta=AUTHORS_CROSS_ROPE_THETA,
        own_embedding=True,
        own_head=True,
    )


def _needed_int(source: Path, raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if type(value) is not int or value < 1:
        found = f"has {key}={value!r}" if key in raw else f"has no {key!r}"
        reason = f"its config.json {found}; the number of heads can't be seen in the tensors"
        raise CheckpointError(source, reason)
    return value


def _longspec_config(shapes: _Shapes, raw: Mapping[str, Any], target: ModelConfig) -> GlideConfig:
    """Heads have the target's size; embedding, final norm and head are none of the file's."""
    hidden_size = shapes.size("input_layernorm.weight", 0)

    def heads(name: str) -> int:
        return shapes.per(f"{name}.weight", target.head_dim, "(the target's head size)")

    return GlideConfig(
        hidden_size=hidden_size,
        intermediate_size=shapes.size("mlp.gate_proj.weight", 0),
        num_layers=1,
        num_heads=heads("self_attn.q_proj"),
        num_kv_heads=heads("self_attn.k_proj"),
        head_dim=target.head_dim,
        rms_norm_eps=float(raw.get("rms_norm_eps", target.rms_norm_eps)),
        target=TargetShape(
            hidden_size=hidden_size,
            vocab_size=target.vocab_size,
            num_layers=target.num_layers,
            num_heads=heads("cross_attn.q_proj"),
            num_kv_heads=heads("cross_attn.k_proj"),  # unused, but as many as the target's
            head_dim=target.head_dim,
        ),
        attention_bias="self_attn.q_proj.bias" in shapes.tensors,
        cross_bias="cross_attn.q_proj.bias" in shapes.tensors,
        final_norm=False,
    )


def _longspec_names(tensors: Tensors) -> Tensors:
    """Ours; the cross-attention's own k and v, which the model never uses, are left out."""
    norms = {
        "post_self_attention_layernorm.weight": "cross_attention_layernorm.weight",
        "post_cross_attention_layernorm.weight": "post_attention_layernorm.weight",
    }
    unused = re.compile(r"cross_attn\.[kv]_proj\.")
    return {
        f"model.layers.0.{norms.get(name, name)}": tensor
        for name, tensor in tensors.items()
        if not unused.match(name)
    }
