"""OpenVINO GenAI: a GGUF file through its continuous batching, without prefix caching."""

import time
from importlib import import_module
from importlib.metadata import version
from typing import Any

from job_loop import System, run


def load(options: dict[str, Any]) -> System:
    """options: `gguf` (file), `threads`, `max_streams`, `max_tokens` (of one sequence)."""
    genai: Any = import_module("openvino_genai")
    openvino: Any = import_module("openvino")
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # the bench repeats prompts
    scheduler.max_num_seqs = options["max_streams"]
    scheduler.max_num_batched_tokens = 2048
    scheduler.cache_size = 2  # GB
    pipeline = genai.LLMPipeline(
        options["gguf"],
        "CPU",
        scheduler_config=scheduler,
        INFERENCE_NUM_THREADS=options["threads"],
    )

    def generate(prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + ids for ids in prompts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        inputs = genai.TokenizedInputs(_tensor(openvino, padded), _tensor(openvino, mask))
        config = genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True)
        started = time.perf_counter()
        output = pipeline.generate(inputs, config)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "token_ids": [list(ids) for ids in output.tokens]}

    about = {
        "version": version("openvino-genai"),
        "weights": "the file's",
        "way": "LLMPipeline, continuous batching",
    }
    return System(about, {"generate": generate})


def _tensor(openvino: Any, rows: list[list[int]]) -> Any:
    numpy: Any = import_module("numpy")
    return openvino.Tensor(numpy.array(rows, dtype=numpy.int64))


if __name__ == "__main__":
    run(load)
