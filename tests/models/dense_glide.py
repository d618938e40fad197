"""The GliDe draft written down plainly, for the tests: dense, one row at a time, float64, no pages,
no fused weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from server.models.config import ModelConfig, RopeConfig
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement

Weights = Mapping[str, torch.Tensor]

CPU = torch.device("cpu")


VOCABULARY = 53


KV = tuple[torch.Tensor, torch.Tensor]
"""Keys (rotated) and values of one layer, [tokens, kv_heads, head_dim] each."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft, its weights, and what it shares with a target."""

    config: GlideConfig
    target: ModelConfig
    weights: Weights
    target_embedding: torch.Tensor
    target_head: torch.Tensor

    def model(self, dtype: torch.dtype = torch.float32) -> GlideModel:
        """The weights must name exactly its slots."""
        parameters = GlideParameters(self.config, self.target, Placement(CPU, dtype))
        slots = parameters.slots()
        assert set(slots) == set(self.weights)
        for name, slot in slots.items():
            slot.copy_(self.weights[name])
        shared = (self.target_embedding.to(dtype), self.target_head.to(dtype))
        return parameters.freeze(
            None if self.config.own_embedding else shared[0],
            None if self.config.own_head else shared[1],
        )


def target_config(**changes: object) -> ModelConfig:
    settings: dict[str, object] = {
        "architecture": "LlamaForCausalLM", "vocab_size": VOCABULARY, "hidden_size": 24,
        "intermediate_size": 40, "num_layers": 5, "num_heads": 4, "num_kv_heads": 2,
        "head_dim": 16, "rms_norm_eps": 1e-5, "max_position": 128, "tie_word_embeddings": False,
        "rope": RopeConfig(theta=300.0, type="linear", factor=2.0),
    }  # fmt: skip
    return ModelConfig(**settings | changes)  # pyright: ignore[reportArgumentType]


def make_draft(target: ModelConfig | None = None, **changes: object) -> Draft:
    """A one-layer draft by default; its heads differ from the target's in number and size."""
    target = target or target_config()
    settings: dict[str, object] = {
        "hidden_size": 24, "intermediate_size": 36, "num_layers": 1, "num_heads": 6,
        "num_kv_heads": 3, "head_dim": 8, "rms_norm_eps": 1e-5, "target": target_shape(target),
    }  # fmt: skip
    config = GlideConfig(**settings | changes)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(3)
    slots = GlideParameters(config, target, Placement(CPU, torch.float32)).slots()
    weights = {name: _random(name, slot, generator) for name, slot in slots.items()}
    if TOKEN_TABLE in slots:
        order = torch.randperm(target.vocab_size, generator=generator)
        weights[TOKEN_TABLE] = order[: config.draft_vocab_size]
    shared = torch.randn(2, target.vocab_size, target.hidden_size, generator=generator) * 0.7
    return Draft(config, target, weights, shared[0], shared[1])


