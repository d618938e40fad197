"""What is said of a loaded model, without the model: it can travel to another process."""

from dataclasses import dataclass

from server.engine.types import SamplingDefaults, SpeculationParams


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about the model that serves, and about its engine."""

    name: str
    identity: str
    """Tells checkpoints, precisions and devices apart."""
    precision: str
    """For people: such as `bfloat16`, or `q4_k and q6_k weights in bfloat16`."""
    kernels: str
    """What computes the model's layers, for people."""
    draft: str
    """The draft's name, for people."""
    speculation: SpeculationParams
    """Values for requests that don't set them; policy off where there is no draft."""
    can_speculate: bool
    vocab_size: int
    """Ids the model knows; the tokenizer's may be fewer."""
    max_model_len: int
    default_sampling: SamplingDefaults
    """Values for requests that don't set them."""
