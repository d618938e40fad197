"""Target and draft in memory, in the form in which they run."""

from dataclasses import dataclass

import torch

from server.config import ModelSettings
from server.engine.step.kv_cache import CacheShape
from server.loading.draft import Draft, load_draft
from server.loading.machine import cpu_kernels, describe_foreign_kernels, describe_kernels
from server.loading.ranks import guarded, rank_threads
from server.loading.target import (
    LoadedTarget,
    TargetFiles,
    choose_form,
    describe_backend,
    load_target,
)
from server.models.causal_lm import CausalLM
from server.models.layers import Placement
from server.parallel.workers import Workers
from server.report import Report
from weights.checkpoint import checkpoint_identity
from weights.model_names import model_name
from weights.quantization import describe_rounded


@dataclass(frozen=True, slots=True)
class Placed:
    """Target and draft in memory, ready to run."""

    target: CausalLM
    kv_shape: CacheShape
    """The target's KV of a token, on this rank."""
    form: str
    """The format of the target's weights, for people."""
    draft: Draft | None
    workers: Workers | None
    identity: str
    """Identifies the target with its precision, device and threads."""
    kernels: str
    """What computes the target's layers, for people."""
    is_native: bool
    """Whether the target's code is ours. Steps of other code are not captured: it may ask the GPU
    for values in between."""

    @property
    def placement(self) -> Placement:
        return self.target.placement

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's KV, the draft's own among them."""
        if self.draft is None or self.draft.shape is None:
            return self.kv_shape.bytes_per_token
        return self.kv_shape.bytes_per_token + self.draft.shape.bytes_per_token


def place(
    settings: ModelSettings,
    files: TargetFiles,
    placement: Placement,
    workers: Workers | None,
    report: Report,
) -> Placed:
    """Loads target and draft into this rank's memory, in the form in which they run.

    Raises:
        StartupError: whatever is wrong with settings or checkpoints.
        WorkerDiedError: a process of tensor parallelism ended.
    """
    quantization = None
    if workers is None:  # blocks of weights are for the native kernels, which run whole models
        quantization = choose_form(files, placement, settings.quantization)
    target = load_target(files, placement, quantization)
    layers = f"{files.config.num_layers} layers, {target.form} on {placement.device}"
    report(f"loaded {model_name(settings.model)}: {layers}, {describe_backend(files)}")
    for line in describe_rounded(quantization):
        report(line)
    draft = guarded(
        workers, lambda: load_draft(settings, target.parameters, placement, quantization, report)
    )
    model = target.freeze()
    if files.hf is None:
        kernels = describe_kernels(placement, model.is_fused)
    else:
        if files.hf.note:
            report(files.hf.note)
        described = files.hf.scored_in_torch
        kernels = describe_foreign_kernels(placement, described, model.has_threads)
    report(kernels)
    if model.has_threads:
        # After each parallel operation torch's threads spin for milliseconds, on the cores that the
        # native kernels' own threads need; what is left to torch is small.
        torch.set_num_threads(1)
    identity = _identity(target, model, rank_threads(settings), workers)
    if files.hf is not None:
        identity += f"|{files.hf.described}"
    return Placed(
        model, target.kv_shape, target.form, draft, workers, identity, kernels, files.hf is None
    )


def _identity(
    target: LoadedTarget, model: CausalLM, num_threads: int, workers: Workers | None
) -> str:
    """Tells checkpoints, forms of weights, kernels, devices, threads and ranks apart."""
    kind = target.quantization and target.quantization.kind
    form = f"{target.form}|{kind}|{_kernels_identity(model)}"
    device = model.placement.device.type
    identity = f"{checkpoint_identity(target.files.folder)}|{form}|{device}|{num_threads} threads"
    return identity + (f"|{workers.size} ranks" if workers else "")


def _kernels_identity(model: CausalLM) -> str:
    """Costs and rounding differ between instruction sets. AVX-512 is not named: what was stored
    before there were others was measured with it."""
    kernels = cpu_kernels() if model.has_threads else None
    suffix = "" if kernels in (None, "avx512") else f" {kernels}"
    if model.has_threads and not model.is_fused:
        suffix += " products"
    return f"fused {model.is_fused}{suffix}"
