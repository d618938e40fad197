"""Shares the time that is left after the text between the target's forward over it and the training
itself. What is on disk already costs none.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from server.errors import ConfigError
from server.report import Report
from weights.train.config import TrainConfig
from weights.train.features.store import (
    FOLDER,
    FeatureShape,
    Shard,
    left_over_bytes,
    stored_bytes,
    within,
)
from weights.train.features.writer import FeatureWriter
from weights.train.load import TrainingSource
from weights.train.progress import clock
from weights.train.shards import read_shards
from weights.train.text.samples import Sample
from weights.train.train import feature_key
from weights.train.work_folder import WorkFolder

_PROBE_TOKENS = 4096
"""Tokens that the speed of the target's forward is measured on."""
TEXT_SHARE = 0.4
"""Largest share of all the time that writing text may take. Where its features are not taken
meanwhile, the target's forward over it takes almost as long again, and the training needs some
epochs."""
MOST_FEATURES = 0.6
"""Most of the time after the text that the target's forward may take; text beyond it is left
out."""
_LEAST_SECONDS = 5.0
"""Shorter than this, nothing is learnt."""


@dataclass(frozen=True, slots=True)
class TimedText:
    """The text of a run, and those of its features that are there."""

    shards: Sequence[Shard]
    shape: FeatureShape
    stored: Mapping[str, int]
    """Bytes of each shard on disk, by its name: see `stored_bytes`."""

    @property
    def num_tokens(self) -> int:
        return _num_tokens(self.shards)

    @property
    def missing(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.name not in self.stored]

    @property
    def num_done(self) -> int:
        """Tokens that the target has read."""
        return self.num_tokens - _num_tokens(self.missing)

    def share(self, tokens: float) -> float:
        """Share of the features' bytes, 0 to 1: those that are there, and of the others as many
        as go with so many tokens."""
        missing = self.missing
        if tokens >= _num_tokens(missing):
            return 1.0
        whole, lacking = self.shape.num_bytes(self.shards), self.shape.num_bytes(missing)
        return (whole - lacking * (1 - tokens / _num_tokens(missing))) / whole

    def limit(self, share: float) -> int | None:
        """Most bytes for `within`; None where everything is taken."""
        if share >= 1:
            return None
        most = round(share * self.shape.num_bytes(self.shards))
        return max(1, most + left_over_bytes(self.shards, self.stored))

    def tokens_to_do(self, share: float) -> int:
        """That the target has still to read."""
        chosen = within(self.shards, self.shape, self.limit(share), self.stored)
        return _num_tokens([shard for shard in chosen if shard.name not in self.stored])


def plan_time(
    config: TrainConfig,
    loaded: TrainingSource,
    work: WorkFolder,
    seconds: float,
    end: float,
    report: Report,
) -> tuple[TrainConfig, float]:
    """Returns the config with a limit for the training itself, and for the text where it is too
    much; and the monotonic second at which the training has to begin.

    A run that is started again keeps the limits of the first one, as long as time and text are the
    same: the learning rate follows the plan.

    Args:
        seconds: for loading, the target's forward and the training, over all runs.
        end: monotonic seconds at which they are over, if nothing was trained yet.

    Raises:
        ConfigError: no time is left for the training.
    """
    vocab_size = loaded.target.config.vocab_size
    shards = read_shards(config, loaded.prompt_ids, vocab_size, loaded.stop_token_ids)
    writer = _writer(config, loaded)
    text = TimedText(shards, writer.shape(), stored_bytes(work.path / FOLDER))
    training, share = _plan(writer, text, work, seconds, end, report)
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
    report: Report,
) -> tuple[float, float]:
    """Seconds for the training itself, and the share of the text that there is time for. A plan
    that was made for the same time and text stays."""
    planned_for = {"planned_seconds": seconds, "planned_tokens": float(text.num_tokens)}
    training, share = work.recall("training_seconds"), work.recall("text_share")
    if training is None or share is None or any(
        work.recall(name) != value for name, value in planned_for.items()
    ):  # fmt: skip
        rate = _forward_rate(writer, text.missing) if text.missing else 1.0
        left = max(end - time.monotonic(), 0.0)
        share = text.share(left * MOST_FEATURES * rate)
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
    """Makes a writer to ask for sizes and speed."""
    return FeatureWriter(loaded.target, feature_key(config, loaded.target))


def _num_tokens(shards: Sequence[Shard]) -> int:
    return sum(shard.num_tokens for shard in shards)
