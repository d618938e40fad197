"""Architectures that transformers' code serves: their config, and their tensors' names.

As in `config.py`, each key is used, known to change nothing, or refused by name. That is why
transformers' own GGUF reader is not used: it leaves out what it does not know, such as Gemma 2's
soft caps or Gemma 3's rope scaling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf

from server.errors import UnsupportedModelError
from weights.gguf.file import GGUFFile
from weights.gguf.generation import token_ids
from weights.gguf.names import ROPE_FREQUENCIES
from weights.gguf.rope import rope_parameters
from weights.gguf.settings import Settings, head_dim_of

_QKVO = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_EXPERTS = {"expert_count": (int,), "expert_used_count": (int,)}
_NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
"""Where a config is silent, transformers takes those of a family's first model."""

_Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Foreign:
    """An architecture by its Hugging Face and its GGUF names.

    Args:
        modules: of a layer, in Hugging Face's names. Experts that GGUF keeps in one tensor have
            `{}` for their number.
        own: family's own settings -> their Python types; `more` makes its part of the config.
    """

    arch: gguf.MODEL_ARCH
    model_type: str
    class_name: str
    modules: tuple[str, ...]
    more: Callable[[Settings, _Config], _Config]
    own: Mapping[str, tuple[type, ...]] = field(default_factory=dict[str, tuple[type, ...]])
    is_interleaved: bool = False
    """Rows of q and k are stored as llama's, neighbours in pairs."""
    in_config: tuple[str, ...] = (ROPE_FREQUENCIES,)
    """Tensors that become part of the config."""
    is_partial: bool = False
    """The rotary embedding may cover a part of each head."""
    norm_offset: float = 0.0
    """What the file's norms have more than Hugging Face's."""

    def config(self, file: GGUFFile) -> _Config:
        """The dict of config.json.

        Raises:
            CheckpointError: metadata is missing.
            UnsupportedModelError: a setting that is not implemented, by name.
        """
        architecture = str(file.metadata["general.architecture"])
        settings = Settings.read(file, architecture, self.own)
        num_heads = settings.number("attention.head_count")
        config: _Config = {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            **{theirs: settings.number(ours) for ours, theirs in _COMMON.items()},
            "num_key_value_heads": settings.number("attention.head_count_kv", num_heads),
            "head_dim": head_dim_of(settings, num_heads, self.is_partial),
            "rms_norm_eps": settings.required("attention.layer_norm_rms_epsilon"),
            "vocab_size": settings.embedding_rows(),
            "tie_word_embeddings": "output.weight" not in file.tensors,
            **_NO_TOKENS,
            **token_ids(file),
        }
        return config | self.more(settings, config)

    def names(self, num_layers: int) -> dict[str, str]:
        """GGUF tensor name -> Hugging Face's; biases are in none of these families."""
        known = gguf.get_tensor_name_map(self.arch, num_layers)
        modules = ["model.embed_tokens", "model.norm", "lm_head"]
        modules += [
            f"model.layers.{i}.{module}" for i in range(num_layers) for module in self.modules
        ]
        found = {known.get_name(module.replace(".{}", "")): module for module in modules}
        return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in found.items() if ours}


def _rope(settings: Settings, config: _Config) -> _Config:
    return rope_parameters(settings.values, config["head_dim"], settings.rope_factors())


def _with_rope(settings: Settings, config: _Config) -> _Config:
    return {"rope_parameters": _rope(settings, config)}


def _gemma_scale(config: _Config, largest: int) -> float:
    """What a query is divided by the root of. The file does not say that the largest model of a
    generation (by its layers) has another one, so llama.cpp knows it as well."""
    per_head = config["hidden_size"] / config["num_attention_heads"]
    return per_head if config["num_hidden_layers"] == largest else config["head_dim"]


def _gemma2(settings: Settings, config: _Config) -> _Config:
    return _with_rope(settings, config) | {
        "query_pre_attn_scalar": _gemma_scale(config, largest=46),
        "attn_logit_softcapping": settings.required("attn_logit_softcapping"),
        "final_logit_softcapping": settings.required("final_logit_softcapping"),
        "sliding_window": settings.number("attention.sliding_window"),
    }


def _gemma3(settings: Settings, config: _Config) -> _Config:
    local = settings.values.get("rope.freq_base_swa", 10_000.0)
    rope = {
        "full_attention": _rope(settings, config),
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    pattern = settings.values.get("attention.sliding_window_pattern", 6)
    num_layers = min(config["num_hidden_layers"], len(settings.file.tensors))
    slides = pattern
    if not isinstance(pattern, list):
        slides = [(i + 1) % max(pattern, 1) != 0 for i in range(num_layers)]
    return {
        "rope_parameters": rope,
        "query_pre_attn_scalar": _gemma_scale(config, largest=62),
        "final_logit_softcapping": settings.values.get("final_logit_softcapping"),
        "sliding_window": settings.number("attention.sliding_window"),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in slides],
    }


def _granite(settings: Settings, config: _Config) -> _Config:
    get = settings.values.get
    return _with_rope(settings, config) | {
        "attention_multiplier": get("attention.scale") or config["head_dim"] ** -0.5,
        "embedding_multiplier": get("embedding_scale") or 1.0,
        "residual_multiplier": get("residual_scale") or 1.0,
        "logits_scaling": get("logit_scale") or 1.0,
    }


def _mixtral(settings: Settings, config: _Config) -> _Config:
    return _with_rope(settings, config) | {
        "num_local_experts": settings.number("expert_count"),
        "num_experts_per_tok": settings.number("expert_used_count"),
        "sliding_window": settings.values.get("attention.sliding_window") or None,
    }


