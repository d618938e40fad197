"""The C ABI of the native library (`decoder.h`, `glide.h`, `paged_attention.h`), mirrored field by
field."""

import ctypes

import torch

from server.kernels.quantized import MAX_PARTS, QuantizedKind

_INT = ctypes.c_int32
_POINTER = ctypes.c_void_p
_BOOL = ctypes.c_bool


class Shape(ctypes.Structure):
    """GlidecapeShape"""

    _fields_ = (
        *(
            (name, _INT)
            for name in ("num_layers", "hidden", "inner", "num_heads", "num_kv_heads", "head_dim")
        ),
        ("qk_norm", _INT),
        ("eps", ctypes.c_float),
    )


ROW_TYPES: dict[QuantizedKind | torch.dtype, int] = {
    torch.bfloat16: 0, "q4_0": 1, "q4_1": 2, "q5_0": 3, "q5_1": 4, "q8_0": 5, "iq4_nl": 6,
    "q4_k": 7, "q5_k": 8, "q6_k": 9, torch.float32: 10,
}  # fmt: skip
"""Kind of blocks, or precision -> GLIDECAPE_*"""


class Rows(ctypes.Structure):
    """GlidecapeRows"""

    _fields_ = (("rows", _POINTER), ("type", _INT), ("count", _INT))


class Matrix(ctypes.Structure):
    """GlidecapeMatrix"""

    _fields_ = (("parts", Rows * MAX_PARTS),)


class Rotary(ctypes.Structure):
    """GlidecapeRotary"""

    _fields_ = (
        ("frequencies", _POINTER),
        *((name, ctypes.c_float) for name in ("scale", "theta", "factor")),
        ("trained", _INT),
    )


class Ends(ctypes.Structure):
    """GlidecapeEnds"""

    _fields_ = (("embedding", _POINTER), ("final_norm", _POINTER), ("rotary", Rotary))


class Layer(ctypes.Structure):
    """GlidecapeLayer"""

    _fields_ = (
        *((name, _POINTER) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((f"{name}_bias", _POINTER) for name in ("qkv", "output", "gate_up", "down")),
        ("window", _INT),
    )


class Step(ctypes.Structure):
    """GlidecapeStep"""

    _fields_ = (
        *((n, _INT) for n in ("num_rows", "num_sequences", "max_blocks", "block_size")),
        ("max_nodes", _INT),
        *((n, _POINTER) for n in ("positions", "slots", "block_tables", "context_lens")),
        *((n, _POINTER) for n in ("node_counts", "ancestors")),
    )


class Cache(ctypes.Structure):
    """GlidecapeCache"""

    _fields_ = (("keys", _POINTER), ("values", _POINTER))


class GlideShape(ctypes.Structure):
    """GlidecapeGlideShape"""

    _fields_ = (
        ("self", Shape),
        *((n, _INT) for n in ("cross_heads", "cross_kv_heads", "cross_head_dim")),
        *((n, _INT) for n in ("num_glimpsed", "num_tokens", "target_hidden", "max_delay")),
        *((n, _INT) for n in ("copy_hint", "max_match")),
        *((n, Rotary) for n in ("rotary", "cross_rotary")),
    )


class GlideWeights(ctypes.Structure):
    """GlidecapeGlideWeights"""

    _fields_ = (
        ("layer", Layer),
        *((n, _POINTER) for n in ("windows", "cross_norm")),
        ("cross_query", Matrix),
        ("cross_query_bias", _POINTER),
        ("cross_output", Matrix),
        ("final_norm", _POINTER),
        ("head", Matrix),
        *((n, _POINTER) for n in ("token_ids", "embedding")),
        ("hint_proj", Matrix),
        *((n, _POINTER) for n in ("delays", "matches")),
    )


class GlideCaches(ctypes.Structure):
    """GlidecapeGlideCaches"""

    _fields_ = (("self", Cache), ("glimpsed", ctypes.POINTER(Cache)))


class OwnTokens(ctypes.Structure):
    """GlidecapeOwnTokens"""

    _fields_ = (("most", _INT), *((n, _POINTER) for n in ("counts", "ids", "rows")))


class GlideStep(ctypes.Structure):
    """GlidecapeGlideStep"""

    _fields_ = (
        ("step", Step),
        *((n, _POINTER) for n in ("token_ids", "visible_lens", "hidden")),
        ("delay", _INT),
        ("own", ctypes.POINTER(OwnTokens)),
        *((n, _POINTER) for n in ("copied", "num_equal")),
    )


class Round(ctypes.Structure):
    """GlidecapeRound"""

    _fields_ = (
        *((n, _INT) for n in ("num_sequences", "max_blocks", "block_size", "num_candidates")),
        *((n, _POINTER) for n in ("token_ids", "starts", "depths", "block_tables")),
        *((n, _POINTER) for n in ("behind_counts", "behind")),
        ("hidden", _POINTER),
        ("own", ctypes.POINTER(OwnTokens)),
        *((n, _POINTER) for n in ("copied", "num_equal")),
        *((n, _POINTER) for n in ("least", "offsets", "slopes")),
        ("num_lines", _INT),
        *((n, _POINTER) for n in ("candidates", "confidences", "drafted")),
    )


class Heads(ctypes.Structure):
    """GlidecapeHeads"""

    _fields_ = (
        ("first", _POINTER),
        *((n, ctypes.c_int64) for n in ("row_stride", "head_stride")),
    )


class Attention(ctypes.Structure):
    """GlidecapeAttention"""

    _fields_ = (
        *((n, _INT) for n in ("is_float", "num_heads", "num_kv_heads", "head_dim", "value_dim")),
        *((n, ctypes.c_float) for n in ("scale", "softcap")),
        *((n, _INT) for n in ("window", "chunk")),
        ("sinks", _POINTER),
    )


class AttentionCall(ctypes.Structure):
    """GlidecapeAttentionCall"""

    _fields_ = (
        *((n, Heads) for n in ("queries", "keys", "values")),
        *((n, _POINTER) for n in ("key_cache", "value_cache", "out")),
    )


class Draw(ctypes.Structure):
    """GlidecapeDraw"""

    _fields_ = (
        ("temperature", ctypes.c_float),
        ("top_k", _INT),
        *((n, ctypes.c_float) for n in ("top_p", "min_p")),
        ("uniform", ctypes.c_double),
    )


STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    *(Shape, Rows, Matrix, Rotary, Ends, Layer, Step, Cache),
    *(GlideShape, GlideWeights, GlideCaches, OwnTokens, GlideStep, Round),
    *(Heads, Attention, AttentionCall, Draw),
)
"""In the order of `glidecape_structure_sizes`."""


