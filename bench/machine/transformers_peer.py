"""transformers' `generate` in a process of its own, so that the two systems' threads don't meet.

python -m bench.machine.transformers_peer FOLDER DTYPE      answers each line "N" on stdin with the
                                                    tokens per second of N greedy tokens
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.common.prompts import PROMPTS


class TransformersPeer:
    """One stream of a Hugging Face model.

    Args:
        folder: checkpoint in Hugging Face layout.
        dtype: its precision, such as "bfloat16".
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        command = (sys.executable, "-m", "bench.machine.transformers_peer", str(folder), dtype)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.tokens_per_second(8)  # waits until it is loaded and warm

    def tokens_per_second(self, new_tokens: int) -> float:
        """Measures one answer, its prompt included in the time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the peer has no pipes")
        stdin.write(f"{new_tokens}\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"transformers ended with exit code {self._process.wait()}")
        return float(line)

    def close(self) -> None:
        self._process.communicate()


def main(folder: str, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    for line in sys.stdin:
        count = int(line)
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        print(count / (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
