"""`glidecape train`: a draft for a model, in one command.

    1. text       the target writes answers to prompts, its own or the user's   train_text.py
    2. features   one forward of the target over the text                       train_draft.py
    3. training   the draft learns from them

Everything on the way lies in a work folder; the same command goes on where the last one stopped.
"""

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import check_names
from server.cli.terminal import report
from server.cli.train_progress import clock
from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.cli.train_text import Source
    from weights.train.config import TrainConfig
    from weights.train.work_folder import WorkFolder

_TEXT_SHARE = 0.4
"""Of --minutes, at most, for writing text. The target's forward over that text takes most of as
long again on a CPU, and the training needs some epochs."""
_NO_TIME = 0.01
"""Of --minutes: loading the engine for less is not worth it."""
_USEFUL_TOKENS = 50_000
"""Text below which nobody should expect a speedup. Half a million gave 49.5 % agreement on the
default model."""
_TEXT_FILE = "text.jsonl"
_STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def train(
    out: Annotated[Path, typer.Option(help="Folder to write the draft to.")],
    target: Annotated[
        str, typer.Option(help="Model to make a draft for: default name, folder, .gguf, hub id.")
    ] = DEFAULT_MODEL,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON lines with messages or prompt; default: its own."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text there is already, JSON lines with response_ids or text_ids."),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="Tokens to learn from, such as 500k or 20M; text is written until "
                               "there are as many, with 0 none.")
    ] = "20M",
    minutes: Annotated[
        float, typer.Option(help="Time for everything, over all runs; 0 for no limit.", min=0)
    ] = 60,
    epochs: Annotated[
        float | None, typer.Option(help="Most passes over the text; without a time, 3.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for text, features, checkpoints; default: OUT.work.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="Answers written at once; default: what fits, up to 32, on a "
                                      "GPU 256.", min=1)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=16)] = 384,
    glimpse_layers: Annotated[
        str | None, typer.Option(help="Target layers the draft reads, such as 9,19,29.")
    ] = None,
    glimpse_hidden: Annotated[
        bool, typer.Option(help="Let the draft see the target's last hidden state.")
    ] = False,
    draft_vocab_size: Annotated[
        int, typer.Option(help="Tokens the draft can propose, the most frequent ones.", min=32)
    ] = 8192,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:  # fmt: skip
    """Train a GliDe draft for a model: text, features, training; resumes where it was stopped."""
    num_tokens = parse_count("tokens", tokens)
    work = work or out.with_name(f"{out.name}.work")
    settings = load_settings(ModelSettings, model=target)
    if settings.tensor_parallel_size != 1:  # in the environment
        size = settings.tensor_parallel_size
        raise ConfigError("tensor_parallel_size", size, "train runs in one process")
    check_names(settings)
    _check_files(num_tokens, prompts, text or [])
    report("loading …")
    from weights.train.config import TrainConfig
    from weights.train.out_folder import check_out
    from weights.train.work_folder import WorkFolder

    config = TrainConfig(
        text=(*(text or ()), work / _TEXT_FILE),
        out=out,
        work=work,
        glimpse_layers=_layers(glimpse_layers),
        glimpse_hidden=glimpse_hidden,
        draft_vocab_size=draft_vocab_size,
        epochs=epochs,
        seed=seed,
        precision="auto" if settings.dtype == "float16" else settings.dtype,
    )
    check_out(out, work)
    command = _Command(settings, config, num_tokens, minutes * 60 or None, prompts, max_new_tokens)
    source = command.read_source()
    with WorkFolder(work, command.identity()) as folder, _says_how_to_go_on(work):
        command.check_resumed(source)
        command.run(source, folder, at_once)


@contextmanager
def _says_how_to_go_on(work: Path) -> Generator[None, None, None]:
    try:
        yield
    except KeyboardInterrupt:
        report(f"stopped; the same command goes on from {work}")
        raise typer.Exit(_STOPPED) from None


