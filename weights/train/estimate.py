"""What a training will take and bring, told before it begins: an estimate, not a promise.

Speeds follow from one product that is measured here, and from what the default model's stages
reached of that speed. The share of tokens that the draft gets right follows from drafts of the
default model on several amounts of text. Both are in `docs/log.md` under "A training's estimate".
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from server.models.config import ModelConfig
from weights.train.checks import LAYERS, PROMPT_SHARE, feature_bytes, layer_weights
from weights.train.config import TrainConfig
from weights.train.fit.precision import operations_per_second, pick_precision
from weights.train.progress import clock
from weights.train.time_plan import MOST_FEATURES, TEXT_SHARE

_EPOCHS = 3.0
"""Passes where no time is given."""
_WRITING, _READING, _LEARNING = 0.28, 0.48, 0.27
"""Share of the measured speed that writing text, the target's forward and learning reach."""
_AGREEMENT = ((64_000, 0.46), (426_000, 0.61), (1_090_000, 0.65))
"""Tokens learnt, and how often a draft of the default model was right on held-out text then."""
_MOST_AGREEMENT = 0.7


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run may come to."""

    num_tokens: int
    """Of answers, to learn from."""
    text_seconds: float
    feature_seconds: float
    feature_bytes: int
    training_seconds: float
    passes: float
    """Over the text."""
    goes_on: bool = False
    """Whether it goes on from a draft, which may have seen any amount of text."""

    @property
    def agreement(self) -> float:
        """How often the draft's first token will be the target's, on text of the same kind."""
        points = [(math.log(tokens), share) for tokens, share in _AGREEMENT]
        at = math.log(max(self.num_tokens, 1))
        pairs = list(pairwise(points))
        (x0, y0), (x1, y1) = next((pair for pair in pairs if at <= pair[1][0]), pairs[-1])
        return min(max(y0 + (y1 - y0) * (at - x0) / (x1 - x0), 0.0), _MOST_AGREEMENT)

    def __str__(self) -> str:
        """One line for a person."""
        outcome = f"the draft may be right at {100 * self.agreement:.0f} % of the tokens"
        if self.goes_on:
            outcome = "the draft may know this kind of text better than before"
        return (
            f"estimate: {self.num_tokens:,} tokens of text, {clock(self.text_seconds)} to write; "
            f"{clock(self.feature_seconds)} for features, {self.feature_bytes / 2**30:.1f} GiB of "
            f"disk; {clock(self.training_seconds)} of training, {self.passes:.1f} passes; then "
            f"{outcome}"
        )


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds per token of an answer."""

    writing: float
    reading: float
    """With its share of the prompt."""
    learning: float
    """In one pass."""


def estimate(
    config: TrainConfig,
    target: ModelConfig,
    device: torch.device,
    num_given: int,
    num_wanted: int,
    seconds: float | None,
    *,
    records: bool = False,
) -> Estimate:
    """Estimates a run from its beginning; measures a product for half a second.

    Args:
        num_given: tokens of text that are there.
        num_wanted: tokens that are to be written, as far as there is time.
        seconds: for everything; None for no limit.
        records: whether text that is written has its features then.
    """
    costs = _costs(config, target, device)
    if seconds is None:
        num_written = num_wanted
        num_read = num_given + (0 if records else num_written)
        num_tokens = num_given + num_written
        training = (config.epochs or _EPOCHS) * num_tokens * costs.learning
    else:
        num_written = min(num_wanted, int(seconds * TEXT_SHARE / costs.writing))
        left = seconds - num_written * costs.writing
        num_read = num_given + (0 if records else num_written)
        num_read = min(num_read, int(left * MOST_FEATURES / costs.reading))
        num_tokens = num_read + (num_written if records else 0)
        training = left - num_read * costs.reading
    epochs = training / max(num_tokens * costs.learning, 1e-9)
    return Estimate(
        num_tokens=num_tokens,
        text_seconds=num_written * costs.writing,
        feature_seconds=num_read * costs.reading,
        feature_bytes=feature_bytes(config, target, num_tokens),
        training_seconds=training,
        passes=epochs if config.epochs is None else min(epochs, config.epochs),
        goes_on=config.from_draft is not None,
    )


def _costs(config: TrainConfig, target: ModelConfig, device: torch.device) -> _Costs:
    """A multiplication with each weight is two operations; learning takes three times as many."""
    layer = layer_weights(target)
    weights = layer * target.num_layers
    head = target.vocab_size * target.hidden_size
    draft = LAYERS * layer + config.draft_vocab_size * target.hidden_size
    speed = operations_per_second(pick_precision(config.precision, device), device)
    forward = 2 * (weights + head) / speed
    return _Costs(
        writing=forward / _WRITING,
        reading=(2 * weights * PROMPT_SHARE + 2 * head) / speed / _READING,
        learning=6 * draft / speed / _LEARNING,
    )
