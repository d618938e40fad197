"""`glidecape bench peers`: the limit, the systems interleaved, a table, then one line of JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich.console import Console

from bench.common.prompts import PROMPTS
from bench.machine.limits import Limits, measure_limits
from bench.machine.suite import model_folder, weight_bytes
from bench.peers.rounds import measure
from bench.peers.systems import (
    OURS,
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
from bench.peers.table import as_json, make_table, notes
from bench.peers.worker import Worker
from bench.peers.workloads import Prompt, Workload, make_workloads
from server.cli.terminal import report
from server.config import DEFAULT_MODEL, ModelSettings, as_given
from server.errors import ConfigError
from server.loading.machine import default_threads, pick_device, pick_dtype
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.default import default_gguf
from weights.model_names import gguf_of
from weights.train.text.prompts import prompt_encoder, read_prompts, usable_template


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """The command's options besides the model's."""

    python: Path | None
    prompt_files: Sequence[Path]
    only: Sequence[str]
    """Names of peers; empty takes all."""
    streams: Sequence[int]
    new_tokens: int
    long_prompt: int
    rounds: int


def run_peers(settings: ModelSettings, options: PeerOptions) -> None:
    """Measures, prints a table, then one JSON line.

    Raises:
        ConfigError: an option is wrong.
        CheckpointError: the model or a file of prompts can't be read.
    """
    python = peers_python(options.python)
    peers = chosen(options.only)
    missing = find_missing(peers, python)
    prompts = encode_prompts(model_folder(settings), options.prompt_files)
    workloads = make_workloads(
        prompts, options.streams, options.new_tokens, options.long_prompt, options.rounds
    )
    machine = describe_machine(settings, workloads)
    missing |= needs_gguf(peers, machine)
    systems = [peer for peer in peers if peer.name not in missing] + [OURS_PLAIN, OURS]
    limits = measure_limits(weight_bytes(settings))
    console = Console(highlight=False)
    _print_limit(console, limits)
    results = measure(
        systems,
        lambda system: Worker(system.name, command(system, machine, python), environment(system)),
        workloads,
        report,
    )
    ours = [OURS_PLAIN.name, OURS.name]
    console.print(make_table(results, ours, [workload.name for workload in workloads]))
    for line in notes(results, missing):
        console.print(line, markup=False, soft_wrap=True)
    print(json.dumps(as_json(results, ours, missing, limits)))
    if any(name in results.failures for name in ours):
        sys.exit(1)  # by the exit code alone, this must not pass for a comparison


def chosen(only: Sequence[str]) -> list[System]:
    """The peers of these names; all where no name is given.

    Raises:
        ConfigError: no peer has this name.
    """
    names = [peer.name for peer in PEERS]
    for name in only:
        if name not in names:
            raise ConfigError("peer", name, f"is none of {', '.join(names)}")
    return [peer for peer in PEERS if not only or peer.name in only]


def encode_prompts(folder: Path, files: Sequence[Path]) -> list[Prompt]:
    """Chats of the files, one of each in turn, or the built-in questions, in the model's tokens.

    Raises:
        CheckpointError: a file is unreadable or empty; names file and line.
    """
    hf_tokenizer = load_hf_tokenizer(folder)
    tokenizer = from_hf(hf_tokenizer)
    template = usable_template(ChatTemplate(hf_tokenizer, folder.name))
    if not files:
        return [prompt_encoder(tokenizer, template)(text) for text in PROMPTS]
    in_turn = zip_longest(*(read_prompts(file, template) for file in files))
    return [prompt.encode(tokenizer) for row in in_turn for prompt in row if prompt is not None]


def describe_machine(settings: ModelSettings, workloads: Sequence[Workload]) -> Machine:
    """Describes machine and model for the workers."""
    dtype = pick_dtype(settings.dtype, pick_device(settings.device))
    return Machine(
        gguf=_gguf(settings.model),
        folder=model_folder(settings, in_floats=True),
        dtype=str(dtype).removeprefix("torch."),
        threads=settings.threads or default_threads(),
        max_streams=max(workload.max_streams for workload in workloads),
        max_tokens=max(workload.longest for workload in workloads),
        settings=as_given(settings),
    )


def _gguf(model: str) -> Path | None:
    if model == DEFAULT_MODEL:
        return default_gguf()
    return gguf_of(Path(model).expanduser())


def _print_limit(console: Console, limits: Limits) -> None:
    console.print(
        f"limit: {limits.bandwidth / 1e9:.1f} GB/s, {limits.weight_bytes / 1e6:.0f} MB of weights "
        f"per step -> at most {limits.steps_per_second:.0f} steps/s of one token per stream"
    )
