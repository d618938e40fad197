"""Shape of a GliDe draft and of the target it was made for: its `config.json`.

A key that is unknown, missing or of the wrong type is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, TypeVar

from server.errors import UnsupportedModelError
from server.models.config import ROPE_TYPES, ModelConfig, RopeConfig

MODEL_TYPE = "glide"


@dataclass(frozen=True, slots=True)
class TargetShape:
    """What a draft relies on in its target."""

    hidden_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class GlideConfig:
    """A GliDe draft: layers of self-attention, cross-attention over the target's cached keys and
    values (the glimpse), and SwiGLU.

    Raises:
        UnsupportedModelError: sizes that contradict each other, naming both.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    """Heads of the self-attention, as are the next two; the cross-attention has the target's."""
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    target: TargetShape
    rope: RopeConfig | None = None
    """Rotary embedding of the self-attention; None is the target's."""
    attention_bias: bool = False
    """Bias on q, k, v of the self-attention."""
    glimpse_layers: tuple[tuple[int, ...], ...] = ()
    """Per draft layer the target layers it reads, negative ones counted from the last. Empty is
    the paper's choice: the last draft layer reads the last target layer, and so on downwards.
    In config.json a flat list `[9, 19, 29]` is read by every draft layer. A draft layer whose list
    is empty (`[[]]`) has no glimpse."""
    glimpse_hidden: bool = False
    """The target's final hidden state at the last verified position joins the residual stream."""
    max_delay: int = 5
    """Delays that have an embedding of their own (with `glimpse_hidden`)."""
    copy_hint: bool = False
    """What followed the sequence's last tokens when they occurred before joins the residual stream,
    with how many tokens were equal."""
    max_match: int = 6
    """Numbers of equal tokens, from 1 on, that have an embedding of their own (with
    `copy_hint`)."""
    cross_norm: bool = True
    """RMSNorm before the cross-attention; the paper's authors have none."""
    cross_bias: bool = False
    """Bias on the cross-attention's q."""
    cross_rope_theta: float | None = None
    """Rotary base of the cross-attention's queries; None is the target's rotary with its scaling.
    The authors' drafts were trained with 10000 whatever their target's."""
    draft_vocab_size: int | None = None
    """Tokens the draft can propose, listed by its table of ids; None is the whole vocabulary."""
    context_vocab_size: int = 0
    """Beside these, most tokens of the sequence's own that it can propose: the first so many
    distinct others that stand in it. Their rows of the head are the target's."""
    own_embedding: bool = False
    """Brings `model.embed_tokens`; otherwise the target's is used."""
    own_head: bool = False
    """Brings `lm_head`; otherwise the target's is used."""
    final_norm: bool = True
    """RMSNorm before the head (LongSpec's drafts have none)."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "at least 1 is needed")
        if self.num_heads % self.num_kv_heads:
            raise _bad("num_heads", self.num_heads, f"no multiple of {self.num_kv_heads} KV heads")
        if self.head_dim < 2 or self.head_dim % 2:
            raise _bad("head_dim", self.head_dim, "rotary embedding needs an even size")
        for name in ("max_delay", "max_match"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "at least 1 is needed")
        if self.draft_vocab_size is not None and not (
            1 <= self.draft_vocab_size <= self.target.vocab_size
        ):
            reason = f"the target's vocabulary has {self.target.vocab_size} tokens"
            raise _bad("draft_vocab_size", self.draft_vocab_size, reason)
        if self.context_vocab_size < 0:
            raise _bad("context_vocab_size", self.context_vocab_size, "at least 0 is needed")
        if self.context_vocab_size and (self.own_head or self.draft_vocab_size is None):
            reason = "is for drafts with a part of the target's head"
            raise _bad("context_vocab_size", self.context_vocab_size, reason)
        if self.shares_weights and self.hidden_size != self.target.hidden_size:
            reason = f"shares embedding or head with a target of {self.target.hidden_size}"
            raise _bad("hidden_size", self.hidden_size, reason)
        _check_glimpse(self)

    @property
    def shares_weights(self) -> bool:
        return not (self.own_embedding and self.own_head)

    @property
    def num_draft_tokens(self) -> int:
        """Rows of the head."""
        return self.draft_vocab_size or self.target.vocab_size

    def glimpsed_layers(self, index: int) -> tuple[int, ...]:
        """The target layers, counted from 0, that draft layer `index` reads."""
        if not self.glimpse_layers:
            return (self.target.num_layers - self.num_layers + index,)
        return tuple(layer % self.target.num_layers for layer in self.glimpse_layers[index])


def target_shape(target: ModelConfig) -> TargetShape:
    """What a draft for this target relies on.

    Raises:
        UnsupportedModelError: its layers have KV of several shapes.
    """
    if target.kv_shapes:
        raise UnsupportedModelError(
            f"{target.architecture}: its layers have KV heads of several shapes, and a GliDe draft "
            "reads those of one; a small model or ngram can draft for it"
        )
    return TargetShape(**{f.name: getattr(target, f.name) for f in fields(TargetShape)})


def check_fits(config: GlideConfig, target: ModelConfig) -> None:
    """Refuses a draft that was made for a target of another shape.

    Raises:
        UnsupportedModelError: names what differs and both numbers.
    """
    target_shape(target)
    names = {
        "vocab_size": "vocabulary",
        "num_layers": "number of layers",
        "num_heads": "number of query heads",
        "num_kv_heads": "number of KV heads",
        "head_dim": "head size",
    }
    if config.shares_weights or config.glimpse_hidden:
        names = {"hidden_size": "hidden size", **names}
    for field_name, words in names.items():
        expected, found = getattr(config.target, field_name), getattr(target, field_name)
        if expected != found:
            raise UnsupportedModelError(
                f"the draft does not fit the target: it was made for a {words} of {expected}, "
                f"the target's is {found}"
            )


def glide_config(raw: Mapping[str, Any]) -> GlideConfig:
    """Reads a config dict.

    Raises:
        UnsupportedModelError: not a GliDe draft's, or a key is unknown, missing or wrong.
    """
    if raw.get("model_type") != MODEL_TYPE:
        raise _bad("model_type", raw.get("model_type"), f"a GliDe draft has {MODEL_TYPE!r}")
    values = {key: value for key, value in raw.items() if key != "model_type"}
    values["target"] = _read(TargetShape, values.get("target", {}), "target.")
    values["glimpse_layers"] = _read_glimpse(values.get("glimpse_layers"), values.get("num_layers"))
    if values.get("rope") is not None:
        values["rope"] = _read(RopeConfig, values["rope"], "rope.")
        if values["rope"].type not in ROPE_TYPES:
            raise _bad("rope.type", values["rope"].type, f"supported: {', '.join(ROPE_TYPES)}")
    return _read(GlideConfig, values, "")


def config_dict(config: GlideConfig) -> dict[str, Any]:
    """What `glide_config` reads; every key is written."""
    layers = [config.glimpsed_layers(index) for index in range(config.num_layers)]
    return {"model_type": MODEL_TYPE, **asdict(config), "glimpse_layers": layers}


def _check_glimpse(config: GlideConfig) -> None:
    lists, depth = config.glimpse_layers, config.target.num_layers
    if not lists and config.num_layers > depth:
        raise _bad("num_layers", config.num_layers, f"the target has only {depth}")
    if lists and len(lists) != config.num_layers:
        reason = f"{len(lists)} lists for {config.num_layers} draft layers"
        raise _bad("glimpse_layers", lists, reason)
    for layers in lists:
        for layer in layers:
            if not -depth <= layer < depth:
                raise _bad("glimpse_layers", layer, f"the target has {depth} layers")


C = TypeVar("C", TargetShape, RopeConfig, GlideConfig)


def _read(make: Callable[..., C], raw: object, prefix: str) -> C:
    """Builds a config dataclass after checking its keys and their types."""
    if not isinstance(raw, Mapping):
        raise _bad(prefix.rstrip("."), raw, "an object is needed")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(make)}  # pyright: ignore[reportArgumentType]
    for name in raw:
        if name not in known:
            raise _bad(f"{prefix}{name}", raw[name], "unknown key")
    for name, spec in known.items():
        required = spec.default is MISSING and spec.default_factory is MISSING
        if required and name not in raw:
            raise UnsupportedModelError(f"draft config has no {prefix + name!r}")
    return make(**{name: _typed(prefix, known[name], value) for name, value in raw.items()})


def _typed(prefix: str, spec: "Field[Any]", value: object) -> object:
    kind: Any = spec.type
    if kind in (float, float | None) and type(value) is int:
        return float(value)
    if prefix == "rope." and spec.name == "type":  # a Literal; its values are checked above
        return value
    is_plain = kind in (int, bool, float, int | None, float | None)
    if is_plain and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        wanted = getattr(kind, "__name__", str(kind))
        raise _bad(f"{prefix}{spec.name}", value, f"expected {wanted}")
    return value


def _read_glimpse(raw: object, num_layers: object) -> tuple[tuple[int, ...], ...]:
    """null, `[-1]` (read by every draft layer), or `[[8], [9]]` (one list per draft layer)."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw:
        raise _bad("glimpse_layers", raw, "expected a list of layers, or one list per draft layer")
    items: list[Any] = raw
    if all(type(item) is int for item in items):
        return (tuple(items),) * (num_layers if isinstance(num_layers, int) else 1)
    if all(isinstance(item, list) and all(type(i) is int for i in item) for item in items):
        return tuple(tuple(item) for item in items)
    raise _bad("glimpse_layers", raw, "expected a list of layers, or one list per draft layer")


def _bad(key: str, value: object, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"draft config: {key}={value!r}: {reason}")
