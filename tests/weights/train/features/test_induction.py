"""The probe for layers that copy, on a model whose weights are made to copy in one known layer."""

import math

import pytest
import torch

from server.models.config import ModelConfig, RopeConfig
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from weights.train.features.induction import copying_layers, induction_scores

VOCABULARY, DIM, HEAD_DIM = 80, 40, 64
HIDDEN = 96
"""Columns 0 .. 39: the token. 40 .. 79: the token before it, once a layer has put it there."""
THETA = 1e9
"""So slow are a head's last pairs that they do not turn within the probe's sequences."""
STILL = (*range(12, 32), *range(44, 64))
"""Dimensions of a head that stay as they are; the others turn with the position."""
SHARP = 60.0


def copying_model(copies_in: int, num_layers: int = 5) -> LlamaParameters:
    """Layer 0 looks at the token before; layer `copies_in` from a token to the one that stands
    behind it elsewhere. All others see everything alike and say nothing."""
    config = ModelConfig(
        architecture="LlamaForCausalLM", vocab_size=VOCABULARY, hidden_size=HIDDEN,
        intermediate_size=32, num_layers=num_layers, num_heads=2, num_kv_heads=1,
        head_dim=HEAD_DIM, rms_norm_eps=1e-6, max_position=128, tie_word_embeddings=True,
        attention_bias=True, rope=RopeConfig(theta=THETA),
    )  # fmt: skip
    model = LlamaParameters(config, Placement(torch.device("cpu"), torch.float32))
    slots = model.slots()
    for name, slot in slots.items():
        slot.fill_(1.0 if "norm" in name else 0.0)
    tokens = torch.randn(VOCABULARY, DIM, generator=torch.Generator().manual_seed(0))
    slots["model.embed_tokens.weight"][:, :DIM] = tokens / tokens.norm(dim=1, keepdim=True)
    look_back(slots, "model.layers.0.self_attn.")
    look_for_it(slots, f"model.layers.{copies_in}.self_attn.")
    return model


def look_back(slots: dict[str, torch.Tensor], prefix: str) -> None:
    """Queries and keys are the same everywhere, and equal at a distance of one."""
    half = HEAD_DIM // 2
    frequencies = THETA ** (-torch.arange(half) / half)
    slots[f"{prefix}k_proj.bias"][:half] = math.sqrt(SHARP)
    query = slots[f"{prefix}q_proj.bias"]
    query[:half] = math.sqrt(SHARP) * frequencies.cos()
    query[half:HEAD_DIM] = -math.sqrt(SHARP) * frequencies.sin()
    for column in range(DIM):
        slots[f"{prefix}v_proj.weight"][column, column] = 1.0
        slots[f"{prefix}o_proj.weight"][DIM + column, column] = 1.0


def look_for_it(slots: dict[str, torch.Tensor], prefix: str) -> None:
    """The second head's query is the token, the key is the token before."""
    for column, dimension in enumerate(STILL):
        slots[f"{prefix}q_proj.weight"][HEAD_DIM + dimension, column] = SHARP
        slots[f"{prefix}k_proj.weight"][dimension, DIM + column] = 1.0


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_layer_that_was_made_to_copy_is_found(layer: int) -> None:
    scores = induction_scores(copying_model(layer))
    assert scores[layer] > 0.8
    others = [score for index, score in enumerate(scores) if index != layer]
    assert max(others) < 0.2
    assert copying_layers(scores) == (layer, 4)


def test_the_strongest_layers_and_the_last() -> None:
    scores = [0.0] * 12
    scores[3], scores[5], scores[8], scores[9] = 0.4, 0.9, 0.35, 0.8
    assert copying_layers(scores) == (5, 9, 11)
    scores[11] = 0.95
    assert copying_layers(scores) == (5, 9, 11)


@pytest.mark.parametrize(
    ("num_layers", "expected"), [(30, (9, 19, 29)), (3, (0, 1, 2)), (2, (0, 1)), (1, (0,))]
)
def test_layers_of_a_target_that_does_not_copy(num_layers: int, expected: tuple[int, ...]) -> None:
    assert copying_layers([0.1] * num_layers) == expected


def test_a_window_that_hides_the_first_copy() -> None:
    model = copying_model(2)
    model.layers[2].window = 16
    assert max(induction_scores(model)) < 0.2
