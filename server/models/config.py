"""Shape and rotary settings of a Llama-family model, read from a Hugging Face `config.json` dict.

Everything a checkpoint can ask for is either represented here or refused by name; nothing is
ignored that would change a logit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from server.errors import UnsupportedModelError

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]
ROPE_TYPES: tuple[RopeType, ...] = ("default", "linear", "dynamic", "llama3", "yarn")

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding; the fields beyond `theta` are those of the scaling type."""

    theta: float = 10_000.0
    type: RopeType = "default"
    factor: float = 1.0
    original_max_position: int = 0
    """Context the model was trained with before scaling (dynamic, llama3, yarn)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer: RMSNorm, rotary grouped-query attention, SwiGLU."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    """Bias on q, k, v (Qwen2; Llama with `attention_bias`)."""
    output_bias: bool = False
    """Bias on o too (Llama with `attention_bias`)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over head_dim of q and k before the rotary embedding (Qwen3)."""
    sliding_windows: tuple[int | None, ...] = ()
    """Per layer: a query sees its last `window` positions, itself included; None sees all."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    eos_token_ids: tuple[int, ...] = ()
    kv_shapes: tuple[tuple[int, int], ...] = ()
    """Per layer: KV heads and their size, where layers differ in them; then `num_kv_heads` and
    `head_dim` are those of the first."""


