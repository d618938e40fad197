"""A transformers model over our paged KV cache."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers import PreTrainedModel as Model
from transformers.utils import logging as hf_logging

from server.errors import CheckpointError, UnsupportedModelError
from server.kernels.cpu.linear import supports_products
from server.kernels.linear import LinearFn
from server.kernels.quantized import PartWeight
from server.kernels.scored_attention import scored_attention_for
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import ForwardFn, ScoredAttention, ScoreRules
from server.models.causal_lm import CausalLM
from server.models.hf.attention import ATTENTION, STEP, PagedStep, take_tuning
from server.models.hf.config import WIDENED, HFModel, first_line
from server.models.hf.longrope import fix_frequencies
from server.models.hf.native_modules import join_linears, take_linears, take_norms
from server.models.hf.row_weights import multiply_natively
from server.models.hf.split import split
from server.models.hf.torch_products import TorchProducts
from server.models.layers import Placement, Slots
from server.models.quantization import Quantization

_NAMES_SHOWN = 8
_HALF = {r"^(model\.)?language_model\.(model\.)?": "model."}
"""How a text half's tensors are called in the whole model -> alone."""


class HFParameters:
    """A loaded model of transformers', with the interface of `LlamaParameters`."""

    def __init__(self, found: HFModel, model: Model, placement: Placement) -> None:
        self.found, self.config, self.placement = found, found.config, placement
        self._model = model
        names: Any = model  # transformers' accessors are annotated as tensors
        self.embedding: torch.Tensor = names.get_input_embeddings().weight.detach()
        self.head_weight: torch.Tensor = names.get_output_embeddings().weight.detach()
        # A checkpoint that has another head keeps it, whatever its config says.
        is_tied = self.head_weight.data_ptr() == self.embedding.data_ptr()
        self.config = replace(self.config, tie_word_embeddings=is_tied)

    def slots(self) -> Slots:
        """transformers' names of the parameters -> themselves."""
        return {name: weight.detach() for name, weight in self._model.named_parameters()}

    def head(self, quantization: Quantization | None = None) -> PartWeight:
        """The head's weight [vocab_size, hidden] in the form it is kept in."""
        return (
            self.head_weight if quantization is None else quantization.of_one("", self.head_weight)
        )

    def freeze(self, quantization: Quantization | None = None) -> CausalLM:
        """The model, ready to run."""
        names: Any = self._model
        output = names.get_output_embeddings()  # asked of the whole model: its parts don't know it
        decoder, head = split(self._model)
        fix_frequencies(decoder, self.found.hf, self.config.max_position)
        dtype = self.placement.dtype
        is_native = supports_products(self.placement.device, dtype)
        if is_native:
            if names._can_set_experts_implementation():
                decoder.set_experts_implementation("eager")  # the one that multiplies one by one
            multiply_natively(decoder, self.found.probed.multiplied, quantization)
            multiply_natively(head, {}, quantization, output)
            take_norms(decoder)
        linears = take_linears(decoder) if is_native else {}
        attend = scored_attention_for(self.placement.device, dtype)
        forward = _forward(decoder, self.found, attend, dtype)
        apply_head = _head(head)
        model = CausalLM(
            self.config, self.placement, forward, apply_head, is_fused=False, has_threads=is_native
        )
        products = TorchProducts(decoder, head)
        with products if is_native else nullcontext():
            _try_out(model)
        if linears:
            join_linears(linears, lambda: _try_out(model))
        if dtype is torch.bfloat16:
            _refuse_torch(self.config.architecture, list(products.found))
        elif products.found:  # torch needs its threads; float32 has digits enough for any order
            model.has_threads = False
        return model

    def attention_maps(self, token_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each layer's attention [sequences, heads, tokens, tokens] over whole sequences
        [sequences, tokens], by transformers' own attention."""
        self._model.set_attn_implementation("eager")
        with torch.no_grad():
            found = self._model(token_ids, use_cache=False, output_attentions=True)
        self._model.set_attn_implementation(ATTENTION)
        return iter(found.attentions)


def _refuse_torch(architecture: str, names: Sequence[str]) -> None:
    """
    Args:
        names: weights in bfloat16 on a CPU that torch multiplies.

    Raises:
        UnsupportedModelError: there are any.
    """
    if names:
        shown = ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")
        raise UnsupportedModelError(
            f"{architecture}: the native kernels do not multiply {shown}; torch would, and in "
            "bfloat16 a row's result then depends on its company; --dtype float32 serves it"
        )


def load_hf(folder: Path, found: HFModel, placement: Placement) -> HFParameters:
    """Reads a checkpoint's weights.

    Raises:
        CheckpointError: weights are missing, left over, or of another shape.
    """
    form = found.quantized_as
    try:
        with _quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=found.hf,
                key_mapping=_HALF if found.is_half else None,
                **({} if form is None else {"quantization_config": WIDENED[form]}),
                dtype=placement.dtype,
                attn_implementation=ATTENTION,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise CheckpointError(folder, first_line(error)) from None
    model, report = loaded
    for problem, names in (
        ("is missing", report["missing_keys"]),
        ("has left-over", report["unexpected_keys"]),
        ("has misshapen", report["mismatched_keys"]),
    ):
        told = [str(name) for name in names]
        if found.is_half and problem == "has left-over":
            told = _of_own_parts(model, told)
        CheckpointError.refuse_tensors(folder, problem, sorted(told))
    return HFParameters(found, model.eval().to(placement.device), placement)


def _of_own_parts(model: Model, names: Sequence[str]) -> list[str]:
    """Finds those tensors that look like a text half's own, such as one layer more, among what it
    leaves of its checkpoint. All others belong to the other media."""
    own = {tuple(name.split(".")[:2]) for name, _ in model.named_parameters()}
    return [name for name in names if tuple(name.split(".")[:2]) in own]


@contextmanager
def _quietly() -> Generator[None]:
    """transformers draws bars and tables while it loads; what matters of them is checked here."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _head(head: Model) -> LinearFn:
    @torch.no_grad()
    def apply(hidden: torch.Tensor) -> torch.Tensor:
        return head(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits[0].float()

    return apply


@torch.no_grad()
def _try_out(model: CausalLM) -> torch.Tensor:
    """Runs two tokens, so that code which does not run here fails at start.

    Returns:
        Their logits.

    Raises:
        UnsupportedModelError: it does not.
    """
    config, placement, device = model.config, model.placement, model.placement.device
    shapes = config.kv_shapes or ((config.num_kv_heads, config.head_dim),) * config.num_layers
    made = (torch.zeros(2, 1, 2, *shape, dtype=placement.dtype, device=device) for shape in shapes)
    caches = [LayerCache(keys, values) for keys, values in made]
    rows = torch.arange(2, device=device)
    tables = torch.zeros(1, 1, dtype=torch.int64, device=device)
    batch = TreeBatch(rows, rows, tables, (0,), (2,), None, block_size=2)
    try:
        return model.logits(model(rows, caches, batch))
    except Exception as error:  # whatever a model's own code raises
        raise UnsupportedModelError(
            f"{config.architecture}: transformers' code does not run here: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _forward(
    decoder: Model, found: HFModel, attend: ScoredAttention, dtype: torch.dtype
) -> ForwardFn:
    layers, tunings, with_sinks = found.probed.layers, take_tuning(decoder), dict[int, ScoreRules]()

    @torch.no_grad()
    def run(
        token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        token = STEP.set(PagedStep(caches, batch, layers, tunings, attend, with_sinks))
        try:
            out = decoder(
                input_ids=token_ids.unsqueeze(0),
                position_ids=batch.positions.unsqueeze(0),
                use_cache=False,
            )
        finally:
            STEP.reset(token)
        return out.last_hidden_state[0].to(dtype)

    return run
