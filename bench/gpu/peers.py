"""transformers' `generate` on a model of the same shape, for `bench/gpu`."""

import time
from typing import Any

import torch

from server.models.config import ModelConfig

_PROMPT_TOKENS = 512


def transformers_rates(
    config: ModelConfig, device: torch.device, new_tokens: int
) -> dict[str, float]:
    """Tokens per second of one stream with random weights: plain, and assisted by prompt lookup,
    which random weights make the best of or the worst (they tend to repeat themselves)."""
    model, prompt = _model(config, device)
    ways: dict[str, dict[str, Any]] = {"generate": {}, "assisted": {"prompt_lookup_num_tokens": 5}}
    return {way: _rate(model, prompt, new_tokens, options) for way, options in ways.items()}


def _model(config: ModelConfig, device: torch.device) -> tuple[Any, torch.Tensor]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=4096,
    )
    on_gpu = device.type == "cuda"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(shape).eval()
    finally:
        torch.set_default_dtype(before)
    length = _PROMPT_TOKENS if on_gpu else 16
    generator = torch.Generator().manual_seed(0)
    return model, torch.randint(3, config.vocab_size, (1, length), generator=generator).to(device)


@torch.inference_mode()
def _rate(model: Any, prompt: torch.Tensor, new_tokens: int, options: dict[str, Any]) -> float:
    """Measures the second answer; the first one warms up."""
    started = time.perf_counter()
    for _ in range(2):
        started = time.perf_counter()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=0,
            **options,
        )
        if prompt.is_cuda:
            torch.cuda.synchronize()
    return new_tokens / (time.perf_counter() - started)
