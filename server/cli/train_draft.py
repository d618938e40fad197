"""Stage 2 of `glidecape train`: shares the time that is left between the target's forward over the
text and the training itself, and runs both."""

import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from server.cli.terminal import report, stderr
from server.cli.train_checks import room_for_features
from server.cli.train_progress import clock
from server.config import ModelSettings
from server.errors import ConfigError
from weights.train.card import write_card
from weights.train.config import TrainConfig, glimpsed_layers
from weights.train.feature_store import FeatureKey
from weights.train.features import FeatureWriter
from weights.train.load import LoadedTarget, load_target
from weights.train.samples import Sample, read_samples
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
) -> None:
    """Loads the target, trains, and writes the draft's card.

    Args:
        seconds: for loading, the target's forward and the training, over all runs; None for no
            limit.

    Raises:
        StartupError: as `weights.train.train`; or the time is too short.
    """
    earlier = work.recall(_FORWARD_SECONDS) or 0.0
    began = time.monotonic()
    try:
        config = replace(config, feature_bytes=room_for_features(work.path))
        loaded = load_target(settings.model, config, settings.cache_dir, report)
        deadline = math.inf
        if seconds is not None:
            end = began + seconds - earlier
            config, deadline = _timed(config, loaded, work, seconds, end)
        data = prepare(
            config, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, stderr, deadline
        )
    finally:
        work.note(**{_FORWARD_SECONDS: earlier + time.monotonic() - began})
    trained = learn(config, loaded.target, data, stderr)
    write_card(config, settings.model, trained, f"glidecape {shlex.join(sys.argv[1:])}")


def _timed(
    config: TrainConfig,
    loaded: LoadedTarget,
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
    training, share = _plan(config, loaded, samples, work, seconds, end)
    if training < _LEAST_SECONDS:
        reason = "no time is left to train in; give more, or less text"
        raise ConfigError("minutes", round(seconds / 60, 2), reason)
    config = replace(config, minutes=training / 60)
    if share < 1:
        shape = _writer(config, loaded).shape()
        most = int(share * sum(map(shape.sample_bytes, samples)))
        most = max(1, min(most, config.feature_bytes or most))
        config = replace(config, feature_bytes=most)
    return config, end - training


def _plan(
    config: TrainConfig,
    loaded: LoadedTarget,
    samples: Sequence[Sample],
    work: WorkFolder,
    seconds: float,
    end: float,
) -> tuple[float, float]:
    """Seconds for the training itself, and the share of the text that there is time for."""
    num_tokens = sum(sample.num_tokens for sample in samples)
    planned_for = {"planned_seconds": seconds, "planned_tokens": float(num_tokens)}
    training, share = work.recall("training_seconds"), work.recall("text_share")
    if training is None or share is None or any(
        work.recall(name) != value for name, value in planned_for.items()
    ):  # fmt: skip
        rate = _forward_rate(config, loaded, samples)
        left = max(end - time.monotonic(), 0.0)
        share = min(1.0, left * _MOST_FEATURES * rate / num_tokens)
        forward = share * num_tokens / rate
        training = left - forward
        work.note(training_seconds=training, text_share=share, **planned_for)
        report(
            f"the target reads {rate:,.0f} tokens/s: {clock(forward)} for its forward over "
            f"{share:.0%} of {num_tokens:,} tokens, then {clock(max(training, 0))} of training"
        )
    return training, share


def _forward_rate(config: TrainConfig, loaded: LoadedTarget, samples: Sequence[Sample]) -> float:
    """Tokens per second of the target's forward with its labels, measured on some of the text."""
    probe, num_tokens = list[Sample](), 0
    for sample in samples:
        probe.append(sample)
        num_tokens += sample.num_tokens
        if num_tokens >= _PROBE_TOKENS:
            break
    writer = _writer(config, loaded)
    writer.compute(probe[:1])  # the first call allocates
    started = time.monotonic()
    writer.compute(probe)
    return num_tokens / max(time.monotonic() - started, 1e-9)


def _writer(config: TrainConfig, loaded: LoadedTarget) -> FeatureWriter:
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
