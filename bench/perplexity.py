"""How exact are the quantised kernels? Perplexity and greedy answers, beside llama.cpp's.

    python -m bench.perplexity TEXT [--tokens 50000] [--prompts FILE.jsonl …] [--answers 100]

TEXT is plain text, or JSON lines with `response_ids` (the model's tokens) or `messages`, of which
the assistant's are taken; `.gz` is unpacked. It is cut into windows of 1024 tokens, the same ids
for every system; perplexity is over all of them but each window's first. Greedy answers are
compared with those of the dequantised weights in float32, computed by transformers.
"""

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from bench.machine.suite import model_folder
from bench.peers.suite import describe_machine, encode_prompts
from bench.peers.systems import (
    OURS_PLAIN,
    PEERS,
    Machine,
    System,
    command,
    environment,
    find_missing,
    needs_gguf,
    peers_python,
)
from bench.peers.worker import Worker
from bench.peers.workloads import Prompt, Workload
from server.cli.terminal import one_line_errors, report
from server.config import ModelSettings, load_settings
from server.errors import CheckpointError, ConfigError
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.train.text.json_lines import line_error, read_json_lines

_REFERENCE, _LLAMA = PEERS[0], PEERS[1]
_WINDOWS_AT_ONCE = 4


def main(
    text: Annotated[Path, typer.Argument(help="Plain text or JSON lines.")],
    tokens: Annotated[int, typer.Option(help="At most so many tokens of it.", min=2)] = 50_000,
    window: Annotated[int, typer.Option(help="Tokens per window.", min=2)] = 1024,
    prompts: Annotated[list[Path] | None, typer.Option(help="JSON lines with messages.")] = None,
    answers: Annotated[int, typer.Option(help="Greedy answers compared; 0: none.", min=0)] = 100,
    answer_tokens: Annotated[int, typer.Option(help="Tokens compared per answer.", min=2)] = 32,
    peers_interpreter: Annotated[
        Path | None, typer.Option("--peers-python", help="As in glidecape bench peers.")
    ] = None,
) -> None:
    """Compare perplexity and greedy answers."""
    settings = load_settings(ModelSettings)
    windows = cut(_encode(settings, read_text(text)), tokens, window)
    chats = encode_prompts(model_folder(settings), prompts or [])[:answers]
    machine = describe_machine(settings, [Workload("", [[*windows, *chats]], answer_tokens)])
    python = peers_python(peers_interpreter)
    missing = find_missing([_LLAMA], python) | needs_gguf([_LLAMA], machine)
    systems = [OURS_PLAIN, *([] if missing else [_LLAMA])]
    with ExitStack() as stack:
        workers = {s.name: _start(s, machine, python, stack) for s in systems}
        result: dict[str, Any] = _perplexities(workers, windows)
        if chats:
            reference = _start(_REFERENCE, _float32(settings, machine), python, stack)
            result |= _greedy(workers, reference, chats, answer_tokens)
    print(json.dumps(result | {"missing": missing}))


def read_text(path: Path) -> Iterator[str | list[int]]:
    """Pieces of text, or of tokens, in the file's order.

    Raises:
        CheckpointError: the file can't be read, or a line of JSON holds no text.
    """
    if ".jsonl" in path.suffixes:
        for number, line in read_json_lines(path):
            yield _piece(path, number, line)
        return
    try:
        raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
        yield raw.decode()
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(path, str(error)) from None


def _piece(path: Path, number: int, line: dict[str, Any]) -> str | list[int]:
    if "response_ids" in line:
        return [int(token) for token in line["response_ids"]]
    messages = cast(list[dict[str, Any]], line.get("messages") or [])
    said = [str(m.get("content")) for m in messages if m.get("role") == "assistant"]
    if not said:
        raise line_error(path, number, "has neither response_ids nor an assistant's message")
    return "\n".join(said)


def cut(ids: Iterator[int], tokens: int, window: int) -> list[list[int]]:
    """Windows of equal length but for the last, which has at least two tokens.

    Raises:
        ConfigError: there are fewer than two tokens.
    """
    taken = [token for token, _ in zip(ids, range(tokens), strict=False)]
    windows = [taken[start : start + window] for start in range(0, len(taken), window)]
    windows = [ids for ids in windows if len(ids) > 1]
    if not windows:
        raise ConfigError("text", "", "holds fewer than two tokens")
    return windows


def _encode(settings: ModelSettings, pieces: Iterator[str | list[int]]) -> Iterator[int]:
    tokenizer = from_hf(load_hf_tokenizer(model_folder(settings)))
    for piece in pieces:
        is_text = isinstance(piece, str)
        yield from tokenizer.encode(piece, add_special_tokens=False) if is_text else piece


def _float32(settings: ModelSettings, machine: Machine) -> Machine:
    folder = model_folder(settings.model_copy(update={"dtype": "float32"}), in_floats=True)
    return replace(machine, folder=folder, dtype="float32")


def _start(system: System, machine: Machine, python: Path | None, stack: ExitStack) -> Worker:
    report(f"loading {system.name} …")
    worker = Worker(system.name, command(system, machine, python), environment(system))
    stack.callback(worker.close)
    return worker


def _perplexities(workers: dict[str, Worker], windows: Sequence[Sequence[int]]) -> dict[str, Any]:
    totals = dict.fromkeys(workers, 0.0)
    for start in range(0, len(windows), _WINDOWS_AT_ONCE):
        chunk = windows[start : start + _WINDOWS_AT_ONCE]
        for name, worker in workers.items():
            totals[name] += worker.ask("score", windows=chunk)["nll"]
    count = sum(len(ids) - 1 for ids in windows)
    perplexities = {name: math.exp(total / count) for name, total in totals.items()}
    for name, value in perplexities.items():
        report(f"{name}: perplexity {value:.4f} over {count} tokens")
    if _LLAMA.name in perplexities:
        report(f"ratio {perplexities[OURS_PLAIN.name] / perplexities[_LLAMA.name]:.4f}")
    return {"scored_tokens": count, "perplexity": perplexities}


def _greedy(
    workers: dict[str, Worker], reference: Worker, chats: Sequence[Prompt], new_tokens: int
) -> dict[str, Any]:
    def answer(worker: Worker, prompt: Prompt) -> list[int]:
        found = worker.ask("generate", prompts=[prompt], new_tokens=new_tokens)
        return found["token_ids"][0]

    equal = dict.fromkeys(workers, 0)
    for prompt in chats:
        wanted = answer(reference, prompt)
        for name, worker in workers.items():
            equal[name] += answer(worker, prompt) == wanted
    for name, count in equal.items():
        report(f"{name}: {count} of {len(chats)} greedy answers equal to float32's")
    return {"answers": len(chats), "answer_tokens": new_tokens, "equal_to_float32": equal}


if __name__ == "__main__":
    with one_line_errors("bench.perplexity"):
        typer.run(main)
