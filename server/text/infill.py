"""Filling in the middle: how models that can are shown what comes before a gap and behind it.

    <|fim_prefix|> before <|fim_suffix|> behind <|fim_middle|>     Qwen2.5-Coder, CodeGemma
    <fim_prefix> before <fim_suffix> behind <fim_middle>           StarCoder2, Granite Code
    ▁<PRE> before ▁<SUF> behind ▁<MID>, ended by ▁<EOT>            CodeLlama

A model has been taught one of them if its tokenizer has the marks as tokens.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer as BackendTokenizer

from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Marks:
    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...]
    """Tokens that end what is filled in, besides the model's end tokens and the marks."""


_SPACE_IN_FRONT: Final = (b'"Prepend"', b'"Metaspace"', b'"add_prefix_space":true')
"""How the library writes normalizers and pre-tokenizers that can add one."""

_ALL: Final = (
    _Marks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    _Marks(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>",
        ("<|endoftext|>", "<fim_pad>", "<repo_name>", "<file_sep>"),
    ),
    _Marks("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
)  # fmt: skip


class Infill:
    """Writes prompts for one model.

    Args:
        marks: ids of the marks: before the prefix, the suffix and the middle.
        end_ids: tokens that end what is filled in.
        backend: encodes texts as they stand within a prompt: without a space in front.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        marks: tuple[int, int, int],
        end_ids: frozenset[int],
        backend: BackendTokenizer,
    ) -> None:
        self._start_ids = tokenizer.encode("", add_special_tokens=True)
        self._marks = marks
        self._backend = backend
        self.end_ids = end_ids

    def encode(self, text: str) -> list[int]:
        """A text on one side of the gap."""
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        return encoding.ids

    def prompt(self, before: list[int], behind: list[int]) -> list[int]:
        """The prompt that asks for what is between two texts."""
        prefix, suffix, middle = self._marks
        num_starts = len(self._start_ids)
        if num_starts and before[:num_starts] == self._start_ids:
            before = before[num_starts:]
        return [*self._start_ids, prefix, *before, suffix, *behind, middle]


def find_infill(tokenizer: Tokenizer, vocab_size: int) -> Infill | None:
    """How a model fills in; None if its tokenizer has no marks for it, or the model knows them
    not."""
    for marks in _ALL:
        found = [
            token_id
            for mark in (marks.prefix, marks.suffix, marks.middle)
            for token_id in tokenizer.ids_of([mark])
            if token_id < vocab_size
        ]
        if len(found) == 3:
            prefix, suffix, middle = found
            ends = {i for i in tokenizer.ids_of(marks.ends) if i < vocab_size} | {*found}
            backend = _without_space_in_front(tokenizer.backend)
            return Infill(tokenizer, (prefix, suffix, middle), frozenset(ends), backend)
    return None


def _without_space_in_front(backend: BackendTokenizer) -> BackendTokenizer:
    """The tokenizer itself, or one that adds no space to the beginning of a text.

    SentencePiece's do, as if each text began a sentence; what stands behind a mark doesn't. Files
    say so by a normalizer, and transformers' own classes, whatever their file says, by a
    pre-tokenizer.
    """
    parts = (backend.normalizer, backend.pre_tokenizer)
    states = [b"" if part is None else part.__getstate__() for part in parts]
    if not any(sign in state for state in states for sign in _SPACE_IN_FRONT):
        return backend
    settings = json.loads(backend.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        settings[part] = _without_prepending(settings[part])
    return BackendTokenizer.from_str(json.dumps(settings))


def _without_prepending(part: Any) -> Any:
    """A normalizer or pre-tokenizer, as the library writes it, that adds nothing in front."""
    match part:
        case {"type": "Prepend"}:
            return None
        case {"type": "Metaspace"}:
            return {**part, "prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return {**part, "add_prefix_space": False}
        case {"type": "Sequence"}:
            name = "normalizers" if "normalizers" in part else "pretokenizers"
            kept = [_without_prepending(each) for each in part[name]]
            return {**part, name: [each for each in kept if each is not None]}
        case _:
            return part
