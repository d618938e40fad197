"""A tiny target on disk, in Hugging Face layout: random, but it says letters and ends its turns."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.doubles import BOS, EOS, EOS_ID, byte_backend, ids

TEMPLATE = (
    "[system]Be kind.</s>{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "eos_token_id": EOS_ID,
}


def write_checkpoint(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Makes the folder; a template of None makes it a model that is no chat model."""
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    PreTrainedTokenizerFast(
        tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS, chat_template=template
    ).save_pretrained(folder)
    return folder


def _weights() -> dict[str, torch.Tensor]:
    """The first dimension is always large, and the head holds it against all but letters."""
    parameters = LlamaParameters(
        model_config(CONFIG), Placement(torch.device("cpu"), torch.float32)
    )
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for name, slot in parameters.slots().items():
        size = 1.0 if "embed" in name or "head" in name else 0.2
        random = torch.randn(slot.shape, generator=generator) * size
        tensors[name] = torch.ones(slot.shape) if "norm" in name else random
    tensors["model.embed_tokens.weight"][:, 0] = 6.0
    held = tensors["lm_head.weight"]
    held *= 0.3
    held[:, 0] = -20.0
    held[ids("abcdefghijklmnop "), 0] = 0.0
    held[EOS_ID, 0] = 0.0
    return tensors