def _glide_call(*arguments: object) -> tuple[object, tuple[object, ...]]:
    return _BOOL, (_POINTER, *arguments)


SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "glidecape_decoder_create": (
        _POINTER,
        (ctypes.POINTER(Shape), ctypes.POINTER(Ends), _INT, _INT),
    ),
    "glidecape_decoder_set_layer": (_BOOL, (_POINTER, _INT, ctypes.POINTER(Layer))),
    "glidecape_decoder_run": (
        _BOOL,
        (_POINTER, ctypes.POINTER(Step), ctypes.POINTER(Cache), _POINTER, _POINTER),
    ),
    "glidecape_decoder_destroy": (None, (_POINTER,)),
    "glidecape_linear_create": (_POINTER, (ctypes.POINTER(Matrix), _INT, _INT, _INT)),
    "glidecape_linear_run": (_BOOL, (_POINTER, _INT, _POINTER, _INT, _INT, _POINTER)),
    "glidecape_rms_norm": (
        _BOOL,
        (_POINTER, _POINTER, ctypes.c_int64, _INT, ctypes.c_float, _INT, _POINTER),
    ),
    "glidecape_linear_destroy": (None, (_POINTER,)),
    "glidecape_best": (_BOOL, (_POINTER, ctypes.c_int64, ctypes.c_int64, _POINTER)),
    "glidecape_draw": (
        _BOOL,
        (_POINTER, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(Draw), _POINTER),
    ),
    "glidecape_attention_create": (_POINTER, (_INT,)),
    "glidecape_attention_begin": (_BOOL, (_POINTER, ctypes.POINTER(Step))),
    "glidecape_attention_run": (
        _BOOL,
        (_POINTER, *map(ctypes.POINTER, (Step, Attention, AttentionCall))),
    ),
    "glidecape_attention_destroy": (None, (_POINTER,)),
    "glidecape_glide_create": (
        _POINTER,
        (ctypes.POINTER(GlideShape), ctypes.POINTER(GlideWeights), _INT),
    ),
    "glidecape_glide_logits": _glide_call(
        ctypes.POINTER(GlideStep), ctypes.POINTER(GlideCaches), _POINTER
    ),
    "glidecape_glide_fill": _glide_call(ctypes.POINTER(GlideStep), ctypes.POINTER(GlideCaches)),
    "glidecape_glide_draft": _glide_call(ctypes.POINTER(Round), ctypes.POINTER(GlideCaches)),
    "glidecape_glide_destroy": (None, (_POINTER,)),
}
"""Function -> what it returns, of what arguments. A result is empty where memory is short."""
