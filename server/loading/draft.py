"""From `--draft` to a speculator: the draft is loaded, gets KV of its own, and is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from server.config import DEFAULT_MODEL, ModelSettings
from server.engine.drafters.drafter import Drafter
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.model import ModelDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.schedule.planner import SchedulerConfig
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.cape import CapeConfig
from server.engine.speculation.costs import LiveCosts
from server.engine.speculation.lookup import TextIndexes
from server.engine.speculation.policies import PolicyConfig
from server.engine.speculation.recent import RecentOutputs
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.step.model import Model
from server.errors import UnsupportedModelError
from server.kernels.tree import LayerCache
from server.loading.costs import profile_path, step_costs
from server.loading.profile import Profiled
from server.loading.target import load_target, read_target
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.glide import GlideModel
from server.models.layers import Placement
from server.models.parameters import Parameters
from server.models.quantization import DRAFT_QUANTIZATION, Quantization
from server.parallel.remote import RemoteGlide, RemoteModel
from server.parallel.workers import Workers
from server.report import Report
from weights import default
from weights.checkpoint import checkpoint_identity, read_json
from weights.glide import load_glide
from weights.locate import locate_model
from weights.model_names import check_draft_name, gguf_of
from weights.quantization import can_quantize


@dataclass(frozen=True, slots=True)
class Draft:
    """A loaded draft before it has KV."""

    model: GlideModel | CausalLM | None
    """The loaded model; None for prompt lookup."""
    shape: CacheShape | None
    """KV per token, in the same pool of blocks as the target's."""
    identity: str
    name: str
    """The draft's name, for people."""


def load_draft(
    settings: ModelSettings,
    target: Parameters,
    placement: Placement,
    quantization: Quantization | None,
    report: Report,
) -> Draft | None:
    """What `--draft` names; None for none.

    Args:
        target: a draft may share its embedding and head.
        quantization: of the target; where it has one, the draft's weights are kept in 4 bits.

    Raises:
        StartupError: there is no such draft, or it doesn't fit the target.
    """
    name = _named(settings)
    if name == "none":
        return None
    if name == "ngram":
        return Draft(None, None, "ngram", "prompt lookup")
    folder = locate_draft(name, settings, placement, report)
    if read_json(folder / "config.json").get("model_type") == "glide":
        head = target.head(quantization)
        glide = load_glide(folder, target.config, placement, target.embedding, head)
        report(f"loaded GliDe draft {folder.name}: {glide.cache_shape.num_layers} layers")
        shape = CacheShape(*glide.cache_shape, placement.dtype)
        return Draft(glide, shape, checkpoint_identity(folder), folder.name)
    model, shape = load_draft_model(folder, target.config, placement, quantization, report)
    return Draft(model, shape, checkpoint_identity(folder), folder.name)


def load_draft_model(
    folder: Path,
    target: ModelConfig,
    placement: Placement,
    quantization: Quantization | None,
    report: Report,
) -> tuple[CausalLM, CacheShape]:
    """A language model as draft, and its KV per token; arguments and errors as above."""
    files = read_target(folder)
    config = files.config
    _check_vocabulary(config, target)
    form = DRAFT_QUANTIZATION if quantization and can_quantize(config) else None
    loaded = load_target(files, placement, form)
    report(f"loaded draft model {folder.name}: {config.num_layers} layers")
    return loaded.freeze(), loaded.kv_shape


def build_speculator(
    settings: ModelSettings,
    draft: Draft,
    target: Model,
    caches: Sequence[LayerCache],
    limits: SchedulerConfig,
    identity: str,
    device: torch.device,
    report: Report,
    workers: Workers | None = None,
) -> Speculator:
    """Gives the draft its KV and measures what proposals cost on this machine (kept in the cache
    folder, and looked at again at each start).

    Args:
        identity: of the target with its precision, device and threads.
        workers: the other ranks of tensor parallelism.
    """
    texts = TextIndexes()
    lookup = _lookup(settings, texts)
    drafter = _drafter(draft, caches, limits, device, texts, workers) or lookup
    path = profile_path(settings, f"{identity}|{draft.identity}", device)
    profiled = Profiled(target, caches, limits.block_size, device)
    costs = step_costs(path, profiled, drafter, report)
    one, eight = costs.verify(1) * 1000, costs.verify(8) * 1000
    report(
        f"speculating with {drafter.name}: a step of 1 token {one:.1f} ms, of 8 {eight:.1f} ms, "
        f"a draft step {costs.draft(1) * 1000:.1f} ms"
    )
    live, config = LiveCosts(costs), policy_config(settings)
    if draft.model is None:
        return Speculator(drafter, config, AutoPolicy(live))
    return Speculator(drafter, config, AutoPolicy(live), lookup)


def _lookup(settings: ModelSettings, texts: TextIndexes) -> NgramDrafter:
    """Prompt lookup, over recent answers too."""
    most = settings.recent_outputs
    return NgramDrafter(texts, RecentOutputs(most) if most else None)


def policy_config(settings: ModelSettings) -> PolicyConfig:
    """The fixed policies' depths and widths."""
    cape = CapeConfig(settings.cape_thresholds, settings.cape_leaves)
    return PolicyConfig(beam_width=settings.beam_width, cape=cape)


def _named(settings: ModelSettings) -> str:
    if settings.draft != "auto":
        return settings.draft
    return str(default.DRAFT) if settings.model == DEFAULT_MODEL else "none"


def locate_draft(name: str, settings: ModelSettings, placement: Placement, report: Report) -> Path:
    """The folder of a draft, which may be a hub id.

    Raises:
        StartupError: there is no such draft.
    """
    check_draft_name(name)
    path = Path(name).expanduser()
    if path.is_dir() and gguf_of(path) is None:
        return path
    return locate_model(name, settings.cache_dir, placement.dtype, report)


def _check_vocabulary(draft: ModelConfig, target: ModelConfig) -> None:
    if draft.vocab_size != target.vocab_size:
        raise UnsupportedModelError(
            f"the draft's vocabulary has {draft.vocab_size} tokens, the target's "
            f"{target.vocab_size}: they must be the same"
        )


def _drafter(
    draft: Draft,
    caches: Sequence[LayerCache],
    limits: SchedulerConfig,
    device: torch.device,
    texts: TextIndexes,
    workers: Workers | None,
) -> Drafter | None:
    """Gives None where there is no draft with a model."""
    if draft.model is None or draft.shape is None:
        return None
    own = allocate_kv(draft.shape, limits.num_allocated_blocks, limits.block_size, device)
    if isinstance(draft.model, GlideModel):
        glide = RemoteGlide(draft.model, workers) if workers else draft.model
        return GlideDrafter(glide, own, caches, limits.block_size, device, texts)
    model: Model = draft.model
    if workers:
        model = RemoteModel(draft.model, workers, "draft_forward", "draft_logits")
    return ModelDrafter(model, own, limits.block_size, device)
