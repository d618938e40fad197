"""A causal language model of transformers' in two parts: decoder and head."""

import inspect
from typing import NamedTuple

import torch
from transformers import PreTrainedModel as Model

from server.errors import UnsupportedModelError


class Parts(NamedTuple):
    """The two parts of a model that a step runs one after the other."""

    decoder: Model
    """Token ids -> final hidden states, normed."""
    head: Model
    """Final hidden states (as `inputs_embeds`) -> logits: the model itself, with nothing where its
    decoder was. So what it does with logits, caps and factors, is done by its own code."""


def split(model: Model) -> Parts:
    """Takes a model apart; it can't be used as a whole any more.

    Raises:
        UnsupportedModelError: it has no such parts.
    """
    children = [(name, child) for name, child in model.named_children() if isinstance(child, Model)]
    name = type(model).__name__
    if len(children) != 1:
        raise UnsupportedModelError(f"{name} is not made of a decoder and a head")
    ((place, decoder),) = children
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise UnsupportedModelError(
            f"{name} takes no position ids: a tree's nodes could not say where they are"
        )
    setattr(model, place, _Nothing())
    return Parts(decoder, model)


class _Nothing(torch.nn.Module):
    """A decoder that gives back the hidden states that it is given."""

    def forward(
        self, *positional: object, inputs_embeds: torch.Tensor, **unused: object
    ) -> "_Output":
        return _Output(inputs_embeds)


class _Output:
    """What a decoder gives; everything in it but the hidden states is None."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> torch.Tensor | None:
        return self.last_hidden_state if index == 0 else None
