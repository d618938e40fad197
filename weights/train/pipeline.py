"""`glidecape train` from end to end: a draft for a model, in three stages.

    1. text       the target writes answers to prompts, its own or the user's   text/stage.py
    2. features   taken meanwhile, or by a forward of the target over the text  train.py
    3. training   the draft learns from them                                    train.py

Everything on the way lies in a work folder; the same job goes on where the last run stopped.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from rich.console import Console

from server.config import ModelSettings
from server.loading.machine import pick_device
from server.loading.model import LoadedModel
from server.memory import give_back_memory
from server.models.config import ModelConfig
from server.report import Report
from weights.model_names import model_name
from weights.train.card import write_card
from weights.train.checks import check_machine, check_resumed, room_for_features
from weights.train.config import TrainConfig, chosen_layers
from weights.train.estimate import estimate
from weights.train.features.record import RowRecorder
from weights.train.features.recorded import FeatureRecorder, known_key, open_recorded
from weights.train.features.store import FOLDER, FeatureKey, stored_bytes
from weights.train.features.writer import feature_shape
from weights.train.fit.earlier_draft import draft_files, with_its_shape
from weights.train.load import load_for_training, written_form
from weights.train.out_folder import check_out
from weights.train.progress import clock, reporter
from weights.train.text.generate import Recorder
from weights.train.text.prompts import prompt_encoder
from weights.train.text.samples import Sample, read_file
from weights.train.text.stage import (
    TEXT_SECONDS,
    Source,
    TextPlan,
    count_given,
    read_source,
    write_text,
)
from weights.train.time_plan import TEXT_SHARE, plan_time
from weights.train.train import feature_key, learn, prepare, take_recorded
from weights.train.work_folder import StageClock, WorkFolder

_NO_TIME = 0.01
"""Least share of all the time for writing text: loading the engine for less is not worth it."""
_USEFUL_TOKENS = 50_000
"""Text below which nobody should expect a speedup. With 64,000 tokens a draft of the
default model was right at 46 %."""
_FORWARD_SECONDS = "forward_seconds"
"""Note in the work folder: time before the training itself, over all runs."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What is asked for."""

    settings: ModelSettings
    """How the target is loaded."""
    config: TrainConfig
    """How the draft is trained. `text` lists the user's files, then the one that stage 1 writes."""
    given: frozenset[str]
    """Settings of the draft's shape that were asked for; the others may be an earlier draft's."""
    num_tokens: int
    """Tokens of text to learn from, the user's own included; with 0 none is written."""
    seconds: float | None
    """Time for all stages; None for no limit."""
    prompts: Path | None
    """The user's, for stage 1; None where the target writes them itself."""
    at_once: int | None
    """Answers written at once; None for as many as fit."""
    max_new_tokens: int
    """Longest answer that is written."""
    command: str
    """How to make the draft again, for its card."""

    @property
    def written_text(self) -> Path:
        """The file of stage 1."""
        return self.config.text[-1]

    def identity(self) -> dict[str, str | int | None]:
        """What a resumed run must have the same."""
        prompts, earlier = self.prompts, self.config.from_draft
        return {
            "target": self.settings.model,
            "prompts": None if prompts is None else _digest(prompts),
            "from_draft": None if earlier is None else _digest(*draft_files(earlier)),
            "seed": self.config.seed,
            "max_new_tokens": self.max_new_tokens,
        }


def _digest(*paths: Path) -> str:
    digest = blake2b(digest_size=8)
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_draft(job: TrainJob, console: Console) -> None:
    """Runs all stages, each from where it was. What may be wrong with the files and the machine is
    found before any work.

    Args:
        console: for progress.

    Raises:
        StartupError: settings, files, memory, disk or time won't do.
        EngineDeadError: the engine that writes the text crashed.
        TrainingError: a step can't be learnt from.
    """
    config = job.config
    check_out(config.out, config.work)
    source = read_source(job.settings, job.prompts, reporter(console), writes=job.num_tokens > 0)
    config = with_its_shape(config, source.config, job.given)
    job = replace(job, config=config)
    check_machine(config, source.config, job.num_tokens if job.seconds is None else None)
    with WorkFolder(config.work, job.identity()) as work:
        check_resumed(config, source.config)
        _write_text(job, source, work, console)
        num_learnt = _train(job, source, work, console)
    is_useful = config.from_draft is not None or num_learnt >= _USEFUL_TOKENS
    for line in closing_words(num_learnt, is_useful, job.settings.model, config.out):
        reporter(console)(line)


