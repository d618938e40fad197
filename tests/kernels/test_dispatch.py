"""Which kernels a model gets, and that the fallbacks compute the same."""

from dataclasses import replace

import pytest
import torch

from server.kernels import dispatch
from server.kernels.cpu import decoder, linear
from server.kernels.linear import can_pack, packed_linear, reference_linear
from server.kernels.types import DecoderShape
from server.models import decoder_layer
from tests.kernels.native_models import (
    VARIANTS,
    decoder_ends,
    native_model,
    needs_native,
    random_tokens,
    torch_model,
    without_native_library,
)
from tests.kernels.paged import PagedModel

TOKENS = random_tokens(30)
SHAPE = DecoderShape(
    num_layers=1, hidden=32, inner=64, num_heads=4, num_kv_heads=2, head_dim=32, qk_norm=False,
    eps=1e-5,
)  # fmt: skip
ENDS = decoder_ends(VARIANTS["mha-64"])
needs_packing = pytest.mark.skipif(
    not can_pack(torch.empty(2, 2, dtype=torch.bfloat16)),
    reason="oneDNN has no bfloat16 on this CPU",
)


@needs_packing
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_packed_linear(rows: int, has_bias: bool) -> None:
    torch.manual_seed(rows)
    weight, x = torch.randn(48, 72).bfloat16(), torch.randn(rows, 72).bfloat16()
    bias = torch.randn(48).bfloat16() if has_bias else None
    actual = packed_linear(weight, bias)(x)
    exact = reference_linear(weight.float(), None if bias is None else bias.float())(x.float())
    assert actual.dtype is torch.bfloat16
    torch.testing.assert_close(actual.float(), exact, rtol=2.0**-7, atol=1e-2)


@needs_packing
def test_bfloat16_without_the_native_library_packs_its_linears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = list[torch.Size]()

    def spy(weight: torch.Tensor, bias: torch.Tensor | None) -> dispatch.LinearFn:
        packed.append(weight.shape)
        return packed_linear(weight, bias)

    monkeypatch.setattr(dispatch, "packed_linear", spy)
    model = torch_model("all-96", torch.bfloat16)
    assert len(packed) == 4 * model.config.num_layers + 1
    exact = PagedModel(torch_model("all-96", torch.float32)).run(TOKENS, [20] + [1] * 10)
    logits = PagedModel(model).run(TOKENS, [20] + [1] * 10)
    assert logits.dtype is torch.float32
    assert (logits - exact).square().mean().sqrt() < 0.03 * exact.std()


def test_float32_uses_plain_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("float32 weights were handed to a bfloat16 kernel")

    monkeypatch.setattr(dispatch, "packed_linear", fail)
    monkeypatch.setattr(linear, "NativeLinear", fail)
    monkeypatch.setattr(decoder, "NativeDecoder", fail)
    logits = PagedModel(torch_model("mha-64", torch.float32)).run(TOKENS, [30])
    assert logits.dtype is torch.float32


@needs_native()
def test_bfloat16_takes_the_native_decoder_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a torch kernel ran beside the native decoder")

    monkeypatch.setattr(dispatch, "linear", fail)
    for name in ("kernels_for", "attention_for"):
        monkeypatch.setattr(decoder_layer, name, fail)
    assert PagedModel(native_model("all-96")).run(TOKENS, [30]).dtype is torch.float32


@needs_native()
@pytest.mark.parametrize(
    "sizes",
    [{"hidden": 40}, {"inner": 48}, {"head_dim": 16}, {"num_heads": 65, "num_kv_heads": 1}],
    ids=str,
)
def test_sizes_the_native_decoder_does_not_take(sizes: dict[str, int]) -> None:
    sample = torch.empty(4, 32, dtype=torch.bfloat16)
    assert decoder.supports(SHAPE, sample)
    assert not decoder.supports(replace(SHAPE, **sizes), sample)
    assert dispatch.fused_decoder(replace(SHAPE, **sizes), ENDS, sample, iter([])) is None


def test_nothing_is_native_without_the_library() -> None:
    with without_native_library():
        weight = torch.randn(6, 4).bfloat16()
        assert not linear.supports_linear(weight)
        assert dispatch.fused_decoder(SHAPE, ENDS, weight, iter([])) is None
        x = torch.randn(3, 4).bfloat16()
        logits = dispatch.logits_linear(weight)(x)
        assert logits.dtype is torch.float32
        torch.testing.assert_close(logits, x.float() @ weight.float().T, rtol=2.0**-7, atol=1e-2)
        with pytest.raises(RuntimeError, match="not available"):
            linear.NativeLinear(weight, 1)
