"""gpt-oss as it is published: experts in MXFP4, which become floats."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig

from server.loading.target import describe_backend, read_target
from tests.kernels.paged import PagedModel
from tests.models.hf.families import ROPE, our_model, reference_model, sizes
from tests.models.hf.theirs import assert_same, their_logits, tokens

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
VALUES = torch.cat((FP4, -FP4))
EXPERTS, HIDDEN, INNER, LAYERS = 4, 64, 96, 2


def random_blocks(outputs: int, inputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two values a byte, the first one low, and powers of two for 32 values each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (EXPERTS, outputs, inputs // 32)
    blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(122, 125, shape, dtype=torch.uint8, generator=generator)
    return blocks, scales


def widened(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[experts, inputs, outputs], as transformers keeps experts of gpt-oss."""
    pairs = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    values = VALUES[pairs.int()] * 2.0 ** (scales.float() - 127)[..., None]
    return values.flatten(-2).mT.contiguous()


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    config = GptOssConfig(
        **sizes(hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS),
        head_dim=16,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters=ROPE,
    )
    reference = reference_model(config)
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    weights = dict(reference.named_parameters())
    for layer in range(LAYERS):
        for name, shape in (("gate_up_proj", (2 * INNER, HIDDEN)), ("down_proj", (HIDDEN, INNER))):
            path = f"model.layers.{layer}.mlp.experts.{name}"
            blocks, scales = random_blocks(*shape, seed=layer)
            del tensors[path]
            tensors |= {f"{path}_blocks": blocks, f"{path}_scales": scales}
            weights[path].data.copy_(widened(blocks, scales))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert "mxfp4 in floats" in describe_backend(read_target(tmp_path))
    ids = tokens(30)
    assert_same(PagedModel(our_model(tmp_path)).run(ids, [11, 19]), their_logits(reference, ids))