def _phi3(settings: Settings, config: _Config) -> _Config:
    get, longest = settings.values.get, config["max_position_embeddings"]
    trained = get("rope.scaling.original_context_length", longest)
    covered = get("rope.dimension_count", config["head_dim"]) / config["head_dim"]
    factors = {
        f"{length}_factor": settings.tensor(f"rope_factors_{length}.weight")
        for length in ("short", "long")
    }
    if any(values is None for values in factors.values()):
        rope = _rope(settings, config)
    else:
        _refuse_other_scaling(settings)
        theta, scale = settings.required("rope.freq_base"), get("rope.scaling.attn_factor")
        lists = {name: values.tolist() for name, values in factors.items() if values is not None}
        rope = {"rope_type": "longrope", "rope_theta": theta, "attention_factor": scale, **lists}
        rope["original_max_position_embeddings"] = trained
    return {
        "rope_parameters": rope | {"partial_rotary_factor": covered},
        "sliding_window": get("attention.sliding_window") or None,
        "original_max_position_embeddings": trained,
    }


def _refuse_other_scaling(settings: Settings) -> None:
    """Beside factors of its own, a model scales its rotary embedding in no other way."""
    read = ("rope.scaling.attn_factor", "rope.scaling.original_context_length")
    for name, value in settings.values.items():
        is_scaling = name.startswith("rope.scal") and name not in read
        if is_scaling and value not in (1.0, "none", "longrope"):
            raise UnsupportedModelError(
                f"{settings.file.path}: {settings.architecture}.{name}={value!r} together with"
                f" {_LONGROPE[0]} is not supported"
            )


def _qwen3_moe(settings: Settings, config: _Config) -> _Config:
    return _with_rope(settings, config) | {
        "num_experts": settings.number("expert_count"),
        "num_experts_per_tok": settings.number("expert_used_count"),
        "moe_intermediate_size": settings.number("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


_LONGROPE = tuple(f"rope_factors_{length}.weight" for length in ("short", "long"))
_NUMBER = (int, float)
_WINDOW = {"attention.sliding_window": (int,)}
_GEMMA3 = {"final_logit_softcapping": _NUMBER}
_GEMMA2 = _GEMMA3 | {"attn_logit_softcapping": _NUMBER}
_SCALES: Mapping[str, tuple[type, ...]] = dict.fromkeys(
    ("attention.scale", "embedding_scale", "residual_scale", "logit_scale"), _NUMBER
)
_ARCH = gguf.MODEL_ARCH

FOREIGN: Mapping[str, Foreign] = {
    "gemma": Foreign(
        _ARCH.GEMMA, "gemma", "GemmaForCausalLM", (*_NORMS, *_QKVO, *_MLP), _with_rope,
        norm_offset=1.0,
    ),
    "gemma2": Foreign(
        _ARCH.GEMMA2, "gemma2", "Gemma2ForCausalLM",
        (*_NORMS, *_FEEDFORWARD_NORMS, *_QKVO, *_MLP),
        _gemma2, _GEMMA2 | _WINDOW, norm_offset=1.0,
    ),
    "gemma3": Foreign(
        _ARCH.GEMMA3, "gemma3_text", "Gemma3ForCausalLM",
        (*_NORMS, *_FEEDFORWARD_NORMS, *_QKVO, *_QK_NORMS, *_MLP),
        _gemma3,
        _GEMMA3 | _WINDOW
        | {"rope.freq_base_swa": _NUMBER, "attention.sliding_window_pattern": (int, list)},
        norm_offset=1.0,
    ),
    "granite": Foreign(
        _ARCH.GRANITE, "granite", "GraniteForCausalLM", (*_NORMS, *_QKVO, *_MLP), _granite,
        _SCALES,
        is_interleaved=True,
    ),
    "mixtral": Foreign(
        _ARCH.LLAMA, "mixtral", "MixtralForCausalLM",
        (*_NORMS, *_QKVO, "block_sparse_moe.gate",
         *(f"block_sparse_moe.experts.{{}}.w{i}" for i in (1, 2, 3))),
        _mixtral, _EXPERTS | _WINDOW, is_interleaved=True,
    ),
    "olmo2": Foreign(
        _ARCH.OLMO2, "olmo2", "Olmo2ForCausalLM",
        ("post_attention_layernorm", "post_feedforward_layernorm", *_QKVO, *_QK_NORMS, *_MLP),
        _with_rope,
    ),
    "phi3": Foreign(
        _ARCH.PHI3, "phi3", "Phi3ForCausalLM",
        (*_NORMS, "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
        _phi3, _WINDOW, in_config=_LONGROPE, is_partial=True,
    ),
    "qwen3moe": Foreign(
        _ARCH.QWEN3MOE, "qwen3_moe", "Qwen3MoeForCausalLM",
        (*_NORMS, *_QKVO, *_QK_NORMS, "mlp.gate",
         *(f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down"))),
        _qwen3_moe, _EXPERTS | {"expert_feed_forward_length": (int,)},
    ),
    "smollm3": Foreign(
        _ARCH.SMOLLM3, "smollm3", "SmolLM3ForCausalLM", (*_NORMS, *_QKVO, *_MLP), _with_rope,
        is_interleaved=True,
    ),
}  # fmt: skip
"""By GGUF's name; Mixtral's files call themselves llama, but have experts."""


def foreign_of(file: GGUFFile) -> Foreign | None:
    """None for an architecture of our own code, or an unknown one."""
    architecture = file.metadata.get("general.architecture")
    if architecture == "llama" and file.metadata.get("llama.expert_count"):
        return FOREIGN["mixtral"]
    return None if architecture == "mixtral" else FOREIGN.get(str(architecture))
