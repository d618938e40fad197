"""transformers' `generate`: a checkpoint in Hugging Face layout, prompts padded on the left."""

import time
from importlib.metadata import version
from typing import Any

from job_loop import System, run


def load(options: dict[str, Any]) -> System:
    """options: `model` (folder), `threads`, `dtype` such as "bfloat16"."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options["threads"])
    dtype = getattr(torch, options["dtype"])
    model: Any = AutoModelForCausalLM.from_pretrained(options["model"], dtype=dtype).eval()

    def generate(prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + ids for ids in prompts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(padded),
                attention_mask=torch.tensor(mask),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,  # exactly new_tokens
                pad_token_id=0,
            )
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "token_ids": output[:, longest:].tolist()}

    def score(windows: list[list[int]]) -> dict[str, Any]:
        with torch.inference_mode():
            return {"nll": sum(_nll(model, torch.tensor([ids])) for ids in windows)}

    about = {
        "version": version("transformers"),
        "weights": options["dtype"],
        "way": "generate, one padded batch",
    }
    return System(about, {"generate": generate, "score": score})


def _nll(model: Any, ids: Any) -> float:
    """ids: [1, tokens]."""
    from torch.nn.functional import cross_entropy

    logits = model(ids).logits[0, :-1].double()
    return cross_entropy(logits, ids[0, 1:], reduction="sum").item()


if __name__ == "__main__":
    run(load)
