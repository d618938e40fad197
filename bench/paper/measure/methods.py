"""The ways of decoding that are compared: plain, and a drafter with a policy each.

All share one engine. Every method has a speculator of its own, so that what `auto` learns while it
decodes is not learned from the others' proposals, but from its own earlier prompts, as in a server.
Drafters of the same kind are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from server.config import ModelSettings
from server.engine.drafters.drafter import Drafter
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.model import ModelDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import allocate_kv
from server.engine.types import SpeculationParams
from server.errors import ConfigError
from server.loading.draft import load_draft_model, locate_draft, policy_config
from server.loading.model import LoadedModel
from server.models.causal_lm import CausalLM
from server.models.glide import GlideModel
from server.models.glide_config import MODEL_TYPE
from server.models.layers import Placement
from server.report import Report
from weights.checkpoint import read_json

MethodName = Literal["plain", "ngram", "draft_model", "chain", "beam4", "beam8", "cape", "auto"]

LABELS: dict[MethodName, str] = {
    "plain": "plain",
    "ngram": "n-gram, γ 5",
    "draft_model": "draft model, γ 5",
    "chain": "GliDe, γ 5",
    "beam4": "GliDe + 4 beams",
    "beam8": "GliDe + 8 beams",
    "cape": "GliDe + CaPE, γ 4",
    "auto": "GliDe, auto",
}
CHAINS: tuple[MethodName, ...] = ("ngram", "draft_model", "chain")
"""Methods with an acceptance rate per position."""
CHAIN_DEPTH, CAPE_DEPTH, BEAM_DEPTH = 5, 4, 4
_BASELINES: tuple[MethodName, ...] = ("plain", "ngram", "draft_model")


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the tables."""

    name: MethodName
    speculator: Speculator | None
    """None decodes plainly."""
    params: SpeculationParams


def parse_names(wanted: str | None, has_draft_model: bool) -> tuple[MethodName, ...]:
    """Methods to measure, plain first, in the tables' order.

    Args:
        wanted: names with commas between; None for the paper's methods.

    Raises:
        ConfigError: an unknown name, or draft_model without one.
    """
    known: tuple[MethodName, ...] = get_args(MethodName)
    if wanted is None:
        return tuple(n for n in known if n != "ngram" and (n != "draft_model" or has_draft_model))
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError("methods", name, f"expected some of {', '.join(known)}")
    if "draft_model" in names and not has_draft_model:
        raise ConfigError("methods", wanted, "draft_model needs --draft-model")
    return tuple(name for name in known if name in names or name == "plain")


def glide_of(model: LoadedModel) -> tuple[GlideDrafter, GlideModel]:
    """The draft under evaluation.

    Raises:
        ConfigError: the draft is none, or none of GliDe's kind.
    """
    drafter = model.speculator.drafter if model.speculator else None
    if not isinstance(drafter, GlideDrafter) or not isinstance(drafter.model, GlideModel):
        found = drafter.name if drafter else "none"
        reason = "expected a folder with a GliDe draft (a small model goes to --draft-model)"
        raise ConfigError("draft", found, reason)
    return drafter, drafter.model


def make_methods(
    model: LoadedModel,
    settings: ModelSettings,
    names: Sequence[MethodName],
    draft_model: str | None,
    report: Report,
) -> list[Method]:
    """Makes the methods of these names.

    Args:
        draft_model: the value of `--draft-model`.

    Raises:
        StartupError: there is no such draft model, or it does not fit the target.
    """
    glide, _ = glide_of(model)
    if model.speculator is None:
        raise RuntimeError("built with a draft, but without a speculator")
    costs = model.speculator.auto.costs
    baselines: dict[MethodName, Drafter] = {"ngram": NgramDrafter()}
    if "draft_model" in names and draft_model is not None:
        baselines["draft_model"] = _small_model(model, settings, draft_model, glide, report)
    return [
        method(name, baselines.get(name, glide), policy_config(settings), AutoPolicy(costs))
        for name in names
    ]


def method(name: MethodName, drafter: Drafter, config: PolicyConfig, auto: AutoPolicy) -> Method:
    """A method with the paper's depths; config gives CaPE's table."""
    params = _params(name)
    if name == "plain":
        return Method(name, None, params)
    config = replace(config, beam_width=8 if name == "beam8" else 4)
    lookup = NgramDrafter() if name == "auto" else None  # as it is served
    speculator = Speculator(drafter, config, auto, lookup)
    return Method(name, speculator, params)


def _params(name: MethodName) -> SpeculationParams:
    match name:
        case "plain":
            return SpeculationParams("off")
        case "auto":
            return SpeculationParams("auto")
        case "cape":
            return SpeculationParams("cape", CAPE_DEPTH)
        case "beam4" | "beam8":
            # Eight beams of four tokens and the root are one row more than a request's default.
            return SpeculationParams("beam", BEAM_DEPTH, max_nodes=8 * BEAM_DEPTH + 1)
        case "chain" | "ngram" | "draft_model":
            return SpeculationParams("chain", CHAIN_DEPTH)


def _small_model(
    model: LoadedModel,
    settings: ModelSettings,
    name: str,
    glide: GlideDrafter,
    report: Report,
) -> ModelDrafter:
    """A draft model beside the GliDe, with KV under the same block ids."""
    config = Path(name).expanduser() / "config.json"
    if config.is_file() and read_json(config).get("model_type") == MODEL_TYPE:
        raise ConfigError("draft_model", name, "is a GliDe draft; that is what --draft takes")
    target = model.runner.model
    if not isinstance(target, CausalLM):
        raise RuntimeError("the target is no Llama-family model")
    if name in ("none", "ngram", "auto"):
        raise ConfigError("draft_model", name, "expected a small language model")
    placement = Placement(glide.device, glide.caches.own[0].keys.dtype)
    folder = locate_draft(name, settings, placement, report)
    draft, shape = load_draft_model(folder, target.config, placement, None, report)
    num_blocks = len(glide.caches.own[0].keys)
    caches = allocate_kv(shape, num_blocks, glide.block_size, glide.device)
    return ModelDrafter(draft, caches, glide.block_size, glide.device)