def _random(name: str, slot: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.rand(slot.shape, generator=generator) * 1.4 + 0.4
    return torch.randn(slot.shape, generator=generator) * 0.3


@dataclass(slots=True)
class Dense:
    """The draft over one sequence. `target_kv` holds every target layer."""

    draft: Draft
    target_kv: Sequence[KV]
    own_kv: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(
        default_factory=list[list[tuple[torch.Tensor, torch.Tensor]]]
    )
    """Per draft layer, per token: key and value [kv_heads, head_dim]."""

    def weight(self, name: str) -> torch.Tensor:
        return self.draft.weights[f"{name}.weight"].double()

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        y = self.weight(name) @ x
        bias = self.draft.weights.get(f"{name}.bias")
        return y if bias is None else y + bias.double()

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean() + self.draft.config.rms_norm_eps).sqrt() * self.weight(name)

    def row(
        self, token: int, visible: int, hidden: torch.Tensor | None = None, delay: int = 1,
        copied: tuple[int, int] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Logits [draft_vocab] behind the next token, of whose target KV `visible` are seen.

        copied: the token that was looked up, -1 for none, and how many before it are equal.
        """
        config = self.draft.config
        if not self.own_kv:
            self.own_kv = [[] for _ in range(config.num_layers)]
        shared, head = self.draft.target_embedding.double(), self.draft.target_head.double()
        embedding = self.weight("model.embed_tokens") if config.own_embedding else shared
        x = embedding[token]
        position = len(self.own_kv[0])
        for index in range(config.num_layers):
            name = f"model.layers.{index}"
            x = x + self.self_attention(self.norm(x, f"{name}.input_layernorm"), index, position)
            if hidden is not None and index == config.num_layers - 1:
                delays = self.weight("delay_embedding")
                row = min(delay, config.max_delay) - 1
                x = x + self.linear(hidden.double(), "hidden_proj") + delays[row]
            if copied is not None and index == config.num_layers - 1:
                found, num_equal = copied
                if found >= 0:
                    x = x + self.linear(embedding[found], "copy_proj")
                x = x + self.weight("match_embedding")[min(num_equal, config.max_match)]
            x = x + self.glimpse(x, index, position, visible)
            y = self.norm(x, f"{name}.post_attention_layernorm")
            gate, up = (self.linear(y, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
            x = x + self.linear(gate / (1 + (-gate).exp()) * up, f"{name}.mlp.down_proj")
        if config.final_norm:
            x = self.norm(x, "model.norm")
        if config.own_head:
            return self.weight("lm_head") @ x
        ids = self.draft.weights.get(TOKEN_TABLE)
        return (head if ids is None else head[ids]) @ x

    def self_attention(self, x: torch.Tensor, index: int, position: int) -> torch.Tensor:
        config = self.draft.config
        name, size = f"model.layers.{index}.self_attn", config.head_dim
        rope = config.rope or self.draft.target.rope
        query = rotated(self.linear(x, f"{name}.q_proj").view(-1, size), position, rope)
        key = rotated(self.linear(x, f"{name}.k_proj").view(-1, size), position, rope)
        past = self.own_kv[index]
        past.append((key, self.linear(x, f"{name}.v_proj").view(-1, size)))
        keys, values = (torch.stack(tensors) for tensors in zip(*past, strict=True))
        return self.linear(attention(query, keys, values), f"{name}.o_proj")

    def glimpse(self, x: torch.Tensor, index: int, position: int, visible: int) -> torch.Tensor:
        config, target = self.draft.config, self.draft.target
        name, total = f"model.layers.{index}", torch.zeros_like(x)
        layers = (
            config.glimpse_layers[index] if config.glimpse_layers else (index - config.num_layers,)
        )
        if config.cross_norm and layers:
            x = self.norm(x, f"{name}.cross_attention_layernorm")
        rope = target.rope
        if config.cross_rope_theta is not None:
            rope = RopeConfig(theta=config.cross_rope_theta)
        for j, layer in enumerate(layers):
            part = f"{name}.cross_attn" + (f".{j}" if len(layers) > 1 else "")
            query = self.linear(x, f"{part}.q_proj").view(-1, target.head_dim)
            window = target.sliding_windows[layer] if target.sliding_windows else None
            first = 0 if window is None else max(0, position - window + 1)
            keys, values = (tensor[first:visible].double() for tensor in self.target_kv[layer])
            if len(keys):
                seen = attention(rotated(query, position, rope), keys, values)
                total = total + self.linear(seen, f"{part}.o_proj")
        return total


def attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """query [heads, head_dim], keys and values [tokens, kv_heads, head_dim] -> flat."""
    heads = list[torch.Tensor]()
    for head, q in enumerate(query):
        group = head * keys.shape[1] // len(query)
        probs = (keys[:, group] @ q / q.shape[0] ** 0.5).softmax(0)
        heads.append(probs @ values[:, group])
    return torch.cat(heads)


def rotated(x: torch.Tensor, position: int, rope: RopeConfig) -> torch.Tensor:
    """Each head's two halves as real and imaginary parts, turned by the position's angles."""
    half = x.shape[-1] // 2
    exponents = torch.arange(half, dtype=torch.float64) / half
    angles = position / rope.factor / rope.theta**exponents
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat((turned.real, turned.imag), dim=-1)


def random_target_kv(target: ModelConfig, tokens: int, seed: int = 1) -> list[KV]:
    shape = (target.num_layers, 2, tokens, target.num_kv_heads, target.head_dim)
    kv = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return [(keys, values) for keys, values in kv]
