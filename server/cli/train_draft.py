"""Stage 2 of `glidecape train`: shares the time that is left between the target's forward over the
text and the training itself, and runs both."""

import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from server.cli.terminal import report, stderr
from server.cli.train_checks import room_for_features
from server.cli.train_clock import StageClock
from server.cli.train_progress import clock
from server.cli.train_time import TimedText
from server.config import ModelSettings
from server.errors import ConfigError
from weights.train.card import write_card
from weights.train.config import TrainConfig, glimpsed_layers
from weights.train.features.store import FOLDER, FeatureKey, Shard, plan_shards, stored_bytes
from weights.train.features.writer import FeatureWriter
from weights.train.load import TrainingSource, load_for_training
from weights.train.text.samples import Sample, read_samples
from weights.train.train import learn, prepare
from weights.train.work_folder import WorkFolder

_PROBE_TOKENS = 4096
_MOST_FEATURES = 0.6
"""Of the time after the text, for the target's forward; text that takes longer is left out."""
_LEAST_SECONDS = 5.0
"""Shorter than this, nothing is learnt."""
_FORWARD_SECONDS = "forward_seconds"
"""Note in the work folder: time before the training itself, over all runs."""


def train_draft(
    settings: ModelSettings, config: TrainConfig, work: WorkFolder, seconds: float | None
) -> int:
    """Loads the target, trains, and writes the draft's card. Returns how many tokens the draft has
    learnt to predict.

    Args:
        seconds: for loading, the target's forward and the training, over all runs; None for no
            limit.

    Raises:
        StartupError: as `weights.train.train`; or the time is too short.
    """
    spent = StageClock(work, _FORWARD_SECONDS, time.monotonic())
    end = math.inf if seconds is None else time.monotonic() + seconds - spent.earlier
    try:
        config = replace(config, feature_bytes=room_for_features(work.path))
        loaded = load_for_training(
            settings.model, config, settings.cache_dir, report,
            settings.device, settings.dtype, settings.quantization,
        )  # fmt: skip
        spent.note()
        deadline = math.inf
        if seconds is not None:
            config, deadline = _timed(config, loaded, work, seconds, end)
        data = prepare(
            config, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, stderr, deadline,
            spent.tick,
        )  # fmt: skip
    finally:
        spent.note()
    trained = learn(config, loaded.target, data, stderr)
    write_card(config, settings.model, trained, f"glidecape {shlex.join(sys.argv[1:])}")
    return sum(at.sample.num_labels for at in trained.data.training)


def _timed(
    config: TrainConfig,
    loaded: TrainingSource,
    work: WorkFolder,
    seconds: float,
    end: float,
) -> tuple[TrainConfig, float]:
    """The config with a limit for the training itself, and for the text where it is too much; and
    the monotonic second at which the training has to begin.

    A run that is started again keeps the limits of the first one, as long as time and text are the
    same: the learning rate follows the plan.

    Args:
        seconds: as `train_draft` takes them.
        end: monotonic seconds, if nothing was trained yet.
    """
    samples = read_samples(
        config.text, loaded.prompt_ids, loaded.target.config.vocab_size, config.max_sample_tokens
    )
    writer = _writer(config, loaded)
    text = TimedText(plan_shards(samples), writer.shape(), stored_bytes(work.path / FOLDER))
    training, share = _plan(writer, text, work, seconds, end)
    if training < _LEAST_SECONDS:
        reason = "no time is left to train in; give more, or less text"
        raise ConfigError("minutes", round(seconds / 60, 2), reason)
    config = replace(config, minutes=training / 60)
    limit = text.limit(share)
    if limit is not None:
        config = replace(config, feature_bytes=min(limit, config.feature_bytes or limit))
    return config, end - training


def _plan(
    writer: FeatureWriter,
    text: TimedText,
    work: WorkFolder,
    seconds: float,
    end: float,
) -> tuple[float, float]:
    """Seconds for the training itself, and the share of the text that there is time for."""
    planned_for = {"planned_seconds": seconds, "planned_tokens": float(text.num_tokens)}
    training, share = work.recall("training_seconds"), work.recall("text_share")
    if training is None or share is None or any(
        work.recall(name) != value for name, value in planned_for.items()
    ):  # fmt: skip
        rate = _forward_rate(writer, text.missing) if text.missing else 1.0
        left = max(end - time.monotonic(), 0.0)
        share = text.share(left * _MOST_FEATURES * rate)
        to_do = text.tokens_to_do(share)
        training = left - to_do / rate
        work.note(training_seconds=training, text_share=share, **planned_for)
        if to_do:
            report(
                f"the target reads {rate:,.0f} tokens/s: {clock(to_do / rate)} for its forward "
                f"over {to_do:,} of {text.num_tokens:,} tokens, {text.num_done:,} are done"
            )
        report(f"plan: {clock(max(training, 0))} of training")
    return training, share


def _forward_rate(writer: FeatureWriter, shards: Sequence[Shard]) -> float:
    """Tokens per second of the target's forward with its labels, measured on some of the text."""
    probe, num_tokens = list[Sample](), 0
    for sample in chain.from_iterable(shard.samples for shard in shards):
        probe.append(sample)
        num_tokens += sample.num_tokens
        if num_tokens >= _PROBE_TOKENS:
            break
    writer.compute(probe[:1])  # the first call allocates
    started = time.monotonic()
    writer.compute(probe)
    return num_tokens / max(time.monotonic() - started, 1e-9)


def _writer(config: TrainConfig, loaded: TrainingSource) -> FeatureWriter:
    """For sizes and speed; which ids the vocabulary has changes neither."""
    size = min(config.draft_vocab_size, loaded.target.config.vocab_size)
    key = FeatureKey(
        target=loaded.target.identity,
        glimpse_layers=glimpsed_layers(config, loaded.target.config),
        glimpse_hidden=config.glimpse_hidden,
        top_k=config.top_k,
        dtype=config.feature_dtype,
        vocabulary=tuple(range(size)),
    )
    return FeatureWriter(loaded.target, key)