@dataclass(frozen=True, slots=True)
class _Command:
    """What was asked for."""

    settings: ModelSettings
    config: "TrainConfig"
    num_tokens: int
    seconds: float | None
    """For everything; None for no limit."""
    prompts: Path | None
    max_new_tokens: int

    def identity(self) -> dict[str, str | int | None]:
        """What a resumed run must have the same."""
        prompts = None
        if self.prompts is not None:
            prompts = blake2b(self.prompts.read_bytes(), digest_size=8).hexdigest()
        return {
            "target": self.settings.model,
            "prompts": prompts,
            "seed": self.config.seed,
            "max_new_tokens": self.max_new_tokens,
        }

    def read_source(self) -> "Source":
        """Everything that may be wrong with the files and the machine, before any work."""
        from server.cli.train_checks import check_machine
        from server.cli.train_text import read_source

        source = read_source(self.settings, self.prompts, writes=self.num_tokens > 0)
        certain = self.num_tokens if self.seconds is None else None
        check_machine(self.config, source.config, certain)
        return source

    def check_resumed(self, source: "Source") -> None:
        """What a run that has got further than the text must have the same."""
        from server.cli.train_checks import check_resumed

        check_resumed(self.config, source.config)

    def run(self, source: "Source", work: "WorkFolder", at_once: int | None) -> None:
        """All stages, each from where it was."""
        from server.cli.train_draft import train_draft
        from server.cli.train_text import TEXT_SECONDS

        self._write_text(source, work, at_once)
        left = self.seconds
        if left is not None:
            left -= work.recall(TEXT_SECONDS) or 0.0
        written = self.config.work / _TEXT_FILE
        files = tuple(path for path in self.config.text if path != written or _has_text(written))
        learnt = train_draft(self.settings, replace(self.config, text=files), work, left)
        for line in closing_words(learnt, self.settings.model, self.config.out):
            report(line)

    def _write_text(self, source: "Source", work: "WorkFolder", at_once: int | None) -> None:
        from server.cli.train_text import TEXT_SECONDS, TextPlan, count_given, write_text

        given = [path for path in self.config.text if path != self.config.work / _TEXT_FILE]
        there = count_given(given, source) if given else 0
        wanted = max(0, self.num_tokens - there)
        report(self._plan(there, wanted))
        if wanted == 0:
            return
        deadline = None
        if self.seconds is not None:
            left = self.seconds * _TEXT_SHARE - (work.recall(TEXT_SECONDS) or 0.0)
            if left < self.seconds * _NO_TIME:
                report("text: its time was used up by an earlier run")
                return
            deadline = time.monotonic() + left
        plan = TextPlan(wanted, deadline, at_once, self.max_new_tokens, self.config.seed)
        write_text(self.settings, source, work, plan)

    def _plan(self, there: int, wanted: int) -> str:
        """The stages and their time, for a person."""
        given = f"{there:,} tokens of text given, " if there else ""
        if self.seconds is None:
            return f"plan: {given}{wanted:,} tokens to be written, then features and training"
        if not wanted:
            return f"plan: {given}{clock(self.seconds)} for features and training"
        text = clock(self.seconds * _TEXT_SHARE)
        return (
            f"plan: {given}{wanted:,} tokens to be written or as many as {text} allow, of "
            f"{clock(self.seconds)} in all; the rest is for features and training"
        )


def closing_words(num_learnt: int, target: str, out: Path) -> list[str]:
    """Where the draft is and what to do with it.

    Args:
        num_learnt: tokens of text that it was trained to predict.
    """
    serve = f"  glidecape serve --model {target} --draft {out}"
    if num_learnt >= _USEFUL_TOKENS:
        return [f"the draft is in {out}; serve it with", serve]
    return [
        f"warning: the draft in {out} has seen {num_learnt:,} tokens of text and will hardly ever "
        f"be right; from some {_USEFUL_TOKENS:,} on one begins to pay.",
        "The same command goes on with more --minutes and --tokens, or with --text.",
        "To try it all the same:",
        serve,
    ]


def parse_count(key: str, value: str) -> int:
    """`"20M"` → 20000000.

    Raises:
        ConfigError: the value is no count.
    """
    match = _COUNT.fullmatch(value.strip())
    if match is None:
        raise ConfigError(key, value, "expected a count such as 500k or 20M")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def _layers(value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        reason = "expected numbers such as 9,19,29"
        raise ConfigError("glimpse_layers", value, reason) from None


def _check_files(num_tokens: int, prompts: Path | None, text: list[Path]) -> None:
    if num_tokens == 0 and not text:
        raise ConfigError("tokens", num_tokens, "where no text is written, --text has to give some")
    for key, paths in (("prompts", [prompts]), ("text", text)):
        for path in paths:
            if path is not None and not path.is_file():
                raise ConfigError(key, str(path), "there is no such file")


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
