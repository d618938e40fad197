from weights.gguf.names import ARCHITECTURES, huggingface_names


def test_every_layer_has_its_modules() -> None:
    names = huggingface_names("llama", 12)
    assert names["token_embd.weight"] == "model.embed_tokens.weight"
    assert names["output_norm.weight"] == "model.norm.weight"
    assert names["output.weight"] == "lm_head.weight"
    assert names["blk.11.attn_q.weight"] == "model.layers.11.self_attn.q_proj.weight"
    assert names["blk.0.attn_output.bias"] == "model.layers.0.self_attn.o_proj.bias"
    assert "blk.12.attn_q.weight" not in names


def test_only_qwen3_normalises_queries() -> None:
    having = [
        name for name in ARCHITECTURES if "blk.0.attn_q_norm.weight" in huggingface_names(name, 1)
    ]
    assert having == ["qwen3"]
