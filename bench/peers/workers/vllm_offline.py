"""vLLM's `LLM.generate` on a CPU: a checkpoint in Hugging Face layout, without prefix caching."""

import os
import time
from importlib import import_module
from typing import Any

from job_loop import System, run


def load(options: dict[str, Any]) -> System:
    """options: `model` (folder), `threads`, `dtype`, `max_streams`, `max_tokens` (of one)."""
    # One process: the bench stops and continues it as a whole.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GB
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{options['threads'] - 1}"
    vllm: Any = import_module("vllm")
    llm = vllm.LLM(
        model=options["model"],
        dtype=options["dtype"],
        max_model_len=options["max_tokens"],
        max_num_seqs=options["max_streams"],
        enable_prefix_caching=False,  # the bench repeats prompts
        disable_log_stats=True,
        max_num_batched_tokens=2048,
    )

    def generate(prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        params = vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        started = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False
        )
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "token_ids": [list(o.outputs[0].token_ids) for o in outputs]}

    about = {
        "version": vllm.__version__,
        "weights": options["dtype"],
        "way": "LLM.generate, continuous batching",
    }
    return System(about, {"generate": generate})


if __name__ == "__main__":
    run(load)
