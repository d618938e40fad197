"""The dense draft that others are compared with: without a glimpse it is a Llama layer."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from server.models.config import RopeConfig
from tests.models.dense_glide import VOCABULARY, Dense, make_draft, random_target_kv, target_config


def test_without_glimpse_it_is_a_llama_layer() -> None:
    """The glimpse's output projection is zero; everything else is transformers' own layer."""
    target = target_config(rope=RopeConfig(theta=300.0))
    draft = make_draft(
        target, num_layers=2, own_embedding=True, own_head=True, attention_bias=False
    )
    for name, weight in draft.weights.items():
        if "cross_attn" in name:
            weight.zero_()
    settings = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, head_dim=8, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0}, tie_word_embeddings=False,
    )  # fmt: skip
    llama = LlamaForCausalLM(settings)
    weights = {name: tensor for name, tensor in draft.weights.items() if "cross" not in name}
    llama.load_state_dict(weights)
    tokens = [5, 17, 3, 44, 5, 9]
    with torch.no_grad():
        expected = llama(torch.tensor([tokens])).logits[0]
    dense = Dense(draft, random_target_kv(target, len(tokens)))
    actual = torch.stack([dense.row(token, at) for at, token in enumerate(tokens)])
    torch.testing.assert_close(actual.float(), expected, rtol=1e-4, atol=1e-4)
