"""Every setting of training a draft, in one place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from server.errors import ConfigError
from server.models.config import ModelConfig

_MOST_SEED = 2**43 - 1
"""Epochs and steps are counted on from a million times the seed; torch takes 64 bits."""

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, on what, for how long.

    Raises:
        ConfigError: a setting is out of range; names it and its value.
    """

    text: tuple[Path, ...]
    """JSONL files, plain or gzipped, as `weights/train/text/samples.py` describes."""
    out: Path
    """Folder the draft is written to."""
    work: Path
    """Folder of cached features and checkpoints. May be deleted after training."""
    from_draft: Path | None = None
    """Draft to go on from, whose shape and vocabulary stay; else one begins from the target."""
    glimpse_layers: tuple[int, ...] | None = None
    """Target layers the draft reads, negative ones counted from the last; empty for none; default:
    those in which the target copies, and the last one (`features/induction.py`)."""
    glimpse_hidden: bool = True
    """Whether the draft sees the target's final hidden state at the last verified position."""
    copy_hint: bool = True
    """Whether the draft sees what followed the sequence's last tokens when they occurred before."""
    forgotten_copies: float = 0.1
    """Share of tokens behind which training hides that, for steps that look nothing up."""
    copied_share: float = 0.01
    """Share of the learnt tokens that are random ones said a second time (`text/repeated.py`)."""
    draft_vocab_size: int = 8192
    """Tokens the draft can propose anywhere: the most frequent ones of the text."""
    context_vocab_size: int = 128
    """Other tokens it can propose where they stand in the sequence already; most per sequence."""
    max_delay: int = 6
    """Longest block in tokens that the delay of the target's KV is simulated for."""
    top_k: int = 16
    """Tokens of the target's distribution that are kept as soft label."""
    max_sample_tokens: int = 2048
    """Longer samples are cut."""
    feature_bytes: int | None = None
    """Most disk the cached features may take, with those of text that is used no more; text beyond
    is left out. Default: no limit."""
    feature_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision the target's KV and hidden states are kept in: that of the KV cache drafts meet."""
    learning_rate: float = 1.5e-3
    """Highest learning rate; reached after the warm-up, falling to a hundredth at the end."""
    warmup: float = 0.025
    """Share of the training in which the learning rate rises."""
    decay: float = 0.2
    """Share of the training, at its end, in which the learning rate falls."""
    averaging: float = 0.998
    """Share that the averaged weights keep at a step; 0 for no averaging."""
    weight_decay: float = 0.01
    """Weight decay of the matrices; norms have none."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    batch_tokens: int = 512
    """Tokens in an optimizer step, prompts included."""
    micro_batch_tokens: int = 2048
    """Tokens in one forward and backward; the step's gradient is summed over several."""
    epochs: float | None = None
    """Passes over the text; default 3 where neither minutes nor steps are given."""
    steps: int | None = None
    """Optimizer steps."""
    minutes: float | None = None
    """Time of the training itself, features not counted. What comes first ends it."""
    seed: int = 0
    """Seed of the order of the text and of the delays."""
    precision: Precision = "auto"
    """Precision of matrix products; auto measures which is faster here. Weights are float32."""
    checkpoint_seconds: float = 45.0
    """Most training that a kill can cost."""
    validation_seconds: float = 300.0
    """Time between two looks at the held-out samples."""
    validation_tokens: int = 20_000
    """Most held-out tokens looked at."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ConfigError("text", self.text, "at least one file is needed")
        for name in (
            "draft_vocab_size", "max_delay", "top_k", "batch_tokens", "micro_batch_tokens",
            "feature_bytes", "learning_rate", "gradient_clip", "epochs", "steps", "minutes",
            "checkpoint_seconds", "validation_seconds", "validation_tokens",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(name, value, "must be positive")
        if not 0 <= self.seed <= _MOST_SEED:
            raise ConfigError("seed", self.seed, f"must be between 0 and {_MOST_SEED}")
        if self.max_sample_tokens < 4:
            raise ConfigError("max_sample_tokens", self.max_sample_tokens, "must be at least 4")
        if self.top_k >= self.draft_vocab_size:
            reason = f"must be below draft_vocab_size, {self.draft_vocab_size}"
            raise ConfigError("top_k", self.top_k, reason)
        for name in ("warmup", "decay", "averaging", "forgotten_copies", "copied_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "must be at least 0 and below 1")
        if self.warmup + self.decay > 1:
            raise ConfigError("decay", self.decay, f"overlaps with warmup, {self.warmup}")
        if self.weight_decay < 0:
            raise ConfigError("weight_decay", self.weight_decay, "must not be negative")


def chosen_layers(config: TrainConfig, target: ModelConfig) -> tuple[int, ...] | None:
    """The target layers the draft shall read, counted from 0; None where the probe decides.

    Raises:
        ConfigError: the target has no such layer.
    """
    layers = config.glimpse_layers
    if layers is None:
        return None
    for layer in layers:
        if not -target.num_layers <= layer < target.num_layers:
            raise ConfigError("glimpse_layers", layer, f"the target has {target.num_layers} layers")
    return tuple(layer % target.num_layers for layer in layers)


class VocabularySizes(TypedDict):
    """The sizes of a draft's vocabulary, named as in `GlideConfig`."""

    draft_vocab_size: int | None
    context_vocab_size: int


def vocabulary_sizes(config: TrainConfig, vocab_size: int) -> VocabularySizes:
    """The draft's `draft_vocab_size` and `context_vocab_size`. A draft that knows all of a small
    vocabulary has no limit and needs nothing beside it.

    Args:
        vocab_size: the target's.
    """
    if config.draft_vocab_size >= vocab_size:
        return {"draft_vocab_size": None, "context_vocab_size": 0}
    return {
        "draft_vocab_size": config.draft_vocab_size,
        "context_vocab_size": config.context_vocab_size,
    }
