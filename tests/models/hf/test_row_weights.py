"""Native products in a transformers model: in bfloat16 rows do not depend on their company, to the
bit; and blocks of 8 and 4 bits."""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteMoeConfig,
    Llama4TextConfig,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from server.errors import UnsupportedModelError
from server.kernels.cpu.linear import NativeLinear
from server.models.causal_lm import CausalLM
from server.models.hf.config import read_hf_model
from server.models.hf.model import HFParameters, load_hf
from server.models.hf.row_weights import RowWeight
from server.models.hf.torch_products import TorchProducts
from server.models.layers import Placement
from server.models.quantization import Quantization
from tests.kernels.native_models import needs_native
from tests.kernels.paged import CPU, Nodes, PagedModel
from tests.models.hf.families import FAMILIES, our_model, reference_model, sizes
from tests.models.hf.theirs import PARENTS, tokens
from weights.checkpoint import read_config

pytestmark = needs_native()

NAMES = ("gemma2", "gemma3", "cohere", "qwen3-moe", "gpt-oss", "llama4", "deepseek3")
"""Capped scores, windows, weights that are norms and not matrices, experts of three makes, values
narrower than keys."""


class Pair(NamedTuple):
    reference: Any
    model: CausalLM


@pytest.fixture(params=NAMES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    reference = reference_model(FAMILIES[request.param])
    reference.save_pretrained(folder)
    return Pair(reference, our_model(folder, torch.bfloat16))


@pytest.mark.parametrize("name", FAMILIES)
def test_company_changes_no_bit(name: str, tmp_path: Path) -> None:
    reference_model(FAMILIES[name]).bfloat16().save_pretrained(tmp_path)
    model = our_model(tmp_path, torch.bfloat16)
    text = tokens(60)
    whole = PagedModel(model).run(text, [60])
    assert not torch.equal(whole, whole.bfloat16().float())  # else the best two often are equal
    assert torch.equal(PagedModel(model).run(text, [7, 13] + [1] * 40), whole)
    pool = PagedModel(model, num_sequences=2)
    first = pool.step(Nodes(0, 0, text[:40]), Nodes(1, 0, tokens(11, seed=7)))
    assert torch.equal(first[:40], whole[:40])
    nodes = [*text[40:44], *tokens(len(PARENTS) - 4, seed=6)]
    tree = pool.step(Nodes(0, 40, nodes, PARENTS), Nodes(1, 11, tokens(3, seed=8)))
    assert torch.equal(tree[:4], whole[40:44])


@torch.no_grad()
def test_as_good_as_transformers_own_bfloat16(pair: Pair) -> None:
    # Where rounding chooses another expert, errors are far larger, there and in all rows behind it.
    # Of one text alone it is luck whose are smaller, up to twice either way.
    rounded = deepcopy(pair.reference).bfloat16()
    errors: list[list[torch.Tensor]] = [[], []]
    for seed in range(8):
        text = tokens(60, seed)
        exact = pair.reference(torch.tensor([text])).logits[0]
        theirs = rounded(torch.tensor([text])).logits[0].float()
        ours = PagedModel(pair.model).run(text, [60])
        for found, of_one in zip((ours, theirs), errors, strict=True):
            of_one.append((found - exact).abs().mean(dim=-1))
    by_us, by_them = (torch.cat(rows).median() for rows in errors)
    assert by_us < 1.15 * by_them


@torch.no_grad()
def test_linear_layers_in_blocks(tmp_path: Path) -> None:
    config = Gemma3TextConfig(**sizes(**BLOCKS), head_dim=32, sliding_window=9)
    reference = reference_model(config)
    reference.save_pretrained(tmp_path)
    text, errors = tokens(40), list[float]()
    exact = reference(torch.tensor([text])).logits[0]
    for kind in ("q8_0", "q4_1"):
        found = read_hf_model(tmp_path, read_config(tmp_path))
        loaded = load_hf(tmp_path, found, Placement(CPU, torch.bfloat16))
        model = loaded.freeze(Quantization(kind))
        whole = PagedModel(model).run(text, [40])
        assert torch.equal(PagedModel(model).run(text, [9, 30, 1]), whole)
        errors.append(float((whole - exact).abs().mean()))
    assert errors[0] < 0.15
    assert 2 * errors[0] < errors[1] < 0.8


BLOCKS: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
"""Sizes that blocks of 32 weights divide."""
MIXTURES: dict[str, tuple[PreTrainedConfig, set[str]]] = {
    "llama4": (
        Llama4TextConfig(**sizes(**BLOCKS, head_dim=16, num_local_experts=4)),
        {"router"},
    ),
    "phimoe": (PhimoeConfig(**sizes(**BLOCKS, num_local_experts=4)), {"router"}),
    "granite-moe": (GraniteMoeConfig(**sizes(**BLOCKS, num_local_experts=4)), {"router"}),
    "qwen2-moe": (
        Qwen2MoeConfig(
            **sizes(**BLOCKS, num_experts=4, moe_intermediate_size=32),
            shared_expert_intermediate_size=96,
        ),
        {"gate", "shared_expert_gate"},
    ),
    "gemma3": (Gemma3TextConfig(**sizes(**BLOCKS, head_dim=16)), set()),
}
"""With the names of their linear layers that choose or weigh experts."""


@pytest.mark.parametrize("name", MIXTURES)
@torch.no_grad()
def test_routers_and_experts_are_not_rounded(name: str, tmp_path: Path) -> None:
    config, choosing = MIXTURES[name]
    reference_model(config).bfloat16().save_pretrained(tmp_path)
    found = read_hf_model(tmp_path, read_config(tmp_path))
    sums = list[dict[str, torch.Tensor]]()
    for form in (None, Quantization("q4_1")):
        parameters = load_hf(tmp_path, found, Placement(CPU, torch.bfloat16))
        decoder = decoder_of(parameters)
        parameters.freeze(form)
        weights = {
            path: weight if weight.dim() == 2 else weight.expert(1)
            for path, module in decoder.named_modules()
            for weight in vars(module).values()
            if isinstance(weight, RowWeight)
        }
        sums.append({path: weight.applied_to(ones(weight)) for path, weight in weights.items()})
    assert sums[0].keys() == sums[1].keys()
    same = {path for path, found in sums[0].items() if torch.equal(found, sums[1][path])}
    is_kept = {path: bool({"experts", *choosing} & {*path.split(".")}) for path in sums[0]}
    assert same == {path for path, kept in is_kept.items() if kept}
    assert len(same) >= 2 * len(choosing)


def ones(weight: RowWeight) -> torch.Tensor:
    return torch.ones(1, weight.shape[-2 if weight.transposed else -1])


def test_a_weight_without_values_is_not_read() -> None:
    """A model that does more with a weight than multiply by it must fail, and not see zeros."""
    product = NativeLinear(torch.ones(4, 6), 1)
    weight = RowWeight.of(torch.Size((4, 6)), (product,))
    assert (weight.shape, weight.dtype) == ((4, 6), torch.float32)
    with pytest.raises(TypeError, match="sum reads a weight"):
        weight.sum()
    with pytest.raises(TypeError, match="mul reads a weight"):
        torch.mul(torch.ones(4, 6), weight)


WIDE: dict[str, PreTrainedConfig] = {
    "deepseek3": DeepseekV3Config(
        **sizes(
            hidden_size=768,
            num_hidden_layers=2,
            num_key_value_heads=4,
            n_routed_experts=32,
            moe_intermediate_size=16,
            dtype="bfloat16",
        ),
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        first_k_dense_replace=1,
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **sizes(
            hidden_size=768,
            num_hidden_layers=2,
            head_dim=16,
            num_experts=32,
            moe_intermediate_size=16,
            dtype="bfloat16",
        )
    ),
    "gpt2": GPT2Config(vocab_size=97, n_positions=128, n_embd=768, n_layer=2, n_head=4),
    "llama4": Llama4TextConfig(
        **sizes(hidden_size=768, num_hidden_layers=2, head_dim=16, num_local_experts=8)
    ),
}
"""Sizes at which torch's products differ between one row and many."""


def decoder_of(parameters: HFParameters) -> Any:
    model = parameters._model  # pyright: ignore[reportPrivateUsage]
    (decoder,) = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return decoder


@pytest.mark.parametrize("name", WIDE)
@torch.no_grad()
def test_every_product_of_a_bfloat16_checkpoint(name: str, tmp_path: Path) -> None:
    """Routers too, of which some multiply in float32: a cast of their weight."""
    reference = reference_model(WIDE[name])
    for parameter, weight in reference.named_parameters():
        if re.search(r"gate\.weight|router", parameter):
            weight *= 0.01  # at which sigmoids still tell rows apart
    reference.bfloat16().save_pretrained(tmp_path)
    found = read_hf_model(tmp_path, read_config(tmp_path))
    parameters = load_hf(tmp_path, found, Placement(CPU, torch.bfloat16))
    decoder = decoder_of(parameters)
    model = parameters.freeze()
    left = {path for path, weight in decoder.named_parameters() if weight.dim() > 1}
    assert left <= {"embed_tokens.weight", "wte.weight", "wpe.weight"}
    text = tokens(40)
    whole = PagedModel(model).run(text, [40])
    assert torch.equal(PagedModel(model).run(text, [1] * 40), whole)


@torch.no_grad()
def test_what_torch_would_multiply_is_refused(tmp_path: Path) -> None:
    """Here for its size; float32 serves it."""
    config = Gemma3TextConfig(**sizes(intermediate_size=81), head_dim=16)
    reference_model(config).save_pretrained(tmp_path)
    named = r"do not multiply layers\.0\.mlp\.down_proj\.weight, .*--dtype float32 serves"
    with pytest.raises(UnsupportedModelError, match=named):
        our_model(tmp_path, torch.bfloat16)
    our_model(tmp_path)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: x @ w.T,
        lambda x, w: F.linear(x.double(), w.double()),
        lambda x, w: torch.einsum("ri,oi->ro", x, w),
        lambda x, w: torch.bmm(x[None], w[None].mT),
        lambda x, w: F.conv1d(x.T[None], w[:, :, None]),
        lambda x, w: torch.mv(w, x[0]),
        lambda x, w: x @ torch.cat([w, w]).T,
        lambda x, w: x @ w[torch.tensor([2, 1])].T,
    ],
)
@torch.no_grad()
def test_products_are_found_however_they_are_written(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    layer = torch.nn.Linear(4, 6)
    with TorchProducts(layer) as products:
        F.embedding(torch.tensor([1]), layer.weight)
        torch.matmul(torch.ones(3, 4), torch.mul(torch.ones(4, 6), layer.weight.T))
        assert not products.found
        product(torch.ones(3, 4), layer.weight)
    assert list(products.found) == ["weight"]