def _write_text(job: TrainJob, source: Source, work: WorkFolder, console: Console) -> None:
    """Stage 1, as far as the user's own text is not enough and the time allows."""
    report = reporter(console)
    given = job.config.text[:-1]
    num_given = count_given(given, source) if given else 0
    num_wanted = max(0, job.num_tokens - num_given)
    report(_plan(job.seconds, num_given, num_wanted))
    device = pick_device(job.settings.device)
    records = device.type == "cpu" and job.settings.tensor_parallel_size == 1
    figures = num_given, num_wanted, job.seconds
    report(str(estimate(job.config, source.config, device, *figures, records=records)))
    if num_wanted == 0:
        return
    deadline = None
    if job.seconds is not None:
        left = job.seconds * TEXT_SHARE - (work.recall(TEXT_SECONDS) or 0.0)
        if left < job.seconds * _NO_TIME:
            report("text: its time was used up by an earlier run")
            return
        deadline = time.monotonic() + left
    plan = TextPlan(num_wanted, deadline, job.at_once, job.max_new_tokens, job.config.seed)
    recording = partial(_recording, job, source, work, report) if records else None
    write_text(job.settings, source, work, plan, console, recording)


def _recording(
    job: TrainJob, source: Source, work: WorkFolder, report: Report
) -> Callable[[LoadedModel], Recorder] | None:
    """What makes a recorder of the features, whose key has to be known before the text: where there
    are none yet, the target is loaded once more for it. None where the text is written by the
    target in another form than training reads it in.

    For steps that the host runs: those on a GPU leave nothing behind to be taken.
    """
    key = known_key(work.path)
    if key is None or not key.form or not _goes_with(job.config, source.config, key):
        key = feature_key(job.config, load_for_training(job.settings, job.config, report).target)
        gc.collect()
        give_back_memory()  # the engine is loaded next
    form = written_form(job.settings, report)
    if form != key.form:
        report(f"the text is written with {form}, so that its features need a forward of their own")
        return None

    def record(model: LoadedModel) -> Recorder:
        longest, vocab_size = job.config.max_sample_tokens, source.config.vocab_size
        written = list[Sample]()
        if _has_text(job.written_text):
            prompt_ids = prompt_encoder(source.tokenizer, source.template)
            written = read_file(job.written_text, prompt_ids, vocab_size, longest)
        room = room_for_features(work.path, source.config)
        room = min(room, job.config.feature_bytes or room)
        most_bytes = room - sum(stored_bytes(work.path / FOLDER).values())
        rows, store = RowRecorder(model.runner, key), open_recorded(work.path, key)
        shape = feature_shape(key, source.config)
        return FeatureRecorder(rows, store, shape, most_bytes, written, longest)

    return record


def _goes_with(config: TrainConfig, target: ModelConfig, key: FeatureKey) -> bool:
    """Whether features of this key are what the draft is to learn from."""
    layers = chosen_layers(config, target)
    wanted = config.glimpse_hidden, config.top_k, config.feature_dtype
    return layers in (None, key.glimpse_layers) and wanted == (
        key.glimpse_hidden,
        key.top_k,
        key.dtype,
    )


def _plan(seconds: float | None, num_given: int, num_wanted: int) -> str:
    """The stages and their time, for a person."""
    given = f"{num_given:,} tokens of text given, " if num_given else ""
    if seconds is None:
        return f"plan: {given}{num_wanted:,} tokens to be written, then features and training"
    if not num_wanted:
        return f"plan: {given}{clock(seconds)} for features and training"
    text = clock(seconds * TEXT_SHARE)
    return (
        f"plan: {given}{num_wanted:,} tokens to be written or as many as {text} allow, of "
        f"{clock(seconds)} in all; the rest is for features and training"
    )


def _train(job: TrainJob, source: Source, work: WorkFolder, console: Console) -> int:
    """Stages 2 and 3 in the time that is left, and the draft's card. Returns how many tokens the
    draft has learnt to predict."""
    settings, report, seconds = job.settings, reporter(console), job.seconds
    spent = StageClock(work, _FORWARD_SECONDS, time.monotonic())
    end = deadline = math.inf
    if seconds is not None:
        seconds -= work.recall(TEXT_SECONDS) or 0.0
        end = time.monotonic() + seconds - spent.earlier
    text = job.config.text if _has_text(job.written_text) else job.config.text[:-1]
    try:
        config = replace(
            job.config, text=text, feature_bytes=room_for_features(work.path, source.config)
        )
        loaded = load_for_training(settings, config, report)
        take_recorded(
            config, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, report, spent.tick
        )
        spent.note()
        if seconds is not None:
            config, deadline = plan_time(config, loaded, work, seconds, end, report)
        data = prepare(
            config, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, console, deadline,
            spent.tick,
        )  # fmt: skip
    finally:
        spent.note()
    trained = learn(config, loaded.target, data, console)
    write_card(config, model_name(settings.model), trained, job.command)
    return trained.data.num_learnt


def closing_words(num_learnt: int, is_useful: bool, target: str, out: Path) -> list[str]:
    """Where the draft is and what to do with it.

    Args:
        num_learnt: tokens of text that it was trained to predict.
        is_useful: whether a speedup may be expected of it.
    """
    serve = f"  glidecape serve --model {target} --draft {out}"
    if is_useful:
        return [f"the draft is in {out}; serve it with", serve]
    return [
        f"warning: the draft in {out} has seen {num_learnt:,} tokens of text and will hardly ever "
        f"be right; from some {_USEFUL_TOKENS:,} on one begins to pay.",
        "The same command goes on with more --minutes and --tokens, or with --text.",
        "To try it all the same:",
        serve,
    ]


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
