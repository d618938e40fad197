"""llama.cpp through llama-cpp-python's low-level interface: a GGUF file, several sequences a batch.

`Llama`, the package's high-level class, serves one sequence at a time and builds lists of logits in
Python; the package's wheel has no llama-server. `llama_decode` over a batch with one row per
sequence is what llama-server does, without its HTTP.
"""

import ctypes
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

from job_loop import System, run

_BATCH = 2048


class Row(NamedTuple):
    """One token to compute."""

    token_id: int
    position: int
    sequence: int
    wants_logits: bool


def load(options: dict[str, Any]) -> System:
    """options: `gguf` (file), `threads`."""
    llama = LlamaCpp(options["gguf"], options["threads"])
    about = {
        "version": version("llama-cpp-python"),
        "weights": "the file's",
        "way": "llama_decode, one row per sequence",
    }
    return System(about, {"generate": llama.generate, "score": llama.score})


class LlamaCpp:
    """A model; each job gets a context of its own, made before its clock starts."""

    def __init__(self, gguf: str, threads: int) -> None:
        self._llama: Any = import_module("llama_cpp")
        self._numpy: Any = import_module("numpy")
        self._threads = threads
        self._llama.llama_backend_init()
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._llama.llama_model_load_from_file(gguf.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {gguf}")
        vocab = self._llama.llama_model_get_vocab(self._model)
        self._vocab_size: int = self._llama.llama_vocab_n_tokens(vocab)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """See `job_loop`."""
        longest = max(map(len, prompts)) + new_tokens
        with self._context(len(prompts), longest) as context:
            started = time.perf_counter()
            tokens = [self._prefill(context, index, ids) for index, ids in enumerate(prompts)]
            answers = [[token] for token in tokens]
            for step in range(new_tokens - 1):
                rows = [
                    Row(token, len(prompts[index]) + step, index, True)
                    for index, token in enumerate(tokens)
                ]
                self._decode(context, rows)
                tokens = [self._argmax(context, index) for index in range(len(rows))]
                for answer, token in zip(answers, tokens, strict=True):
                    answer.append(token)
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "token_ids": answers}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """See `job_loop`."""
        return {"nll": sum(map(self._nll, windows))}

    @contextmanager
    def _context(self, sequences: int, tokens: int) -> Generator[Any, None, None]:
        params = self._llama.llama_context_default_params()
        # Rounded up to 256 per sequence, as llama.cpp does; sequences keep their KV apart.
        params.n_ctx = sequences * (-(-tokens // 256) * 256)
        params.n_seq_max = sequences
        params.n_batch = _BATCH
        params.n_threads = params.n_threads_batch = self._threads
        context = self._llama.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp refused a context of {sequences} x {tokens} tokens")
        try:
            yield context
        finally:
            self._llama.llama_free(context)

    def _prefill(self, context: Any, sequence: int, ids: list[int]) -> int:
        """Computes a prompt; returns the first token of its answer."""
        last = len(ids) - 1
        rows = [Row(token, at, sequence, at == last) for at, token in enumerate(ids)]
        for start in range(0, len(rows), _BATCH):
            self._decode(context, rows[start : start + _BATCH])
        return self._argmax(context, last % _BATCH)

    def _decode(self, context: Any, rows: list[Row]) -> None:
        batch = self._llama.llama_batch_init(len(rows), 0, 1)
        try:
            batch.n_tokens = len(rows)
            for index, row in enumerate(rows):
                batch.token[index] = row.token_id
                batch.pos[index] = row.position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = row.sequence
                batch.logits[index] = row.wants_logits
            status = self._llama.llama_decode(context, batch)
        finally:
            self._llama.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode failed with {status}")

    def _argmax(self, context: Any, index: int) -> int:
        return int(self._logits(context, index).argmax())

    def _logits(self, context: Any, index: int) -> Any:
        """[vocabulary] logits of a row of the batch, a view that the next decode overwrites."""
        pointer = self._llama.llama_get_logits_ith(context, index)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return self._numpy.ctypeslib.as_array(address, (self._vocab_size,))

    def _nll(self, window: list[int]) -> float:
        numpy, total = self._numpy, 0.0
        with self._context(1, len(window)) as context:
            rows = [Row(token, at, 0, True) for at, token in enumerate(window)]
            self._decode(context, rows)
            for at, token in enumerate(window[1:]):
                logits = self._logits(context, at).astype(numpy.float64)
                highest = logits.max()
                total += highest + numpy.log(numpy.exp(logits - highest).sum()) - logits[token]
        return float(total)


if __name__ == "__main__":
    run(load)