def model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Reads a Hugging Face config dict.

    Raises:
        UnsupportedModelError: architecture, rope type, activation … not implemented here,
            a key without which the shape is unknown is missing, or a number makes no sense.
    """
    architecture = _architecture(raw)
    _refuse_unsupported(raw)
    try:
        num_layers = _size(raw, "num_hidden_layers")
        num_heads = _size(raw, "num_attention_heads")
        hidden_size = _size(raw, "hidden_size")
        return ModelConfig(
            architecture=architecture,
            vocab_size=_size(raw, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_size(raw, "intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_kv_heads(raw, num_heads),
            head_dim=_size(raw, "head_dim", hidden_size // num_heads),
            rms_norm_eps=_epsilon(raw),
            max_position=_size(raw, "max_position_embeddings"),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=_qkv_bias(architecture, raw),
            output_bias=_qkv_bias(architecture, raw) and architecture != "Qwen2ForCausalLM",
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=architecture == "Qwen3ForCausalLM",
            sliding_windows=_sliding_windows(architecture, raw, num_layers),
            rope=rope_config(raw),
            eos_token_ids=_token_ids(raw.get("eos_token_id")),
        )
    except KeyError as missing:
        raise UnsupportedModelError(f"model config has no {missing.args[0]!r}") from None


def _size(raw: Mapping[str, Any], name: str, otherwise: int | None = None) -> int:
    """A whole number above 0.

    Args:
        otherwise: where the config says nothing; None where it has to.
    """
    value = raw[name] if otherwise is None else raw.get(name) or otherwise
    if not _is_number(value) or value < 1 or value != int(value):
        raise UnsupportedModelError(f"model config: {name}={value!r} is no size")
    return int(value)


def _is_number(value: Any) -> bool:
    is_kind = isinstance(value, int | float) and not isinstance(value, bool)
    return is_kind and math.isfinite(value)


def _kv_heads(raw: Mapping[str, Any], num_heads: int) -> int:
    name = "num_key_value_heads"
    num_kv_heads = _size(raw, name, num_heads)
    if num_heads % num_kv_heads:
        raise UnsupportedModelError(
            f"model config: {name}={num_kv_heads} does not divide num_attention_heads={num_heads}"
        )
    return num_kv_heads


def _epsilon(raw: Mapping[str, Any]) -> float:
    value = raw.get("rms_norm_eps", 1e-6)
    if not _is_number(value) or value < 0:
        raise UnsupportedModelError(f"model config: rms_norm_eps={value!r}, expected 0 or more")
    return float(value)


def rope_config(raw: Mapping[str, Any]) -> RopeConfig:
    """Reads the rotary settings in either spelling: `rope_parameters` (transformers 5) or
    `rope_theta` with `rope_scaling` (before).

    Raises:
        UnsupportedModelError: a rope type that is not implemented, by name.
    """
    nested = raw.get("rope_parameters") or {}
    scaling: Mapping[str, Any] = {**(raw.get("rope_scaling") or {}), **nested}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"rope type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    if any(isinstance(value, Mapping) for value in scaling.values()):
        raise UnsupportedModelError("rope settings per layer type are not supported")
    partial = scaling.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if float(partial) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor other than 1 is not supported")
    original = _original_max_position(kind, scaling, raw)
    theta = scaling.get("rope_theta") or raw.get("rope_theta") or 10_000.0
    factor = 1.0 if kind == "default" else _rope_factor(scaling, raw, original)
    positive: dict[str, Any] = {
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": scaling.get("low_freq_factor", 1.0),
        "high_freq_factor": scaling.get("high_freq_factor", 4.0),
        "beta_fast": scaling.get("beta_fast") or 32.0,
        "beta_slow": scaling.get("beta_slow") or 1.0,
    }
    given = ("attention_factor", "mscale", "mscale_all_dim")
    positive |= {name: scaling[name] for name in given if scaling.get(name) is not None}
    _refuse_nonsense(kind, positive)
    return RopeConfig(
        theta=float(theta),
        type=kind,
        factor=float(factor),
        original_max_position=original,
        low_freq_factor=float(positive["low_freq_factor"]),
        high_freq_factor=float(positive["high_freq_factor"]),
        beta_fast=float(positive["beta_fast"]),
        beta_slow=float(positive["beta_slow"]),
        attention_factor=scaling.get("attention_factor"),
        mscale=scaling.get("mscale"),
        mscale_all_dim=scaling.get("mscale_all_dim"),
        truncate=bool(scaling.get("truncate", True)),
    )


def _refuse_nonsense(kind: RopeType, positive: Mapping[str, Any]) -> None:
    """Refuses numbers with which an angle would be none.

    Args:
        positive: those that have to be above 0, by their names.
    """
    for name, value in positive.items():
        if not _is_number(value) or value <= 0:
            raise UnsupportedModelError(f"model config: {name}={value!r} of the rope settings")
    if kind == "yarn" and positive["rope_theta"] == 1:
        raise UnsupportedModelError("model config: rope_theta=1 with yarn")
    if kind == "llama3" and positive["low_freq_factor"] == positive["high_freq_factor"]:
        raise UnsupportedModelError("model config: low_freq_factor equals high_freq_factor")


def _original_max_position(
    kind: RopeType, scaling: Mapping[str, Any], raw: Mapping[str, Any]
) -> int:
    name = "original_max_position_embeddings"
    # As in transformers, a key of the model beats that of the scaling; `dynamic` reads neither.
    trained = None if kind == "dynamic" else raw.get(name) or scaling.get(name)
    return _size({name: trained}, name, _size(raw, "max_position_embeddings"))


def _rope_factor(scaling: Mapping[str, Any], raw: Mapping[str, Any], original: int) -> Any:
    factor = scaling["factor"]
    return raw["max_position_embeddings"] / original if factor is None else factor


def _architecture(raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    shown = ", ".join(names) or f"model_type {raw.get('model_type')!r}"
    raise UnsupportedModelError(
        f"architecture {shown} is not supported; supported: {', '.join(ARCHITECTURES)}"
    )


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"activation {activation!r} is not supported; supported: silu")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"checkpoints quantised with {method!r} are not supported; "
            "use an unquantised or GGUF one"
        )


def _qkv_bias(architecture: str, raw: Mapping[str, Any]) -> bool:
    # Qwen2 always has this bias and does not say so in its config.
    return architecture == "Qwen2ForCausalLM" or bool(raw.get("attention_bias", False))


def _sliding_windows(
    architecture: str, raw: Mapping[str, Any], num_layers: int
) -> tuple[int | None, ...]:
    # Where a config is silent, transformers' own defaults for these architectures hold.
    window = raw.get("sliding_window", 4096)
    if architecture == "LlamaForCausalLM" or window is None:
        return (None,) * num_layers
    if architecture == "MistralForCausalLM":
        return (int(window),) * num_layers
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    types = raw.get("layer_types")
    if types is not None:
        return tuple(int(window) if t == "sliding_attention" else None for t in types)
    # Qwen's older configs: the first max_window_layers layers see everything.
    first = int(raw.get("max_window_layers", 28))
    return tuple(None if i < first else int(window) for i in range(num_layers))


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
